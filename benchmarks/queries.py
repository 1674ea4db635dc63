"""Listings at a large State: `python -m benchmarks.queries`.

Every order, every single filter, some pairs of filters, and filters with an order, 100 tasks a page: against State
itself, and over HTTP against a taskmon in a process of its own.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from . import workload
from .children import child, say
from .load import KeepAlive
from .tables import print_table

if TYPE_CHECKING:
    from taskmon.monitor.query import TaskQuery
    from taskmon.monitor.state import State

TASKS = 500_000
PAGE = 100
CALLS = 20

BEGAN = 1_700_000_000.0
QUEUES = ("celery", "mail", "reports", "images", "imports")

#: Of the oldest tasks, one in so many has this name, or ran on this worker: a filter by them finds only old tasks.
OLD_NAME = "shop.legacy.tasks.import"
OLD_WORKER = "celery@retired.example"
OLD_SHARE = 100

#: A task of so many begins a family: the next nine are its children.
FAMILY = 10

Arguments = dict[str, str]


def make_events(tasks: int, seed: int = 2) -> Iterator[str]:
    """Yield the events of tasks in every state, on 5 queues, in families, with some that are all old."""
    rng = random.Random(seed)
    root = ""
    for number in range(tasks):
        task = workload.plain_task(number, rng)
        if number % FAMILY == 0:
            root = task["uuid"]
        elif number % (2 * FAMILY) < FAMILY:  # every second family: the others' tasks have no kin
            task |= {"root_id": root, "parent_id": root}
        sent, received, started, ended = workload.life(number, task, BEGAN, rng)
        sent["queue"] = sent["routing_key"] = QUEUES[number % len(QUEUES)]
        received["retries"] = rng.choice((0, 0, 0, 0, 1, 2))
        if number * OLD_SHARE < tasks and number % 10 == 0:
            received["name"] = sent["name"] = OLD_NAME
            received["hostname"] = started["hostname"] = ended["hostname"] = OLD_WORKER
        for event in (sent, received, started, _end(number, ended))[: _steps(number)]:
            yield json.dumps(event)


def _end(number: int, ended: workload.Event) -> workload.Event:
    """Let one in 20 fail."""
    if number % 20 != 7:
        return ended
    failed = {key: value for key, value in ended.items() if key not in ("result", "runtime")}
    return {**failed, "type": "task-failed", "exception": "ValueError('no such order')", "traceback": "Traceback"}


def _steps(number: int) -> int:
    """Tell how many of its events a task has seen: one in 50 still runs, one in 100 has only been received."""
    return 2 if number % 100 == 99 else 3 if number % 50 == 48 else 4


def time_at(tasks: int, share: float) -> str:
    """Give the time at which that share of the tasks had been sent, as the API takes it."""
    return f"{BEGAN + share * tasks * workload.SECONDS_PER_TASK:.3f}"


def questions(tasks: int, root: str) -> dict[str, Arguments]:
    """List what is asked, by a short description."""
    from taskmon.monitor.task_fields import SORT_KEYS

    found: dict[str, Arguments] = {"no order, no filter": {}}
    for key in SORT_KEYS:
        found[f"sort {key}"] = {"sort_by": key}
        found[f"sort -{key}"] = {"sort_by": f"-{key}"}
    filters = {
        "workername": (workload.worker(3), OLD_WORKER),
        "taskname": (workload.name(7), OLD_NAME),
        "state": ("SUCCESS", "FAILURE", "STARTED", "RECEIVED", "REVOKED"),
        "queue": (QUEUES[1], "no-such-queue"),
        "root_id": (root, "no-such-task"),
        "parent_id": (root, "no-such-task"),
    }
    found |= {f"{key}={value}": {key: value} for key, values in filters.items() for value in values}
    for field in ("received", "started"):
        for share in (0.0, 0.01, 0.5, 0.99, 1.1):
            moment = time_at(tasks, share)
            for bound in ("start", "end"):
                found[f"{field}_{bound} at {share:.0%} of the time"] = {f"{field}_{bound}": moment}
    old = time_at(tasks, 0.01)
    half = time_at(tasks, 0.5)
    pairs: list[Arguments] = [
        {"workername": workload.worker(7), "state": "FAILURE"},
        {"workername": workload.worker(3), "state": "FAILURE"},  # large both, and nothing in common
        {"taskname": workload.name(7), "received_end": old},
        {"queue": QUEUES[1], "started_end": half},
    ]
    pairs += [
        {**one, "sort_by": sign + key}
        for one in ({"state": "SUCCESS"}, {"workername": workload.worker(3)}, {"received_start": half})
        for key in ("received", "started", "succeeded", "runtime")
        for sign in ("", "-")
    ]
    pairs += [
        {"state": "FAILURE", "sort_by": "failed"},
        {"state": "FAILURE", "sort_by": "-runtime"},  # none of them has one
        {"taskname": workload.name(7), "sort_by": "-runtime"},
        {"queue": QUEUES[1], "sort_by": "started"},
        {"started_start": half, "sort_by": "received"},
        {"started_end": half, "sort_by": "-received"},
        {"workername": workload.worker(7), "state": "FAILURE", "sort_by": "-received"},
    ]
    return found | {" & ".join(f"{k}={v}" for k, v in pair.items()): pair for pair in pairs}


class Timing(NamedTuple):
    """What the calls of one question took, in ms; a step ends where others may run."""

    found: int
    first: float
    median: float
    worst: float
    step: float


def time_state(state: "State", asked: dict[str, Arguments], times: int = CALLS) -> dict[str, Timing]:
    """Ask State every question: once right after the load, and many times once all upkeep is done."""
    from taskmon.monitor.query import parse_query

    queries = {what: parse_query({**given, "limit": str(PAGE)}, UTC) for what, given in asked.items()}
    first = {what: _call(state, query) for what, query in queries.items()}
    while state.maintain():
        pass
    timings = {}
    for what, query in queries.items():
        calls = [_call(state, query) for _ in range(times)]
        seconds = [call[1] for call in calls]
        timings[what] = Timing(
            found=calls[0][0],
            first=1e3 * first[what][1],
            median=1e3 * statistics.median(seconds),
            worst=1e3 * max(seconds),
            step=1e3 * max(call[2] for call in [*calls, first[what]]),
        )
    return timings


def _call(state: "State", query: "TaskQuery") -> tuple[int, float, float]:
    """Give the number of tasks found, the seconds of the whole call, and those of its longest step."""
    found, longest = 0, 0.0
    began = last = time.perf_counter()
    for task in state.find(query):
        now = time.perf_counter()
        longest = max(longest, now - last)
        last = now
        found += task is not None
    ended = time.perf_counter()
    return found, ended - began, max(longest, ended - last)


async def time_http(url: str, asked: dict[str, Arguments], times: int = CALLS) -> dict[str, list[float]]:
    """Ask a server every question; give the seconds of all calls."""
    seconds: dict[str, list[float]] = {}
    async with KeepAlive(url, {}) as client:
        for what, given in asked.items():
            path = "/api/tasks?" + urlencode({**given, "limit": PAGE})
            await client.get(path)
            seconds[what] = []
            for _ in range(times):
                began = time.perf_counter()
                await client.get(path)
                seconds[what].append(time.perf_counter() - began)
    return seconds


def serve_child(tasks: int) -> None:
    """Be the child: load a taskmon, tell what its State took and what to ask, then serve."""
    from .serving import make_decoder, make_taskmon, serve, tune

    async def be_asked() -> None:
        taskmon = make_taskmon(max_tasks=tasks, anonymous_role="viewer")
        decode = make_decoder().decode
        for body in workload.bodies(make_events(tasks)):
            taskmon.monitor.state.apply(decode(body))
        root = next(task.parent_id for task in taskmon.monitor.state.find(TaskQuery()) if task and task.parent_id)
        asked = questions(tasks, root)
        say([asked, time_state(taskmon.monitor.state, asked)])
        await serve(taskmon)

    from taskmon.monitor.query import TaskQuery

    tune()
    asyncio.run(be_asked())


def run(tasks: int) -> None:
    """Load a taskmon in a child, ask it everything and print a table."""
    with child("benchmarks.queries", tasks) as server:
        asked, timings = server.hear()
        over_http = asyncio.run(time_http(server.hear(), asked))
    rows = []
    for what, timing in timings.items():
        seconds = over_http[what]
        rows.append([what, *timing, 1e3 * statistics.median(seconds), 1e3 * max(seconds)])
    print_table(
        f"/api/tasks?limit={PAGE} at {tasks:,} tasks, ms; {CALLS} calls each, the first one right after the load",
        ["question", "found", "first", "median", "worst", "longest step", "HTTP median", "HTTP worst"],
        rows,
    )


def main() -> None:
    """Run it from the command line, or as the child that serves."""
    if sys.argv[1:2] == ["--child"]:
        serve_child(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="default: %(default)s")
    run(parser.parse_args().tasks)


if __name__ == "__main__":
    main()
