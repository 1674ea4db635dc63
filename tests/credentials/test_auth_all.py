"""Who gets in, and that no header makes anything else happen than an answer or one of the known refusals."""

import asyncio
import base64
import gc
import hashlib
import logging
import math
import re
import threading
from collections.abc import Awaitable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import Application, RequestHandler

from taskmon.auth import AnonymousAuthenticator, Authentication, Authenticator, Role, User, printable
from taskmon.credentials.basic import MAX_HEADER, BasicAuthenticator
from taskmon.credentials.building import build_authenticators
from taskmon.credentials.passwords import hash_password, hash_passwords
from taskmon.credentials.throttle import Throttle
from taskmon.credentials.tokens import TokenAuthenticator, new_token
from taskmon.errors import InvalidArgument, NotAuthenticated, TooManyRequests, Unavailable
from taskmon.settings import SCRYPT_HASH, Settings

HASH = hash_password("s3cret")
ANN = User("ann", Role.ADMIN, "basic")


class Clock:
    """A clock that moves when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def request(*authorization: str, client: str | None = "192.0.2.1") -> HTTPServerRequest:
    """Make a request with headers as given, past Tornado's parser: authenticators must not lean on it."""
    headers = HTTPHeaders({"Host": "localhost"})
    if authorization:
        headers._as_list["Authorization"] = list(authorization)
    return cast(HTTPServerRequest, SimpleNamespace(headers=headers, remote_ip=client))


def basic(user: str, password: str, client: str = "192.0.2.1") -> HTTPServerRequest:
    return request("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode(), client=client)


async def ask(authenticator: Authenticator | Authentication, asked: HTTPServerRequest) -> User | None:
    answer = authenticator.authenticate(asked)
    return await answer if isinstance(answer, Awaitable) else answer


@contextmanager
def ann(**options: Any) -> Iterator[BasicAuthenticator]:
    with closing(BasicAuthenticator([f"ann:{HASH}"], **options)) as authenticator:
        yield authenticator


# --- roles and names


def test_roles_are_ordered_and_named() -> None:
    assert Role.VIEWER < Role.OPERATOR < Role.ADMIN
    assert [str(role) for role in Role] == ["viewer", "operator", "admin"]
    assert [Role.parse(str(role)) for role in Role] == list(Role)
    with pytest.raises(InvalidArgument, match="role must be viewer, operator or admin, not 'root'"):
        Role.parse("root")


def test_user_is_frozen() -> None:
    with pytest.raises(AttributeError):
        ANN.role = Role.VIEWER  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ann", "ann"), ("a\nb", "a\\nb"), ("é", "é"), ("\x1b[31m", "\\x1b[31m"), ("x" * 500, "x" * 128)],
)
def test_printable(name: str, shown: str) -> None:
    assert printable(name) == shown


# --- passwords


def test_hash_password() -> None:
    assert SCRYPT_HASH.fullmatch(HASH)
    assert HASH.startswith("$scrypt$ln=14,r=8,p=1$")
    assert hash_password("s3cret") != HASH
    assert "s3cret" not in HASH


def test_hash_passwords_drops_plain_ones_only() -> None:
    before = Settings(basic_auth=("bob:plain:text", f"ann:{HASH}"))
    after = hash_passwords(before)
    assert after.basic_auth[1] == f"ann:{HASH}"
    assert "plain" not in after.basic_auth[0]

    async def run() -> None:
        with closing(BasicAuthenticator(after.basic_auth)) as authenticator:
            assert await ask(authenticator, basic("bob", "plain:text")) == User("bob", Role.ADMIN, "basic")
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN

    asyncio.run(run())


def test_hash_with_a_longer_salt_and_other_costs_works() -> None:
    salt = bytes(range(32))
    digest = hashlib.scrypt(b"pw", salt=salt, n=1 << 15, r=4, p=2, maxmem=1 << 26, dklen=32)
    parts = (base64.b64encode(part).decode().rstrip("=") for part in (salt, digest))

    async def run() -> None:
        entry = "ann:$scrypt$ln=15,r=4,p=2$" + "$".join(parts)
        with closing(BasicAuthenticator(Settings(basic_auth=(entry,)).basic_auth)) as authenticator:
            assert await ask(authenticator, basic("ann", "pw")) == ANN

    asyncio.run(run())


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


def coded(plain: bytes) -> str:
    return base64.b64encode(plain).decode()


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
        coded("ann:s3cret".encode("utf-16")),
        "Basic " + coded(b"ann:s3cret"),
        "é" + coded(b"ann:s3cret"),
        "\ud800",
        coded(b"ann:" + b"x" * MAX_HEADER),
    ],
)
def test_malformed_basic_is_refused(value: str) -> None:
    with ann() as authenticator, pytest.raises(NotAuthenticated, match="malformed"):
        authenticator.authenticate(request("Basic " + value))


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ann", "S3cret"),
        ("ann", ""),
        ("ann", "s3cret "),
        ("Ann", "s3cret"),
        ("", ""),
        ("bob", "s3cret"),
        ("ann\0", "s3cret"),
    ],
)
def test_wrong_password_is_refused_without_saying_which_half(user: str, password: str) -> None:
    async def run() -> None:
        reason = r"^The user name or the password is wrong$"
        with ann() as authenticator, pytest.raises(NotAuthenticated, match=reason):
            await ask(authenticator, basic(user, password))

    asyncio.run(run())


def test_unknown_users_are_hashed_too() -> None:
    async def run() -> None:
        with ann() as authenticator:
            loop = asyncio.get_running_loop()
            taken = {}
            for user in ("ann", "bob"):
                begun = loop.time()
                with pytest.raises(NotAuthenticated):
                    await ask(authenticator, basic(user, "wrong"))
                taken[user] = loop.time() - begun
            assert taken["bob"] > taken["ann"] / 10

    asyncio.run(run())


def test_password_with_colons_and_other_alphabets() -> None:
    async def run() -> None:
        with closing(BasicAuthenticator(["józef:ü:x:"])) as authenticator:
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
    async def run() -> None:
        with closing(BasicAuthenticator([f"{name}:{HASH}" for name in "abc"], most_cached=2)) as authenticator:
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
                with pytest.raises(NotAuthenticated):
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
            async with asyncio.timeout(10):
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
            assert [type(result) for result in results] == [NotAuthenticated] * 3
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
        with ann() as authenticator, pytest.raises(NotAuthenticated):
            await ask(authenticator, basic("an\nn" + "x" * 200, "S3CRET"))

    asyncio.run(run())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "S3CRET" not in caplog.text
    assert coded(b"S3CRET") not in caplog.text
    message = caplog.records[0].getMessage()
    assert "\n" not in message
    assert "an\\nn" in message
    assert len(message) < 200


# --- throttling


def test_throttle_counts_in_a_window() -> None:
    clock = Clock()
    throttle = Throttle(window=60, clock=clock)
    for _ in range(3):
        throttle.check("a", 3)
        throttle.failed("a")
    clock.now += 10
    with pytest.raises(TooManyRequests) as caught:
        throttle.check("a", 3)
    assert caught.value.retry_after == 50
    throttle.check("b", 3)
    clock.now += 50
    throttle.check("a", 3)
    throttle.failed("a")
    throttle.check("a", 3)


def test_throttle_is_bounded() -> None:
    throttle = Throttle(most_keys=10)
    for number in range(1000):
        throttle.failed(str(number))
    assert len(throttle) == 10
    with pytest.raises(TooManyRequests):
        throttle.check("999", 1)


def test_client_with_many_failures_must_wait_and_others_need_not() -> None:
    async def run() -> None:
        clock = Clock()
        with ann(clock=clock) as authenticator:
            assert await ask(authenticator, basic("ann", "s3cret", "192.0.2.7")) == ANN
            for _ in range(authenticator.client_limit):
                with pytest.raises(NotAuthenticated):
                    authenticator.authenticate(request("Basic !", client="192.0.2.9"))
            with pytest.raises(TooManyRequests) as caught:
                await ask(authenticator, basic("ann", "wrong", "192.0.2.9"))
            assert caught.value.retry_after == 60
            with pytest.raises(NotAuthenticated):
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
                with pytest.raises(NotAuthenticated):
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
            with pytest.raises(NotAuthenticated):
                authenticator.authenticate(request("Basic !", client=first))
        with pytest.raises(TooManyRequests if same else NotAuthenticated):
            authenticator.authenticate(request("Basic !", client=second))


# --- tokens


def test_token_and_its_line() -> None:
    token, line = new_token("grafana", Role.OPERATOR, date(2030, 12, 31))
    assert re.fullmatch(r"tm_[0-9a-f]{8}_[0-9a-f]{40}_[0-9a-f]{8}", token)
    assert line == f"{token[:11]}:{hashlib.sha256(token.encode()).hexdigest()}:operator:grafana:2030-12-31"
    assert Settings(token=(line,)).token == (line,)
    assert token.split("_")[2] not in line
    assert new_token("x", Role.VIEWER)[0] != new_token("x", Role.VIEWER)[0]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "x" * 65, "a\n", "é"])
def test_token_name_is_checked(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^name must be 1 to 64 letters"):
        new_token(name, Role.VIEWER)


def test_line_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a line"):
        TokenAuthenticator(["x"])


@pytest.mark.parametrize("role", list(Role))
def test_right_token(role: Role) -> None:
    token, line = new_token("grafana", role)
    authenticator = TokenAuthenticator([new_token("other", Role.ADMIN)[1], line])
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert authenticator.authenticate(request(f"{scheme} {token}")) == User("grafana", role, "token")
    authenticator.close()


@pytest.mark.parametrize("header", [(), ("Basic x",), ("",), ("Bearerx",)])
def test_token_leaves_what_is_not_its_own(header: tuple[str, ...]) -> None:
    assert TokenAuthenticator([]).authenticate(request(*header)) is None


def test_wrong_tokens(caplog: pytest.LogCaptureFixture) -> None:
    token, line = new_token("grafana", Role.VIEWER)
    forged = new_token("x", Role.VIEWER)[0]
    same_id = f"{token[:11]}_{forged.split('_')[2]}_{forged.split('_')[3]}"
    cases = {
        "": "none of taskmon's",
        "eyJhbGciOi.x.y": "none of taskmon's",
        line: "none of taskmon's",
        token.upper(): "none of taskmon's",
        f"{token} {token}": "none of taskmon's",
        f"{token}, Bearer {token}": "none of taskmon's",
        "é" * 50: "none of taskmon's",
        "\ud800": "none of taskmon's",
        token[:-1] + ("0" if token[-1] != "0" else "1"): "damaged",
        same_id: "damaged",
        forged: "not known here",
    }
    for value, reason in cases.items():
        authenticator = TokenAuthenticator([line])
        with pytest.raises(NotAuthenticated, match=reason):
            authenticator.authenticate(request(f"Bearer {value}"))
    assert len(caplog.records) == len(cases)
    assert token[12:52] not in caplog.text
    assert forged[12:52] not in caplog.text


def test_token_ends_on_its_day() -> None:
    clock = Clock(datetime(2030, 12, 30, 23, 59, 59, tzinfo=UTC).timestamp())
    token, line = new_token("x", Role.VIEWER, date(2030, 12, 31))
    authenticator = TokenAuthenticator([line], clock=clock)
    assert authenticator.authenticate(request(f"Bearer {token}")) is not None
    clock.now += 1
    with pytest.raises(NotAuthenticated, match="The token ended on 2030-12-31"):
        authenticator.authenticate(request(f"Bearer {token}"))
    clock.now = math.inf
    eternal, line = new_token("x", Role.VIEWER)
    assert TokenAuthenticator([line], clock=lambda: 1e18).authenticate(request(f"Bearer {eternal}"))


def test_wrong_tokens_are_throttled_and_right_ones_never() -> None:
    token, line = new_token("x", Role.VIEWER)
    authenticator = TokenAuthenticator([line])
    for _ in range(authenticator.client_limit):
        with pytest.raises(NotAuthenticated):
            authenticator.authenticate(request("Bearer x"))
    with pytest.raises(TooManyRequests):
        authenticator.authenticate(request("Bearer x"))
    assert authenticator.authenticate(request(f"Bearer {token}")) == User("x", Role.VIEWER, "token")


# --- all together


def test_anonymous_only_without_credentials() -> None:
    anonymous = AnonymousAuthenticator(Role.VIEWER)
    assert anonymous.authenticate(request()) == User("anonymous", Role.VIEWER, "anonymous")
    for header in ("", "x", "Digest x", "Basic x"):
        assert anonymous.authenticate(request(header)) is None
    anonymous.close()


def test_nothing_configured_makes_an_admin_token() -> None:
    authenticators, token = build_authenticators(Settings())
    authentication = Authentication(authenticators)
    assert token is not None
    assert authentication.authenticate(request(f"Bearer {token}")) == User("generated", Role.ADMIN, "token")
    assert authentication.challenges == ('Bearer realm="taskmon"',)
    with pytest.raises(NotAuthenticated, match="Credentials are needed"):
        authentication.authenticate(request())
    assert build_authenticators(Settings())[1] != token


def test_everything_configured() -> None:
    async def run() -> None:
        token, line = new_token("x", Role.VIEWER)
        configured = Settings(basic_auth=(f"ann:{HASH}",), token=(line,), anonymous_role="operator")
        authenticators, generated = build_authenticators(configured)
        assert generated is None
        with closing(Authentication(authenticators)) as authentication:
            assert authentication.challenges == (
                'Basic realm="taskmon", charset="UTF-8"',
                'Bearer realm="taskmon"',
            )
            assert await ask(authentication, basic("ann", "s3cret")) == ANN
            assert await ask(authentication, request(f"Bearer {token}")) == User("x", Role.VIEWER, "token")
            assert await ask(authentication, request()) == User("anonymous", Role.OPERATOR, "anonymous")
            for wrong in (basic("ann", "wrong"), request("Bearer x"), request("Digest x"), request("")):
                with pytest.raises(NotAuthenticated):
                    await ask(authentication, wrong)

    asyncio.run(run())


def test_only_anonymous_makes_no_token() -> None:
    authenticators, token = build_authenticators(Settings(anonymous_role="viewer"))
    assert token is None
    with pytest.raises(NotAuthenticated, match="not accepted"):
        Authentication(authenticators).authenticate(basic("ann", "s3cret"))


def test_repeated_header_is_refused_by_everybody() -> None:
    token, line = new_token("x", Role.VIEWER)
    twice = request(f"Bearer {token}", f"Bearer {token}")
    with ann() as authenticator:
        for one in (authenticator, TokenAuthenticator([line]), AnonymousAuthenticator(Role.VIEWER)):
            with pytest.raises(NotAuthenticated, match="once"):
                one.authenticate(twice)
        with pytest.raises(NotAuthenticated, match="once"):
            Authentication([authenticator]).authenticate(twice)


schemes = st.sampled_from(["Basic ", "basic ", "Bearer ", "Digest ", "Basic", "", "Basic  "])
short = st.text(max_size=8)
values = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60).map(coded),
    st.builds(lambda user, word: coded(f"{user}:{word}".encode("utf-8", "replace")), short, short),
    st.from_regex(r"tm_[0-9a-f]{8}_[0-9a-f]{40}_[0-9a-f]{8}", fullmatch=True),
    st.text(alphabet="tm_0123abcdef:=, \t\0", max_size=80),
    st.integers(1000, 3000).map(lambda length: "A" * length),
)


def test_any_header_gives_a_user_or_a_known_refusal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    clock = Clock()
    _, line = new_token("x", Role.VIEWER)
    with ann(clock=clock) as authenticator, asyncio.Runner() as runner:
        several = (authenticator, TokenAuthenticator([line]), AnonymousAuthenticator(Role.VIEWER))
        authentication = Authentication(several)

        @settings(max_examples=150, deadline=None)
        @given(st.lists(st.builds(str.__add__, schemes, values), max_size=2), st.booleans())
        @example(["Basic " + coded(b"ann:s3cret")], True)
        @example([], True)
        def check(headers: list[str], later: bool) -> None:
            clock.now += 61 if later else 0
            try:
                user = runner.run(ask(authentication, request(*headers)))
            except (NotAuthenticated, TooManyRequests) as exc:
                assert str(exc).isprintable()
            else:
                assert isinstance(user, User)
                assert user.role is (Role.ADMIN if headers else Role.VIEWER)

        check()


def test_over_a_real_connection() -> None:
    """Headers as Tornado's own parser hands them over."""

    class Whoami(RequestHandler):
        async def get(self) -> None:
            try:
                answer = authentication.authenticate(self.request)
                user = await answer if isinstance(answer, Awaitable) else answer
            except NotAuthenticated:
                self.set_status(401)
            else:
                self.write(user.name)

    token, line = new_token("x", Role.VIEWER)
    good = f"Authorization: Basic {coded(b'ann:s3cret')}\r\n"
    bearer = f"Authorization: Bearer {token}\r\n"
    cases = {
        good: b"ann",
        good.replace("Authorization", "AUTHORIZATION"): b"ann",
        bearer: b"x",
        "": b"401",
        good + good: b"40",
        good + bearer: b"40",
        bearer + bearer.lower(): b"40",
        good.replace("Basic ", "Basic\t"): b"40",
        "Authorization:\r\n": b"401",
    }

    async def get(port: int, lines: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return answer

    async def run() -> None:
        server = Application([("/", Whoami)], log_function=lambda _: None).listen(0, "127.0.0.1")
        port = next(iter(server._sockets.values())).getsockname()[1]
        for lines, expected in cases.items():
            assert expected in await get(port, lines), lines
        server.stop()
        await server.close_all_connections()

    with ann() as authenticator:
        authentication = Authentication([authenticator, TokenAuthenticator([line])])
        asyncio.run(run())
