"""Who gets in, and that no header makes anything else happen than an answer or one of the known refusals."""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import closing

import pytest
from asking import ANN, HASH, Clock, ann, ask, basic, coded, request
from hypothesis import example, given
from hypothesis import strategies as st
from patience import PATIENCE
from tornado.web import Application, RequestHandler

from taskmon.auth import ROLES, AnonymousAuthenticator, Authentication, Role, User, printable
from taskmon.credentials.factory import build_authenticators
from taskmon.credentials.tokens import TokenAuthenticator, new_token
from taskmon.errors import AuthenticationFailed, InvalidArgument, TooManyRequests
from taskmon.settings import Settings


def test_roles_are_ordered_and_named() -> None:
    assert Role.VIEWER < Role.OPERATOR < Role.ADMIN
    assert [str(role) for role in ROLES] == ["viewer", "operator", "admin"]
    assert [Role.parse(str(role)) for role in ROLES] == list(ROLES)
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
    assert authentication.authenticate(request(f"Bearer {token}")) == User(
        "generated", Role.ADMIN, "token", credential=token[:11]
    )
    assert authentication.challenges == ('Bearer realm="taskmon"',)
    with pytest.raises(AuthenticationFailed, match="Credentials are needed"):
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
            assert await ask(authentication, request(f"Bearer {token}")) == User(
                "x", Role.VIEWER, "token", credential=token[:11]
            )
            assert await ask(authentication, request()) == User("anonymous", Role.OPERATOR, "anonymous")
            for wrong in (basic("ann", "wrong"), request("Bearer x"), request("Digest x"), request("")):
                with pytest.raises(AuthenticationFailed):
                    await ask(authentication, wrong)

    asyncio.run(run())


def test_only_anonymous_makes_no_token() -> None:
    authenticators, token = build_authenticators(Settings(anonymous_role="viewer"))
    assert token is None
    with pytest.raises(AuthenticationFailed, match="not accepted"):
        Authentication(authenticators).authenticate(basic("ann", "s3cret"))


def test_repeated_header_is_refused_by_everybody() -> None:
    token, line = new_token("x", Role.VIEWER)
    twice = request(f"Bearer {token}", f"Bearer {token}")
    with ann() as authenticator:
        for one in (authenticator, TokenAuthenticator([line]), AnonymousAuthenticator(Role.VIEWER)):
            with pytest.raises(AuthenticationFailed, match="once"):
                one.authenticate(twice)
        with pytest.raises(AuthenticationFailed, match="once"):
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

        @given(st.lists(st.builds(str.__add__, schemes, values), max_size=2), st.booleans())
        @example(["Basic " + coded(b"ann:s3cret")], True)
        @example([], True)
        def check(headers: list[str], later: bool) -> None:
            clock.now += 61 if later else 0
            try:
                user = runner.run(ask(authentication, request(*headers)))
            except (AuthenticationFailed, TooManyRequests) as exc:
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
            except AuthenticationFailed:
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
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
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
