"""HTTP Basic: strict, hashed in a bounded pool, cached for a minute, throttled and never locked."""

import asyncio
import base64
import gc
import logging
import threading
from collections.abc import Awaitable
from contextlib import closing
from typing import NamedTuple

import pytest
from asking import ANN, HASH, Clock, ann, ask, basic, coded, request
from patience import PATIENCE

from taskmon.auth import Role, User
from taskmon.credentials.basic import MAX_HEADER, BasicAuthenticator
from taskmon.credentials.passwords import Argon2, Bcrypt, Password, Scrypt, read_passwords
from taskmon.errors import AuthenticationFailed, TooManyRequests, Unavailable
from taskmon.settings import Settings


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "bAsIc"])
def test_basic_scheme_in_any_case(scheme: str) -> None:
    async def run() -> None:
        with ann() as authenticator:
            value = f"{scheme} {base64.b64encode(b'ann:s3cret').decode()}"
            assert await ask(authenticator, request(value)) == ANN

    asyncio.run(run())


@pytest.mark.parametrize("header", [(), ("Bearer x",), ("",), ("Basic",), ("Basically x",), ("Digest x=y",)])
def test_basic_leaves_what_is_not_its_own(header: tuple[str, ...]) -> None:
    with ann() as authenticator:
        assert authenticator.authenticate(request(*header)) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "ann:s3cret",
        coded(b"ann:s3cret").rstrip("="),
        coded(b"ann:s3cret") + "=",
        coded(b"ann:s3cret") + "\t",
        coded(b"ann:s3cret") + ", Basic " + coded(b"x:y"),
        coded(b"ann:s3cr") + coded(b"et"),
        "YW5uOnMzY3JldB==",  # the same bytes, but bits left over are set
        coded(b"anns3cret"),
        coded(b"\xff:s3cret"),
        coded(b"ann:\xff"),
        coded(b":"),
        coded(b":s3cret"),
        coded(b"ann\0:s3cret"),
        coded(b"ann,bob:s3cret"),
        coded(b"ann\n:s3cret"),
        coded(b"x" * 257 + b":s3cret"),
        coded("ann:s3cret".encode("utf-16")),
        "Basic " + coded(b"ann:s3cret"),
        "é" + coded(b"ann:s3cret"),
        "\ud800",
        coded(b"ann:" + b"x" * MAX_HEADER),
    ],
)
def test_malformed_basic_is_refused(value: str) -> None:
    with ann() as authenticator, pytest.raises(AuthenticationFailed, match="malformed"):
        authenticator.authenticate(request("Basic " + value))


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ann", "S3cret"),
        ("ann", ""),
        ("ann", "s3cret "),
        ("Ann", "s3cret"),
        ("bob", "s3cret"),
    ],
)
def test_wrong_password_is_refused_without_saying_which_half(user: str, password: str) -> None:
    async def run() -> None:
        reason = r"^The user name or the password is wrong$"
        with ann() as authenticator, pytest.raises(AuthenticationFailed, match=reason):
            await ask(authenticator, basic(user, password))

    asyncio.run(run())


def test_parallel_guesses_count_while_they_are_under_way() -> None:
    async def run() -> None:
        with ann() as authenticator:
            guesses = [asyncio.ensure_future(ask(authenticator, basic("ann", f"{n}"))) for n in range(25)]
            results = await asyncio.gather(*guesses, return_exceptions=True)
            kinds = [type(result) for result in results]
            assert kinds.count(AuthenticationFailed) == authenticator.client_limit
            assert kinds.count(TooManyRequests) == 25 - authenticator.client_limit
            assert await ask(authenticator, basic("ann", "s3cret", client="192.0.2.2")) == ANN
            assert not authenticator._throttle._under_way

    asyncio.run(run())


class Counted(NamedTuple):
    """A hash that notes that it was computed."""

    cost: str
    computed: list[str]
    right: bytes = b"right"

    def matches(self, password: bytes) -> bool:
        self.computed.append(self.cost)
        return password == self.right


def test_a_wrong_password_costs_the_same_whoever_it_is_for() -> None:
    async def run() -> None:
        computed: list[str] = []
        users = {"ann": "weak", "bob": "strong", "cid": "weak", "dan": "other"}
        known = {name: Password(Counted(cost, computed)) for name, cost in users.items()}
        with closing(BasicAuthenticator(known)) as authenticator:
            for name in (*users, "nobody", "nobody else"):
                with pytest.raises(AuthenticationFailed):
                    await ask(authenticator, basic(name, "wrong", client=f"192.0.2.{len(computed)}"))
                assert sorted(computed) == ["other", "strong", "weak"], name
                computed.clear()
            assert await ask(authenticator, basic("bob", "right")) == User("bob", Role.ADMIN, "basic")
            assert computed == ["strong"]

    asyncio.run(run())


def test_what_a_hash_costs() -> None:
    argon2 = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$" + "a" * 43
    assert Bcrypt(None, b"$2y$12$" + b"a" * 53).cost == "bcrypt 12"
    assert Argon2(None, argon2).cost == "$argon2id$v=19$m=65536,t=3,p=4"
    assert Scrypt.make("x").cost == "scrypt 14 8 1"


def test_unknown_users_are_hashed_too() -> None:
    async def run() -> None:
        with ann() as authenticator:
            loop = asyncio.get_running_loop()
            taken = {}
            for user in ("ann", "bob"):
                begun = loop.time()
                with pytest.raises(AuthenticationFailed):
                    await ask(authenticator, basic(user, "wrong"))
                taken[user] = loop.time() - begun
            assert taken["bob"] > taken["ann"] / 10

    asyncio.run(run())


def test_password_with_colons_and_other_alphabets() -> None:
    async def run() -> None:
        with closing(BasicAuthenticator(read_passwords(Settings(basic_auth=("józef:ü:x:",))))) as authenticator:
            assert await ask(authenticator, basic("józef", "ü:x:")) == User("józef", Role.ADMIN, "basic")

    asyncio.run(run())


def test_success_is_cached_for_a_minute() -> None:
    async def run() -> None:
        clock = Clock()
        with ann(clock=clock) as authenticator:
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN
            assert authenticator.authenticate(basic("ann", "s3cret")) == ANN
            clock.now += 59
            assert authenticator.authenticate(basic("ann", "s3cret")) == ANN
            clock.now += 2
            answer = authenticator.authenticate(basic("ann", "s3cret"))
            assert isinstance(answer, Awaitable)
            assert await answer == ANN
            assert authenticator.authenticate(basic("ann", "s3cret")) == ANN

    asyncio.run(run())


def test_cache_is_bounded_and_holds_no_password() -> None:
    three = read_passwords(Settings(basic_auth=[f"{name}:{HASH}" for name in "abc"]))

    async def run() -> None:
        with closing(BasicAuthenticator(three, most_cached=2)) as authenticator:
            for name in "abc":
                await ask(authenticator, basic(name, "s3cret"))
            assert len(authenticator._cache) == 2
            assert isinstance(authenticator.authenticate(basic("a", "s3cret")), Awaitable)
            assert "s3cret" not in repr(authenticator._cache)
            assert coded(b"a:s3cret") not in repr(authenticator._cache)

    asyncio.run(run())


def test_failure_is_not_cached() -> None:
    async def run() -> None:
        with ann() as authenticator:
            for _ in range(2):
                with pytest.raises(AuthenticationFailed):
                    await ask(authenticator, basic("ann", "wrong"))
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN

    asyncio.run(run())


def test_requests_with_the_same_header_share_one_hash() -> None:
    async def run() -> None:
        with ann(waiting=0) as authenticator:
            answers = [ask(authenticator, basic("ann", "s3cret")) for _ in range(100)]
            assert await asyncio.gather(*answers) == [ANN] * 100

    asyncio.run(run())


def test_one_request_that_goes_away_does_not_end_the_hash_of_the_others() -> None:
    async def run() -> None:
        with ann() as authenticator:
            first = asyncio.ensure_future(ask(authenticator, basic("ann", "s3cret")))
            second = asyncio.ensure_future(ask(authenticator, basic("ann", "s3cret")))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == ANN
            with pytest.raises(asyncio.CancelledError):
                await first

    asyncio.run(run())


def test_failure_that_nobody_waits_for_is_not_logged_by_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        with ann() as authenticator:
            waiting = asyncio.ensure_future(ask(authenticator, basic("ann", "wrong")))
            await asyncio.sleep(0)
            waiting.cancel()
            async with asyncio.timeout(PATIENCE):
                while authenticator._running:
                    await asyncio.wait(authenticator._running.values())
        gc.collect()

    asyncio.run(run())
    assert [record.name for record in caplog.records] == ["taskmon.credentials.basic"]


def test_full_pool_is_unavailable_and_recovers() -> None:
    async def run() -> None:
        with ann(waiting=1) as authenticator:
            release = threading.Event()
            busy = [authenticator._pool.submit(release.wait) for _ in range(2)]
            running = [asyncio.ensure_future(ask(authenticator, basic("ann", f"{n}"))) for n in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable) as caught:
                await ask(authenticator, basic("ann", "s3cret"))
            assert caught.value.retry_after == 1
            release.set()
            results = await asyncio.gather(*running, return_exceptions=True)
            assert [type(result) for result in results] == [AuthenticationFailed] * 3
            assert all(future.result() for future in busy)
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN

    asyncio.run(run())


def test_closed_pool_is_unavailable() -> None:
    async def run() -> None:
        with ann() as authenticator:
            authenticator.close()
            with pytest.raises(Unavailable, match="stopping"):
                await ask(authenticator, basic("ann", "s3cret"))

    asyncio.run(run())


def test_wrong_passwords_are_logged_without_them(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        with ann() as authenticator, pytest.raises(AuthenticationFailed):
            await ask(authenticator, basic("ann" + "x" * 200, "S3CRET"))

    asyncio.run(run())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "S3CRET" not in caplog.text
    assert coded(b"S3CRET") not in caplog.text
    message = caplog.records[0].getMessage()
    assert "annx" in message
    assert len(message) < 200


def test_client_with_many_failures_must_wait_and_others_need_not() -> None:
    async def run() -> None:
        clock = Clock()
        with ann(clock=clock) as authenticator:
            assert await ask(authenticator, basic("ann", "s3cret", "192.0.2.7")) == ANN
            for _ in range(authenticator.client_limit):
                with pytest.raises(AuthenticationFailed):
                    authenticator.authenticate(request("Basic !", client="192.0.2.9"))
            with pytest.raises(TooManyRequests) as caught:
                await ask(authenticator, basic("ann", "wrong", "192.0.2.9"))
            assert caught.value.retry_after == 60
            with pytest.raises(AuthenticationFailed):
                await ask(authenticator, basic("ann", "wrong", "192.0.2.8"))
            # What was right before stays so from anywhere, even after the cache forgot.
            assert authenticator.authenticate(basic("ann", "s3cret", "192.0.2.9")) == ANN
            clock.now += 30
            with pytest.raises(TooManyRequests):
                await ask(authenticator, basic("bob", "wrong", "192.0.2.9"))
            clock.now += 31
            assert await ask(authenticator, basic("ann", "s3cret", "192.0.2.9")) == ANN

    asyncio.run(run())


def test_user_under_attack_keeps_getting_in_and_the_account_is_never_locked() -> None:
    async def run() -> None:
        clock = Clock()
        with ann(clock=clock) as authenticator:
            authenticator.user_limit = 3
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN
            clock.now += 100  # forgotten by the cache
            for number in range(3):
                with pytest.raises(AuthenticationFailed):
                    await ask(authenticator, basic("ann", "wrong", f"198.51.100.{number}"))
            with pytest.raises(TooManyRequests):
                await ask(authenticator, basic("ann", "wrong", "198.51.100.99"))
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN
            clock.now += 61
            assert await ask(authenticator, basic("ann", "s3cret", "198.51.100.99")) == ANN

    asyncio.run(run())


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("not an\naddress", "not an\naddress", True),
        ("", "192.0.2.1", False),
    ],
)
def test_failures_are_counted_by_network_for_ipv6(first: str, second: str, same: bool) -> None:
    with ann() as authenticator:
        for _ in range(authenticator.client_limit):
            with pytest.raises(AuthenticationFailed):
                authenticator.authenticate(request("Basic !", client=first))
        with pytest.raises(TooManyRequests if same else AuthenticationFailed):
            authenticator.authenticate(request("Basic !", client=second))
