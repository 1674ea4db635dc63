"""What a kill loses: `python -m benchmarks.kill`.

Events come over a broker as fast as a publisher goes, or at a `--rate`. taskmon writes their tasks to a history in
SQLite, and is killed. The next taskmon is asked which tasks it knows.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from typing import Final

from .burst import BROKERS, running
from .children import child, say
from .monitors import Monitor, Taskmon
from .tables import Cell, print_table

MAX_TASKS: Final = 1_000_000
KILLS: Final = 3

#: Seconds of events before the kill, and after it.
_BEFORE: Final = 4.0
_AFTER: Final = 1.0

#: A kill may lose what was sent so many seconds before it.
_BAR: Final = 1.0

_TASKS: Final = 8  # in one message, with three events each
_PATIENCE: Final = 60.0


def make_body(first: int, now: float) -> bytes:
    """Make a message with the whole lives of some tasks."""
    events = []
    for number in range(first, first + _TASKS):
        told = {"uuid": f"kill-{number:07}", "hostname": "celery@one", "pid": 1, "timestamp": now, "utcoffset": 0}
        known = {"name": "tasks.add", "args": "(1, 2)", "kwargs": "{}", "retries": 0}
        events += [{**told, "type": "task-received", "clock": 3 * number, **known}]
        events += [{**told, "type": "task-started", "clock": 3 * number + 1}]
        events += [{**told, "type": "task-succeeded", "clock": 3 * number + 2, "result": "3", "runtime": 0.1}]
    return json.dumps(events).encode()


def send_child(url: str, rate: float) -> None:
    """Be the child: send events, and tell how many tasks were sent until when."""
    from .publish import Publisher

    publisher, sent = Publisher(url), 0
    until: list[tuple[int, float]] = []
    began = time.time()
    while (now := time.time()) < began + _BEFORE + _AFTER:
        publisher.send(make_body(sent, now))
        sent += _TASKS
        until.append((sent, time.time()))
        if rate:
            time.sleep(max(0.0, began + 3 * sent / rate - time.time()))
    publisher.close()
    say(until)


def read_metric(monitor: Monitor, name: str) -> float:
    """Read a metric that has no labels."""
    found = re.search(rf"^taskmon_{name} (\S+)$", monitor.get("/metrics").decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_ready(monitor: Monitor) -> None:
    """Wait until a taskmon answers and is connected."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            monitor.get("/readyz")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def measure(broker_url: str, rate: float) -> list[Cell]:
    """Kill a taskmon and give its row."""
    from ports import free_port

    with tempfile.TemporaryDirectory() as directory:
        options = "--history", f"sqlite:///{directory}/history.sqlite3"
        with Taskmon(broker_url, free_port(), MAX_TASKS, *options) as monitor:
            wait_ready(monitor)
            with child("benchmarks.kill", broker_url, rate) as sending:
                time.sleep(_BEFORE)
                behind = read_metric(monitor, "history_lag_seconds")
                killed = time.time()
                os.kill(monitor.pid, signal.SIGKILL)
                until = sending.hear()
        began = time.monotonic()
        with Taskmon(broker_url, free_port(), MAX_TASKS, *options) as monitor:
            wait_ready(monitor)
            took = time.monotonic() - began
            known = set(json.loads(monitor.get("/api/tasks?search=kill-&limit=1000000")))
    safe = max(count for count, at in until if at < killed - _BAR)
    missing = sum(f"kill-{number:07}" not in known for number in range(safe))
    first = next(at for count, at in until if any(f"kill-{count - n:07}" not in known for n in range(1, _TASKS + 1)))
    sent = 3 * max(count for count, at in until if at < killed) / (killed - until[0][1])
    return [sent, behind, safe, missing, killed - first, took]


def run(broker: str, rate: float = 0.0, kills: int = KILLS) -> None:
    """Measure some kills, and print a table."""
    with running(broker) as server:
        rows = [[f"{number + 1}", *measure(server.url, rate)] for number in range(kills)]
    columns = ["events/s", "s unwritten", f"tasks sent over {_BAR:g} s before", "of them missing"]
    print_table(
        f"taskmon is killed while events come on {server.name}, with a history in SQLite",
        ["kill", *columns, "s from the first one missing", "s to start"],
        rows,
    )


def main() -> None:
    """Run it from the command line, or as a child."""
    if sys.argv[1:2] == ["--child"]:
        send_child(sys.argv[2], float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both, one after the other")
    parser.add_argument("--rate", type=float, default=0.0, help="events/s (default: as fast as it goes)")
    parser.add_argument("--kills", type=int, default=KILLS, help="how often (default: %(default)s)")
    options = parser.parse_args()
    for broker in options.broker or BROKERS:
        run(broker, options.rate, options.kills)


if __name__ == "__main__":
    main()
