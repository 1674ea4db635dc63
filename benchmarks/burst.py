"""A burst over a real broker: `python -m benchmarks.burst --broker amqp|redis`.

A publisher sends events as fast as it goes; taskmon and Flower, one after the other, on the same broker, have to
take them. Counts what each has applied, and the processor time of its process.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import workload
from .children import ROOT, child
from .flower import DEFAULT_VENV, prepare_flower
from .monitors import Flower, Monitor, Taskmon
from .tables import Cell, print_table

if TYPE_CHECKING:
    from brokers import Broker  # type: ignore[import-not-found]  # `running` makes its directory known

EVENTS = 100_000
SINGLES = 20_000
BROKERS = ("amqp", "redis")

#: Seconds between two looks at a monitor, and how long it may stand still before the rest counts as lost.
_LOOK = 0.25
_STILL = 8.0
_DEADLINE = 900.0


class Outcome(NamedTuple):
    """What came of one burst; `states` says which states the monitor's tasks ended in."""

    published_per_second: float
    counted: int
    cpu_seconds: float
    wall_seconds: float
    states: str


@contextmanager
def running(broker: str) -> Iterator["Broker"]:
    """Start a broker of our own, as the live tests do, and stop it after the block."""
    for place in (ROOT / "tests", ROOT / "tests" / "live"):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    from brokers import RabbitBroker, RedisBroker

    kind = {"amqp": RabbitBroker, "redis": RedisBroker}[broker]
    if missing := kind.missing():
        raise SystemExit(f"{missing}: this benchmark needs it")
    with tempfile.TemporaryDirectory() as directory:
        server = kind(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def measure(monitor: Monitor, broker_url: str, events: int, size: int) -> Outcome:
    """Let a monitor take one burst."""
    from .publish import Publisher, make_bodies

    (probe,) = make_bodies(4, workload.BATCH)
    with monitor, child("benchmarks.publish", broker_url, events, size) as publisher:
        publisher.hear()
        prober = Publisher(broker_url)
        before = monitor.wait_for_events(partial(prober.send, probe))
        prober.close()
        cpu_before, began = monitor.cpu_seconds(), time.monotonic()
        publisher.tell("go")
        seconds = publisher.hear()
        counted, cpu, ended = _watch(monitor, before + events)
        states = ", ".join(f"{count:,} {state}" for state, count in monitor.states().most_common(2))
    return Outcome(events / seconds, counted - before, cpu - cpu_before, ended - began, states)


def _watch(monitor: Monitor, expected: int) -> tuple[int, float, float]:
    """Wait until all is counted or nothing moves any more; give the count, the CPU time then, and when that was."""
    deadline = time.monotonic() + _DEADLINE
    best, moved, cpu = -1, time.monotonic(), 0.0
    while time.monotonic() < deadline:
        count, now = monitor.events(), time.monotonic()
        if count is None:
            moved = now
        elif count > best:
            best, moved, cpu = count, now, monitor.cpu_seconds()
        if best >= expected or now - moved > _STILL:
            break
        time.sleep(_LOOK)
    return best, cpu, moved


def run(broker: str, events: int, flower: Path | None, singles: int = SINGLES) -> None:
    """Burst of batches, then of single events, for each monitor; print a table."""
    rows: list[list[Cell]] = []
    with running(broker) as server:
        from ports import free_port

        for count, size in ((events, workload.BATCH), (singles, 1)):
            count -= count % (4 * workload.BATCH)
            monitors: list[Monitor] = [Taskmon(server.url, free_port(), count)]
            if flower is not None:
                monitors.append(Flower(server.url, free_port(), count, flower))
            outcomes = [measure(monitor, server.url, count, size) for monitor in monitors]
            rows += _rows(monitors, outcomes, count, size)
        title = f"A burst on {server.name}, {events:,} events in messages of {workload.BATCH}, {singles:,} one by one"
    print_table(
        title,
        [
            "monitor",
            *(
                "events sent",
                "sent/s",
                "counted",
                "lost",
                "CPU s",
                "us CPU/event",
                "us, taskmon/flower",
                "until done, s",
            ),
            "tasks held",
        ],
        rows,
    )


def _rows(monitors: Sequence[Monitor], outcomes: Sequence[Outcome], count: int, size: int) -> list[list[Cell]]:
    per_event = [1e6 * outcome.cpu_seconds / max(outcome.counted, 1) for outcome in outcomes]
    ratio = f"1/{per_event[1] / per_event[0]:.1f}" if len(per_event) == 2 else None
    return [
        [
            f"{monitor.name}, {'batches' if size > 1 else 'single'}",
            *(count, outcome.published_per_second, outcome.counted, count - outcome.counted, outcome.cpu_seconds),
            *(cost, ratio if monitor.name == "taskmon" else None, outcome.wall_seconds, outcome.states),
        ]
        for monitor, outcome, cost in zip(monitors, outcomes, per_event, strict=True)
    ]


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.burst", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both, one after the other")
    parser.add_argument("--events", type=int, default=EVENTS, help="in batches (default: %(default)s)")
    parser.add_argument("--singles", type=int, default=SINGLES, help="one by one (default: %(default)s)")
    parser.add_argument(
        "--flower-venv", type=Path, default=DEFAULT_VENV, help="where Flower is, or is put if missing"
    )
    options = parser.parse_args()
    flower = prepare_flower(options.flower_venv)
    for broker in options.broker or BROKERS:
        run(broker, options.events, flower, options.singles)


if __name__ == "__main__":
    main()
