"""What a connection may do, with raw sockets: HTTP libraries would tidy up what matters here."""

import asyncio
import errno
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from serving import close, event, parse, serving
from tls import make_certificates
from tornado.netutil import bind_sockets
from waiting import eventually

from taskmon.api.monitor import HealthCheck
from taskmon.auth import Role
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting
from taskmon.http import connections
from taskmon.http.acceptor import MIN_CONNECTIONS, RESERVED_FILES, Acceptor
from taskmon.http.connections import Limits
from taskmon.http.headers import HEADERS

HOST = "Host: localhost\r\n"


async def refused(raw: bytes, status: int, **options: object) -> str:
    """Send something, insist on a JSON refusal and on the end of the connection, and give the message."""
    async with serving(**options) as served:
        if raw.startswith(b"POST"):  # a body is read of somebody with credentials only
            token = f"Host: localhost\r\nAuthorization: {served.credentials['Authorization']}\r\n"
            raw = raw.replace(b"Host: localhost\r\n", token.encode(), 1)
        answer = parse(await served.send(raw))
        assert answer.status == status, answer.raw
        for name, value in HEADERS.items():
            assert answer.header(name) == value
        assert answer.header("Connection") == "close"
        assert answer.header("Content-Length") == str(len(answer.body))
        assert (await served.get("/api/tasks")).status == 200
        await eventually(lambda: not served.taskmon.listeners.connected)
        return str(answer.error["message"])


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbroken\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\nZ: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\n",
        b"GET / HTTP/1.1\nHost: localhost\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/0.9\r\nHost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http(raw: bytes) -> None:
    assert await refused(raw, 400) == "The request is not valid HTTP"


async def test_too_many_arguments_in_the_query_string() -> None:
    query = "&".join(f"a{number}" for number in range(1500))
    assert "too many arguments" in await refused(f"GET /api/tasks?{query} HTTP/1.1\r\n{HOST}\r\n".encode(), 400)


@pytest.mark.parametrize("length", [17_000, 300_000])
async def test_headers_that_are_too_long(length: int) -> None:
    raw = f"GET / HTTP/1.1\r\n{HOST}X: {'x' * length}\r\n\r\n".encode()
    assert await refused(raw, 431) == "The headers are longer than 16 KiB"


async def test_headers_of_the_greatest_length() -> None:
    async with serving() as served:
        assert (await served.get("/healthcheck", {"X": "x" * 16_000})).status == 200


@pytest.mark.parametrize("length", ["1025", "99999999999999999999"])
async def test_a_body_that_is_too_large(length: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER", PATIENCE)
    raw = f"POST /api/tasks HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n".encode() + b"x" * 200_000
    assert "larger than 1,024 bytes (--max-body)" in await refused(raw, 413, max_body=1024)


async def test_a_body_of_chunks_that_is_too_large() -> None:
    raw = f"POST /api/tasks HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode()
    assert "--max-body" in await refused(
        raw + b"400\r\n" + b"x" * 1024 + b"\r\n1\r\nx\r\n0\r\n\r\n", 413, max_body=1024
    )


async def test_a_refusal_of_head_has_no_body() -> None:
    async with serving(max_body=1024) as served:
        raw = await served.send(f"HEAD / HTTP/1.1\r\n{HOST}Content-Length: 9999\r\n\r\n".encode())
        assert raw.startswith(b"HTTP/1.1 413")
        assert raw.endswith(b"\r\n\r\n")


async def test_a_change_that_is_refused_so_early_is_audited_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon.audit")
    await refused(f"POST /x?y HTTP/1.1\r\n{HOST}Content-Length: 9999\r\n\r\n".encode(), 413, max_body=1024)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "taskmon.audit"]
    assert '"target": "/x"' in line
    assert '"client": "127.0.0.1"' in line
    assert '"status": 413' in line


@pytest.mark.parametrize(
    "headers", [{"Content-Encoding": "gzip"}, {"Content-Type": "multipart/form-data; boundary=x"}]
)
async def test_bodies_in_parts_or_compressed(headers: dict[str, str]) -> None:
    async with serving() as served:
        for body in (b"", b"--x\r\n\r\n", b"\x1f\x8b"):
            answer = await served.request("POST", "/api/tasks/revoke", headers, body)
            assert answer.status == 415
            assert "neither in parts nor compressed" in answer.error["message"]


async def test_a_connection_serves_request_after_request() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(f"GET /healthcheck HTTP/1.1\r\n{HOST}\r\n".encode() * 50)
        for _ in range(50):
            await reader.readuntil(b"\r\n\r\nOK")
        head = f"{HOST}Authorization: {served.credentials['Authorization']}\r\nExpect: 100-continue\r\n"
        writer.write(f"POST /x HTTP/1.1\r\n{head}Content-Length: 2\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        await close(writer)


async def test_a_fault_before_a_handler_costs_its_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as served:
        with monkeypatch.context() as broken:
            broken.setattr(HealthCheck, "initialize", lambda self, services: 1 / 0)
            assert await served.send(f"GET /healthcheck HTTP/1.1\r\n{HOST}\r\n".encode()) == b""
        assert (await served.get("/healthcheck")).status == 200
    assert "ZeroDivisionError" in caplog.text


# Time


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon.audit")
    monkeypatch.setattr(connections, "BODY_TIMEOUT", 0.0)
    async with serving() as served:
        head = f"{HOST}Authorization: {served.credentials['Authorization']}\r\nContent-Length: 5\r\n"
        answer = parse(await served.send(f"POST /x HTTP/1.1\r\n{head}\r\nab".encode()))
        assert answer.status == 408
        assert "did not come within" in answer.error["message"]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "taskmon.audit"]
    assert '"outcome": "refused", "status": 408' in line


async def test_silence_ends_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        with monkeypatch.context() as hasty:
            hasty.setattr(connections, "IDLE_TIMEOUT", 0.0)
            for begin in (b"", b"GET / HTTP/1.1\r\nHo"):
                assert await served.send(begin) == b""
        assert (await served.get("/healthcheck")).body == b"OK"


async def test_an_answer_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_TIMEOUT", 0.0)
    async with serving() as served:
        served.apply(*(event("task-received", f"t{n}", name="x", args="x" * 20_000) for n in range(1000)))
        with socket.create_connection(("127.0.0.1", served.port)) as silent:
            silent.setblocking(False)
            token = served.credentials["Authorization"]
            silent.sendall(f"GET /api/tasks HTTP/1.1\r\n{HOST}Authorization: {token}\r\n\r\n".encode())
            await eventually(lambda: served.taskmon.listeners.connected)
            await eventually(lambda: not served.taskmon.listeners.connected)
        assert (await served.get("/api/tasks?limit=1")).status == 200


# Number


def test_connections_are_counted_by_client() -> None:
    limits = Limits(4, 2)
    assert [limits.take("a"), limits.take("a"), limits.take("a"), limits.take("b")] == [True, True, False, True]
    assert [limits.take(None), limits.take(None), limits.take("c")] == [True, False, False]
    limits.give_back("a")
    assert limits.take("a")
    for client in ("a", "a", "b", None):
        limits.give_back(client)
    assert len(limits) == 0
    assert not limits._by_client


class _Asked:
    """A connection that is told to make room."""

    def __init__(self) -> None:
        self.closed = False

    def make_room(self) -> None:
        self.closed = True


def test_the_oldest_that_is_silent_makes_room() -> None:
    limits = Limits(4, 2)
    first, second, third, proxy = (_Asked() for _ in range(4))
    for connection, client in ((first, "a"), (second, "a"), (third, "b")):
        assert limits.take(client)
        limits.note_silent(connection, client)
    assert limits.take(None)
    assert limits.take("a")  # of the same client
    assert (first.closed, second.closed, third.closed) == (True, False, False)
    limits.note_request(second)
    assert not limits.take("a")
    assert limits.take("c")  # of any
    assert (second.closed, third.closed, proxy.closed) == (False, True, False)
    assert not limits.take("d")


async def test_one_client_cannot_take_all_connections() -> None:
    async with serving(max_connections_per_client=2) as served:
        held = [await served.connect() for _ in range(2)]
        await eventually(lambda: len(served.taskmon.listeners.connected) == 2)
        assert (await served.get("/api/tasks")).status == 200  # the first of them made room
        assert await held[0][0].read() == b""
        await close(held[0][1])
        reader, writer = await served.connect()
        for _, one in (held[1], (reader, writer)):
            token = served.credentials["Authorization"]
            second = f"GET /x HTTP/1.1\r\n{HOST}Authorization: {token}\r\n\r\n"
            one.write(f"GET /healthcheck HTTP/1.1\r\n{HOST}\r\n{second}".encode())
        for one, _ in (held[1], (reader, writer)):
            assert b" 200 " in await one.readline()
            await one.readuntil(b"HTTP/1.1 404 ")
        assert await served.send(b"") == b""  # those with credentials stay
        await close(held[1][1])
        await eventually(lambda: len(served.taskmon.listeners.connected) == 1)
        assert (await served.get("/api/tasks")).status == 200
        await close(writer)


async def test_idle_connections_that_never_had_credentials_make_room() -> None:
    async with serving(max_connections_per_client=5, max_connections=20) as served:
        held = [await served.connect() for _ in range(5)]
        for reader, writer in held:
            for _ in range(2):
                writer.write(f"GET /api/tasks HTTP/1.1\r\n{HOST}\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 401 ")
                await reader.readuntil(b"}}")
        for _ in range(3):
            assert (await served.get("/api/tasks")).status == 200
        for _, writer in held:
            await close(writer)


@pytest.mark.parametrize("path", ["/api/task/apply/x", "/api/no-such-route", "/api/tasks", "/"])
@pytest.mark.parametrize("more", ["", "Authorization: Bearer tm_junk_junk\r\n", "Expect: 100-continue\r\n"])
async def test_a_body_without_credentials_is_refused_on_its_head(path: str, more: str) -> None:
    async with serving() as served:
        for length in ("Content-Length: 1048576", "Transfer-Encoding: chunked"):
            reader, writer = await served.connect()
            writer.write(f"POST {path} HTTP/1.1\r\n{HOST}{more}{length}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 ")
            assert b"Connection: close\r\n" in head
            await close(writer)
        await eventually(lambda: not served.taskmon.listeners.connected)


@pytest.mark.parametrize("path", ["/healthcheck", "/readyz", "/login"])
async def test_an_open_route_takes_no_body(path: str) -> None:
    async with serving() as served:
        for method, status in (("GET", 413), ("POST", 405)):
            reader, writer = await served.connect()
            writer.write(f"{method} {path} HTTP/1.1\r\n{HOST}Content-Length: 1048576\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(f"HTTP/1.1 {status} ".encode())
            await close(writer)


async def test_a_body_that_was_sent_all_the_same_does_not_cost_the_answer() -> None:
    async with serving() as served:
        body = b"x" * 1_000_000
        raw = f"POST /api/task/apply/x HTTP/1.1\r\n{HOST}Content-Length: {len(body)}\r\n\r\n".encode() + body
        answer = parse(await served.send(raw))
        assert answer.status == 401
        assert answer.error["message"]
        assert (await served.get("/api/tasks")).status == 200


async def test_a_proxy_of_ours_may_have_as_many_as_it_likes() -> None:
    async with serving(max_connections_per_client=1, trusted_proxies="127.0.0.1") as served:
        held = [await served.connect() for _ in range(3)]
        await eventually(lambda: len(served.taskmon.listeners.connected) == 3)
        for _, writer in held:
            await close(writer)


# Places


async def test_several_listeners_with_ways_of_their_own(tmp_path: Path) -> None:
    files, path = make_certificates(), tmp_path / "taskmon.sock"
    token, line = new_token("ci", Role.VIEWER)
    listen = (
        f"127.0.0.1:0,auth=token,tls,certfile={files.certificate},keyfile={files.key}",
        "127.0.0.1:0,auth=basic",
        f"unix:{path}",
    )
    async with serving(listen=listen, token=line, basic_auth="ann:pass") as served:
        assert path.stat().st_mode & 0o777 == 0o660
        client = ssl.create_default_context(cafile=files.authority)
        (first, second, _) = served.taskmon.listeners.sockets
        bearer, basic = f"Bearer {token}", "Basic YW5uOnBhc3M="

        async def status(authorization: str, *place: object, **options: object) -> int:
            reader, writer = await (
                asyncio.open_unix_connection(path)
                if not place
                else asyncio.open_connection("127.0.0.1", place[0], **options)  # type: ignore[arg-type]
            )
            head = f"{HOST}Connection: close\r\nAuthorization: {authorization}\r\n"
            writer.write(f"GET /api/tasks HTTP/1.1\r\n{head}\r\n".encode())
            answer = parse(await reader.read())
            await close(writer)
            return answer.status

        secure = {"ssl": client, "server_hostname": "localhost"}
        assert await status(bearer, first.getsockname()[1], **secure) == 200
        assert await status(basic, first.getsockname()[1], **secure) == 401
        assert await status(bearer, second.getsockname()[1]) == 401
        assert await status(basic, second.getsockname()[1]) == 200
        assert [await status(bearer), await status(basic)] == [200, 200]
    assert not path.exists()


async def test_https_on_the_only_listener() -> None:
    files = make_certificates()
    async with serving(certfile=files.certificate, keyfile=files.key, ca_certs=files.authority) as served:
        assert served.taskmon.url.startswith("https://127.0.0.1:")
        client = ssl.create_default_context(cafile=files.authority)
        client.load_cert_chain(files.client, files.client_key)

        async def get(context: ssl.SSLContext, head: str = f"GET /healthcheck HTTP/1.1\r\n{HOST}") -> bytes:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=context, server_hostname="localhost"
            )
            try:
                writer.write(f"{head}Connection: close\r\n\r\n".encode())
                return await reader.read()
            finally:
                await close(writer)

        assert (await get(client)).endswith(b"OK")
        assert (await get(client, "GET / HTTP/9\r\n")).startswith(b"HTTP/1.1 400")
        assert (await get(client, f"GET / HTTP/1.1\r\nX: {'x' * 17_000}\r\n")).startswith(b"HTTP/1.1 431")
        with pytest.raises(ssl.SSLError):
            await get(ssl.create_default_context(cafile=files.authority))
        with suppress(ConnectionError):
            assert await served.send(b"GET / HTTP/1.1\r\n\r\n") == b""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"certfile": "nowhere.pem", "keyfile": "nowhere.key"}, "--certfile and the key must be readable"),
        ({"certfile": "pyproject.toml", "keyfile": "pyproject.toml"}, "--certfile and the key must be readable"),
        ({"certfile": "x.pem"}, "--certfile and --keyfile must both be given"),
        ({"keyfile": "x.pem"}, "--certfile and --keyfile must both be given"),
        ({"listen": "127.0.0.1:0,tls"}, "--certfile and --keyfile must both be given"),
        ({"listen": "127.0.0.1:0,auth=proxy"}, "auth=proxy, and that is not set up"),
        ({"listen": "127.0.0.1:0,auth=basic+token"}, "auth=basic, and that is not set up"),
    ],
)
async def test_listeners_that_cannot_be(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        async with serving(**options):
            pass


async def test_clients_without_a_certificate_need_a_file_of_authorities() -> None:
    files = make_certificates()
    with pytest.raises(InvalidSetting, match="--ca-certs must be a readable PEM file"):
        async with serving(certfile=files.certificate, keyfile=files.key, ca_certs="pyproject.toml"):
            pass


# Tornado leaves the socket open that it could not bind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_when_one_place_is_taken_none_is_served(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with serving(listen=(f"unix:{path}", f"127.0.0.1:{taken.getsockname()[1]}")):
            pass
    assert not path.exists()


def test_where_all_have_asked_the_one_awaited_longest_makes_room() -> None:
    limits = Limits(3, 3)
    idle, uploading, served = (_Asked() for _ in range(3))
    for connection in (idle, uploading, served):
        assert limits.take("a")
        limits.note_silent(connection, "a")
        limits.note_awaited(connection)
        limits.note_head(connection)
    limits.note_request(served)
    assert limits.take("b")
    assert limits.take("b")
    assert (idle.closed, uploading.closed, served.closed) == (True, True, False)
    assert not limits.take("b")
    assert not limits.make_room()


async def test_connections_that_were_used_and_half_a_body_keep_no_other_out() -> None:
    async with serving(max_connections=3) as served:
        used = [await served.connect() for _ in range(3)]
        for reader, writer in used[:2]:
            writer.write(f"GET /healthcheck HTTP/1.1\r\n{HOST}\r\n".encode())
            assert b" 200 " in await reader.readline()
        used[2][1].write(f"POST /api/task/abort/x HTTP/1.1\r\n{HOST}Content-Length: 10\r\n\r\nhalf".encode())
        for _ in range(5):
            assert (await served.get("/api/tasks")).status == 200
        for _, writer in used:
            await close(writer)


class _Full:
    """A listening socket for which the system has no place, as often as it is told."""

    def __init__(self, listening: socket.socket, times: int) -> None:
        self._listening = listening
        self.left = times

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()


@pytest.mark.parametrize("makes_room", [True, False])
async def test_accepting_goes_on_when_there_is_a_place_again(
    makes_room: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (listening,) = bind_sockets(0, "127.0.0.1")
    accepted: list[socket.socket] = []
    asked: list[bool] = []

    def make_room() -> bool:
        asked.append(makes_room)
        return makes_room

    acceptor = Acceptor(_Full(listening, 3), lambda connection, _: accepted.append(connection), make_room)  # type: ignore[arg-type]
    with socket.create_connection(listening.getsockname()[:2]):
        await eventually(lambda: accepted)
    acceptor.stop()
    accepted[0].close()
    listening.close()
    assert len(asked) == 3
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_the_connections_fit_the_limit_of_open_files() -> None:
    script = (
        "import resource, sys; from taskmon.http.acceptor import fit_connections\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))\n"
        "print(fit_connections(300), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )

    def fit(soft: int, hard: int) -> list[int]:
        done = subprocess.run([sys.executable, "-c", script, str(soft), str(hard)], capture_output=True, check=True)
        return [int(number) for number in done.stdout.split()]

    assert fit(1000, 1000) == [300, 1000]
    assert fit(200, 1000) == [300, 300 + RESERVED_FILES]  # the soft limit is raised
    assert fit(200, 250) == [250 - RESERVED_FILES, 250]
    assert fit(64, 64) == [MIN_CONNECTIONS, 64]


async def test_a_client_that_leaves_before_its_refusal_is_sent_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    linger = connections.Connection._linger

    async def lose(connection: connections.Connection) -> None:
        connection.stream.close()
        await linger(connection)

    monkeypatch.setattr(connections.Connection, "_linger", lose)
    async with serving() as served:
        await served.send(f"POST /api/tasks/revoke HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\n".encode())
        assert (await served.get("/api/tasks")).status == 200
    assert not [record for record in caplog.records if record.name == connections.__name__]
