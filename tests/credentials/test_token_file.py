"""The file of tokens: made, listed and revoked by commands, read again when it changes, for its owner only."""

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asking import Clock, request
from click.testing import CliRunner, Result
from serving import serving

from taskmon.auth import Role, User
from taskmon.cli import main
from taskmon.credentials.token_commands import create, list_all, revoke
from taskmon.credentials.token_file import StoredToken, TokenFile, now_utc
from taskmon.credentials.tokens import TokenAuthenticator, make_token, new_token
from taskmon.errors import InvalidArgument, InvalidSetting, NotAuthenticated


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
    created, expires = re.split(r" {2,}", listed.splitlines()[1])[-3:-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \((.+ ago|now)\)", created)
    assert re.fullmatch(r"2030-12-31 \(.+ (from now|ago)\)", expires)
    assert re.split(r" {2,}", listed.splitlines()[2])[-2] == "never"
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
    assert stored.keys() == {"id", "sha256", "name", "role", "created", "expires", "revoked"}
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
    assert authenticator.authenticate(request(f"Bearer {secret_of(printed)}")) == User("ci", Role.OPERATOR, "token")
    assert authenticator.authenticate(request(f"Bearer {token}"))

    clock.now = now_utc().timestamp() + 2
    revoke(path, printed.split()[2].rstrip(","))
    clock.now += 2
    with pytest.raises(NotAuthenticated, match="The token ended when it was revoked on 2"):
        authenticator.authenticate(request(f"Bearer {secret_of(printed)}"))
    assert "revoked" in list_all(path)

    path.chmod(0o640)
    clock.now += 2
    with pytest.raises(NotAuthenticated, match="revoked"):
        authenticator.authenticate(request(f"Bearer {secret_of(printed)}"))
    assert "must be readable for its owner only (chmod 600)" in caplog.text
    path.unlink()
    clock.now += 2
    with pytest.raises(NotAuthenticated, match="not known here"):
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
    with pytest.raises(NotAuthenticated, match="The token ended on 2"):
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
