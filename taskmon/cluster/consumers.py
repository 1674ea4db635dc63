"""Consumers: who takes messages from which queue, as workers say. Event loop only."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..records import Worker
from .inspection import Inspection


@dataclass(frozen=True, slots=True)
class ConsumerCounts:
    """How many workers consume from each queue; `is_complete` is whether all that are online have said."""

    by_queue: Mapping[str, int] = field(default_factory=dict)
    is_complete: bool = False

    def of(self, queue: str) -> int | None:
        """Return how many consume from a queue; None where that is not known."""
        return self.by_queue.get(queue, 0 if self.is_complete else None)


class Consumers:
    """What the workers have answered about their queues, of those that are online."""

    def __init__(
        self,
        workers: Mapping[str, Worker],
        inspections: Mapping[str, Inspection],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._inspections = inspections
        self._clock: Final = clock

    def queues(self) -> frozenset[str]:
        """Return the names of all queues that a known worker has said it consumes from."""
        return frozenset(name for inspection in self._inspections.values() for name in inspection.queues)

    def count(self) -> ConsumerCounts:
        """Count the workers online by the queues that they consume from."""
        now = self._clock()
        found: dict[str, int] = {}
        is_complete = True
        for hostname, worker in self._workers.items():
            if not worker.alive(now):
                continue
            inspection = self._inspections.get(hostname)
            if inspection is None or "active_queues" not in inspection.times:
                is_complete = False
                continue
            for name in set(inspection.queues):
                found[name] = found.get(name, 0) + 1
        return ConsumerCounts(found, is_complete)
