"""A steady stream for long: `python -m benchmarks.steady --seconds 600 --rate 10000 --broker amqp|redis`.

So many tasks a second, four events each, go through taskmon, which holds 50,000 tasks at the most. Looks a dozen
times at its memory and at what it has counted: the one must stay flat, the other keep up.
"""

import argparse
import re
import sys
import time
from typing import Final

import psutil

from . import workload
from .burst import BROKERS, running
from .children import child, say
from .monitors import Taskmon
from .tables import Cell, print_table

MAX_TASKS: Final = 50_000
RATE: Final = 10_000
SECONDS: Final = 60

_WINDOW: Final = 4 * workload.BATCH  # tasks whose bodies are made once, and sent again and again under other ids
_BEGAN: Final = 1_700_000_000
_LOOKS: Final = 12
_STILL: Final = 10.0  # seconds without a new event until the rest counts as lost


def make_templates() -> list[bytes]:
    """Make the messages of a window of tasks; `renew` makes them those of others."""
    bodies = list(workload.bodies(workload.events(_WINDOW, _WINDOW, _BEGAN)))
    return [
        re.sub(rb'"[0-9a-f]{8}(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")', rb'"%08x\1', b) for b in bodies
    ]


def renew(template: bytes, number: int, now: float) -> bytes:
    """Give a message new ids and the present time, to which the parts of seconds in it add microseconds."""
    body = template.replace(b"%08x", b"%08x" % number)
    for second in range(3):
        body = body.replace(b": %d." % (_BEGAN + second), b": %.3f" % (now + second))
    return body


def publish(url: str, rate: int, seconds: int) -> tuple[int, float]:
    """Send the events of so many tasks a second; give how many events that was, and the seconds it took."""
    from .publish import Publisher

    publisher = Publisher(url)
    templates = make_templates()
    rounds = rate * seconds // _WINDOW
    began = time.perf_counter()
    for number in range(rounds):
        early = began + number * _WINDOW / rate - time.perf_counter()
        if early > 0:
            time.sleep(early)
        now = time.time()
        for template in templates:
            publisher.send(renew(template, number, now))
    publisher.close()
    return rounds * 4 * _WINDOW, time.perf_counter() - began


def run(broker: str, rate: int = RATE, seconds: int = SECONDS) -> None:
    """Let taskmon take the stream; print a table."""
    rows: list[list[Cell]] = []
    with running(broker) as server:
        from ports import free_port

        monitor = Taskmon(server.url, free_port(), MAX_TASKS)
        with monitor, child("benchmarks.steady", server.url, rate, seconds) as publisher:
            while b"ready" not in _get(monitor, "/readyz"):
                time.sleep(0.1)
            publisher.hear()
            process = psutil.Process(monitor.pid)
            cpu_before = monitor.cpu_seconds()
            publisher.tell("go")
            began = time.monotonic()
            for look in range(1, _LOOKS + 1):
                time.sleep(max(0.0, began + look * seconds / _LOOKS - time.monotonic()))
                counted, memory = monitor.events() or 0, process.memory_info().rss
                rows.append(
                    [f"{time.monotonic() - began:,.0f} s", counted, memory / (1 << 20), _tasks(monitor), None]
                )
            sent, took = publisher.hear()
            counted, moved = 0, time.monotonic()
            while counted < sent and time.monotonic() < moved + _STILL:
                time.sleep(0.2)
                before, counted = counted, monitor.events() or counted
                moved = time.monotonic() if counted > before else moved
            cpu = monitor.cpu_seconds() - cpu_before
            memory = process.memory_info().rss
            rows.append(["end", counted, memory / (1 << 20), _tasks(monitor), sent - counted])
    print_table(
        f"{rate:,} tasks/s on {server.name} for {seconds:,} s: {sent / took:,.0f} events/s, "
        f"--max-tasks {MAX_TASKS:,}, {1e6 * cpu / counted:.1f} us CPU/event",
        ["after", "events counted", "resident MB", "tasks held", "lost"],
        rows,
    )


def _get(monitor: Taskmon, path: str) -> bytes:
    try:
        return monitor.get(path)
    except OSError:
        return b""


def _tasks(monitor: Taskmon) -> int:
    found = re.search(rb"^taskmon_tasks (\d+)", monitor.get("/metrics"), re.MULTILINE)
    return int(found[1]) if found else 0


def main() -> None:
    """Run it from the command line, or be the child that publishes."""
    if sys.argv[1:2] == ["--child"]:
        say("ready")
        if sys.stdin.readline():
            say(publish(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both, one after the other")
    parser.add_argument("--rate", type=int, default=RATE, help="tasks a second (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="default: %(default)s")
    options = parser.parse_args()
    for broker in options.broker or BROKERS:
        run(broker, options.rate, options.seconds)


if __name__ == "__main__":
    main()
