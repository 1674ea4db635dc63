"""The samples of taskmon's own metrics and of Flower's, as lines of the text format without the metric's name."""

from collections.abc import Iterable, Iterator, Mapping

from taskmon import __version__

from .counting import LAG_BUCKETS, WAIT_BUCKETS, Counts
from .labels import braced
from .readings import Readings
from .series import NOTHING, SENT, Histogram, edges
from .table import HISTORY, TASK_COUNTERS
from .views import BrokerView, HistoryView, StateView

Samples = dict[str, Iterable[str]]


def make_samples(counts: Counts, readings: Readings, state: StateView, broker: BrokerView, now: float) -> Samples:
    """Return the samples of each metric, by its name in the table."""
    return {
        "events_total": _events(counts),
        "task_runtime_seconds": _runtimes(counts),
        "task_prefetch_time_seconds": [
            f"{{{pair.labels}}} {pair.waited!r}" for pair in counts.pairs.items.values() if pair.waited is not None
        ],
        "worker_prefetched_tasks": _labelled(readings.prefetched()),
        "worker_online": _of_workers(counts, readings.online(now)),
        "worker_number_of_currently_executing_tasks": _of_workers(counts, readings.executing(now)),
        **_task_counters(counts),
        "task_sent_to_received_seconds": _queueing(counts),
        "task_received_to_started_seconds": _waits(counts),
        "worker_pool_size": _of_workers(counts, readings.pool_sizes(now)),
        "worker_heartbeat_age_seconds": _of_workers(counts, readings.heartbeat_ages(now)),
        "queue_length": of_label("queue", readings.lengths()),
        "queue_consumers": of_label("queue", readings.consumers()),
        "queue_oldest_waiting_seconds": of_label("queue", readings.oldest_waiting(now)),
        "events_received_total": [f" {counts.taken}"],
        "events_rejected_total": of_label("reason", counts.rejections()),
        "events_applied_total": [f" {counts.applied}"],
        "events_applied_per_second": [f" {counts.rate.per_second(now, counts.applied)!r}"],
        "event_lag_seconds": counts.lag.samples(edges(LAG_BUCKETS)),
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


def make_history_samples(history: HistoryView | None) -> Samples:
    """Return the samples of the metrics about the history, none where there is no history."""
    values: dict[str, float] = {}
    if history is not None:
        status = history.status
        values = {
            "history_available": int(status.available),
            "history_backlog": history.backlog,
            "history_lag_seconds": status.lag(),
            "history_written_total": status.written,
            "history_failures_total": status.failures,
            "history_dropped_total": status.dropped + status.unfit,
            "history_deleted_total": status.deleted,
        }
    return {name: [f" {values[name]!r}"] if values else [] for name in HISTORY}


def of_label(label: str, values: Mapping[str, float]) -> list[str]:
    """Write the values of one label."""
    return [f'{{{label}="{name}"}} {value!r}' for name, value in values.items()]


def of_histograms(histograms: Iterable[tuple[str, Histogram]], bounds: Iterable[float]) -> Iterator[str]:
    """Write histograms by their labels, those with the same labels as one; leave out those without a count."""
    bounds = tuple(bounds)
    merged: dict[str, Histogram] = {}
    for labels, histogram in histograms:
        if any(histogram.counts):
            if labels not in merged:
                merged[labels] = Histogram(bounds)
            merged[labels].add(histogram)
    names = edges(bounds)
    for labels, histogram in merged.items():
        yield from histogram.samples(names, labels)


def _labelled(values: Mapping[str, float]) -> list[str]:
    return [f"{{{labels}}} {value!r}" for labels, value in values.items()]


def _of_workers(counts: Counts, values: Mapping[str, float]) -> list[str]:
    return [f"{braced(counts.name_worker(worker))} {value!r}" for worker, value in values.items()]


def _events(counts: Counts) -> list[str]:
    total: dict[str, int] = {}
    for series in counts.series.items.values():
        labels = f'{series.labels},type="{series.label}"'
        total[labels] = total.get(labels, 0) + series.count
    return _labelled(total)


def _task_counters(counts: Counts) -> Samples:
    """Count tasks by what happened. All that can happen at a worker begins at 0, so that `rate` sees the first."""
    all_series = counts.series.items.values()
    places = {series.labels for series in all_series if series.kind not in (NOTHING, SENT)}
    totals = {type: {} if type == "task-sent" else dict.fromkeys(places, 0) for type in TASK_COUNTERS}
    for series in all_series:
        total = totals.get(series.label)
        if total is not None:
            total[series.labels] = total.get(series.labels, 0) + series.count
    return {name: _labelled(totals[type]) for type, name in TASK_COUNTERS.items()}


def _runtimes(counts: Counts) -> Iterator[str]:
    places = ((counts.name_place(worker, task), times) for (worker, task, _), times in counts.runtimes.items.items())
    return of_histograms(places, counts.runtime_bounds)


def _queueing(counts: Counts) -> Iterator[str]:
    places = ((f'task="{task}",queue="{queue}"', times) for (task, queue), times in counts.queueing.items.items())
    return of_histograms(places, WAIT_BUCKETS)


def _waits(counts: Counts) -> Iterator[str]:
    return of_histograms(((pair.labels, pair.waits) for pair in counts.pairs.items.values()), WAIT_BUCKETS)
