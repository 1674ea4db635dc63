"""The samples of celery-exporter's metrics, with its names and labels, from taskmon's counts.

The names are those of danihodovic/celery-exporter, for which the dashboards and alerts of the celery-mixin are made.
"""

from collections.abc import Iterator
from typing import Final

from .event_counters import Counts
from .labels import CLIENT
from .readings import Readings
from .series import NOTHING, SENT, Series
from .table import TASK_COUNTERS
from .text import Samples, in_steps, later, of_histograms, of_label

#: What celery-exporter writes where it knows no name, no queue, or may not tell one publisher from another.
_NO_NAME: Final = "None"
_NO_QUEUE: Final = "celery"
_PUBLISHERS: Final = "generic"


class CeleryExporter:
    """Writes what celery-exporter would. Without `worker_label` nothing has a hostname."""

    def __init__(self, counts: Counts, readings: Readings, worker_label: bool) -> None:
        self._counts = counts
        self._readings = readings
        self._worker_label = worker_label

    def make_samples(self, now: float) -> Samples:
        """Return the samples of each metric, by its name in the table."""
        consuming = self._readings.consuming(now).items()
        runtimes = (
            (self._labels(worker, task, queue), times)
            for (worker, task, queue), times in list(self._counts.runtimes.items.items())
        )
        return {
            **self._task_counters(),
            "task_runtime": of_histograms(runtimes, self._counts.runtime_bounds),
            "worker_up": later(lambda: self._of_hosts(self._readings.online(now), most=1)),
            "worker_tasks_active": later(lambda: self._of_hosts(self._readings.executing(now))),
            "queue_length": of_label("queue_name", self._readings.lengths()),
            "active_consumer_count": of_label("queue_name", self._readings.consumers()),
            "active_worker_count": of_label("queue_name", {name: workers for name, (workers, _) in consuming}),
            "active_process_count": of_label("queue_name", {name: size for name, (_, size) in consuming}),
        }

    def _task_counters(self) -> Samples:
        """Count tasks by what happened, once a line is written; whatever can happen at a worker begins at 0."""
        totals: dict[str, dict[str, int]] = {type: {} for type in TASK_COUNTERS}
        counting = self._count_tasks(totals)

        def write(type: str) -> Iterator[str | None]:
            yield from counting
            yield from (f"{{{labels}}} {count}" for labels, count in totals[type].items())

        return {name: write(type) for type, name in TASK_COUNTERS.items()}

    def _count_tasks(self, totals: dict[str, dict[str, int]]) -> Iterator[None]:
        for step in in_steps(list(self._counts.series.items.items())):
            for (worker, type, task, queue), series in step:
                if series.kind == NOTHING:
                    continue
                labels = self._labels(worker, task, queue)
                if series.kind != SENT:
                    for name, total in totals.items():
                        if name != "task-sent":
                            total.setdefault(_with_exception(labels, "") if name == "task-failed" else labels, 0)
                for more, count in _counted(series, labels).items():
                    totals[type][more] = totals[type].get(more, 0) + count
            yield None

    def _labels(self, worker: str, task: str, queue: str) -> str:
        host = f'hostname="{_host(worker)}",' if self._worker_label else ""
        return f'name="{task or _NO_NAME}",{host}queue_name="{queue or _NO_QUEUE}"'

    def _of_hosts(self, values: dict[str, int], most: int | None = None) -> list[str]:
        """Write values by host: celery-exporter does not tell the workers of one host apart."""
        total: dict[str, int] = {}
        for worker, value in values.items():
            host = _host(worker)
            total[host] = total.get(host, 0) + value
        if most is not None:
            total = {host: min(value, most) for host, value in total.items()}
        if self._worker_label:
            return of_label("hostname", total)
        return [f" {value}" for value in total.values()]


def _host(worker: str) -> str:
    """Give the part of a worker's label after the @, or all of it."""
    return _PUBLISHERS if worker == CLIENT else worker.partition("@")[2] or worker


def _counted(series: Series, labels: str) -> dict[str, int]:
    """Give the counts of a series by labels: failures have one more."""
    if series.exceptions is None:
        return {labels: series.count - series.repeats}
    return {_with_exception(labels, name): count for name, count in series.exceptions.items()}


def _with_exception(labels: str, name: str) -> str:
    return f'{labels},exception="{name}"'
