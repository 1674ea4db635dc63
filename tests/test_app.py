"""A whole taskmon: where it listens, what it keeps to itself, and how it starts and stops."""

import asyncio
import base64
import gc
import http.client
import logging
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from patience import PATIENCE
from serving import AWAY, close, event, make_app, parse, serving, silent_server
from waiting import eventually, quickest, timing, wait_until

from taskmon import app, tuning
from taskmon.app import Taskmon, serve
from taskmon.monitor import monitor
from taskmon.monitor.state import State
from taskmon.settings import Settings

# Where it listens


async def test_any_free_port() -> None:
    async with serving() as first, serving() as second:
        assert first.port != second.port
        assert (await first.get("/healthcheck")).body == b"OK"
        assert (await second.get("/healthcheck")).body == b"OK"


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"address": "127.0.0.1"}, r"http://127\.0\.0\.1:\d+"),
        ({"address": "0.0.0.0"}, r"http://127\.0\.0\.1:\d+"),
        ({"url_prefix": "/mon"}, r"http://127\.0\.0\.1:\d+/mon"),
        ({"public_url": "https://mon.example.org/x"}, r"https://mon\.example\.org/x"),
    ],
)
async def test_the_url(options: dict[str, Any], url: str) -> None:
    async with serving(**options) as served:
        assert re.fullmatch(url, served.taskmon.url)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("address", ["::1", "::"])
async def test_ipv6(address: str) -> None:
    async with serving(address=address) as served:
        match = re.fullmatch(r"http://\[::1\]:(\d+)", served.taskmon.url)
        assert match
        reader, writer = await asyncio.open_connection("::1", int(match[1]))
        head = f"Host: [::1]:{match[1]}\r\nConnection: close\r\nAuthorization: {served.credentials['Authorization']}"
        writer.write(f"GET /api/tasks HTTP/1.1\r\n{head}\r\n\r\n".encode())
        answer = parse(await reader.read())
        await close(writer)
    assert answer.json() == {}


# Tornado leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_address_that_is_taken() -> None:
    async with serving() as served:
        second = Taskmon(Settings(port=served.port), make_app())
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await second.stop()
        assert (await served.get("/healthcheck")).status == 200


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "taskmon.sock"
    before = os.umask(0)
    try:
        async with serving(unix_socket=path, url_prefix="mon") as served:
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o660
            assert served.taskmon.url == f"http+unix://{path}/mon"
            assert (await served.get("/mon/api/tasks")).json() == {}
            assert (await served.get("/mon/api/tasks", anonymous=True)).status == 401
    finally:
        os.umask(before)
    assert not path.exists()


async def test_a_unix_socket_that_a_crash_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "taskmon.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serving(unix_socket=path) as served:
        assert (await served.get("/healthcheck")).status == 200


@pytest.mark.parametrize("prefix", ["/mon", "/a.b/c"])
async def test_a_prefix(prefix: str) -> None:
    async with serving(url_prefix=prefix) as served:
        assert (await served.get(f"{prefix}/api/tasks")).json() == {}
        assert (await served.get(f"{prefix}/metrics")).status == 200
        assert (await served.get(f"{prefix}/healthcheck", anonymous=True)).status == 200
        assert (await served.get(prefix)).body == (await served.get(f"{prefix}/")).body
        for path in ("/api/tasks", "/metrics", "/", f"{prefix.replace('.', 'x')}x/api/tasks"):
            assert (await served.get(path)).status == 404
        for path, status in (("/healthcheck", 200), ("/healthcheck/", 200), ("/readyz", 503)):
            assert (await served.get(path, anonymous=True)).status == status


# What clients may not do to it


@pytest.mark.parametrize("head", ["Content-Length: 2000000", "Content-Length: 99999999999999999999"])
async def test_a_body_that_is_too_large(head: str) -> None:
    async with serving(max_body=1024) as served:
        raw = await served.send(f"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        assert parse(raw).status in (400, 413)
        assert b"Traceback" not in raw
        assert (await served.get("/api/tasks")).status == 200


async def test_a_body_of_chunks_that_is_too_large() -> None:
    async with serving(max_body=1024) as served:
        reader, writer = await served.connect()
        writer.write(b"POST /api/tasks/revoke HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n")
        credentials = served.credentials["Authorization"]
        writer.write(f"Authorization: {credentials}\r\n\r\n".encode())
        for _ in range(20):
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert (await reader.read(12)) in (b"HTTP/1.1 400", b"HTTP/1.1 413", b"")
        await close(writer)
        assert (await served.get("/api/tasks")).status == 200


async def test_a_body_of_the_largest_size_is_read() -> None:
    async with serving(max_body=1024) as served:
        assert (await served.request("POST", "/api/tasks", body=b"x" * 1024)).status == 405


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbroken\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
    ],
    ids=["TLS", "no path", "version", "header", "large header", "two hosts", "bytes"],
)
async def test_what_is_no_http(raw: bytes) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(raw)
        writer.write_eof()
        answer = await reader.read()
        await close(writer)
        assert b"Traceback" not in answer
        assert (await served.get("/api/tasks")).status == 200


# What it logs


async def test_requests_are_logged_at_level_debug_without_their_query(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        await served.get("/api/tasks?search=confidential")
        assert "GET" not in caplog.text
        caplog.set_level(logging.DEBUG, "taskmon.http.application")
        await served.get("/api/tasks?search=confidential")
        await served.get("/api/%0a?search=confidential")
        records = [r for r in caplog.records if r.name == "taskmon.http.application"]
        lines = [r.getMessage() for r in records if "GET" in r.getMessage()]
    assert re.fullmatch(r"200 GET '/api/tasks' in [\d.]+ ms", lines[0])
    assert re.fullmatch(r"404 GET '/api/%0a' in [\d.]+ ms", lines[1])
    assert "confidential" not in "".join(lines)


# Two of them


async def test_two_in_one_process_share_nothing(memory_broker: str) -> None:
    ones, twos = (make_app(memory_broker, event_exchange=name) for name in ("one", "two"))
    async with serving(ones, max_tasks=5) as one, serving(twos, basic_auth="user:password") as two:
        for served in (one, two):
            await eventually(lambda served=served: served.taskmon.monitor.broker.connected)
        with ones.connection_for_write() as connection, ones.events.Dispatcher(connection, hostname="w1") as sender:
            sender.send("task-received", uuid="a", name="tasks.add")
        await eventually(lambda: len(one.state) == 1)
        basic = {"Authorization": "Basic " + base64.b64encode(b"user:password").decode()}
        assert list((await one.get("/api/tasks")).json()) == ["a"]
        assert (await two.get("/api/tasks", basic)).json() == {}
        assert b"taskmon_events_applied_total 1\n" in (await one.get("/metrics")).body
        assert b"taskmon_events_applied_total 0\n" in (await two.get("/metrics", basic)).body
        assert (await two.get("/api/tasks", one.credentials)).status == 401
        assert (await one.get("/api/tasks", basic)).status == 401
        assert one.state.max_tasks == 5
        assert two.state.max_tasks == 100_000
        await one.taskmon.stop()
        assert (await two.get("/api/tasks", basic)).status == 200


# Upkeep


async def test_upkeep(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(monitor, "_PURGE_INTERVAL", 0.005)
    monkeypatch.setattr(monitor, "_MAINTAIN_INTERVAL", 0.005)
    async with serving(purge_offline_workers=0) as served:
        fail = [True]

        def maintain() -> None:
            if fail:
                fail.clear()
                raise RuntimeError("not today")
            served.tidied = True  # type: ignore[attr-defined]

        monkeypatch.setattr(served.state, "maintain", maintain)
        served.apply(event("worker-online"), event("task-received", "a", name="tasks.add"))
        assert served.state.workers
        await eventually(lambda: not served.state.workers)
        await eventually(lambda: hasattr(served, "tidied"))
    assert "Upkeep failed" in caplog.text


@pytest.mark.usefixtures("interpreter")
def test_what_grows_is_taken_out_of_the_collectors_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_FREEZE_AFTER", 10)
    state = State()
    freeze = tuning.Freezer(state)
    frozen = gc.get_freeze_count()
    freeze()
    assert gc.get_freeze_count() == frozen
    state.apply([event("task-sent", f"t{n}") for n in range(10)])
    freeze()
    assert gc.get_freeze_count() > frozen


# From start to stop


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Take back what `serve` does to the whole process."""
    before = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(before[0])
    gc.set_threshold(*before[1])
    gc.unfreeze()


@asynccontextmanager
async def serving_until_signal(**options: Any) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(serve(Settings(port=0, **options), make_app()))
    yield task
    await asyncio.wait_for(task, PATIENCE)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_until_signal():
        await eventually(lambda: "Serving on" in caplog.text)
        os.kill(os.getpid(), number)
    assert f"Stopping on {number.name}" in caplog.text
    assert caplog.records[-1].getMessage() == "Stopped"
    first, token, command, *rest = capsys.readouterr().out.splitlines()
    assert "--basic-auth" in first
    assert re.fullmatch(r"  tm_[0-9a-f]{8}_[0-9a-f]{40}_[0-9a-f]{8}", token)
    assert shlex.split(command)[:3] == ["curl", "-H", f"Authorization: Bearer {token.strip()}"]
    assert not rest
    assert token.strip() not in caplog.text


@pytest.mark.usefixtures("interpreter")
async def test_a_second_signal_stops_it_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    async with serving_until_signal(anonymous_role="viewer"):
        await eventually(lambda: "Serving on" in caplog.text)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert codes == [128 + signal.SIGINT]


@pytest.mark.usefixtures("interpreter")
async def test_nothing_is_printed_when_there_is_a_way_in(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_until_signal(anonymous_role="viewer"):
        await eventually(lambda: "Serving on" in caplog.text)
        os.kill(os.getpid(), signal.SIGTERM)
    assert capsys.readouterr().out == ""


async def test_the_line_to_try_a_unix_socket_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(unix_socket=tmp_path / "a b.sock", url_prefix="mon") as served:
        app._greet(served.taskmon)
        command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[1:3] == ["--unix-socket", str(tmp_path / "a b.sock")]
    assert command[-1] == "http://localhost/mon/api/tasks?limit=10"


class Program:
    """`python -m taskmon` in a process of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.errors = directory / "errors.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskmon", "--port", "0", *options],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={name: value for name, value in os.environ.items() if not name.startswith(("TASKMON", "FLOWER"))},
                text=True,
            )

    def log(self) -> str:
        return self.errors.read_text()

    def wait_for_log(self, text: str) -> None:
        wait_until(lambda: text in self.log() or self.process.poll() is not None, text)
        assert text in self.log(), self.log()

    def stop(self, number: signal.Signals) -> float:
        """Send a signal and wait for the end; give the seconds that it took."""
        with timing() as passed:
            self.process.send_signal(number)
            self.end()
            return passed()

    def end(self) -> str:
        """Wait for the end and give what was printed."""
        try:
            return self.process.communicate(timeout=PATIENCE)[0]
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    programs: list[Program] = []

    def start(*options: str) -> Program:
        programs.append(Program(tmp_path, *options))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.communicate()


def test_the_program(run: Any) -> None:
    program = run("--broker", "memory://")
    program.wait_for_log("Connected to the broker")
    lines = [program.process.stdout.readline() for _ in range(3)]
    command = shlex.split(lines[2])
    assert command[0] == "curl"
    name, _, value = command[2].partition(": ")

    def ask(**headers: str) -> int:
        connection = http.client.HTTPConnection(urlsplit(command[-1]).netloc, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", "/api/tasks?limit=10", headers=headers)
            return connection.getresponse().status

    assert ask(**{name: value}) == 200
    assert ask() == 401
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == ""
    assert program.process.returncode == 0
    assert value.split()[1] not in program.log()
    assert "Traceback" not in program.log()


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_the_program_stops_while_the_broker_hangs(run: Any, scheme: str) -> None:
    def stop() -> float:
        program = run("--broker", f"{scheme}://user:wrong-horse@127.0.0.1:{port}//")
        program.wait_for_log("Serving on")
        took = program.stop(signal.SIGINT)
        assert program.process.returncode == 0
        assert "Stopped" in program.log()
        assert "Traceback" not in program.log()
        assert "wrong-horse" not in program.log()
        return took

    with silent_server() as port:
        assert quickest(stop, 2) < 2


def test_the_program_stops_at_once_at_the_second_signal(run: Any) -> None:
    def stop() -> float:
        program = run("--broker", f"amqp://127.0.0.1:{port}//")
        program.wait_for_log("Serving on")
        program.process.send_signal(signal.SIGTERM)
        program.wait_for_log("Stopping on SIGTERM")
        took = program.stop(signal.SIGTERM)
        by_itself = program.process.returncode == 0  # the machine stood still before the second signal
        assert by_itself or program.process.returncode == 128 + signal.SIGTERM
        assert by_itself or "Stopped" not in program.log().rpartition("Serving on")[2]
        return inf if by_itself else took

    with silent_server() as port:
        assert quickest(stop, 0.5) < 0.5


def test_the_program_without_its_broker(run: Any) -> None:
    def stop() -> float:
        program = run("--broker", AWAY)
        program.wait_for_log("trying again in 2 s")
        took = program.stop(signal.SIGTERM)
        assert program.process.returncode == 0
        assert "wrong-horse" not in program.log()
        return took

    assert quickest(stop, 2) < 2
