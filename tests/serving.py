"""A real Taskmon on a real socket, and a client that shows what really came over the wire.

`async with serving(max_tasks=10) as served` gives a `Served`; its requests carry an admin's token unless told
otherwise. The broker is one that is away, which costs nothing, unless the test brings an app of its own.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

from taskmon.app import Taskmon
from taskmon.monitor.state import State
from taskmon.records import Event
from taskmon.settings import Settings

#: Nothing listens on port 1: whoever connects is refused at once.
AWAY = "redis://:wrong-horse@127.0.0.1:1/0"

Headers = dict[str, str]


def make_app(broker: str = AWAY, **conf: Any) -> Celery:
    """Make a Celery app that is not the process' current one; on `memory://` it polls often."""
    app = Celery("project", broker=broker, set_as_current=False)
    if broker == "memory://":
        app.conf.broker_transport_options = {"polling_interval": 0.005}
    app.conf.update(conf)
    return app


def event(kind: str, uuid: str | None = None, at: float = 1_700_000_000.0, **fields: Any) -> Event:
    """Make an event as a worker would send it."""
    return Event(**{"type": kind, "uuid": uuid, "timestamp": at, "hostname": "celery@w1", **fields})


@dataclass
class Response:
    """One answer, taken apart and otherwise untouched."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes = field(repr=False)

    def all(self, name: str) -> list[str]:
        """Give the values of a header, as often as it came."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """Give the value of a header that must not come twice."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        """Read the body, strictly."""
        assert self.header("Content-Type") == "application/json; charset=UTF-8"

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.body, parse_constant=refuse)

    @property
    def error(self) -> dict[str, Any]:
        """Give the error that the body tells of, after a look at its shape."""
        body = self.json()
        assert body.keys() == {"error"}
        error: dict[str, Any] = body["error"]
        assert error["status"] == self.status
        assert error["message"]
        return error


class Served:
    """A running Taskmon and the way to ask it."""

    def __init__(self, taskmon: Taskmon) -> None:
        self.taskmon = taskmon
        self.credentials: Headers = {}
        if taskmon.generated_token is not None:
            self.credentials = {"Authorization": f"Bearer {taskmon.generated_token}"}

    @property
    def state(self) -> State:
        """What it holds."""
        return self.taskmon.monitor.state

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.taskmon.listeners.sockets[0].getsockname()[1])

    def apply(self, *events: Event) -> None:
        """Let it see these events."""
        self.state.apply(events)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        path = self.taskmon.settings.unix_socket
        if path is not None:
            return await asyncio.open_unix_connection(path)
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)

    async def send(self, raw: bytes) -> bytes:
        """Send these bytes and give all that comes back until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            return await reader.read()
        finally:
            await close(writer)

    async def request(
        self, method: str, target: str, headers: Headers | None = None, body: bytes = b"", anonymous: bool = False
    ) -> Response:
        """Ask; `target` goes out as it is, non-ASCII characters in UTF-8."""
        lines: Headers = {"Host": "localhost", "Connection": "close", **({} if anonymous else self.credentials)}
        if body:
            lines["Content-Length"] = str(len(body))
        lines |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return parse(await self.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body))

    async def get(self, target: str, headers: Headers | None = None, anonymous: bool = False) -> Response:
        """Ask with GET."""
        return await self.request("GET", target, headers, anonymous=anonymous)


def make_served(taskmon: Taskmon) -> Served:
    """Make what a test asks; tests of handlers replace it by one that is served by pytest-tornado."""
    return Served(taskmon)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever became of it."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def parse(raw: bytes) -> Response:
    """Take an answer apart; chunks are put together."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    if ("Transfer-Encoding", "chunked") in headers and body:
        body = _join(body)
    return Response(int(first.split()[1]), headers, body, raw)


def _join(body: bytes) -> bytes:
    parts: list[bytes] = []
    place = 0
    while place < len(body):
        start = body.index(b"\r\n", place) + 2
        length = int(body[place : start - 2], 16)
        if length == 0:
            assert body[start:] == b"\r\n", "something follows the last chunk"
            return b"".join(parts)
        parts.append(body[start : start + length])
        place = start + length + 2
    raise AssertionError("the last chunk is missing")


@asynccontextmanager
async def serving(celery_app: Celery | None = None, **options: Any) -> AsyncIterator[Served]:
    """Run a Taskmon on any free port, or where the options say."""
    taskmon = Taskmon(Settings(**{"port": 0, **options}), celery_app or make_app())
    await taskmon.start()
    try:
        yield make_served(taskmon)
    finally:
        await taskmon.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """Listen on a port, take connections, and never say a word: a broker that hangs. Gives the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


def repository() -> Path:
    """Give the directory of the project."""
    return Path(__file__).parent.parent
