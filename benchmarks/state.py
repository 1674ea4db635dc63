"""Decoding and merging alone: `python -m benchmarks.state`. No broker, no HTTP, no thread.

The same message bodies go through taskmon's State, `celery.events.State` and Flower's `EventsState`, each in a
process of its own. At the top it imports nothing but what Flower's environment has too.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from taskmon.receiving.intake import IntakeCounts

from .tables import Cell, print_table
from .workload import BATCH, bodies, events

TASKS = 60_000
RUNS = 3

#: How many tasks are under way at a time in the interleaved layout.
WINDOW = 5_000


class Layout(NamedTuple):
    """An order of events: how many tasks are under way at a time, and which share of all tasks fits into memory."""

    description: str
    window: int = 1
    share: float = 1.0


LAYOUTS = {
    "in order": Layout("each task's four events in a row"),
    "interleaved": Layout(f"{WINDOW:,} tasks at a time, all sent, all received, and so on", window=WINDOW),
    "full memory": Layout("half the tasks fit, so that each new task evicts an old one", share=0.5),
}

#: Bodies that are read from the file at a time, so that the file never counts as memory of State.
_READ = 500

Consume = Callable[[bytes], None]
Count = Callable[[], int]


def _refuse(what: str, detail: str) -> None:
    sys.exit(f"{what}: {detail}")


def taskmon(max_tasks: int, metrics: bool = False) -> tuple[Consume, Count]:
    """Give taskmon's decoder and State, in an interpreter that is tuned as taskmon's is."""
    from taskmon.events import BrokerStatus
    from taskmon.metrics import Metrics
    from taskmon.monitor.state import State
    from taskmon.receiving.decoding import EventDecoder
    from taskmon.settings import Settings
    from taskmon.tuning import tune_interpreter

    settings = Settings()
    decoder = EventDecoder(set(), settings.max_message, settings.max_text, _refuse, _refuse)
    state = State(max_tasks)
    if metrics:
        state.subscribe(
            Metrics("taskmon", settings.task_runtime_metric_buckets, state, BrokerStatus(), IntakeCounts()).observe
        )
    tune_interpreter()
    decode, apply = decoder.decode, state.apply
    return lambda body: apply(decode(body)), lambda: len(state)


def taskmon_with_metrics(max_tasks: int) -> tuple[Consume, Count]:
    """Give the same with what counts every event for /metrics."""
    return taskmon(max_tasks, metrics=True)


def celery(max_tasks: int) -> tuple[Consume, Count]:
    """Give Celery's own State."""
    from celery.events.state import State

    state = State(max_tasks_in_memory=max_tasks)
    return _each_event(state.event), lambda: len(state.tasks)


def flower(max_tasks: int) -> tuple[Consume, Count]:
    """Give Flower's State, metrics and search index included: it has no other."""
    from flower.events import EventsState  # type: ignore[import-not-found]  # it has an environment of its own

    state = EventsState(max_tasks_in_memory=max_tasks)
    return _each_event(state.event), lambda: len(state.tasks)


def _each_event(event: Callable[[dict[str, Any]], object]) -> Consume:
    """Decode as kombu does and hand over event by event, as Celery's receiver does, with the time it adds."""
    loads, now = json.loads, time.time

    def consume(body: bytes) -> None:
        for fields in loads(body):
            fields["local_received"] = now()
            event(fields)

    return consume


FLOWER = "flower EventsState"
CONTENDERS: dict[str, Callable[[int], tuple[Consume, Count]]] = {
    "taskmon": taskmon,
    "taskmon, with metrics": taskmon_with_metrics,
    "celery.events.State": celery,
    FLOWER: flower,
}


def measure(contender: str, path: Path, max_tasks: int) -> dict[str, float]:
    """Feed a file of bodies to a contender; once its memory is full, what went before does not count."""
    consume, count = CONTENDERS[contender](max_tasks)
    before = _resident_bytes()
    seconds, worst, fed, full = 0.0, 0.0, 0, False
    for stretch in _stretches(path):
        if not full and count() >= max_tasks:
            seconds, worst, fed, full = 0.0, 0.0, 0, True
        began = time.process_time()
        for body in stretch:
            start = time.perf_counter()
            consume(body)
            worst = max(worst, time.perf_counter() - start)
        seconds += time.process_time() - began
        fed += len(stretch) * BATCH
    return {
        "us": 1e6 * seconds / fed,
        "bytes": (_resident_bytes() - before) / count(),
        "worst": 1e3 * worst,
    }


def _stretches(path: Path) -> Iterator[list[bytes]]:
    with path.open("rb") as file:
        while stretch := [line.rstrip() for line in islice(file, _READ)]:
            yield stretch


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def run(tasks: int, runs: int, flower: Path | None) -> None:
    """Measure every contender and print a table for each layout; Flower, which takes long, in the first one only."""
    pythons = {contender: Path(sys.executable) for contender in CONTENDERS if contender != FLOWER}
    if flower is not None:
        pythons[FLOWER] = flower
    for name, layout in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "bodies")
            with path.open("wb") as file:
                file.writelines(body + b"\n" for body in bodies(events(tasks, layout.window)))
            most = int(layout.share * tasks) + 1
            rows: list[list[Cell]] = [
                [contender, *_best(runs, contender, path, most, python)] for contender, python in pythons.items()
            ]
        print_table(
            f"State, {name}: {layout.description}. {tasks:,} tasks, {4 * tasks:,} events, best of {runs} runs",
            ["decode and apply", "us CPU/event", "bytes/task", "worst message, ms"],
            rows,
        )
        pythons.pop(FLOWER, None)


def _best(runs: int, contender: str, path: Path, most: int, python: Path) -> list[float]:
    from .children import ask_child

    results = [ask_child("benchmarks.state", contender, path, most, python=python) for _ in range(runs)]
    return [min(result[key] for result in results) for key in ("us", "bytes", "worst")]


def main() -> None:
    """Run it from the command line, or as the child that measures one contender."""
    if sys.argv[1:2] == ["--child"]:
        contender, path, most = sys.argv[2:]
        print(json.dumps(measure(contender, Path(path), int(most))))
        return
    from .flower import DEFAULT_VENV, prepare_flower

    parser = argparse.ArgumentParser(prog="python -m benchmarks.state", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=RUNS, help="the best one counts (default: %(default)s)")
    parser.add_argument(
        "--flower-venv", type=Path, default=DEFAULT_VENV, help="where Flower is, or is put if missing"
    )
    options = parser.parse_args()
    run(options.tasks, options.runs, prepare_flower(options.flower_venv))


if __name__ == "__main__":
    main()
