"""HTTP clients that cost little: one request after the other on a connection, and as many as go on several."""

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_RATE = re.compile(r"Requests/sec:\s*([\d.]+)")
_ERRORS = re.compile(r"Socket errors|Non-2xx")


class KeepAlive:
    """A client that asks a server again and again over one connection; takes answers in one piece or in chunks."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        self._head = f" HTTP/1.1\r\nHost: {parts.netloc}\r\n{''.join(lines)}\r\n".encode()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def get(self, path: str) -> bytes:
        """Give the body of the answer; raises RuntimeError if that is not 200."""
        self._writer.write(b"GET " + path.encode() + self._head)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await self._reader.readexactly(int(length[1])) if length else await self._chunks()
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"GET {path}: {head.splitlines()[0].decode()} {body[:200]!r}")
        return body

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(parts)


def requests_per_second(url: str, headers: Mapping[str, str], connections: int, seconds: float) -> float:
    """Load a URL from this process's side with `wrk` where it is installed, else with asyncio; give the rate."""
    if shutil.which("wrk"):
        return _wrk(url, headers, connections, seconds)
    return asyncio.run(_ask_all(url, headers, connections, seconds))


def _wrk(url: str, headers: Mapping[str, str], connections: int, seconds: float) -> float:
    given = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", *given, url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = _RATE.search(output)
    if rate is None or _ERRORS.search(output):
        raise RuntimeError(output)
    return float(rate[1])


async def _ask_all(url: str, headers: Mapping[str, str], connections: int, seconds: float) -> float:
    path = urlsplit(url).path
    end = time.monotonic() + seconds

    async def ask() -> int:
        count = 0
        async with KeepAlive(url, headers) as client:
            while time.monotonic() < end:
                await client.get(path)
                count += 1
        return count

    return sum(await asyncio.gather(*(ask() for _ in range(connections)))) / seconds
