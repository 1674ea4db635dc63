"""Readings: what a scrape reads of workers and queues, by label. It asks nobody, and nothing here waits."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import add
from typing import Final, NamedTuple, TypeVar

from ..cluster.inspection import Inspector
from ..cluster.queue_lengths import QueueLength
from ..cluster.queues import Queues
from ..monitor.state import State
from .event_counters import Counts
from .labels import OTHER, ByteBudget, clean_label

#: Lengths of queues that are older, in seconds, are no longer told.
MAX_AGE: Final = 60.0

#: Bytes of a scrape for the lines of one metric of queues; the other queues are added up under `OTHER`.
MAX_QUEUE_BYTES: Final = 80_000

#: Pairs of a worker and a task name that are looked at in a step.
PAIRS_PER_STEP: Final = 1_000


Value = TypeVar("Value")


class HistoryNumbers(NamedTuple):
    """How writing the history goes: each field is the metric of its name."""

    history_available: int
    history_backlog: int
    history_lag_seconds: float
    history_at_risk_seconds: float
    history_written_total: int
    history_failures_total: int
    history_dropped_total: int
    history_refused_total: int
    history_cleaned_total: int
    history_deleted_total: int


class AccessCounts(NamedTuple):
    """Refused requests by reason, logins by outcome and sessions by event; they go on being counted."""

    refused: Mapping[str, int]
    logins: Mapping[str, int]
    sessions: Mapping[str, int]


class Readings:
    """The gauges that taskmon and celery-exporter have in common, added up where workers share a label."""

    def __init__(self, counts: Counts, state: State, queues: Queues | None, inspector: Inspector | None) -> None:
        self._counts = counts
        self._state = state
        self._queues = queues
        self._inspector = inspector

    def online(self, now: float) -> dict[str, int]:
        """Count the workers online by label."""
        return self._add_up((host, int(worker.alive(now))) for host, worker in self._state.workers.items())

    def executing(self, now: float) -> dict[str, int]:
        """Count what the workers run by label; 0 for one that is offline."""
        return self._add_up(
            (host, max(worker.active, 0) if worker.alive(now) else 0)
            for host, worker in self._state.workers.items()
            if worker.active is not None
        )

    def pool_sizes(self, now: float) -> dict[str, int]:
        """Count by label what the workers that have been asked can run; 0 for one that is offline."""
        return self._add_up(
            (host, size if worker.alive(now) else 0)
            for host, worker in self._state.workers.items()
            if (size := self._pool_size(host)) is not None
        )

    def heartbeat_ages(self, now: float) -> dict[str, float]:
        """Tell by label how long ago a worker gave a sign of life: the longest, where workers share a label."""
        ages: dict[str, float] = {}
        for hostname, worker in self._state.workers.items():
            label = self._counts.admit_worker(hostname)
            ages[label] = max(ages.get(label, 0.0), now - worker.seen)
        return ages

    def prefetched(self, waiting: dict[str, int]) -> Iterator[None]:
        """Count to `waiting` what waits in workers, by the labels of worker and task; yield where others may run."""
        # State forgets a pair that has nothing waiting; a series that has begun goes on with 0.
        waiting.update({pair.labels: 0 for pair in self._counts.pairs.items.values() if pair.waited is not None})
        for place, ((hostname, name), count) in enumerate(self._state.prefetched.items()):
            labels = self._counts.pair_of(hostname, name).labels
            waiting[labels] = waiting.get(labels, 0) + count
            if place % PAIRS_PER_STEP == 0:
                yield None

    def lengths(self) -> dict[str, int]:
        """Tell how many messages each queue has, as far as that is known and no older than MAX_AGE."""
        return self._of_queues(lambda queue: queue.messages)

    def consumers(self) -> dict[str, int]:
        """Tell how many consume from each queue, likewise."""
        return self._of_queues(lambda queue: queue.consumers)

    def oldest_waiting(self, now: float) -> dict[str, float]:
        """Return by queue the age of the task that waits longest, of those sent to it; 0 where none waits.

        None waits in a queue known to be empty: it was purged, or its workers send no events.
        """
        latest = self._latest()
        ages = {clean_label(name): 0.0 for name, queue in latest.items() if queue.messages == 0}
        for name, sent in self._counts.waiting.oldest():
            queue = latest.get(name)
            waits = sent is not None and (queue is None or queue.messages != 0)
            label = clean_label(name)
            ages[label] = max(ages.get(label, 0.0), now - sent if waits and sent is not None else 0.0)
        return _fit(ages, max)

    def consuming(self, now: float) -> dict[str, tuple[int, int]]:
        """Count by queue the workers online that consume from it, and what these can run at a time."""
        found = {clean_label(name): (0, 0) for name in self._latest()}
        for hostname, inspection in (self._inspector.inspections if self._inspector else {}).items():
            worker = self._state.workers.get(hostname)
            alive = worker is not None and worker.alive(now)
            for name in set(inspection.queues):
                label = clean_label(name)
                workers, processes = found.get(label, (0, 0))
                found[label] = (workers + alive, processes + ((inspection.pool_size or 0) if alive else 0))
        return _fit(found, lambda one, other: (one[0] + other[0], one[1] + other[1]))

    def _add_up(self, values: Iterable[tuple[str, int]]) -> dict[str, int]:
        total: dict[str, int] = {}
        for hostname, value in values:
            label = self._counts.admit_worker(hostname)
            total[label] = total.get(label, 0) + value
        return total

    def _pool_size(self, hostname: str) -> int | None:
        inspection = self._inspector.inspections.get(hostname) if self._inspector else None
        return inspection.pool_size if inspection else None

    def _latest(self) -> Mapping[str, QueueLength]:
        age = self._queues.age if self._queues else None
        return self._queues.latest if self._queues and age is not None and age <= MAX_AGE else {}

    def _of_queues(self, number: Callable[[QueueLength], int | None]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, queue in self._latest().items():
            value = number(queue)
            if value is not None:
                label = clean_label(name)
                found[label] = found.get(label, 0) + value
        return _fit(found, add)


def _fit(values: dict[str, Value], merge: Callable[[Value, Value], Value]) -> dict[str, Value]:
    """Keep the values that fit into a scrape, by label; all others are one, under `OTHER`."""
    budget = ByteBudget(MAX_QUEUE_BYTES)
    kept: dict[str, Value] = {}
    for label, value in values.items():
        if not budget.has_room(1, (label,)):
            kept[OTHER] = merge(kept[OTHER], value) if OTHER in kept else value
        else:
            budget.spend(1, (label,))
            kept[label] = merge(kept[label], value) if label in kept else value
    return kept
