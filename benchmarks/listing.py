"""Listing every task of a large State: `python -m benchmarks.listing`.

A client reads the whole of `/api/tasks`, and another one stops reading after its first megabyte, from a taskmon in a
process of its own, in silence and while events come in. Meanwhile `/healthcheck` is asked again and again, from
outside; inside, a timer tells for how long at most nobody else had a turn.
"""

import argparse
import asyncio
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from . import queries, workload
from .children import Child, child, say
from .load import KeepAlive
from .tables import print_table

if TYPE_CHECKING:
    from taskmon.app import Taskmon

TASKS = 1_000_000

#: So long the client that stops reading stays, in seconds.
STALLED = 10.0

#: So many events happen each second, where any do.
EVENTS = 5_000

_MEGABYTE = 1 << 20
_TICK = 0.002


async def tick(held: list[float]) -> None:
    """Note for how long the loop was held at the most: how much later than asked for this was woken, and how much
    processor time the loop's thread took meanwhile, which is what is left on a machine with nothing else to do.
    """
    last, used = time.perf_counter(), time.thread_time()
    while True:
        await asyncio.sleep(_TICK)
        now, using = time.perf_counter(), time.thread_time()
        held[:] = max(held[0], 1e3 * (now - last - _TICK)), max(held[1], 1e3 * (using - used))
        last, used = now, using


async def answer_parent(held: list[float], apply: Callable[[bytes], None]) -> None:
    """Tell, for each line that the parent sends, for how long the loop has been held since the last one, in ms.

    From the word `feed` on, until the next one, events happen.
    """
    feeding: asyncio.Task[None] | None = None
    while word := await asyncio.to_thread(sys.stdin.readline):
        if feeding is not None:
            feeding.cancel()
        feeding = asyncio.create_task(feed(apply)) if word.strip() == "feed" else None
        say(held)
        held[:] = 0.0, 0.0


async def feed(apply: Callable[[bytes], None]) -> None:
    """Let so many events a second happen, of new tasks: the oldest ones are evicted."""
    for body in workload.bodies(queries.make_events(TASKS, seed=3)):
        apply(body)
        await asyncio.sleep(workload.BATCH / EVENTS)


def serve_child(tasks: int) -> None:
    """Be the child: load a taskmon, serve, and watch the loop."""
    from .serving import make_decoder, make_taskmon, tune

    async def be_asked() -> None:
        taskmon: Taskmon = make_taskmon(max_tasks=tasks, anonymous_role="viewer")
        decode, state = make_decoder().decode, taskmon.monitor.state
        for body in workload.bodies(queries.make_events(tasks)):
            state.apply(decode(body))
        while state.maintain():
            pass
        await taskmon.start()
        held = [0.0, 0.0]
        ticking = asyncio.create_task(tick(held))
        say(taskmon.url)
        await answer_parent(held, lambda body: state.apply(decode(body)))
        ticking.cancel()
        await taskmon.stop()

    tune()
    asyncio.run(be_asked())


class Reading(threading.Thread):
    """A client that reads a listing; with `most` it stops after so many bytes and stays connected."""

    def __init__(self, url: str, most: int | None = None) -> None:
        super().__init__(daemon=True)
        self._parts = urlsplit(url)
        self._most = most
        self.read = 0
        self.seconds = 0.0
        self.tail = b""
        self.leave = threading.Event()

    def run(self) -> None:
        """Read."""
        began = time.perf_counter()
        with socket.create_connection((self._parts.hostname or "", self._parts.port or 80)) as client:
            head = f"GET /api/tasks HTTP/1.1\r\nHost: {self._parts.netloc}\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            while (self._most is None or self.read < self._most) and (part := client.recv(_MEGABYTE)):
                self.read += len(part)
                self.tail = (self.tail + part)[-16:]
            self.seconds = time.perf_counter() - began
            if self._most is not None:
                self.leave.wait()


async def watch(server: Child, url: str, reading: Reading, word: str, least: float) -> dict[str, Any]:
    """Ask for the health of a server while somebody reads; give what that took, and how its memory grew."""
    process = psutil.Process(server.pid)
    server.tell(word)
    server.hear()
    before = peak = process.memory_info().rss
    seconds: list[float] = []
    async with KeepAlive(url, {}) as client:
        reading.start()
        end = time.perf_counter() + least
        while (reading.is_alive() and not reading.leave.is_set()) or time.perf_counter() < end:
            began = time.perf_counter()
            await client.get("/healthcheck")
            seconds.append(time.perf_counter() - began)
            peak = max(peak, process.memory_info().rss)
            if time.perf_counter() > end and reading.seconds:
                reading.leave.set()
            await asyncio.sleep(0.005)
    server.tell("end")
    held, used = server.hear()
    return {
        "grown": (peak - before) / _MEGABYTE,
        "held": held,
        "used": used,
        "median": 1e3 * statistics.median(seconds),
        "worst": 1e3 * max(seconds),
    }


def run(tasks: int) -> None:
    """Load a taskmon in a child, list it, and print a table."""
    rows = []
    with child("benchmarks.listing", tasks) as server:
        url = server.hear()
        for what, most, word, least in (
            ("never reads", 0, "begin", STALLED),
            ("reads it all", None, "begin", 0.0),
            (f"reads it all, {EVENTS:,} events/s", None, "feed", 0.0),
            ("stops after 1 MiB", _MEGABYTE, "begin", STALLED),
            (f"stops, {EVENTS:,} events/s", _MEGABYTE, "feed", STALLED),
        ):
            reading = Reading(url, most)
            seen = asyncio.run(watch(server, url, reading, word, least))
            if most is None and not reading.tail.endswith(b"}\r\n0\r\n\r\n"):
                raise RuntimeError(f"the listing has no end: {reading.tail!r}")
            size = reading.read / _MEGABYTE
            rows.append([what, size, reading.seconds, size / reading.seconds, *seen.values()])
    print_table(
        f"/api/tasks without a limit at {tasks:,} tasks",
        [
            "client",
            "MiB read",
            "s",
            "MiB/s",
            "memory grown, MiB",
            "loop held, ms",
            "ms of CPU",
            "health median, ms",
            "health worst",
        ],
        rows,
    )


def main() -> None:
    """Run it from the command line, or as the child that serves."""
    if sys.argv[1:2] == ["--child"]:
        serve_child(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="default: %(default)s")
    run(parser.parse_args().tasks)


if __name__ == "__main__":
    main()
