"""Metrics: all of it together, as the rest of taskmon sees it, and the text that a scrape gets. Event loop only.

A scrape writes its own text, in pieces: prometheus_client's children cost more per event, its writer ten times more
per line, and the loop would stand still meanwhile.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite
from typing import Final

from celery.states import PENDING
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from ..broker_status import BrokerStatus
from ..cluster.inspection import Inspector
from ..cluster.queues import Queues
from ..monitor.state import State
from ..receiving.intake import IntakeCounts
from ..records import Task
from .counter_snapshot import Totals, restore_counts, save_counts
from .event_counters import Counts
from .exporter import CeleryExporter
from .readings import AccessCounts, HistoryNumbers, Readings
from .table import CELERY_EXPORTER, METRICS, Metric
from .text import Samples, make_access_samples, make_history_samples, make_samples

#: Lines of a piece, about.
_LINES: Final = 500

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Count events as they are applied and write everything in Prometheus' text format.

    `prefix` begins the names that Flower has too. `runtime_buckets` are upper bounds in seconds, in any order, with
    or without +Inf. `clock` gives epoch seconds. `registry` holds the collectors of prometheus_client, which speak
    of the process and the interpreter.

    `observe` counts the changes of one apply, `remove_worker` drops the series of a worker; `add_up_by_worker` and
    `find_label` answer how many events of each type a worker has sent. `intake` has what was
    received and rejected.
    """

    def __init__(
        self,
        prefix: str,
        runtime_buckets: Sequence[float],
        state: State,
        broker: BrokerStatus,
        intake: IntakeCounts,
        *,
        queues: Queues | None = None,
        inspector: Inspector | None = None,
        worker_label: bool = True,
        celery_exporter: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
        self._prefix = prefix
        self._state = state
        self._broker = broker
        self._clock = clock
        self._queues = queues
        self._read_history: Callable[[], HistoryNumbers] | None = None
        self._access: AccessCounts | None = None
        bounds = sorted({float(bound) for bound in runtime_buckets if isfinite(bound)})
        counts = Counts(bounds, state, intake, clock, worker_label=worker_label, exceptions=celery_exporter)
        self._counts = counts
        self._readings = Readings(counts, state, queues, inspector)
        self._exporter = CeleryExporter(counts, self._readings, worker_label) if celery_exporter else None
        self.observe: Final = counts.observe
        self.remove_worker: Final = counts.remove_worker
        self.add_up_by_worker: Final = counts.add_up_by_worker
        self.find_label: Final = counts.find_label

    def watch_history(self, read: Callable[[], HistoryNumbers]) -> None:
        """Tell of a history too, which is made later."""
        self._read_history = read

    def watch_access(self, access: AccessCounts) -> None:
        """Tell of who was kept out, too."""
        self._access = access

    def save(self) -> str:
        """Write all that has been counted, for a later run."""
        reconciled = self._state.reconciled
        queues = self._queues.known.save() if self._queues else {}
        totals = Totals(self._state.evicted_total, reconciled.settled_total, reconciled.orphaned_total, queues)
        return save_counts(self._counts, totals)

    def restore(self, document: str | None, tasks: Iterable[Task]) -> Totals:
        """Go on from what an earlier run saved, and with the tasks that it held; give what State goes on from."""
        for task in tasks:
            if task.state == PENDING and task.sent is not None:
                self._counts.waiting.note(task)
        totals = Totals() if document is None else restore_counts(self._counts, document)
        if self._queues:
            self._queues.known.restore(totals.queues)
        return totals

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4, see `CONTENT_TYPE`."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield all metrics a piece at a time, some of them empty; between two of them others may run."""
        yield generate_latest(self.registry)
        now = self._clock()
        samples = make_samples(self._counts, self._readings, self._state, self._broker, now)
        history = self._read_history() if self._read_history else None
        yield from self._write(METRICS, samples | make_history_samples(history) | make_access_samples(self._access))
        if self._exporter is not None:
            yield from self._write(CELERY_EXPORTER, self._exporter.make_samples(now))

    def _write(self, table: Iterable[Metric], samples: Samples) -> Iterator[bytes]:
        for metric in table:
            name = metric.full_name(self._prefix)
            lines = [f"# HELP {name} {metric.help}\n", f"# TYPE {name} {metric.kind}\n"]
            for sample in samples[metric.name]:
                if sample is not None:
                    lines.append(f"{name}{sample}\n")
                if sample is None or len(lines) >= _LINES:
                    yield "".join(lines).encode()
                    lines.clear()
            yield "".join(lines).encode()
