"""A flood of distinct names: `python -m benchmarks.flood --broker amqp|redis --events 1000000 --max-memory 256`.

Every task has a name and a queue of its own, every worker's event a hostname of its own, and some have long texts.
Clients ask all the while. The memory must stay within the limit and a tenth, the answers quick, `/metrics` small.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from . import workload
from .burst import BROKERS, running
from .children import child, say
from .load import KeepAlive
from .monitors import Taskmon
from .tables import Cell, print_table

EVENTS: Final = 1_000_000
RATE: Final = 20_000
MAX_MEMORY: Final = 256  # MiB
MAX_TASKS: Final = 1_000_000

#: One task in so many has texts of so many characters.
LONG_EVERY: Final = 25
LONG: Final = 20_000

ROUTES: Final = ("/api/task/info/<id>", "/api/workers", "/api/task/types", "/metrics")

_PAUSE: Final = 0.05  # seconds between an answer and the next request of a client
_STILL: Final = 10.0  # seconds without a new event until the rest counts as lost


def events(count: int) -> Iterator[str]:
    """Yield events as JSON: of each task three, and a heartbeat, all from hosts that no other event has."""
    for number in range(count // 4):
        now = time.time()
        task_id = f"{number:08x}-0000-4000-8000-{number:012x}"
        text = "x" * LONG if number % LONG_EVERY == 0 else str(number)
        made = {"uuid": task_id, "root_id": task_id, "name": f"flood.module_{number}.task", "args": f"({text!r},)"}
        route = {"queue": f"queue-{number}", "routing_key": f"queue-{number}", "kwargs": f"{{'text': {text!r}}}"}
        common = {"utcoffset": 0, "pid": 1, "clock": number, "timestamp": now}
        load = {"freq": 2.0, "active": 1, "processed": number, "loadavg": [0, 0, 0], "sw_ident": "py-celery"}
        for step, event in enumerate(
            (
                {"type": "task-sent", **made, **route},
                {"type": "task-received", **made},
                {"type": "task-succeeded", "uuid": task_id, "result": repr(text), "runtime": 0.1},
                {"type": "worker-heartbeat", "sw_ver": "5.7.0", "sw_sys": "Linux", **load},
            )
        ):
            yield json.dumps({**common, "hostname": f"celery@host-{number}-{step}.example", **event})


def publish(url: str, count: int, rate: int) -> tuple[int, float]:
    """Send so many events, `rate` a second at the most; give how many that was, and the seconds it took."""
    from .publish import Publisher

    publisher = Publisher(url)
    began = time.perf_counter()
    for number, body in enumerate(workload.bodies(events(count))):
        early = began + number * workload.BATCH / rate - time.perf_counter()
        if early > 0:
            time.sleep(early)
        publisher.send(body)
    publisher.close()
    return count // 4 * 4, time.perf_counter() - began


async def ask(url: str, route: str, ended: asyncio.Event) -> tuple[list[float], int]:
    """Ask for a route until `ended`; give the milliseconds of each answer and the size of the largest."""
    times, largest = [], 0
    async with KeepAlive(url, {}) as client:
        while not ended.is_set():
            path = route
            if "<id>" in route:
                newest = json.loads(await client.get("/api/tasks?limit=1"))
                path = route.replace("<id>", next(iter(newest), "none"))
            began = time.perf_counter()
            with suppress(RuntimeError):  # the task has been evicted meanwhile: 404
                largest = max(largest, len(await client.get(path)))
            times.append(1e3 * (time.perf_counter() - began))
            await asyncio.sleep(_PAUSE)
    return sorted(times), largest


async def ask_all(url: str) -> list[tuple[list[float], int]]:
    """Let a client for each route ask until the parent says a word."""
    ended = asyncio.Event()
    asking = [asyncio.create_task(ask(url, route, ended)) for route in ROUTES]
    await asyncio.to_thread(sys.stdin.readline)
    ended.set()
    return await asyncio.gather(*asking)


def peak_memory(pid: int) -> int:
    """Give the most bytes that a process has had in memory."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise RuntimeError(f"the system does not tell the peak of process {pid}")
    return int(found[1]) << 10


def run(broker: str, count: int = EVENTS, rate: int = RATE, max_memory: int = MAX_MEMORY) -> None:
    """Let taskmon take the flood; print two tables."""
    with running(broker) as server:
        from ports import free_port

        monitor = Taskmon(server.url, free_port(), MAX_TASKS, "--max-memory", f"{max_memory} MiB")
        with monitor, child("benchmarks.flood", "publish", server.url, count, rate) as publisher:
            publisher.hear()
            while not _is_ready(monitor):
                time.sleep(0.1)
            before = peak_memory(monitor.pid)
            with child("benchmarks.flood", "ask", monitor.url) as asking:
                publisher.tell("go")
                sent, took = publisher.hear()
                counted = _wait_for(monitor, sent)
                asking.tell("end")
                answers = asking.hear()
            peak = peak_memory(monitor.pid)
            cpu = monitor.cpu_seconds()
    limit = max_memory << 20
    memory: list[Cell] = [before / (1 << 20), max_memory, peak / (1 << 20), 100 * peak / limit]
    print_table(
        f"{sent:,} events with distinct names, queues and hosts on {server.name}",
        ["monitor", "events/s", "lost", "CPU, s", "resident before, MB", "limit, MB", "peak, MB", "of the limit, %"],
        [[monitor.name, sent / took, sent - counted, cpu, *memory]],
    )
    print_table(
        "Answers meanwhile",
        ["route", "answers", "median, ms", "p99, ms", "worst, ms", "largest, bytes"],
        [
            [route, len(times), *(times[int(part * (len(times) - 1))] for part in (0.5, 0.99, 1)), largest]
            for route, (times, largest) in zip(ROUTES, answers, strict=True)
        ],
    )


def _wait_for(monitor: Taskmon, sent: int) -> int:
    """Wait until all is counted, or nothing more is; give the count."""
    counted, moved = 0, time.monotonic()
    while counted < sent and time.monotonic() < moved + _STILL:
        time.sleep(0.2)
        before, counted = counted, monitor.events() or counted
        moved = time.monotonic() if counted > before else moved
    return counted


def _is_ready(monitor: Taskmon) -> bool:
    with suppress(OSError):
        return b"ready" in monitor.get("/readyz")
    return False


def main() -> None:
    """Run it from the command line, or be the child that publishes or asks."""
    if sys.argv[1:3] == ["--child", "publish"]:
        say("ready")
        if sys.stdin.readline():
            say(publish(sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
        return
    if sys.argv[1:3] == ["--child", "ask"]:
        say(asyncio.run(ask_all(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both, one after the other")
    parser.add_argument("--events", type=int, default=EVENTS, help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=RATE, help="events/s at the most (default: %(default)s)")
    parser.add_argument("--max-memory", type=int, default=MAX_MEMORY, help="MiB (default: %(default)s)")
    options = parser.parse_args()
    for broker in options.broker or BROKERS:
        run(broker, options.events, options.rate, options.max_memory)


if __name__ == "__main__":
    main()
