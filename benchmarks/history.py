"""The history: `python -m benchmarks.history`.

A start with a million tasks in the history; and events that come steadily, over a broker, while they are written and
others ask, with a history and without. All over SQLite in a file.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import workload
from .burst import BROKERS, running
from .children import ask_child, say
from .latency import CLIENTS, EVENTS_PER_SECOND, MAX_TASKS, SECONDS, Stream, shares
from .load import KeepAlive
from .monitors import Taskmon
from .tables import Cell, print_table

TASKS = 1_000_000

#: Seconds that the tasks of the steady load take: their four events are so far apart that most tasks are written more
#: than once.
_LASTING = 1.0

#: Seconds between two looks at what is unwritten, which cost taskmon a little; and until that is given up.
_LOOK = 0.25
_DEADLINE = 60.0

#: Tasks in one transaction while the history is filled.
_TOGETHER = 5_000

_LAG = re.compile(r"^taskmon_history_lag_seconds (\S+)$", re.MULTILINE)


def fill(path: Path, tasks: int) -> None:
    """Write tasks that have finished into a file."""
    from taskmon.history.columns import to_row
    from taskmon.history.databases import Batch
    from taskmon.history.sqlite import SqliteDatabase

    database = SqliteDatabase(path)
    database.open()
    rows = []
    for task in _finished(tasks):
        rows.append(to_row(task))
        if len(rows) == _TOGETHER:
            database.write(Batch(rows, [], [], None, "", 0.0))
            rows = []
    database.write(Batch(rows, [], [], None, "", 0.0))
    database.close()


def _finished(tasks: int) -> Iterator[Any]:
    from taskmon.records import Task

    rng = random.Random(3)
    for number in range(tasks):
        sent, received, started, ended = workload.life(number, workload.plain_task(number, rng), 1_700_000_000.0, rng)
        told = {key: received[key] for key in ("uuid", "root_id", "name", "args", "kwargs", "retries")}
        told |= {"result": ended["result"], "runtime": ended["runtime"], "worker": ended["hostname"]}
        told |= {"client": sent["hostname"], "queue": "celery", "exchange": "", "routing_key": "celery"}
        at = {"sent": sent, "received": received, "started": started, "succeeded": ended, "timestamp": ended}
        times = {field: event["timestamp"] for field, event in at.items()}
        seen = times["timestamp"]
        yield Task(**told, **times, state="SUCCESS", born=seen, seen=seen, clock=ended["clock"])


def start_child(path: str, tasks: int) -> None:
    """Be the child: start on a history, tell how long that took, and answer one question."""
    from .serving import make_taskmon, tune

    async def run() -> None:
        taskmon = make_taskmon(max_tasks=tasks, history=f"sqlite:///{path}", anonymous_role="viewer")
        began = time.perf_counter()
        await taskmon.start()
        async with KeepAlive(taskmon.url, {}) as client:
            body = await client.get("/api/tasks?limit=1")
        seconds = time.perf_counter() - began
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        say(
            {
                "seconds": seconds,
                "held": len(taskmon.monitor.state),
                "answer": len(json.loads(body)),
                "bytes": 4096 * pages,
            }
        )
        await taskmon.stop()

    tune()
    asyncio.run(run())


class Lag:
    """Asks a taskmon all the time how old the oldest change is that it has not written; `most` is what that was."""

    def __init__(self, monitor: Taskmon) -> None:
        self.most = 0.0
        self._monitor = monitor
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK):
            self.most = max(self.most, self.look())

    def look(self) -> float:
        """Give what it is now; 0 where all is written, and without a history."""
        found = _LAG.search(self._monitor.get("/metrics").decode())
        return float(found[1]) if found is not None else 0.0

    def wait_until_written(self) -> float:
        """Wait until nothing is unwritten; give the seconds that took."""
        began = time.perf_counter()
        while self.look() and time.perf_counter() < began + _DEADLINE:
            time.sleep(0.02)
        return time.perf_counter() - began


def run_start(tasks: int) -> None:
    """Measure the start, and print a table."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "history.sqlite3")
        began = time.perf_counter()
        fill(path, tasks)
        filled = time.perf_counter() - began
        size = path.stat().st_size
        told = ask_child("benchmarks.history", "start", path, tasks)
    print_table(
        f"Start with {tasks:,} tasks in a history of SQLite",
        ["", "s to the first answer", "tasks held", "resident MB", "file MB", "s to fill it"],
        [["taskmon", told["seconds"], int(told["held"]), told["bytes"] / 1e6, size / 1e6, filled]],
    )


def run_load(broker: str, rate: int = EVENTS_PER_SECOND, seconds: float = SECONDS) -> None:
    """Measure a steady load with a history and without, and print a table."""
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as directory, running(broker) as server:
        with_history = "--history", f"sqlite:///{directory}/history.sqlite3"
        for what, options in (("without a history", ()), ("with one", with_history)):
            rows.append([what, *measure_load(server.url, options, rate, seconds)])
    columns = ["p50", "p99", "p99.9", "worst"]
    print_table(
        f"{rate:,} events/s on {server.name} for {seconds:g} s, of tasks that take {_LASTING:g} s; "
        f"{CLIENTS} clients that ask for single tasks, answers in ms",
        ["", "events/s", "not counted", *columns, "CPU, %", "most s unwritten", "s to write the rest"],
        rows,
    )


def measure_load(broker_url: str, options: Sequence[str], rate: int, seconds: float) -> list[Cell]:
    """Start taskmon and ask it while events pour in; give its row."""
    from ports import free_port

    monitor = Taskmon(broker_url, free_port(), MAX_TASKS, *options)
    with Stream(monitor, broker_url, rate, seconds, int(rate / 4 * _LASTING)) as stream:
        with Lag(monitor) as lag:
            times = stream.ask(CLIENTS)
        sent, cores = stream.end()
        rest = lag.wait_until_written()
        missing = stream.missing()
    written = [lag.most, rest] if options else [None, None]
    return [sent, missing, *shares(times, 0.5, 0.99, 0.999, 1), 100 * cores, *written]


def main() -> None:
    """Run it from the command line, or as a child."""
    if sys.argv[1:3] == ["--child", "start"]:
        start_child(sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument(
        "--tasks", type=int, default=TASKS, help="at the start (default: %(default)s); 0 for no start"
    )
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both, one after the other")
    parser.add_argument("--rate", type=int, default=EVENTS_PER_SECOND, help="events/s (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of asking (default: %(default)s)")
    options = parser.parse_args()
    for broker in options.broker or BROKERS:
        run_load(broker, options.rate, options.seconds)
    if options.tasks:
        run_start(options.tasks)


if __name__ == "__main__":
    main()
