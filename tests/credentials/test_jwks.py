"""Keys are fetched as seldom as they may be, over TLS, within bounds, and are not lost when a fetch fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from issuer import Issuer, Key
from tls import make_certificates
from waiting import eventually

from taskmon.credentials.https_fetch import MAX_DOCUMENT, Fetcher
from taskmon.credentials.jwks import JwksCache
from taskmon.errors import AuthenticationFailed, InvalidSetting, Unavailable

ONE, TWO = Key("one"), Key("two", "RS256")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def header(kid: str | None, alg: str = "ES256") -> dict[str, Any]:
    return {"alg": alg} | ({} if kid is None else {"kid": kid})


@asynccontextmanager
async def serving(*keys: Key) -> AsyncIterator[tuple[Issuer, JwksCache, Clock]]:
    clock = Clock()
    async with Issuer(*keys).serving() as issuer:
        cache = JwksCache(issuer.jwks, make_certificates().authority, clock=clock)
        yield issuer, cache, clock
        cache.close()


async def test_keys_by_kid_and_algorithm() -> None:
    async with serving(ONE, TWO) as (issuer, cache, _):
        assert (await cache.find(header("one"))).key_id == "one"
        assert (await cache.find(header("two", "RS256"))).key_id == "two"
        assert await cache.find(header("two", "RS256")) is await cache.find(header("two", "RS256"))
        assert (await cache.find(header(None))).key_id == "one"
        for wrong in (header("one", "RS256"), header("two"), header("one", "ES384"), header("one", "EdDSA")):
            with pytest.raises(AuthenticationFailed, match="unknown key"):
                await cache.find(wrong)
        assert len(issuer.asked) == 1


async def test_without_a_kid_there_must_be_no_choice() -> None:
    async with serving(ONE, Key("three")) as (_, cache, _clock):
        with pytest.raises(AuthenticationFailed, match="unknown key"):
            await cache.find(header(None))


async def test_an_unknown_kid_costs_one_fetch_a_minute() -> None:
    async with serving(ONE) as (issuer, cache, clock):
        await cache.find(header("one"))
        for _ in range(5):
            with pytest.raises(AuthenticationFailed):
                await cache.find(header("two", "RS256"))
        assert len(issuer.asked) == 1
        clock.now += 61
        issuer.body = {"keys": [ONE.jwk, TWO.jwk]}
        await cache.find(header("two", "RS256"))
        for _ in range(5):
            with pytest.raises(AuthenticationFailed):
                await cache.find(header("unheard-of"))
        assert len(issuer.asked) == 2


@pytest.mark.parametrize(
    ("control", "seconds"),
    [("max-age=3600", 3600), ("max-age=1", 600), ("no-store", 600), ("", 600), ("public, max-age=999999999", 86400)],
)
async def test_how_long_keys_are_kept(control: str, seconds: float) -> None:
    async with serving(ONE) as (issuer, cache, clock):
        issuer.headers = {"Cache-Control": control} if control else {}
        await cache.find(header("one"))
        clock.now += seconds - 1
        await cache.find(header("one"))
        assert len(issuer.asked) == 1
        clock.now += 2
        issuer.body = {"keys": [TWO.jwk]}
        with pytest.raises(AuthenticationFailed):
            await cache.find(header("one"))
        assert len(issuer.asked) == 2


async def test_old_keys_stay_when_a_fetch_fails(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ONE) as (issuer, cache, clock):
        await cache.find(header("one"))
        clock.now += 4000
        issuer.status = 503
        for _ in range(3):
            assert (await cache.find(header("one"))).key_id == "one"
        assert len(issuer.asked) == 2
        clock.now += 61
        issuer.status, issuer.body = 200, b"{"
        assert (await cache.find(header("one"))).key_id == "one"
        assert "it answered 503" in caplog.text
        assert "it is no JWKS" in caplog.text


async def test_without_any_key() -> None:
    async with serving(ONE) as (issuer, cache, clock):
        issuer.status = 500
        for _ in range(2):
            with pytest.raises(Unavailable, match="no key could be fetched"):
                await cache.find(header("one"))
        assert len(issuer.asked) == 1
        issuer.status = 200
        clock.now += 6
        assert await cache.find(header("one"))


async def test_all_who_ask_wait_for_one_fetch() -> None:
    async with serving(ONE) as (issuer, cache, _):
        going = asyncio.Event()
        issuer.before = going.wait  # type: ignore[assignment]
        asking = [asyncio.create_task(cache.find(header("one"))) for _ in range(20)]
        await eventually(lambda: issuer.asked)
        asking[0].cancel()
        going.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [hasattr(key, "key") for key in found] == [False] + [True] * 19
        assert len(issuer.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        *(
            {"keys": keys}
            for keys in (None, [], {}, [5], [{"kty": "oct", "k": "AAAA"}], [{"kty": "EC", "use": "enc"}])
        ),
        b"",
        b"null",
        b"\xff",
        b"[" * 10_000,
    ],
)
async def test_sets_without_a_key(body: Any) -> None:
    async with serving(ONE) as (issuer, cache, _):
        issuer.body = body
        with pytest.raises(Unavailable):
            await cache.find(header("one"))


async def test_a_bad_key_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ONE) as (issuer, cache, _):
        issuer.body = {"keys": [{"kty": "EC", "kid": "bad", "crv": "P-256", "x": "AA"}, {"kid": 5}, ONE.jwk]}
        assert await cache.find(header("one"))
        with pytest.raises(AuthenticationFailed):
            await cache.find(header("bad"))
        assert "cannot be used" in caplog.text


# Fetching


async def fetch(issuer: Issuer, url: str = "") -> str:
    fetcher = Fetcher("The issuer", make_certificates().authority)
    with pytest.raises(Unavailable) as caught:
        await fetcher.get(url or issuer.jwks)
    fetcher.close()
    return str(caught.value)


async def test_a_redirect_is_not_followed() -> None:
    async with serving(ONE) as (issuer, _cache, _clock):
        issuer.status, issuer.headers = 302, {"Location": issuer.url + "/elsewhere"}
        assert "it answered 302" in await fetch(issuer)
        assert issuer.asked == ["/keys"]


async def test_what_is_too_large_is_refused() -> None:
    async with serving(ONE) as (issuer, _cache, _clock):
        issuer.body = b" " * (MAX_DOCUMENT + 1)
        assert "too large" in await fetch(issuer)
        issuer.body = b" " * MAX_DOCUMENT
        assert len((await Fetcher("x", make_certificates().authority).get(issuer.jwks)).body) == MAX_DOCUMENT


async def test_only_https_and_only_whom_one_knows() -> None:
    async with serving(ONE) as (issuer, _cache, _clock):
        assert "only asked over https" in await fetch(issuer, issuer.jwks.replace("https", "http"))
        with pytest.raises(Unavailable, match="not trusted"):
            await Fetcher("The issuer").get(issuer.jwks)
        assert issuer.asked == []
        issuer.status = 404
        assert "it answered 404" in await fetch(issuer)
    assert "refused" in await fetch(issuer)
    with pytest.raises(InvalidSetting, match="--provider-ca-certs must be a file of certificates"):
        Fetcher("x", make_certificates().key)


async def test_a_provider_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.credentials.https_fetch.TIMEOUT", 0.2)
    async with serving(ONE) as (issuer, _cache, _clock):
        going = asyncio.Event()
        issuer.before = going.wait  # type: ignore[assignment]
        assert "no answer within" in await fetch(issuer)
        going.set()
