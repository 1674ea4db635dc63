"""The history: `python -m benchmarks.history`.

A start with a million tasks in the history, and events that come steadily while they are written and others ask. All
over SQLite in a file; nothing comes over a broker.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import workload
from .children import ask_child, child, say
from .load import KeepAlive
from .tables import print_table

TASKS = 1_000_000
RATE = 20_000
SECONDS = 20.0
CLIENTS = 50

#: Tasks that are under way at a time in the steady load: how many begin in two seconds.
_UNDER_WAY = RATE // 4 * 2

#: Tasks in one transaction while the history is filled.
_TOGETHER = 5_000


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
        say({"seconds": seconds, "held": len(taskmon.state), "answer": len(json.loads(body)), "bytes": 4096 * pages})
        await taskmon.stop()

    tune()
    asyncio.run(run())


def load_child(path: str, rate: int, seconds: float) -> None:
    """Be the child: apply events at a steady rate, served meanwhile; tell what became of them."""
    from taskmon.events import SLICE

    from .serving import make_decoder, make_taskmon, tune, wait_for_parent

    async def run() -> None:
        options = {"history": f"sqlite:///{path}"} if path else {}
        taskmon = make_taskmon(max_tasks=100_000, anonymous_role="viewer", **options)
        await taskmon.start()
        decode = make_decoder().decode
        tasks = int(rate * seconds / 4)
        bodies = list(workload.bodies(workload.events(tasks, min(_UNDER_WAY, tasks), began=time.time())))
        ids = [event.uuid for event in decode(bodies[0])]
        taskmon.state.apply(decode(bodies[0]))  # what is asked for
        say([taskmon.url, ids])
        lag = 0.0
        status = taskmon.services.history.status if taskmon.services.history is not None else None
        cpu, began = time.process_time(), time.perf_counter()
        done = 1
        while done < len(bodies):
            due = min(len(bodies), int((time.perf_counter() - began) * rate / workload.BATCH))
            turn = time.perf_counter()
            while done < due and time.perf_counter() - turn < SLICE:  # as the consumer does
                taskmon.state.apply(decode(bodies[done]))
                done += 1
            lag = max(lag, status.lag() if status is not None else 0.0)
            await asyncio.sleep(0.0 if done < due else 0.001)
        took = time.perf_counter() - began
        told = {"seconds": took, "cpu": time.process_time() - cpu, "lag": lag, "events": done * workload.BATCH}
        flushing = time.perf_counter()
        if taskmon.services.history is not None:
            await taskmon.services.history.flush(60.0)
        say(told | {"flush": time.perf_counter() - flushing})
        await wait_for_parent()
        await taskmon.stop()

    tune()
    asyncio.run(run())


async def ask_all(url: str, ids: list[str], seconds: float) -> list[float]:
    """Ask for single tasks over many connections, 10 times a second each; give the seconds of all answers."""
    end = time.perf_counter() + seconds
    took: list[float] = []

    async def ask(number: int) -> None:
        await asyncio.sleep(number / CLIENTS / 10)
        async with KeepAlive(url, {}) as client:
            while time.perf_counter() < end:
                began = time.perf_counter()
                await client.get(f"/api/task/info/{ids[number % len(ids)]}")
                took.append(time.perf_counter() - began)
                await asyncio.sleep(max(0.0, 0.1 - (time.perf_counter() - began)))

    await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
    return took


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


def run_load(rate: int, seconds: float) -> None:
    """Measure a steady load with a history and without, and print a table."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for what, path in (("without a history", ""), ("with one", str(Path(directory, "history.sqlite3")))):
            with child("benchmarks.history", "load", path, rate, seconds) as server:
                url, ids = server.hear()
                took = sorted(asyncio.run(ask_all(url, ids, seconds)))
                told = server.hear()
            share = [1e3 * took[int(len(took) * part)] for part in (0.5, 0.99, 0.999)]
            cores = told["cpu"] / told["seconds"]
            rows.append(
                [what, told["events"] / told["seconds"], *share, 1e3 * took[-1], cores, told["lag"], told["flush"]]
            )
    columns = ["p50", "p99", "p99.9", "worst"]
    print_table(
        f"{rate:,} events/s for {seconds:g} s, and {CLIENTS} clients that ask for single tasks; answers in ms",
        ["", "events/s", *columns, "cores", "most s unwritten", "s to write the rest"],
        rows,
    )


def run(tasks: int, rate: int = RATE, seconds: float = SECONDS) -> None:
    """Measure all of it."""
    run_load(rate, seconds)
    run_start(tasks)


def main() -> None:
    """Run it from the command line, or as a child."""
    if sys.argv[1:3] == ["--child", "start"]:
        start_child(sys.argv[3], int(sys.argv[4]))
        return
    if sys.argv[1:3] == ["--child", "load"]:
        load_child(sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=RATE, help="events a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="default: %(default)s")
    options = parser.parse_args()
    run(options.tasks, options.rate, options.seconds)


if __name__ == "__main__":
    main()
