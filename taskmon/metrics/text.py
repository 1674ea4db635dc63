"""The samples of taskmon's own metrics and of Flower's, as lines of the text format without the metric's name.

Flower's have their labels in the order of their names and every number as a float, as prometheus_client writes them.

None is a step on which there is no line yet: what grows with workers times task names is made in steps, between which
more may be counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, TypeVar

from .. import __version__
from ..broker_status import BrokerStatus
from ..monitor.state import State
from .event_counters import LAG_BUCKETS, WAIT_BUCKETS, Counts
from .labels import braced
from .readings import AccessCounts, HistoryNumbers, Readings
from .series import NOTHING, SENT, Histogram, edges, number
from .table import HISTORY, TASK_COUNTERS

Steps = Iterable[str | None]
Samples = dict[str, Steps]

#: So many series or histograms are looked at in a step.
_SERIES_PER_SLICE: Final = 200

Item = TypeVar("Item")


def make_samples(counts: Counts, readings: Readings, state: State, broker: BrokerStatus, now: float) -> Samples:
    """Return the samples of each metric, by its name in the table."""
    return {
        "events_total": _events(counts),
        "task_runtime_seconds": _runtimes(counts),
        "task_prefetch_time_seconds": (
            f"{{{pair.labels}}} {number(pair.waited)}"
            for pair in list(counts.pairs.items.values())
            if pair.waited is not None
        ),
        "worker_prefetched_tasks": _prefetched(readings),
        "worker_online": later(lambda: _of_workers(counts, readings.online(now), number)),
        "worker_number_of_currently_executing_tasks": later(
            lambda: _of_workers(counts, readings.executing(now), number)
        ),
        **_task_counters(counts),
        "task_sent_to_received_seconds": _queueing(counts),
        "task_received_to_started_seconds": _waits(counts),
        "worker_pool_size": later(lambda: _of_workers(counts, readings.pool_sizes(now))),
        "worker_heartbeat_age_seconds": later(lambda: _of_workers(counts, readings.heartbeat_ages(now))),
        "queue_length": of_label("queue", readings.lengths()),
        "queue_consumers": of_label("queue", readings.consumers()),
        "queue_oldest_waiting_seconds": of_label("queue", readings.oldest_waiting(now)),
        "events_received_total": [f" {counts.intake.received}"],
        "events_rejected_total": of_label("reason", counts.intake.rejected),
        "event_fields_omitted_total": of_label("field", counts.intake.omitted),
        "events_applied_total": [f" {counts.applied}"],
        "events_applied_per_second": [f" {counts.rate.per_second(now, counts.applied)!r}"],
        "event_lag_seconds": list(counts.lag.samples(edges(LAG_BUCKETS))),
        "tasks": [f" {len(state)}"],
        "workers": [f" {len(state.workers)}"],
        "tasks_evicted_total": [f" {state.evicted_total}"],
        "tasks_orphaned": [f" {state.reconciled.orphaned}"],
        "tasks_reconciled_total": of_label(
            "outcome", {"settled": state.reconciled.settled_total, "orphaned": state.reconciled.orphaned_total}
        ),
        "broker_connected": [f" {int(broker.connected)}"],
        "broker_reconnects_total": [f" {broker.reconnects}"],
        "build_info": [f'{{version="{__version__}"}} 1'],
    }


def make_access_samples(access: AccessCounts | None) -> Samples:
    """Return the samples of the metrics about who gets in."""
    if access is None:
        return {name: [] for name in ("auth_refused_total", "auth_throttled_total", "logins_total", "sessions_total")}
    return {
        "auth_refused_total": of_label("reason", access.refused),
        "auth_throttled_total": [f" {access.refused['throttled']}"],
        "logins_total": of_label("outcome", access.logins),
        "sessions_total": of_label("event", access.sessions),
    }


def make_history_samples(numbers: HistoryNumbers | None) -> Samples:
    """Return the samples of the metrics about the history, none where there is no history."""
    values = numbers._asdict() if numbers else {}
    return {name: [f" {values[name]!r}"] if values else [] for name in HISTORY}


def of_label(label: str, values: Mapping[str, float]) -> list[str]:
    """Write the values of one label."""
    return [f'{{{label}="{name}"}} {value!r}' for name, value in values.items()]


def of_histograms(histograms: Iterable[tuple[str, Histogram]], bounds: Iterable[float]) -> Iterator[str | None]:
    """Write histograms by their labels, those with the same labels as one; leave out those without a count."""
    bounds = tuple(bounds)
    merged: dict[str, Histogram] = {}
    for step in in_steps(histograms):
        for labels, histogram in step:
            if any(histogram.counts):
                if labels not in merged:
                    merged[labels] = Histogram(bounds)
                merged[labels].add(histogram)
        yield None
    names = edges(bounds)
    for labels, histogram in merged.items():
        yield from histogram.samples(names, labels)


def _labelled(values: Mapping[str, float]) -> Iterator[str]:
    return (f"{{{labels}}} {value!r}" for labels, value in values.items())


def _as_floats(values: Mapping[str, float]) -> Iterator[str]:
    return (f"{{{labels}}} {number(value)}" for labels, value in values.items())


def later(make: Callable[[], Iterable[str]]) -> Iterator[str]:
    """Make lines only when they are written: what all workers say, read at once, would take too long."""
    yield from make()


def _of_workers(counts: Counts, values: Mapping[str, float], write: Callable[[float], str] = repr) -> list[str]:
    return [f"{braced(counts.name_worker(worker))} {write(value)}" for worker, value in values.items()]


def in_steps(items: Iterable[Item]) -> Iterator[tuple[Item, ...]]:
    """Take some at a time; of what may grow meanwhile that has to be a copy."""
    items = iter(items)
    while step := tuple(islice(items, _SERIES_PER_SLICE)):
        yield step


def _prefetched(readings: Readings) -> Iterator[str | None]:
    waiting: dict[str, int] = {}
    yield from readings.prefetched(waiting)
    yield from _as_floats(waiting)


def _events(counts: Counts) -> Iterator[str | None]:
    total: dict[str, int] = {}
    for step in in_steps(list(counts.series.items.items())):
        for (worker, type, task, _), series in step:
            labels = counts.name_event(worker, type, task)
            total[labels] = total.get(labels, 0) + series.count
        yield None
    yield from _as_floats(total)


def _task_counters(counts: Counts) -> Samples:
    return {name: _task_counter(counts, type) for type, name in TASK_COUNTERS.items()}


def _task_counter(counts: Counts, type: str) -> Iterator[str | None]:
    """Count tasks by what happened. All that can happen at a worker begins at 0, so that `rate` sees the first."""
    total: dict[str, int] = {}
    for step in in_steps(list(counts.series.items.values())):
        for series in step:
            if series.label == type:
                total[series.labels] = total.get(series.labels, 0) + series.count - series.repeats
            elif type != "task-sent" and series.kind not in (NOTHING, SENT):
                total.setdefault(series.labels, 0)
        yield None
    yield from _labelled(total)


def _runtimes(counts: Counts) -> Iterator[str | None]:
    known = list(counts.runtimes.items.items())
    places = ((counts.name_place(worker, task), times) for (worker, task, _), times in known)
    return of_histograms(places, counts.runtime_bounds)


def _queueing(counts: Counts) -> Iterator[str | None]:
    known = list(counts.queueing.items.items())
    return of_histograms(((f'task="{task}",queue="{queue}"', times) for (task, queue), times in known), WAIT_BUCKETS)


def _waits(counts: Counts) -> Iterator[str | None]:
    return of_histograms([(pair.labels, pair.waits) for pair in counts.pairs.items.values()], WAIT_BUCKETS)
