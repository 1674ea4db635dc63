"""What taskmon leaves behind of requests: their ids, the audit log and its places, who was kept out."""

import json
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served, event, make_app, parse, serving

from taskmon import audit_log, request_ids
from taskmon.auth import Role
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting
from taskmon.http.refusals import REASONS, Refusals
from taskmon.logs import configure_logging, reopen_log_file
from taskmon.settings import Settings

REQUEST = "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n"


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Put back what `configure_logging` changes."""
    root, audit = logging.getLogger(), logging.getLogger(audit_log.AUDIT_LOGGER)
    before = root.handlers[:], root.level
    yield
    audit_log.configure_audit_log(None)
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], _ = before
    root.setLevel(before[1])
    assert audit.propagate


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the lines of the audit log, and forget them."""
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == audit_log.AUDIT_LOGGER]
    caplog.clear()
    return lines


async def ask(served: Served, raw: str) -> str:
    """Send a request to taskmon's own listener, and return the id of its answer."""
    return parse(await served.send(raw.encode())).header("X-Request-Id") or ""


async def test_every_answer_has_an_id_of_its_own() -> None:
    async with serving() as served:
        token = served.credentials["Authorization"]
        raws = [
            REQUEST.format(path="/api/tasks", more=f"Authorization: {token}\r\n"),
            REQUEST.format(path="/api/tasks", more=""),
            REQUEST.format(path="/healthcheck", more=""),
            REQUEST.format(path="/nowhere", more=f"Authorization: {token}\r\n"),
            REQUEST.format(path="/api/tasks", more=f"Authorization: {token}\r\n").replace("GET", "DELETE"),
            REQUEST.format(path="/api/tasks", more="").replace("localhost", "evil.example"),
            REQUEST.format(path="/", more=f"X: {'x' * 20_000}\r\n"),
            "POST /api/tasks/revoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
            "no request\r\n\r\n",
        ]
        ids = [await ask(served, raw) for raw in raws]
    assert all(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("given", ["abc-1", "x" * 129, "a b", "", "ü", "a\tb"])
async def test_a_stranger_does_not_give_an_id(given: str) -> None:
    async with serving() as served:
        found = await ask(served, REQUEST.format(path="/healthcheck", more=f"X-Request-Id: {given}\r\n"))
    assert found != given
    assert found


async def test_a_trusted_proxy_gives_the_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, audit_log.AUDIT_LOGGER)
    async with serving(trusted_proxies="127.0.0.1") as served:
        for given in ("abc-1", "01HZX/4=+@", "x" * 128):
            assert await ask(served, REQUEST.format(path="/healthcheck", more=f"X-Request-Id: {given}\r\n")) == given
        for given in ("x" * 129, "a b", "<script>", "a\r\nX-Request-Id: b"):
            found = await ask(served, REQUEST.format(path="/healthcheck", more=f"X-Request-Id: {given}\r\n"))
            assert found.startswith(request_ids.make_id().partition("-")[0])
        more = f"X-Request-Id: change-1\r\nAuthorization: {served.credentials['Authorization']}\r\n"
        await ask(served, REQUEST.format(path="/api/task/revoke/a%2Fb?terminate=5", more=more).replace("GET", "POST"))
    (line,) = lines_of(caplog)
    assert (line["request_id"], line["proxy"], line["status"]) == ("change-1", "127.0.0.1", 400)
    assert line["target"] == "/api/task/revoke/a/b"


@pytest.mark.parametrize(
    ("more", "status"),
    [("Content-Length: 99999999", 413), ("Content-Length: 1\r\nTransfer-Encoding: chunked", 400)],
)
async def test_a_refusal_of_what_is_no_request_has_the_id_of_a_trusted_proxy(
    more: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, audit_log.AUDIT_LOGGER)
    proxied = "X-Request-Id: abc\r\nX-Forwarded-For: 10.1.2.3"
    raw = f"POST /api/tasks/revoke HTTP/1.1\r\nHost: localhost\r\n{proxied}\r\n{more}\r\n\r\n"
    async with serving(trusted_proxies="127.0.0.1") as served:
        assert await ask(served, raw) == "abc"
    (line,) = lines_of(caplog)
    assert (line["request_id"], line["client"], line["proxy"], line["status"]) == (
        "abc",
        "10.1.2.3",
        "127.0.0.1",
        status,
    )
    async with serving() as served:
        assert await ask(served, raw) != "abc"
    (line,) = lines_of(caplog)
    assert (line["client"], line.get("proxy")) == ("127.0.0.1", None)


@pytest.mark.usefixtures("logging_as_before")
async def test_lines_of_the_log_name_the_request(tmp_path: Path) -> None:
    for log_format in ("text", "json"):
        path = tmp_path / log_format
        configure_logging(Settings(debug=True, log_format=log_format, log_file=path))
        async with serving() as served:
            found = await ask(served, REQUEST.format(path="/healthcheck", more=""))
        (line,) = [line for line in path.read_text().splitlines() if "/healthcheck" in line]
        assert found in line
        if log_format == "json":
            assert json.loads(line)["request_id"] == found
        started = [line for line in path.read_text().splitlines() if "Serving on" in line]
        assert "request" not in started[0]


async def test_what_cannot_be_undone_is_written_before(caplog: pytest.LogCaptureFixture, memory_broker: str) -> None:
    caplog.set_level(logging.INFO, audit_log.AUDIT_LOGGER)
    token, line = new_token("deploy", Role.ADMIN)
    headers = {"Authorization": f"Bearer {token}"}
    async with serving(make_app(memory_broker), token=line, inspect_timeout=50, enable_events=False) as served:
        served.apply(event("worker-heartbeat", hostname="celery@w1"))
        done = {"name": "app.add", "args": "()", "kwargs": "{}", "queue": "celery"}
        served.apply(event("task-sent", "a", **done), event("task-failed", "a"))
        for path in (
            "/api/task/send-task/app.add",
            "/api/task/revoke/a",
            "/api/worker/shutdown/celery@w1",
            "/api/worker/pool/restart/celery@w1",
            "/api/task/abort/a",
        ):
            await served.request("POST", path, headers)
            intent, outcome = lines_of(caplog)
            assert (intent["outcome"], intent["request_id"]) == ("intended", outcome["request_id"]), path
            assert "status" not in intent
            assert outcome["status"], path
            assert {intent["credential"], outcome["credential"]} == {line[:11]}
            assert intent["target"] == outcome["target"] == path
        await served.request("POST", "/api/task/send-task/app.add?queue=unacked_index", headers)
        (refused,) = lines_of(caplog)
        assert refused["outcome"] == "refused"
        body = b'{"args": [1, 2, 3]}'
        as_json = headers | {"Content-Type": "application/json"}
        answer = await served.request("POST", "/api/task/async-apply/celery.backend_cleanup", as_json, body)
        (refused,) = lines_of(caplog)
        assert (answer.status, refused["outcome"]) == (400, "refused")
        assert "new_task_id" not in refused
        await served.request("POST", "/api/worker/pool/grow/celery@w1", headers)
        (grown,) = lines_of(caplog)
        assert grown["outcome"] == "failed"


async def test_every_id_that_was_touched_is_named(caplog: pytest.LogCaptureFixture, memory_broker: str) -> None:
    caplog.set_level(logging.INFO, audit_log.AUDIT_LOGGER)
    ids = [f"{number:04}-{'x' * 200}" for number in range(3000)]
    async with serving(make_app(memory_broker)) as served:
        body = json.dumps({"ids": ids}).encode()
        answer = await served.request("POST", "/api/tasks/revoke", {"Content-Type": "application/json"}, body)
        assert answer.status == 200
    lines = lines_of(caplog)
    for outcome in ("intended", "done"):
        parts = [line for line in lines if line["outcome"] == outcome]
        assert [task_id for part in parts for task_id in part["task_ids"]] == ids
        assert [(part["part"], part["parts"]) for part in parts] == [(1, 2), (2, 2)]


def test_an_entry_in_parts() -> None:
    entry = {"user": "u", "task_ids": ["aaaa", "bb", "cc", "dddddddd"]}
    assert list(audit_log.split(entry, 16)) == [entry]
    assert [part["task_ids"] for part in audit_log.split(entry, 6)] == [["aaaa", "bb"], ["cc"], ["dddddddd"]]
    assert list(audit_log.split({"user": "u"}, 1)) == [{"user": "u"}]
    assert [part["task_ids"] for part in audit_log.split({"task_ids": ["ü", "😀"]}, 12)] == [["ü"], ["😀"]]


async def test_a_line_that_is_cut_says_who_it_was_and_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, audit_log.AUDIT_LOGGER)
    long = "%F0%9F%98%80" * 500
    async with serving() as served:
        assert (await served.request("POST", f"/api/task/rate-limit/{long}?ratelimit={long}")).status == 400
    (record,) = [record for record in caplog.records if record.name == audit_log.AUDIT_LOGGER]
    line = record.getMessage()
    assert len(line) > 10_000
    for field in (
        "decision",
        "outcome",
        "status",
        "user",
        "authenticated_by",
        "client",
        "action",
        "role",
        "credential",
    ):
        assert f'"{field}": ' in line[:1000]


async def test_requests_that_read_are_audited_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, audit_log.AUDIT_LOGGER)
    for reads in (False, True):
        async with serving(audit_reads=reads) as served:
            await served.get("/api/tasks?limit=3")
            await served.get("/healthcheck")
            await served.request("DELETE", "/api/tasks")
        found = [(line["target"], line["status"]) for line in lines_of(caplog)]
        assert found == [*([("/api/tasks", 200)] if reads else []), ("/api/tasks", 405)]


@pytest.mark.usefixtures("logging_as_before")
async def test_a_file_of_its_own(tmp_path: Path) -> None:
    path, log_file = tmp_path / "audit.log", tmp_path / "taskmon.log"
    before = os.umask(0)
    try:
        configure_logging(Settings(audit_log=str(path), log_file=log_file, log_level="critical"))
        async with serving() as served:
            await served.request("POST", "/api/tasks/revoke", anonymous=True)
            path.rename(tmp_path / "audit.log.1")
            reopen_log_file()
            await served.request("POST", "/api/tasks/revoke", anonymous=True)
    finally:
        os.umask(before)
    for name in ("audit.log", "audit.log.1"):
        (line,) = (tmp_path / name).read_text().splitlines()
        assert json.loads(line)["status"] == 401
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert "revoke" not in log_file.read_text()


@pytest.mark.usefixtures("logging_as_before")
def test_syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "log")
    monkeypatch.setattr(audit_log, "_SYSLOG_SOCKETS", (path,))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        configure_logging(Settings(audit_log="syslog", log_level="critical"))
        audit_log.write({"user": "u", "task_ids": ["x" * 36] * 200})
        parts = [daemon.recv(1 << 16).decode() for _ in range(2)]
    found = [json.loads(part[part.index("{") :]) for part in parts]
    assert all(part.partition(">")[2].startswith("taskmon: {") for part in parts)
    assert max(map(len, parts)) < 8000
    assert sum(len(part["task_ids"]) for part in found) == 200


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("where", ["/nowhere/at/all/audit.log", "/proc"])
def test_a_place_that_takes_no_lines(where: str) -> None:
    with pytest.raises(InvalidSetting, match="--audit-log must be a file that can be written"):
        configure_logging(Settings(audit_log=where))


def test_a_line_a_minute_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    refusals = Refusals(clock=lambda: now[0])
    for number in range(1000):
        refusals.note("host", f"The host name 'h{number}' is not served here", "192.0.2.1")
    assert [record.getMessage().count("(1 times") for record in caplog.records] == [1]
    caplog.clear()
    now[0] += 59
    refusals.flush()
    assert not caplog.records
    now[0] += 1
    refusals.flush()
    (record,) = caplog.records
    assert "'h999'" in record.getMessage()
    assert "(999 times since the last such line)" in record.getMessage()
    assert refusals.counts["host"] == 1000


async def test_refusals_are_counted_by_reason(memory_broker: str) -> None:
    token, line = new_token("eve", Role.VIEWER)
    asked: dict[str, dict[str, str]] = {
        "missing": {},
        "malformed": {"Authorization": "Basic !"},
        "credentials": {"Authorization": "Basic dTp3cm9uZw=="},
        "forbidden": {"Authorization": f"Bearer {token}"},
        "host": {"Host": "evil.example"},
        "cross_site": {
            "Authorization": "Basic dTpw",
            "Origin": "https://evil.example",
            "Sec-Fetch-Site": "cross-site",
        },
    }
    async with serving(make_app(memory_broker), token=line, basic_auth="u:p", basic_roles="u=admin") as served:
        for reason, headers in asked.items():
            await served.request("POST", "/api/task/revoke/a", headers, anonymous=True)
            assert served.taskmon.services.refusals.counts[reason] == 1, reason
        for _ in range(30):
            await served.request("POST", "/api/task/revoke/a", asked["credentials"], anonymous=True)
        metrics = (await served.get("/metrics", {"Authorization": f"Bearer {token}"})).body.decode()
    for reason in asked:
        assert f'taskmon_auth_refused_total{{reason="{reason}"}} ' in metrics
    throttled = int(metrics.partition('taskmon_auth_refused_total{reason="throttled"} ')[2].split()[0])
    assert throttled > 0
    assert f"taskmon_auth_throttled_total {throttled}" in metrics
    assert 'taskmon_auth_refused_total{reason="host"} 1' in metrics
    assert set(served.taskmon.services.refusals.counts) == set(REASONS)
