"""Searches of a large State: `python -m benchmarks.search`.

Terms that are in no task, in one, in some and in all of them, by themselves and together, 100 tasks a page: against
State itself, and over HTTP against a taskmon in a process of its own.
"""

import argparse
import asyncio
import statistics
import sys
import time
from datetime import UTC
from typing import TYPE_CHECKING

from . import queries, workload
from .children import child, say
from .tables import print_table

if TYPE_CHECKING:
    from taskmon.monitor.state import State

TASKS = 1_000_000
CALLS = 5


def searches(tasks: int, task_id: str) -> dict[str, queries.Arguments]:
    """List what is searched for, by a short description: every task has its number in args, kwargs and result."""
    last, some = f"order-{tasks - 1}", f"order-{tasks // 18}"
    texts = {
        "in no task": "nosuchterm",
        "in no task, not ASCII": "größe",
        "the id of one": task_id,
        "the arguments of one": last,
        "in the texts of some": some,
        "in all texts": "order-",
        "in all names": "shop",
        "in one name of 50": "step_07",
        "not what no task has": "-nosuchterm",
        "not what all texts have": "-order-",
        "not what all names have": "-shop",
        "a pair of kwargs, of one": f"kwargs:customer={7 * (tasks // 9)}",
        "a pair of kwargs, of none": "kwargs:customer=nobody",
        "args, of some": f"args:{some}",
        "result, of none": "result:nosuchterm",
        "exception, of some": "exception:ValueError",
        "two, in some": f"{some} customer",
        "two, in none": "nosuchterm nosuchterm2",
        "either, in some": f"{some} OR {last}",
        "any of 20, in none": " OR ".join(f"nosuchterm{number}" for number in range(20)),
        "all of 20, in none": " ".join(f"order-{tasks - number}" for number in range(20)),
        "some, and not a name": f"{some} -step_01",
        "all texts, and not all texts": "order- -customer",
        "two that never meet": "worker-3 step_07",
        "failed, in some": f"state:FAILURE {some}",
        "failed, in none": "state:FAILURE nosuchterm",
        "succeeded, in none": "state:SUCCESS nosuchterm",
        "either of two, and either of two": "(order-1 OR order-2) (step_01 OR nosuchterm)",
    }
    found = {what: {"search": text} for what, text in texts.items()}
    found["in some, by runtime"] = {"search": some, "sort_by": "runtime"}
    found["in some, from half of the time on"] = {"search": some, "received_start": queries.time_at(tasks, 0.5)}
    return found


def time_cpu(state: "State", asked: dict[str, queries.Arguments]) -> dict[str, float]:
    """Give the milliseconds of processor time of each search, the least of some calls: what an idle machine takes."""
    from taskmon.monitor.query import parse_query

    least = {}
    for what, given in asked.items():
        query = parse_query({**given, "limit": str(queries.PAGE)}, UTC)
        seconds = []
        for _ in range(CALLS):
            began = time.thread_time()
            for _ in state.find(query):
                pass
            seconds.append(time.thread_time() - began)
        least[what] = 1e3 * min(seconds)
    return least


def serve_child(tasks: int) -> None:
    """Be the child: load a taskmon, tell what its State took and what to ask, then serve."""
    from .serving import make_decoder, make_taskmon, serve, tune

    async def be_asked() -> None:
        taskmon = make_taskmon(max_tasks=tasks, anonymous_role="viewer")
        decode = make_decoder().decode
        for body in workload.bodies(queries.make_events(tasks)):
            taskmon.monitor.state.apply(decode(body))
        oldest = next(task for task in taskmon.monitor.state.find(TaskQuery(sort_by="received", limit=1)) if task)
        asked = searches(tasks, oldest.uuid)
        say([asked, queries.time_state(taskmon.monitor.state, asked, CALLS), time_cpu(taskmon.monitor.state, asked)])
        await serve(taskmon)

    from taskmon.monitor.query import TaskQuery

    tune()
    asyncio.run(be_asked())


def run(tasks: int) -> None:
    """Load a taskmon in a child, search it for everything and print a table."""
    with child("benchmarks.search", tasks) as server:
        asked, timings, cpu = server.hear()
        over_http = asyncio.run(queries.time_http(server.hear(), asked, CALLS))
    rows = []
    for what, timing in timings.items():
        seconds = over_http[what]
        rows.append([what, cpu[what], *timing, 1e3 * statistics.median(seconds), 1e3 * max(seconds)])
    print_table(
        f"/api/tasks?search=…&limit={queries.PAGE} at {tasks:,} tasks, ms; {CALLS} calls each, and a first one",
        ["search", "CPU", "found", "first", "median", "worst", "longest step", "HTTP median", "HTTP worst"],
        rows,
    )


def main() -> None:
    """Run it from the command line, or as the child that serves."""
    if sys.argv[1:2] == ["--child"]:
        serve_child(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="default: %(default)s")
    run(parser.parse_args().tasks)


if __name__ == "__main__":
    main()
