"""What others' logins and connections cost: `python -m benchmarks.access`.

The time of `/healthcheck` while 200 log in wrongly at once, and that of a page while 50 connections are idle and 50
send a byte now and then. Server and clients have a process each.
"""

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .children import child, say
from .tables import Cell, print_table

LOGINS = 200
CONNECTIONS = 50
SECONDS = 3.0


def serve() -> None:
    """Be the child: a taskmon with one user, which believes what it is told of addresses."""
    from .serving import make_taskmon
    from .serving import serve as serve_taskmon

    async def be_asked() -> None:
        taskmon = make_taskmon(basic_auth=("ann:right",), trusted_proxies=("127.0.0.1",))
        say("ready")
        await serve_taskmon(taskmon)

    from .serving import tune

    tune()
    asyncio.run(be_asked())


async def ask(port: int, path: str, headers: str = "") -> tuple[int, float]:
    """Ask once, over a connection of its own; give the status and the milliseconds."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]) if answer else 0, 1000 * (time.perf_counter() - began)


async def sample(port: int, path: str, headers: str, until: asyncio.Event) -> list[float]:
    """Ask again and again until told to stop; give the milliseconds."""
    found = []
    while not until.is_set():
        found.append((await ask(port, path, headers))[1])
        await asyncio.sleep(0.005)
    return found


def basic(password: str, user: str = "ann") -> str:
    """Write the header of a user with a password."""
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() + "\r\n"


async def measure_logins(port: int, addresses: int) -> list[Cell]:
    """Log in wrongly, all at once, from so many addresses, and watch `/healthcheck`."""
    over = asyncio.Event()
    watching = asyncio.create_task(sample(port, "/healthcheck", "", over))
    logins = (
        ask(port, "/api/whoami", f"{basic('wrong', f'u{at}')}X-Forwarded-For: 10.0.{addresses}.{at % addresses}\r\n")
        for at in range(LOGINS)
    )
    answers = await asyncio.gather(*logins)
    over.set()
    times = sorted(await watching)
    statuses = [status for status, _ in answers]
    counts = ", ".join(f"{status}: {statuses.count(status)}" for status in sorted(set(statuses)))
    return [f"{LOGINS} wrong logins from {addresses} addresses ({counts})", *_percentiles(times)]


@asynccontextmanager
async def hanging(port: int, count: int) -> AsyncIterator[None]:
    """Hold connections that are idle, and as many that send a header a byte at a time."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * count)]

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /api/whoami HTTP/1.1\r\nX: ")
        while True:
            with suppress(ConnectionError):
                writer.write(b"x")
            await asyncio.sleep(0.05)

    slow = [asyncio.create_task(drip(writer)) for _, writer in opened[:count]]
    try:
        yield
    finally:
        for task in slow:
            task.cancel()
        for _, writer in opened:
            writer.close()


async def measure_page(port: int, count: int) -> list[Cell]:
    """Ask for a page for a while, beside so many idle and so many slow connections."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(SECONDS, over.set)
    async with hanging(port, count):
        times = sorted(await sample(port, "/api/whoami", basic("right"), over))
    return [f"a page beside {count} idle and {count} slow connections", *_percentiles(times)]


def _percentiles(times: list[float]) -> list[Cell]:
    return [len(times), times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]]


def run() -> None:
    """Measure all, and print a table."""

    async def all_of_them(port: int) -> list[list[Cell]]:
        await ask(port, "/api/whoami", basic("right"))
        rows = [await measure_page(port, 0), await measure_page(port, CONNECTIONS)]
        return [*rows, await measure_logins(port, 1), await measure_logins(port, LOGINS)]

    with child("benchmarks.access", "taskmon") as server:
        server.hear()
        port = int(server.hear().rpartition(":")[2])
        rows = asyncio.run(all_of_them(port))
    columns = ["meanwhile", "requests", "median ms", "p99 ms", "slowest ms"]
    print_table("What others' logins and connections cost; the last two rows time /healthcheck", columns, rows)


if __name__ == "__main__":
    serve() if sys.argv[1:2] == ["--child"] else run()
