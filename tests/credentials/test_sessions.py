"""Sessions: a cookie that was signed, is used, ends, and is ended."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from taskmon.auth import Role, User
from taskmon.cli import main
from taskmon.credentials.ended_sessions import EndedSessions, SessionFile, row_of_person
from taskmon.credentials.roles import Admission, Roles
from taskmon.credentials.sessions import Identity, Sessions
from taskmon.credentials.signing import Sealer
from taskmon.errors import AuthenticationFailed, InvalidSetting, PermissionDenied, Unavailable

KEY = "k" * 32
ANN = Identity("https://id.example.com", "1001", "ann@example.com", "ann@example.com", ("ops",))
HOUR = 3600.0


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def asking(*cookies: str) -> HTTPServerRequest:
    headers = HTTPHeaders({"Host": "localhost"})
    for cookie in cookies:
        headers.add("Cookie", cookie)
    return HTTPServerRequest(start_line=RequestStartLine("GET", "/", "HTTP/1.1"), headers=headers)


def make(clock: Clock, keys: tuple[str, ...] = (KEY,), role: Role | None = Role.VIEWER, **more: object) -> Sessions:
    return Sessions([*keys], lambda identity: role, secure=True, clock=clock, **more)  # type: ignore[arg-type]


def pair(set_cookie: str | None) -> str:
    assert set_cookie
    return set_cookie.partition(";")[0]


def test_the_cookie_is_for_this_host_and_no_script() -> None:
    assert make(Clock()).cookie.clear() == "__Host-taskmon=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
    _, cookie = make(Clock()).begin(ANN)
    value, *attributes = cookie.split("; ")
    assert value.startswith("__Host-taskmon=")
    assert attributes == ["Max-Age=3600", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
    plain = Sessions([KEY], lambda identity: Role.VIEWER, secure=False).begin(ANN)[1]
    assert plain.startswith("taskmon=")
    assert "Secure" not in plain


def test_a_session_is_known_again() -> None:
    sessions = make(Clock())
    user, cookie = sessions.begin(ANN)
    assert user == User("ann@example.com", Role.VIEWER, "session", credential=user.credential)
    assert len(user.credential or "") == 8
    assert sessions.authenticate(asking(f"other=1; {pair(cookie)}; more=2")) == user
    assert sessions.authenticate(asking("other=1", pair(cookie))) == user
    found = sessions.find(asking(pair(cookie)))
    assert found is not None
    assert found.identity == ANN
    assert sessions.ends(found) == found.began + 8 * HOUR


def test_without_a_cookie_it_is_not_mine() -> None:
    assert make(Clock()).authenticate(asking()) is None
    assert make(Clock()).authenticate(asking("taskmon=x; Host-taskmon=y; __host-taskmon=z")) is None


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters=";\x7f"), max_size=100))
def test_any_other_value_is_mine_and_wrong(text: str) -> None:
    with pytest.raises(AuthenticationFailed):
        make(Clock()).authenticate(asking(f"__Host-taskmon={text}"))


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"[1]", b"\xff", b"[" * 2000])
def test_what_another_version_signed_is_refused(content: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        make(Clock()).authenticate(asking(f"__Host-taskmon={Sealer([KEY], 'session').seal(content)}"))


def test_two_cookies_are_refused() -> None:
    sessions = make(Clock())
    cookie = pair(sessions.begin(ANN)[1])
    for cookies in ([f"{cookie}; {cookie}"], [cookie, cookie], [f"__Host-taskmon=x; {cookie}"]):
        with pytest.raises(AuthenticationFailed, match="more than once"):
            sessions.authenticate(asking(*cookies))


def test_an_hour_without_a_request_ends_it() -> None:
    clock = Clock()
    sessions = make(clock)
    cookie = pair(sessions.begin(ANN)[1])
    clock.now += HOUR - 1
    assert sessions.authenticate(asking(cookie))
    clock.now += 1
    with pytest.raises(AuthenticationFailed, match="over"):
        sessions.authenticate(asking(cookie))


def test_use_keeps_it_alive_but_not_beyond_eight_hours() -> None:
    clock = Clock()
    sessions = make(clock)
    cookie = sessions.begin(ANN)[1]
    began = clock.now
    while clock.now < began + 8 * HOUR - 1:
        clock.now = min(clock.now + HOUR / 2, began + 8 * HOUR - 1)
        user = sessions.authenticate(asking(pair(cookie)))
        assert user is not None
        assert user.set_cookie
        cookie = user.set_cookie
    assert "Max-Age=1;" in cookie
    clock.now += 1
    with pytest.raises(AuthenticationFailed, match="over"):
        sessions.authenticate(asking(pair(cookie)))


def test_it_is_written_anew_once_a_minute_at_the_most() -> None:
    clock = Clock()
    sessions = make(clock)
    cookie = pair(sessions.begin(ANN)[1])
    clock.now += 59
    user = sessions.authenticate(asking(cookie))
    assert user is not None
    assert user.set_cookie is None


def test_a_session_from_the_future_is_refused() -> None:
    clock = Clock()
    sessions = make(clock)
    cookie = pair(sessions.begin(ANN)[1])
    clock.now -= 61
    with pytest.raises(AuthenticationFailed):
        sessions.authenticate(asking(cookie))


def test_roles_are_looked_up_at_every_request() -> None:
    role: list[Role | None] = [Role.ADMIN]
    sessions = Sessions([KEY], lambda identity: role[0], secure=True)
    cookie = pair(sessions.begin(ANN)[1])
    role[0] = Role.VIEWER
    user = sessions.authenticate(asking(cookie))
    assert user is not None
    assert user.role is Role.VIEWER
    role[0] = None
    with pytest.raises(AuthenticationFailed, match="no longer"):
        sessions.authenticate(asking(cookie))
    with pytest.raises(PermissionDenied):
        sessions.begin(ANN)


def test_ending_it_ends_every_copy() -> None:
    clock = Clock()
    sessions = make(clock)
    first = pair(sessions.begin(ANN)[1])
    other = pair(sessions.begin(ANN)[1])
    clock.now += 100
    user = sessions.authenticate(asking(first))
    assert user is not None
    ended = sessions.end(asking(first))
    assert ended is not None
    for copy in (first, pair(user.set_cookie)):
        with pytest.raises(AuthenticationFailed):
            sessions.authenticate(asking(copy))
        assert sessions.end(asking(copy)) is None
    assert sessions.authenticate(asking(other))
    assert sessions.end(asking()) is None


def test_what_was_ended_stays_so_however_many_are_ended() -> None:
    clock = Clock()
    sessions = make(clock, ended=EndedSessions(most=3, clock=clock))
    ended = []
    for _ in range(10):
        clock.now += 1
        ended.append(pair(sessions.begin(ANN)[1]))
        assert sessions.end(asking(ended[-1]))
    clock.now += 1
    young = pair(sessions.begin(ANN)[1])
    for cookie in ended:
        with pytest.raises(AuthenticationFailed):
            sessions.authenticate(asking(cookie))
    assert sessions.authenticate(asking(young))


def test_keys_rotate() -> None:
    clock = Clock()
    cookie = pair(make(clock).begin(ANN)[1])
    assert make(clock, ("n" * 32, KEY)).authenticate(asking(cookie))
    with pytest.raises(AuthenticationFailed):
        make(clock, ("n" * 32,)).authenticate(asking(cookie))


def test_too_many_groups_for_a_cookie() -> None:
    many = Identity("https://id.example.com", "1", "ann", None, tuple("g" * 100 + str(n) for n in range(40)))
    with pytest.raises(PermissionDenied, match="too many"):
        make(Clock()).begin(many)


@pytest.mark.parametrize(
    ("groups", "address", "role"),
    [
        ([], "ann@example.com", Role.VIEWER),
        ([], "bob@EXAMPLE.org", Role.VIEWER),
        ([], "bob@example.com", None),
        ([], "bob@sub.example.org", None),
        ([], None, None),
        (["ops"], None, Role.ADMIN),
        (["ops"], "bob@example.com", Role.ADMIN),
        (["else"], "bob@example.com", None),
    ],
)
def test_who_may_log_in(groups: list[str], address: str | None, role: Role | None) -> None:
    admission = Admission(Roles(("admin=group:ops",), Role.VIEWER), ("ann@example.com", "@example.org"))
    assert admission.role_of(groups, address) is role


def test_without_a_list_all_may_log_in_and_without_a_default_only_those_of_the_rules() -> None:
    assert Admission(Roles((), Role.VIEWER)).role_of([], None) is Role.VIEWER
    assert Admission(Roles(("admin=group:ops",), None)).role_of([], "ann@example.com") is None
    assert Admission(Roles((), None), ("ann@example.com",)).role_of([], "ann@example.com") is None


def test_all_sessions_of_a_person_end_and_later_ones_do_not() -> None:
    for name in ("ann@example.com", " ANN@Example.com ", "1001"):
        clock = Clock()
        sessions = make(clock)
        cookies = [pair(sessions.begin(ANN)[1]) for _ in range(2)]
        other = pair(sessions.begin(Identity("https://id.example.com", "1002", "bob"))[1])
        clock.now += 1
        sessions.ended.end_all(name)
        for cookie in cookies:
            with pytest.raises(AuthenticationFailed):
                sessions.authenticate(asking(cookie))
        assert sessions.authenticate(asking(other))
        clock.now += 1
        assert sessions.authenticate(asking(pair(sessions.begin(ANN)[1])))


async def test_what_was_ended_stays_so_after_a_restart(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "sessions"

    async def started() -> Sessions:
        sessions = make(clock)
        sessions.ended.store = SessionFile(path, clock)
        await sessions.ended.refresh()
        return sessions

    first, beside = await started(), await started()
    out, revoked, kept = (
        pair(first.begin(who)[1]) for who in (ANN, ANN, Identity("https://id.example.com", "1002", "bob"))
    )
    first.end(asking(out))
    await first.ended.save()
    assert path.stat().st_mode & 0o777 == 0o600
    assert beside.authenticate(asking(out))  # it has not looked yet
    await beside.ended.refresh()
    SessionFile(path, clock).add({row_of_person("Ann@example.com"): clock.now})
    for sessions in (beside, await started()):
        await sessions.ended.refresh()
        for cookie in (out, revoked):
            with pytest.raises(AuthenticationFailed):
                sessions.authenticate(asking(cookie))
        assert sessions.authenticate(asking(kept))
    clock.now += 9 * HOUR
    SessionFile(path, clock).add({"session x": clock.now})
    assert json.loads(path.read_text()) == {"session x": clock.now}


async def test_a_store_that_is_away_costs_one_line_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    sessions = make(clock)
    sessions.ended.store = SessionFile(tmp_path / "later" / "sessions", clock)
    cookie = pair(sessions.begin(ANN)[1])
    sessions.end(asking(cookie))
    with pytest.raises(Unavailable):
        await sessions.ended.save()
    for _ in range(3):
        await sessions.ended.refresh()
    assert caplog.text.count("Sessions that were ended elsewhere are not known here") == 1
    (tmp_path / "later").mkdir()
    await sessions.ended.refresh()
    assert len(json.loads((tmp_path / "later" / "sessions").read_text())) == 1


@pytest.mark.parametrize("content", ["x", "[]", '{"a": "b"}', "\xff"])
def test_a_broken_file_of_ended_sessions_ends_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sessions"
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(InvalidSetting, match="--session-file must hold what taskmon wrote"):
        SessionFile(path).check()
    path.write_text("{}")
    path.chmod(0o644)
    with pytest.raises(InvalidSetting, match="owner only"):
        SessionFile(path).check()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["session", "revoke", *arguments])

    assert run("ann", "--file", "here").output == "All sessions of ann that have begun until now are ended\n"
    monkeypatch.setenv("TASKMON_HISTORY", "sqlite:///history.sqlite3")
    assert run("ann").exit_code == 0
    monkeypatch.setenv("TASKMON_SESSION_FILE", "named")
    assert run("ann").exit_code == 0
    for name in ("here", "history.sqlite3.sessions", "named"):
        assert list(json.loads((tmp_path / name).read_text())) == ["person ann"]
    assert run("a\nb").exit_code == 2
    monkeypatch.delenv("TASKMON_HISTORY")
    monkeypatch.delenv("TASKMON_SESSION_FILE")
    assert "--session-file must be given" in run("ann").output


@pytest.mark.parametrize("name", ["ann,bob", "ann\n", "", "x" * 257])
def test_a_name_that_is_none_begins_no_session(name: str) -> None:
    with pytest.raises(PermissionDenied):
        make(Clock()).begin(Identity("https://id.example.com", "1", name))
