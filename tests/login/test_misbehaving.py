"""Providers, browsers and strangers that break a rule: nobody comes in, nothing is 500, and a page has a link."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import jwt
import pytest
from browsing import ATTEMPT, PUBLIC, SESSION, Page, Scene, openid_scene
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from issuer import Key
from providers import CLIENT, KEY, SECRET, Answer

from taskmon.credentials.signing import Sealer

Claims = dict[str, Any]

DISCOVERY, TOKEN, KEYS = "/.well-known/openid-configuration", "/token", "/keys"
STRANGER = Key("first", "RS256")
PUBLIC_KEY = KEY.private.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def refused(scene: Scene, page: Page, *statuses: int) -> None:
    """Look whether nobody came in, and whether there is a page with a link to go on by."""
    assert page.status in statuses, (page.status, page.text)
    assert page.response.headers["Content-Type"] == "text/html; charset=UTF-8"
    assert '<a class="button" href="/' in page.text
    assert SESSION not in scene.browser.cookies
    assert ATTEMPT not in scene.browser.cookies


def unsigned(claims: Claims) -> str:
    return jwt.encode(claims, None, algorithm="none", headers={"kid": "first"})


def by_public_key(claims: Claims) -> str:
    """Sign with HMAC, the public key being the secret: what a verifier falls for that lets the token choose."""
    import base64
    import hmac

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    head = part(json.dumps({"alg": "HS256", "kid": "first", "typ": "JWT"}).encode())
    text = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(hmac.digest(PUBLIC_KEY, text.encode(), 'sha256'))}"


def without(name: str) -> Callable[[Claims], str]:
    return lambda claims: KEY.sign({key: value for key, value in claims.items() if key != name})


def with_these(**more: Any) -> Callable[[Claims], str]:
    return lambda claims: KEY.sign(claims | more)


FORGERIES: dict[str, Callable[[Claims], str]] = {
    "no signature": unsigned,
    "signed by the public key": by_public_key,
    "signed by a stranger": STRANGER.sign,
    "another issuer": with_these(iss="https://else.example.com"),
    "another issuer's slash": lambda claims: KEY.sign(claims | {"iss": claims["iss"] + "/"}),
    "another audience": with_these(aud="else"),
    "no audience": without("aud"),
    "two audiences, no party": with_these(aud=[CLIENT, "else"]),
    "another party": with_these(azp="else"),
    "a party that is none": with_these(azp=["x"]),
    "expired": with_these(exp=int(time.time()) - 120),
    "not yet": with_these(iat=int(time.time()) + 86_400),
    "no exp": without("exp"),
    "no iat": without("iat"),
    "no sub": without("sub"),
    "an empty sub": with_these(sub=""),
    "a sub that is none": with_these(sub=5),
    "a sub with a line break": with_these(sub="a\nb"),
    "a long sub": with_these(sub="a" * 256),
    "another nonce": with_these(nonce="x" * 43),
    "no nonce": without("nonce"),
    "a nonce that is none": with_these(nonce=["x"]),
    "a nonce of other letters": with_these(nonce="\ud800é"),
    "an access token": lambda claims: KEY.sign(claims, typ="at+jwt"),
    "too long": with_these(padding="x" * 9000),
    "no JWT": lambda claims: "nonsense",
    "nothing": lambda claims: "",
    "empty parts": lambda claims: "..",
    "an unknown kid": lambda claims: KEY.sign(claims, kid="else"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_id_token(forgery: str) -> None:
    async with openid_scene() as scene:
        scene.provider.forge = FORGERIES[forgery]
        page = await scene.log_in()
        refused(scene, page, 400)
        assert page.trail[-1].startswith(f"{PUBLIC}/login/callback?")
        scene.provider.forge = None
        assert (await scene.log_in()).status == 200


async def test_the_tokens_that_are_right_differ_in_form() -> None:
    async with openid_scene() as scene:
        for forge in (with_these(aud=[CLIENT]), with_these(aud=[CLIENT, "else"], azp=CLIENT), with_these(azp=CLIENT)):
            scene.provider.forge = forge
            assert (await scene.log_in()).status == 200


DISCOVERIES: dict[str, Any] = {
    "another issuer": {"issuer": "https://else.example.com"},
    "no issuer": {"issuer": None},
    "http": {"token_endpoint": "http://localhost:1/token"},
    "a user": {"token_endpoint": "https://user:pass@localhost/token"},
    "a script": {"authorization_endpoint": "javascript:alert(1)"},
    "a fragment": {"authorization_endpoint": "https://localhost/authorize#x"},
    "a header": {"authorization_endpoint": "https://localhost/a\r\nSet-Cookie: x=y"},
    "a port that is none": {"jwks_uri": "https://localhost:x/keys"},
    "no host": {"jwks_uri": "https:///keys"},
    "a list": {"token_endpoint": ["https://localhost/token"]},
    "odd userinfo": {"userinfo_endpoint": "file:///etc/passwd"},
}


@pytest.mark.parametrize("odd", DISCOVERIES)
async def test_a_discovery_document_that_is_odd(odd: str) -> None:
    async with openid_scene() as scene:
        scene.provider.metadata = DISCOVERIES[odd]
        refused(scene, await scene.log_in(), 503)
        assert scene.provider.asked == [DISCOVERY]


BODIES: dict[str, Answer] = {
    "no JSON": Answer(b"<html>"),
    "null": Answer(None),
    "a list": Answer([]),
    "nested": Answer(b"[" * 100_000),
    "not UTF-8": Answer(b'{"issuer": "\xff"}'),
    "empty": Answer(b""),
    "huge": Answer(b" " * 300_000 + b"{}"),
    "404": Answer({}, 404),
    "500": Answer({"error": "server_error"}, 500),
    "a redirect": Answer(b"", 302, {"Location": "https://localhost:1/else"}),
    "a redirect to itself": Answer(b"", 301, {"Location": DISCOVERY}),
    "compressed": Answer(b"\x1f\x8b\x08\x00", 200, {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("path", [DISCOVERY, TOKEN, KEYS])
@pytest.mark.parametrize("body", BODIES)
async def test_an_answer_that_is_none(path: str, body: str) -> None:
    async with openid_scene() as scene:
        scene.provider.answers[path] = BODIES[body]
        page = await scene.log_in()
        refused(scene, page, 503, *([400] if path == TOKEN else []))
        if page.status == 503:
            assert page.response.headers["Retry-After"]
        assert len(scene.provider.asked) == len(set(scene.provider.asked))  # nothing is asked twice


async def test_a_provider_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.credentials.https_fetch.TIMEOUT", 0.3)
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    async with openid_scene() as scene:
        scene.provider.answers[TOKEN] = Answer({}, before=wait)
        page = await scene.log_in()
        refused(scene, page, 503)
        assert "no answer within 0.3 s" in page.text
        release.set()


async def test_a_provider_that_is_away() -> None:
    async with openid_scene(oidc_issuer="https://localhost:1") as scene:
        refused(scene, await scene.log_in(), 503)


async def test_a_certificate_that_nobody_knows() -> None:
    async with openid_scene(provider_ca_certs=None) as scene:
        page = await scene.log_in()
        refused(scene, page, 503)
        assert "certificate is not trusted" in page.text
        assert not scene.provider.asked


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        ("access_denied", 403, "declined"),
        ("server_error", 503, "answered server_error"),
        ("temporarily_unavailable", 503, "answered temporarily_unavailable"),
        ("invalid_scope", 400, "answered invalid_scope"),
        ("<script>alert(1)</script>", 400, "answered an error that is not known here"),
        ("call 0-555-1234", 400, "answered an error that is not known here"),
    ],
)
async def test_an_error_of_the_provider_becomes_a_page(error: str, status: int, told: str) -> None:
    async with openid_scene() as scene:
        scene.provider.error = error
        page = await scene.log_in()
        refused(scene, page, status)
        assert told in page.text
        assert "0-555" not in page.text
        assert "<script" not in page.text
        assert len(page.trail) == 3  # there, to the provider, and back


async def test_an_error_of_the_token_endpoint() -> None:
    async with openid_scene(oauth2_secret="another") as scene:
        scene.provider.answers[TOKEN] = Answer({"error": "invalid_client", "error_description": "<b>"}, 401)
        page = await scene.log_in()
        refused(scene, page, 400)
        assert "did not accept the login: invalid_client" in page.text
        scene.provider.answers[TOKEN] = Answer({"error": "<b>"}, 400)
        page = await scene.log_in()
        refused(scene, page, 400)
        assert "did not accept the login: 400" in page.text


async def test_a_login_counts_once() -> None:
    async with openid_scene() as scene:
        back = await scene.callback()
        attempt = scene.browser.cookies[ATTEMPT]
        assert (await scene.browser.go(back)).status == 200
        scene.browser.cookies.clear()
        asked = len(scene.provider.asked)
        scene.browser.cookies[ATTEMPT] = attempt
        page = await scene.browser.go(back)
        refused(scene, page, 400)
        assert "used already" in page.text
        assert len(scene.provider.asked) == asked


async def test_an_attempt_is_used_up_before_the_code_is_exchanged() -> None:
    async with openid_scene() as scene:
        back = await scene.callback()
        attempt = scene.browser.cookies[ATTEMPT]
        scene.provider.answers[TOKEN] = Answer({}, 500)
        refused(scene, await scene.browser.go(back), 503)
        del scene.provider.answers[TOKEN]
        scene.browser.cookies[ATTEMPT] = attempt
        refused(scene, await scene.browser.go(back), 400)
        assert scene.provider.asked.count(TOKEN) == 1


async def test_the_verifier_of_another_attempt_is_of_no_use() -> None:
    async with openid_scene() as scene:
        code = parse_qs(urlsplit(await scene.callback()).query)["code"][0]
        state = parse_qs(urlsplit(await scene.callback()).query)["state"][0]
        refused(scene, await scene.browser.go(f"/login/callback?code={code}&state={state}"), 400)


@pytest.mark.parametrize(
    "change",
    [
        lambda query: f"{query}&state=x",
        lambda query: f"{query}&code=x",
        lambda query: query.replace("state=", "State="),
        lambda query: query.replace("code=", "code=&c="),
        lambda query: query.replace("state=", "state=x"),
        lambda query: query + "x",
        lambda query: query.replace("code=", "code=%00"),
        lambda query: query.replace("code=", "code=" + "x" * 5000),
        lambda query: query.replace("state=", "state=%FF"),
        lambda query: query.replace("code=", "nocode="),
        lambda query: query + "&iss=https://else.example.com",
        lambda query: query + "&error=access_denied",
        lambda query: query + "&error=a&error=b",
        lambda query: "",
    ],
)
async def test_a_callback_brings_one_state_and_one_code(change: Callable[[str], str]) -> None:
    async with openid_scene() as scene:
        query = change((await scene.callback()).partition("?")[2])
        refused(scene, await scene.browser.go(f"/login/callback?{query}"), 400, 403)
        assert TOKEN not in scene.provider.asked


async def test_the_issuer_in_the_callback() -> None:
    async with openid_scene() as scene:
        back = await scene.callback()
        assert (await scene.browser.go(f"{back}&iss={quote(scene.provider.url, safe='')}")).status == 200
        scene.browser.cookies.clear()
    async with openid_scene() as scene:
        scene.provider.metadata = {"authorization_response_iss_parameter_supported": True}
        refused(scene, await scene.log_in(), 400)  # it says that it gives it, and did not


async def test_an_attempt_ends() -> None:
    async with openid_scene() as scene:
        attempts = scene.served.taskmon.services.login._attempts
        for shift in (601, -61):
            now = time.time()
            attempts._clock = lambda now=now: now
            back = await scene.callback()
            attempts._clock = lambda now=now, shift=shift: now + shift
            page = await scene.browser.go(back)
            refused(scene, page, 400)
            assert "longer than 10 minutes" in page.text
            attempts._clock = time.time


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters=";,\x7f"), max_size=60))
def test_any_other_cookie_of_an_attempt_is_refused(text: str) -> None:
    async def run() -> None:
        async with openid_scene() as scene:
            back = await scene.callback()
            good = scene.browser.cookies[ATTEMPT]
            for value in (text, good + text, text + good, f"{good}; {ATTEMPT}={text}"):
                if value == good:
                    continue
                scene.browser.cookies[ATTEMPT] = value
                refused(scene, await scene.browser.go(back), 400)
            scene.browser.cookies[ATTEMPT] = scene.browser.cookies.get(SESSION) or "x"
            refused(scene, await scene.browser.go(back), 400)

    asyncio.run(run())


async def test_a_session_is_no_attempt_and_an_attempt_no_session() -> None:
    async with openid_scene(cookie_secret=(token_urlsafe(32),)) as scene:
        back = await scene.callback()
        scene.browser.cookies[SESSION] = scene.browser.cookies[ATTEMPT]
        assert (await scene.browser.go("/api/whoami")).status == 401
        del scene.browser.cookies[SESSION]
        await scene.browser.go(back)
        session = scene.browser.cookies.pop(SESSION)
        back = await scene.callback()
        scene.browser.cookies[ATTEMPT] = session
        refused(scene, await scene.browser.go(back), 400)


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"\xff", b"["])
async def test_an_attempt_that_another_version_signed(content: bytes) -> None:
    secret = token_urlsafe(32)
    async with openid_scene(cookie_secret=(secret,)) as scene:
        back = await scene.callback()
        scene.browser.cookies[ATTEMPT] = Sealer([secret], "login").seal(content)
        refused(scene, await scene.browser.go(back), 400)


async def test_head_uses_no_attempt_up() -> None:
    async with openid_scene() as scene:
        back = await scene.callback()
        page = await scene.browser.go(back, "HEAD")
        assert page.status == 400
        assert ATTEMPT not in scene.browser.cookies


async def test_failures_are_throttled() -> None:
    async with openid_scene() as scene:
        scene.provider.answers[TOKEN] = Answer({"error": "invalid_grant"}, 400)
        for _ in range(30):
            assert (await scene.log_in()).status == 400
        page = await scene.log_in()
        refused(scene, page, 429)
        assert int(page.response.headers["Retry-After"]) <= 60
        assert (await scene.browser.go("/api/tasks", Authorization="Bearer x")).status == 401


async def test_strangers_without_an_attempt_throttle_nobody() -> None:
    async with openid_scene() as scene:
        for _ in range(40):
            assert (await scene.browser.go("/login/callback?code=x&state=y")).status == 400
        assert (await scene.log_in()).status == 200


async def test_old_metadata_and_keys_are_used_while_there_are_no_newer() -> None:
    async with openid_scene() as scene:
        assert (await scene.log_in()).status == 200
        provider = scene.served.taskmon.services.login._provider
        later = time.monotonic() + 7200
        provider._clock = lambda: later
        scene.provider.answers[DISCOVERY] = Answer({}, 500)
        assert (await scene.log_in()).status == 200
        assert scene.provider.asked.count(DISCOVERY) == 2
        assert (await scene.log_in()).status == 200  # and it is not asked again at once
        assert scene.provider.asked.count(DISCOVERY) == 2
        del scene.provider.answers[DISCOVERY]
        scene.provider.metadata = {"jwks_uri": f"{scene.provider.url}/keys?other"}
        provider._clock = lambda: later + 100
        assert (await scene.log_in()).status == 200
        assert scene.provider.asked.count(KEYS) == 2


async def test_many_who_begin_together_cost_one_discovery() -> None:
    async with openid_scene() as scene:
        pages = await asyncio.gather(*(scene.browser.go("/login", follow=False) for _ in range(8)))
        assert {page.status for page in pages} == {303}
        assert scene.provider.asked == [DISCOVERY]


async def test_many_who_begin_together_wait_for_one_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.credentials.https_fetch.TIMEOUT", 0.3)
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    async with openid_scene() as scene:
        scene.provider.answers[DISCOVERY] = Answer({}, before=wait)
        pages = await asyncio.gather(*(scene.browser.go("/login", follow=False) for _ in range(8)))
        assert {page.status for page in pages} == {503}
        assert scene.provider.asked == [DISCOVERY]
        release.set()


@given(
    st.binary(max_size=60) | st.lists(st.sampled_from([b"code=", b"state=", b"error=", b"iss=", b"&", b"x", b"%"])),
    st.sampled_from(["/login", "/login/callback", "/", "/logout"]),
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT"]),
)
def test_nothing_is_500_whatever_the_query(query: bytes | list[bytes], path: str, method: str) -> None:
    text = quote(b"".join([query] if isinstance(query, bytes) else query), safe="&=%+;/?:@~")

    async def run() -> None:
        async with openid_scene() as scene:
            back = await scene.callback()
            state = parse_qs(urlsplit(back).query)["state"][0]
            for real in (f"{path}?{text}", f"{path}?state={state}&{text}"):
                page = await scene.browser.go(real, method, follow=False)
                assert page.status in (204, 303, 400, 401, 403, 405), (page.status, page.text)

    asyncio.run(run())


async def test_no_secret_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cookie_secret = token_urlsafe(32)
    async with openid_scene(cookie_secret=(cookie_secret,), debug=True) as scene:
        back = await scene.callback("/login?next=/api/whoami")
        query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
        attempt = scene.browser.cookies[ATTEMPT]
        await scene.browser.go(back)
        session = scene.browser.cookies[SESSION]
        await scene.browser.go(back)
        for path, answer in ((TOKEN, Answer({"error": "invalid_grant"}, 400)), (TOKEN, Answer({}, 500))):
            scene.provider.answers[path] = answer
            await scene.log_in()
        scene.provider.answers.clear()
        scene.provider.forge = STRANGER.sign
        await scene.log_in()
        await scene.browser.go("/logout", "POST")
        codes = [*scene.provider.codes, *query.values()]
        secrets = [SECRET, quote(SECRET, safe=""), cookie_secret, attempt, session, *codes, *scene.provider.tokens]
    assert caplog.records
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert "/login/callback" in text
    for secret in secrets:
        assert secret not in text


async def test_logins_are_audited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskmon.audit")
    async with openid_scene() as scene:
        await scene.log_in()
        scene.provider.forge = STRANGER.sign
        await scene.log_in()
        await scene.browser.go("/logout", "POST")
    lines = [json.loads(message) for message in caplog.messages if message.startswith('{"time"')]
    first, second, third = lines
    assert (first["action"], first["user"], first["status"]) == ("Login", "ann@example.com", 200)
    assert first["detail"] == f"{scene.provider.url} 1001"
    assert first["authenticated_by"] == "session"
    assert first["client"] == "127.0.0.1"
    assert (second["action"], second["decision"], second["status"]) == ("Login", "refused", 400)
    assert "signature" in second["detail"]
    assert (third["action"], third["user"], third["status"]) == ("Logout", "ann@example.com", 200)
