"""The file of tokens: made, listed and revoked by commands, read again when it changes, for its owner only."""

import asyncio
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asking import Clock, request
from click.testing import CliRunner, Result
from serving import event, serving
from waiting import eventually

from taskmon.auth import Role, User
from taskmon.cli import main
from taskmon.credentials.token_commands import create, list_all, revoke
from taskmon.credentials.token_file import StoredToken, TokenFile, now_utc
from taskmon.credentials.tokens import TokenAuthenticator, make_token, new_token
from taskmon.errors import AuthenticationFailed, InvalidArgument, InvalidSetting


def secret_of(printed: str) -> str:
    return printed.split()[-1]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, ["token", *arguments])
        assert result.exit_code == 0, result.output
        return result

    path = tmp_path / "tokens"
    first = run("create", "--name", "grafana", "--expires", "2030-12-31", "--file", str(path)).output
    monkeypatch.setenv("TASKMON_TOKEN_FILE", str(path))
    second = run("create", "--name", "ci", "--role", "OPERATOR").output
    assert path.stat().st_mode & 0o777 == 0o600
    for printed in (first, second):
        assert secret_of(printed).startswith(printed.split()[2].rstrip(","))
        assert secret_of(printed) not in path.read_text()
    listed = run("list").output
    assert [line.split()[1:3] for line in listed.splitlines()[1:]] == [["grafana", "viewer"], ["ci", "operator"]]
    assert [line.split()[-1] for line in listed.splitlines()[1:]] == ["valid", "valid"]
    created, expires = re.split(r" {2,}", listed.splitlines()[1])[-4:-2]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \((.+ ago|now)\)", created)
    assert re.fullmatch(r"2030-12-31 \(.+ (from now|ago)\)", expires)
    assert re.split(r" {2,}", listed.splitlines()[2])[-2] == "never"  # used
    assert "(2 months from now)" in listed.splitlines()[2] or "(3 months from now)" in listed.splitlines()[2]
    ident = second.split()[2].rstrip(",")
    assert run("revoke", ident).output == f"The token {ident} (ci) is revoked\n"
    assert run("list").output.splitlines()[2].endswith("revoked")
    assert path.stat().st_mode & 0o777 == 0o600
    wrong = CliRunner().invoke(main, ["token", "revoke", "tm_00000000"])
    assert wrong.exit_code == 2
    assert "id is no token of this file" in wrong.output
    wrong = CliRunner().invoke(main, ["token", "create", "--name", "a b"])
    assert "name must be 1 to 64 letters" in wrong.output
    wrong = CliRunner().invoke(main, ["token", "create", "--name", "a", "--file", str(tmp_path / "no" / "where")])
    assert wrong.exit_code == 1


def test_what_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    secret = secret_of(create(path, "grafana", "viewer", datetime(2030, 12, 31)))
    (line,) = path.read_text().splitlines()
    stored = json.loads(line)
    assert stored.keys() == set(StoredToken.__struct_fields__)
    assert stored["expires"] == "2030-12-31T00:00:00Z"
    assert stored["revoked"] is None
    assert secret.split("_")[2] not in line


def test_two_commands_at_a_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    threads = [threading.Thread(target=create, args=(path, f"t{n}", "viewer", None)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TokenFile(path).read()) == 8


def test_a_running_taskmon_knows_of_changes_within_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "tokens", Clock()
    token, line = new_token("configured", Role.ADMIN)
    authenticator = TokenAuthenticator([line], TokenFile(path), clock=clock)
    assert authenticator.authenticate(request(f"Bearer {token}"))
    printed = create(path, "ci", "operator", None)
    clock.now += 2
    assert authenticator.authenticate(request(f"Bearer {secret_of(printed)}")) == User(
        "ci", Role.OPERATOR, "token", credential=secret_of(printed)[:11]
    )
    assert authenticator.authenticate(request(f"Bearer {token}"))

    clock.now = now_utc().timestamp() + 2
    revoke(path, printed.split()[2].rstrip(","))
    clock.now += 2
    with pytest.raises(AuthenticationFailed, match="The token ended when it was revoked on 2"):
        authenticator.authenticate(request(f"Bearer {secret_of(printed)}"))
    assert "revoked" in list_all(path)

    path.chmod(0o640)
    clock.now += 2
    with pytest.raises(AuthenticationFailed, match="revoked"):
        authenticator.authenticate(request(f"Bearer {secret_of(printed)}"))
    assert "must be readable for its owner only (chmod 600)" in caplog.text
    path.unlink()
    clock.now += 2
    with pytest.raises(AuthenticationFailed, match="not known here"):
        authenticator.authenticate(request(f"Bearer {secret_of(printed)}"))
    assert authenticator.authenticate(request(f"Bearer {token}"))


def test_expiry(tmp_path: Path) -> None:
    path, now = tmp_path / "tokens", now_utc()
    token, ident, digest = make_token()
    TokenFile(path).add(StoredToken(ident, digest, "ci", "viewer", now, expires=now + timedelta(hours=1)))
    clock = Clock(now.timestamp() + 3599)
    authenticator = TokenAuthenticator([], TokenFile(path), clock=clock)
    assert authenticator.authenticate(request(f"Bearer {token}"))
    clock.now += 1
    with pytest.raises(AuthenticationFailed, match="The token ended on 2"):
        authenticator.authenticate(request(f"Bearer {token}"))
    (stored,) = TokenFile(path).read()
    assert stored.state(now + timedelta(hours=2)) == "expired"


GOOD = '{"id":"tm_0123abcd","sha256":"' + "0" * 64 + '","name":"a","role":"viewer","created":"2030-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x", "line 1 does not"),
        ("{}", "line 1 does not"),
        (f"{GOOD}\n\n[]", "line 3 does not"),
        (f"{GOOD}\n{GOOD}", "line 2 repeats one"),
        (GOOD.replace("viewer", "root"), "line 1 does not"),
        (GOOD.replace("tm_0123abcd", "tm_x"), "line 1 does not"),
        (GOOD.replace('"a"', '"a b"'), "line 1 does not"),
        (GOOD.replace("00Z", "00"), "line 1 does not"),
        (GOOD.replace('"name"', '"x":1,"name"'), "line 1 does not"),
        ("\xff", "line 1 does not"),
        ("x" * (5 << 20), "at most 4 MiB"),
    ],
)
def test_a_broken_file_ends_the_start(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(InvalidSetting, match=f"--token-file must .*{message}"):
        TokenAuthenticator([], TokenFile(path))


def test_a_file_that_others_may_read_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(GOOD)
    for mode in (0o640, 0o604, 0o644, 0o620):
        path.chmod(mode)
        with pytest.raises(InvalidSetting, match="owner only"):
            TokenFile(path).read()
    with pytest.raises(InvalidSetting, match="can be read"):
        TokenFile(tmp_path).read()


def test_an_unknown_token_is_not_revoked(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        TokenFile(tmp_path / "tokens").revoke("tm_00000000", datetime.now(UTC))


async def test_over_http(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    async with serving(token_file=path) as served:
        assert served.taskmon.generated_token is None
        served.taskmon.services.authentication._authenticators[0]._look_again = 0.0  # type: ignore[attr-defined]
        printed = create(path, "ci", "viewer", None)
        headers = {"Authorization": f"Bearer {secret_of(printed)}"}
        assert (await served.get("/api/tasks", headers)).status == 200
        assert (await served.request("POST", "/api/tasks/revoke", headers, b"{}")).status == 403


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["token", *arguments])


def test_names_are_unique_among_valid_tokens(tmp_path: Path) -> None:
    file = ("--file", str(tmp_path / "tokens"))
    first = run("create", "--name", "ci", *file).output
    again = run("create", "--name", "ci", *file)
    assert again.exit_code == 2
    assert f"name is that of {first.split()[2].rstrip(',')}; revoke or rotate that one" in again.output
    assert run("revoke", first.split()[2].rstrip(","), *file).exit_code == 0
    assert run("create", "--name", "ci", *file).exit_code == 0


@pytest.mark.parametrize(
    ("options", "days"),
    [((), 90), (("--expires", "30d"), 30), (("--expires", "12h"), 0), (("--never",), None)],
)
def test_tokens_expire_unless_they_are_to_last(tmp_path: Path, options: tuple[str, ...], days: int | None) -> None:
    path = tmp_path / "tokens"
    assert run("create", "--name", "ci", "--file", str(path), *options).exit_code == 0
    (token,) = TokenFile(path).read()
    assert (token.expires - token.created).days == days if token.expires else days is None
    line = re.search(r"TASKMON_TOKEN=(\S+)", run("--name", "ci", *options).output)
    assert line is not None
    assert (line[1].count(":") == 4) is (days is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--name", "a", "--expires", "2000-01-01"), "expires must be in the future"),
        (("create", "--name", "a", "--expires", "soon"), "expires must be a date such as"),
        (("create", "--name", "a", "--expires", "30d", "--never"), "--never"),
        (("create", "--name", "a", "--scope", "write"), "scopes must be metrics, read"),
        (("create", "--name", "a", "--scope", "publish:"), "scopes must be metrics, read"),
        (("create", "--name", "a", "--scope", "read", "--role", "admin"), "cannot stand beside --role"),
        (("create", "--name", "a", "--rate-limit", "0/m"), "rate_limit must be"),
        (("rotate", "a"), "token is no valid token"),
        (("rotate", "a", "--overlap", "x"), "overlap must be a time"),
    ],
)
def test_what_commands_refuse(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments, "--file", str(tmp_path / "tokens"))
    assert result.exit_code == 2
    assert message in result.output
    assert not TokenFile(tmp_path / "tokens").read()


async def test_rotation_with_overlap(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    old = secret_of(create(path, "ci", "viewer", None, ["metrics"], "600/m"))
    done = run("rotate", "ci", "--overlap", "12h", "--file", str(path)).output
    (new,) = re.findall(r"tm_\w+_\w+", done)
    assert "works until" in done
    async with serving(token_file=path) as served:
        for token in (old, new):
            assert (await served.get("/metrics", {"Authorization": f"Bearer {token}"})).status == 200
    before, after = TokenFile(path).read()
    assert (after.name, after.scopes, after.rate_limit, after.expires) == ("ci", ("metrics",), "600/m", None)
    assert before.expires is not None
    assert timedelta(hours=11) < before.expires - now_utc() <= timedelta(hours=12)
    assert run("rotate", "ci", "--overlap", "0", "--file", str(path)).exit_code == 0
    assert [token.state(now_utc()) for token in TokenFile(path).read()] == ["valid", "expired", "valid"]


SCOPES: list[tuple[list[str], dict[str, int]]] = [
    (["metrics"], {"/metrics": 200, "/api/tasks": 403, "/api/whoami": 200, "/": 403, "/none": 403}),
    (["read"], {"/metrics": 200, "/api/tasks": 200, "/api/workers?refresh=1": 403, "/": 200, "/none": 404}),
    (["read:no-args"], {"/metrics": 200, "/api/tasks": 200, "/api/workers?refresh=1": 403}),
    (["publish:shop.*"], {"/metrics": 403, "/api/tasks": 403, "/api/whoami": 200}),
]


@pytest.mark.parametrize(("scopes", "statuses"), SCOPES, ids=lambda each: str(each)[:20])
async def test_scopes(tmp_path: Path, scopes: list[str], statuses: dict[str, int]) -> None:
    path = tmp_path / "tokens"
    headers = {"Authorization": f"Bearer {secret_of(create(path, 'ci', 'viewer', None, scopes))}"}
    async with serving(token_file=path) as served:
        served.apply(event("task-received", "a", name="shop.add", args="('x7x',)", kwargs="{}"))
        for path_, status in statuses.items():
            answer = await served.get(path_, headers)
            assert answer.status == status, path_
            if path_ == "/api/tasks" and status == 200:
                assert (b"x7x" in answer.body) is (scopes == ["read"])
                found = (await served.get("/api/tasks?search=x7x", headers)).json()
                assert bool(found) is (scopes == ["read"])
        for route, name in (
            ("send-task", "other.add"),
            ("send-task", "xshop.add"),
            ("retry", "shop.a"),
            ("revoke", "a"),
        ):
            assert (await served.request("POST", f"/api/task/{route}/{name}", headers, b"{}")).status == 403, route
        assert (await served.request("POST", "/api/worker/shutdown/w", headers, b"{}")).status == 403
        # The broker of these tests is away: what may be published is 503.
        allowed = await served.request("POST", "/api/task/send-task/shop.add", headers, b"{}")
        assert allowed.status == (503 if scopes == ["publish:shop.*"] else 403)


async def test_a_token_has_a_rate_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    slow, fast = (
        {"Authorization": f"Bearer {secret_of(create(path, name, 'viewer', None, (), rate))}"}
        for name, rate in (("slow", "2/h"), ("fast", "1000000/s"))
    )
    other = {"Authorization": f"Bearer {secret_of(create(path, 'other', 'viewer', None))}"}
    async with serving(token_file=path, token_rate_limit="3/h") as served:
        answers = [await served.get("/api/whoami", slow) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert 1700 < int(answers[-1].header("Retry-After") or 0) <= 1800
        assert [(await served.get("/api/whoami", other)).status for _ in range(4)] == [200, 200, 200, 429]
        assert {(await served.get("/api/whoami", fast)).status for _ in range(20)} == {200}


async def test_the_last_use_is_written_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens"
    headers = {"Authorization": f"Bearer {secret_of(create(path, 'ci', 'viewer', None))}"}
    written: list[dict[str, datetime]] = []
    note_used = TokenFile.note_used
    monkeypatch.setattr(TokenFile, "note_used", lambda self, used: (written.append(used), note_used(self, used)))
    async with serving(token_file=path) as served:
        for _ in range(3):
            assert (await served.get("/api/whoami", headers)).status == 200
        await eventually(lambda: TokenFile(path).read()[0].used is not None)
        for _ in range(3):
            assert (await served.get("/api/whoami", headers)).status == 200
        assert len(written) == 1
    assert len(written) == 2  # what was not written yet is, at the end
    (token,) = TokenFile(path).read()
    assert token.used is not None
    assert token.used >= token.created
    assert path.stat().st_mode & 0o777 == 0o600
    assert "now" in list_all(path) or "ago" in list_all(path)


async def test_a_file_that_cannot_be_written_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    headers = {"Authorization": f"Bearer {secret_of(create(path, 'ci', 'viewer', None))}"}
    (tmp_path / "tokens.lock").unlink()
    (tmp_path / "tokens.lock").mkdir()
    monkeypatch.setattr("taskmon.credentials.token_use.WRITE_EVERY", 0.0)
    async with serving(token_file=path) as served:
        for _ in range(3):
            assert (await served.get("/api/whoami", headers)).status == 200
            await asyncio.sleep(0)
        await eventually(lambda: "cannot be written into their file" in caplog.text)
    assert caplog.text.count("cannot be written into their file") == 1


def test_the_log_names_tokens_that_end_soon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon")
    path, now = tmp_path / "tokens", datetime.now(UTC)
    for name, days in (("soon", 13), ("later", 15)):
        create(path, name, "viewer", now + timedelta(days=days))
    TokenAuthenticator([], TokenFile(path))
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["soon"]
