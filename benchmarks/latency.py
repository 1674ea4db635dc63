"""How quick one task's info is while events pour in: `python -m benchmarks.latency --broker amqp|redis`.

A publisher sends events at a steady rate in batches; clients ask for a task each, again and again at a steady rate,
over connections of their own. taskmon and Flower take turns on the same broker.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from . import workload
from .burst import BROKERS, running
from .children import child, say
from .flower import DEFAULT_VENV, prepare_flower
from .load import KeepAlive
from .monitors import Flower, Monitor, Taskmon
from .tables import Cell, print_table

EVENTS_PER_SECOND = 20_000
SECONDS = 20.0
CLIENTS = 50

#: How often each client asks, in times a second.
ASKS = 10

#: Tasks that a monitor may hold: as many as taskmon does when it is not told otherwise.
MAX_TASKS = 200_000

#: Seconds of events before the clients begin.
_AHEAD = 2.0


async def _ask(url: str, path: str, end: float, late: float) -> list[float]:
    """Ask at a steady rate until `end`; give the milliseconds from when each answer was due to be asked for."""
    taken = []
    async with KeepAlive(url, {}) as client:
        due = time.monotonic() + late
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await client.get(path)
            taken.append(1e3 * (time.monotonic() - due))
            due += 1 / ASKS
    return taken


async def ask_all(url: str, path: str, seconds: float, clients: int) -> list[float]:
    """Let so many clients ask; give all the times, sorted."""
    end = time.monotonic() + seconds
    lates = (number / clients / ASKS for number in range(clients))
    return sorted(chain.from_iterable(await asyncio.gather(*(_ask(url, path, end, late) for late in lates))))


class Stream:
    """A monitor, and a publisher that sends it events of so many tasks at a time, steadily, while others ask.

    The block begins when events have come for a while; they come for as many `seconds` more.
    """

    def __init__(
        self, monitor: Monitor, broker_url: str, rate: int, seconds: float, under_way: int = 4 * workload.BATCH
    ) -> None:
        self._monitor = monitor
        self._broker_url = broker_url
        self._seconds = seconds
        count = int(rate * (seconds + _AHEAD))
        self._count = count - count % (4 * workload.BATCH)
        arguments = broker_url, self._count, workload.BATCH, rate, under_way
        self._publisher = child("benchmarks.publish", *arguments)

    def __enter__(self) -> Self:
        from .publish import Publisher, make_bodies

        self._ending = ExitStack()
        with ExitStack() as starting:
            monitor = starting.enter_context(self._monitor)
            self._sending = starting.enter_context(self._publisher)
            self._sending.hear()
            (probe,) = make_bodies(4, workload.BATCH)
            prober = Publisher(self._broker_url)
            self._before = monitor.wait_for_events(partial(prober.send, probe))
            prober.close()
            self._path = f"/api/task/info/{monitor.task_ids()[0]}"
            self._cpu_before = monitor.cpu_seconds()
            self._sending.tell("go")
            time.sleep(_AHEAD)
            self._ending = starting.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._ending.__exit__(kind, exc, tb)

    def ask(self, clients: int) -> list[float]:
        """Let clients in a process of their own ask for a task; give the milliseconds that answers took, sorted."""
        with child("benchmarks.latency", self._monitor.url, self._path, self._seconds, clients) as asking:
            times: list[float] = asking.hear()
        return times

    def end(self) -> tuple[float, float]:
        """Wait for the last event to be sent; give how many were in a second, and the monitor's share of a core."""
        took = self._sending.hear()
        return self._count / took, (self._monitor.cpu_seconds() - self._cpu_before) / took

    def missing(self) -> int:
        """Tell how many events the monitor has not counted."""
        return self._count - ((self._monitor.events() or 0) - self._before)


def measure(monitor: Monitor, broker_url: str, rate: int, seconds: float, clients: int) -> list[Cell]:
    """Ask a monitor while events pour in; give its row."""
    with Stream(monitor, broker_url, rate, seconds) as stream:
        times = stream.ask(clients)
        sent, cores = stream.end()
        time.sleep(1)
        missing = stream.missing()
    return [monitor.name, sent, missing, 100 * cores, len(times), *shares(times, 0.5, 0.99, 1)]


def shares(times: Sequence[float], *parts: float) -> list[float]:
    """Give the times that so large a part of the answers took at the most."""
    return [times[int(part * (len(times) - 1))] for part in parts]


def run(broker: str, flower: Path | None, rate: int = EVENTS_PER_SECOND, seconds: float = SECONDS) -> None:
    """Measure each monitor and print a table."""
    rows = []
    with running(broker) as server:
        from ports import free_port

        monitors: list[Monitor] = [Taskmon(server.url, free_port(), MAX_TASKS)]
        if flower is not None:
            monitors.append(Flower(server.url, free_port(), MAX_TASKS, flower))
        rows = [measure(monitor, server.url, rate, seconds, CLIENTS) for monitor in monitors]
    print_table(
        f"GET /api/task/info/<id> on {server.name} while events arrive in messages of {workload.BATCH}; "
        f"{CLIENTS} clients, {ASKS} times a second each",
        ["monitor", "events/s", "not counted 1 s after", "CPU, %", "answers", "median, ms", "p99, ms", "worst, ms"],
        rows,
    )


def main() -> None:
    """Run it from the command line, or as the child that asks."""
    if sys.argv[1:2] == ["--child"]:
        url, path, seconds, clients = sys.argv[2:]
        say(asyncio.run(ask_all(url, path, float(seconds), int(clients))))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both, one after the other")
    parser.add_argument("--rate", type=int, default=EVENTS_PER_SECOND, help="events/s (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of asking (default: %(default)s)")
    parser.add_argument(
        "--flower-venv", type=Path, default=DEFAULT_VENV, help="where Flower is, or is put if missing"
    )
    options = parser.parse_args()
    flower = prepare_flower(options.flower_venv)
    for broker in options.broker or BROKERS:
        run(broker, flower, options.rate, options.seconds)


if __name__ == "__main__":
    main()
