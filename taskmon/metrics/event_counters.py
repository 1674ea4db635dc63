"""Counts: what is counted of events as they are applied. Event loop only."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

from ..monitor.state import State
from ..receiving.intake import IntakeCounts
from ..records import Event, Task, Worker
from .labels import CLIENT, OTHER, ByteBudget, Labels
from .oldest_waiting import SORT_AT, Waiting
from .series import ENDED, KINDS, NOTHING, RECEIVED, SENT, STARTED, Histogram, Pair, Rate, Series, Table

#: Bounds of what senders of events can make taskmon remember. What is beyond them is counted under `OTHER`.
MAX_TASK_NAMES: Final = 2_000
MAX_WORKERS: Final = 5_000
MAX_QUEUES: Final = 1_000
MAX_EVENT_TYPES: Final = 100
MAX_EXCEPTIONS: Final = 500
MAX_EVENT_SERIES: Final = 50_000
MAX_PAIRS: Final = 10_000

#: Bytes of a scrape for the lines of workers, for all that is counted by task, and for what celery-exporter's metrics
#: have besides. With those of queues they stay under 5 MB; labels that have no room are counted under `OTHER`.
MAX_WORKER_BYTES: Final = 1_000_000
MAX_TASK_BYTES: Final = 3_300_000
MAX_EXCEPTION_BYTES: Final = 300_000

# Lines of a scrape for a worker (with celery-exporter's), a worker's task name, and what one line of a worker has.
_LINES_OF_WORKER: Final = (4, 6)
_LINES_OF_PLACE: Final = 8
_WORKER_LINE_BYTES: Final = 72

LAG_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
WAIT_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)

#: Series that are added up in one step.
SERIES_PER_STEP: Final = 1_000

# Raw (hostname, type, name, queue) keys that are remembered, and how many characters one of them may have.
_MAX_KNOWN: Final = 50_000
_MAX_KNOWN_TEXT: Final = 400

_WORKER_TYPES: Final = frozenset({"worker-online", "worker-heartbeat", "worker-offline"})

# The hostname that Celery gives to a process that only publishes.
_PUBLISHER: Final = re.compile(r"gen\d+@")
_EXCEPTION_CLASS: Final = re.compile(r"\w+(?=\()")

_Raw = tuple[str | None, str, str | None, str | None]


class Counts:
    """The numbers that only grow, and what is known of a task's times at each worker.

    `runtime_bounds` are upper bounds in seconds, ascending, without +Inf. Without `worker_label` all workers share
    their series, whose labels then do not name one. `exceptions` has failures counted by class too.
    """

    def __init__(
        self,
        runtime_bounds: Sequence[float],
        state: State,
        intake: IntakeCounts,
        clock: Callable[[], float],
        *,
        worker_label: bool,
        exceptions: bool,
    ) -> None:
        self.runtime_bounds = runtime_bounds
        self.lag = Histogram(LAG_BUCKETS)
        self.rate = Rate()
        self.applied = 0
        self.intake = intake
        self.waiting = Waiting(state)
        self._make_tables(len(runtime_bounds) + 3, exceptions)
        self._state = state
        self._clock = clock
        self.worker_label = worker_label
        self.by_exception = exceptions
        self._other_worker = OTHER if worker_label else ""
        self._exceptions = Labels(MAX_EXCEPTIONS) if exceptions else None
        self._workers = Labels(
            MAX_WORKERS,
            lines=_LINES_OF_WORKER[exceptions],
            budget=ByteBudget(MAX_WORKER_BYTES, _WORKER_LINE_BYTES),
        )
        self._names = Labels(MAX_TASK_NAMES)
        self._queues = Labels(MAX_QUEUES)
        self._types = Labels(MAX_EVENT_TYPES, KINDS)
        # By the event's own strings: many of these may share a series.
        self._known: dict[_Raw, Series] = {}
        self._known_by_worker: dict[str, list[_Raw]] = {}
        self._no_times = Histogram(())
        self._no_pair = Pair("", self._no_times)

    def _make_tables(self, runtime_lines: int, exporter: bool) -> None:
        """Make what is counted by label values: worker, type, task, queue · worker, task · task, queue, and so on."""
        waits, budget = len(WAIT_BUCKETS) + 3, ByteBudget(MAX_TASK_BYTES - exporter * MAX_EXCEPTION_BYTES)
        self.places: Table[str] = Table(MAX_EVENT_SERIES, self.name_place, _LINES_OF_PLACE, budget)
        #: What celery-exporter's metrics have a line of for each event: worker, task, queue.
        self.exported: Table[bool] = Table(MAX_EVENT_SERIES, lambda *_: True, _LINES_OF_PLACE * exporter, budget)
        self.series: Table[Series] = Table(MAX_EVENT_SERIES, self._new_series, 1, budget)
        self.pairs: Table[Pair] = Table(MAX_PAIRS, self._new_pair, waits + 2, budget)
        self.runtimes: Table[Histogram] = Table(
            MAX_PAIRS, lambda *_: Histogram(self.runtime_bounds), runtime_lines * (1 + exporter), budget
        )
        self.queueing: Table[Histogram] = Table(MAX_PAIRS, lambda *_: Histogram(WAIT_BUCKETS), waits, budget)
        self._exception_bytes = ByteBudget(MAX_EXCEPTION_BYTES)

    def admit(self, worker: str = "", type: str = "", task: str = "", queue: str = "") -> None:
        """Know labels that were admitted in an earlier run."""
        for labels, label in (
            (self._workers, worker),
            (self._types, type),
            (self._names, task),
            (self._queues, queue),
        ):
            labels.restore(label)

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Count the events of one apply, each with the task or worker that it changed: the hot path."""
        known, note, repeated = self._known, self.waiting.note, self._state.repeated
        bounds = self.runtime_bounds
        for event, record in cast("list[tuple[Event, Any]]", changes):
            try:
                series = known[event.hostname, event.type, record.name, record.queue]
            except KeyError:
                series = self._learn(event, record)
            except AttributeError:  # no task: a worker's event, or a custom one
                self._count_without_task(event)
                continue
            series.count += 1
            kind = series.kind
            if kind >= STARTED:
                if kind == STARTED:
                    received = record.received
                    if received is not None and record.eta is None:
                        started = record.started
                        pair = series.pair
                        pair.received = received
                        pair.started = started
                        if started is not None:
                            wait = started - received
                            times = series.times
                            times.counts[bisect_left(WAIT_BUCKETS, wait)] += 1
                            if wait > 0.0:  # else the clocks disagree
                                times.seconds += wait
                    continue
                runtime = event.runtime
                if runtime is not None and runtime >= 0.0:
                    times = series.times
                    times.counts[bisect_left(bounds, runtime)] += 1
                    times.seconds += runtime
                if record.eta is None and record.started is not None:
                    pair = series.pair
                    pair.started = pair.received
                if repeated and id(event) in repeated:
                    series.repeats += 1
                elif series.exceptions is not None:
                    self._count_exception(series, record.exception)
            elif kind == RECEIVED:
                sent = record.sent
                if sent is not None and (received := record.received) is not None:
                    wait = received - sent
                    times = series.times
                    times.counts[bisect_left(WAIT_BUCKETS, wait)] += 1
                    if wait > 0.0:
                        times.seconds += wait
            elif kind == SENT:
                note(record)
        if len(self.waiting.fresh) >= SORT_AT:
            self.waiting.settle()
        now = self._clock()
        if int(now) != self.rate.second:
            self.rate.begin(int(now), self.applied)
        self.applied += len(changes)
        self._observe_lag([event.timestamp for event, _ in changes], now)

    def add_up_by_worker(self, totals: dict[str, dict[str, int]]) -> Iterator[None]:
        """Add the events counted to `totals`, by the label of the worker and by type; yield where others may run."""
        for place, ((worker, type, _, _), series) in enumerate(list(self.series.items.items())):
            of_worker = totals.setdefault(worker, {})
            of_worker[type] = of_worker.get(type, 0) + series.count
            if place % SERIES_PER_STEP == 0:
                yield None

    def find_label(self, hostname: str) -> str | None:
        """Return the label of a worker; None where its events are not counted apart from those of others."""
        label = self.admit_worker(hostname)
        return None if label == self._other_worker else label

    def remove_worker(self, hostname: str) -> None:
        """Drop every series of a worker that State no longer holds; takes time for these alone."""
        label = self._workers.discard(hostname)
        if label is None:
            return
        for raw in self._known_by_worker.pop(label, ()):
            self._known.pop(raw, None)
        for table in (self.series, self.pairs, self.runtimes, self.places, self.exported):
            table.drop(label)

    def _observe_lag(self, stamps: list[float | None], now: float) -> None:
        times = cast("list[float]", stamps)
        try:
            times.sort()
            total = sum(times)
        except TypeError:  # cheaper than to look: State gives a time to every event
            self._observe_lag([stamp for stamp in stamps if stamp is not None], now)
            return
        if not times:
            return
        past = len(times)
        if times[-1] > now:  # the sender's clock is ahead: that is a lag of 0
            past = bisect_right(times, now)
            total = sum(times[:past])
        self.lag.seconds += past * now - total
        # One search per bucket that the batch touches, mostly a single one, instead of one per event.
        counts = self.lag.counts
        first = bisect_left(LAG_BUCKETS, now - times[-1])
        last = bisect_left(LAG_BUCKETS, now - times[0])
        left = len(times)
        for bucket in range(first, last):
            older = bisect_left(times, now - LAG_BUCKETS[bucket])
            counts[bucket] += left - older
            left = older
        counts[last] += left

    def _count_exception(self, series: Series, text: str | None) -> None:
        """Count a failure by the class of its exception, of which the text is the repr."""
        exceptions = series.exceptions
        assert self._exceptions is not None
        assert exceptions is not None
        match = _EXCEPTION_CLASS.match(text or "")
        label = self._exceptions.admit(match[0] if match else "UnknownException")
        if label not in exceptions:
            spent = (label, series.labels)
            if self._exception_bytes.has_room(1, spent):
                self._exception_bytes.spend(1, spent)
            else:
                label = OTHER
        exceptions[label] = exceptions.get(label, 0) + 1

    # Finding the series of an event

    def _count_without_task(self, event: Event) -> None:
        if event.type not in _WORKER_TYPES:
            name = event.name if isinstance(event.name, str) else None
            self._resolve(event.hostname, event.type, name, None).count += 1

    def _learn(self, event: Event, task: Task) -> Series:
        """Find the series of an event about a task, and remember it under the event's own strings."""
        hostname, name, queue = event.hostname, task.name, task.queue
        series = self._resolve(hostname, event.type, name, queue)
        if len(hostname or "") + len(event.type) + len(name or "") + len(queue or "") <= _MAX_KNOWN_TEXT:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
                self._known_by_worker.clear()
            raw = (hostname, event.type, name, queue)
            self._known[raw] = series
            self._known_by_worker.setdefault(series.worker, []).append(raw)
        return series

    def _resolve(self, hostname: str | None, type: str, name: str | None, queue: str | None) -> Series:
        is_client = type == "task-sent" or (
            _PUBLISHER.match(hostname or "") is not None and hostname not in self._state.workers
        )
        worker = self.admit_worker(hostname or "") if not is_client else CLIENT if self.worker_label else ""
        label = self._types.admit(type)
        beyond = (self._other_worker, label, OTHER, OTHER)
        key = (worker, label, self._names.admit(name or ""), self._queues.admit(queue or ""))
        if key not in self.series.items and not self._has_room(worker, *key[2:]):
            key = beyond
        return self.series.get(key, beyond)

    def _has_room(self, worker: str, task: str, queue: str) -> bool:
        return self.places.has_room((worker, task)) and self.exported.has_room((worker, task, queue))

    def admit_worker(self, hostname: str) -> str:
        """Return the label of a worker; empty where there is none."""
        return self._workers.admit(hostname) if self.worker_label else ""

    def pair_of(self, hostname: str, name: str) -> Pair:
        """Return what is kept of a task name at a worker."""
        return self._pair(self.admit_worker(hostname), self._names.admit(name))

    def name_worker(self, worker: str) -> str:
        """Write the label of a worker; empty where there is none."""
        return f'worker="{worker}"' if self.worker_label else ""

    def _pair(self, worker: str, task: str) -> Pair:
        return self.pairs.get((worker, task), (self._other_worker, OTHER))

    def _new_pair(self, worker: str, task: str) -> Pair:
        return Pair(self._name_known_place(worker, task), Histogram(WAIT_BUCKETS))

    def _name_known_place(self, worker: str, task: str) -> str:
        return self.places.items.get((worker, task)) or self.name_place(worker, task)

    def name_place(self, worker: str, task: str) -> str:
        """Return the labels of a task name at a worker, in the order of their names."""
        return f'task="{task}",worker="{worker}"' if self.worker_label else f'task="{task}"'

    def name_event(self, worker: str, type: str, task: str) -> str:
        """Return the labels of a type of event about a task name at a worker, in the order of their names."""
        place = f',worker="{worker}"' if self.worker_label else ""
        return f'task="{task}",type="{type}"{place}'

    def _new_series(self, worker: str, type: str, task: str, queue: str) -> Series:
        kind = KINDS.get(type, NOTHING)
        times, pair = self._no_times, self._no_pair
        if kind == RECEIVED:
            times = self.queueing.get((task, queue), (OTHER, OTHER))
        elif kind == STARTED:
            pair = self._pair(worker, task)
            times = pair.waits
        elif kind == ENDED:
            pair = self._pair(worker, task)
            times = self.runtimes.get((worker, task, queue), (self._other_worker, OTHER, OTHER))
        self.exported.get((worker, task, queue), (worker, task, queue))
        place = self.places.get((worker, task), (worker, task))
        series = Series(kind, type, place, times, pair, worker)
        if type == "task-failed" and self._exceptions is not None:
            series.exceptions = {}
        return series
