"""The table of metrics: names, kinds, labels and help. The docs are tested against it."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

#: `taskmon_events_applied_per_second` is an average over this many whole seconds.
RATE_SECONDS: Final = 5

#: Event type to the metric that counts it by worker and task.
TASK_COUNTERS: Final = {
    f"task-{word}": f"task_{word}_total"
    for word in ("sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected")
}


class Metric(NamedTuple):
    """One metric; `owner` tells whose it is, and with that how its name begins."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    owner: Literal["taskmon", "flower", "celery-exporter"] = "taskmon"

    def full_name(self, prefix: str = "taskmon") -> str:
        """Return the name as it is exposed; `prefix` is for the metrics that Flower has too."""
        begin = {"taskmon": "taskmon", "flower": prefix, "celery-exporter": "celery"}
        return f"{begin[self.owner]}_{self.name}"


def _flower(name: str, kind: Kind, labels: str, text: str) -> Metric:
    return Metric(name, kind, text, tuple(labels.split()), "flower")


def _own(name: str, kind: Kind, labels: str, text: str) -> Metric:
    return Metric(name, kind, text, tuple(labels.split()))


def _exported(name: str, kind: Kind, labels: str, text: str) -> Metric:
    return Metric(name, kind, text, tuple(labels.split()), "celery-exporter")


_HAPPENED: Final = {
    "sent": "Tasks that were published.",
    "received": "Tasks that a worker received.",
    "started": "Tasks that began to run.",
    "succeeded": "Tasks that succeeded.",
    "failed": "Tasks that failed.",
    "retried": "Tasks that failed and will be tried again.",
    "revoked": "Tasks that were revoked.",
    "rejected": "Tasks that a worker rejected.",
}


def _exported_counters() -> Iterator[Metric]:
    for word, text in _HAPPENED.items():
        labels = "name hostname exception queue_name" if word == "failed" else "name hostname queue_name"
        yield _exported(f"task_{word}_total", "counter", labels, text)


#: Every metric that is always there, in the order of the exposition.
METRICS: Final[tuple[Metric, ...]] = (
    _flower("events_total", "counter", "worker type task", "Events about tasks, and custom events."),
    _flower("task_runtime_seconds", "histogram", "worker task", "How long tasks ran, as the worker said."),
    _flower("task_prefetch_time_seconds", "gauge", "worker task", "Wait of the last start; 0 after an end."),
    _flower("worker_prefetched_tasks", "gauge", "worker task", "Tasks waiting, without those with an ETA."),
    _flower("worker_online", "gauge", "worker", "1 while the heartbeats of a worker come, else 0."),
    _flower("worker_number_of_currently_executing_tasks", "gauge", "worker", "Tasks the worker says it runs."),
    *(_own(f"task_{word}_total", "counter", "worker task", text) for word, text in _HAPPENED.items()),
    _own("task_sent_to_received_seconds", "histogram", "task queue", "How long tasks waited in a queue."),
    _own("task_received_to_started_seconds", "histogram", "worker task", "How long tasks waited in a worker."),
    _own("worker_pool_size", "gauge", "worker", "Tasks a worker can run at a time; 0 when it is offline."),
    _own("worker_heartbeat_age_seconds", "gauge", "worker", "Since the last sign of life of a worker."),
    _own("queue_length", "gauge", "queue", "Messages in a queue."),
    _own("queue_consumers", "gauge", "queue", "Who consumes from a queue, where the broker tells."),
    _own("queue_oldest_waiting_seconds", "gauge", "queue", "Age of the oldest task that no worker has received."),
    _own("events_received_total", "counter", "", "Events taken from the broker."),
    _own("events_rejected_total", "counter", "reason", "Messages and events that were refused."),
    _own(
        "event_fields_omitted_total",
        "counter",
        "field",
        "Fields left out of events: not of their type, or out of range.",
    ),
    _own("events_applied_total", "counter", "", "Events applied to what taskmon holds."),
    _own("events_applied_per_second", "gauge", "", f"Events applied per second, over {RATE_SECONDS} seconds."),
    _own("event_lag_seconds", "histogram", "", "From the time of an event to the moment it was applied."),
    _own("tasks", "gauge", "", "Tasks held in memory."),
    _own("workers", "gauge", "", "Workers held in memory, online or not."),
    _own("tasks_evicted_total", "counter", "", "Tasks dropped from memory to make room."),
    _own("tasks_orphaned", "gauge", "", "Unfinished tasks held that nobody has."),
    _own("tasks_reconciled_total", "counter", "outcome", "Tasks whose end was missed: settled or orphaned."),
    _own("broker_connected", "gauge", "", "1 while taskmon is connected to the broker, else 0."),
    _own("broker_reconnects_total", "counter", "", "Times the connection to the broker was made again."),
    _own("history_available", "gauge", "", "1 while the history is written, 0 while its database is away."),
    _own("history_backlog", "gauge", "", "Tasks that have changed and are not written to the history yet."),
    _own("history_lag_seconds", "gauge", "", "Age of the oldest change that is not in the history."),
    _own("history_at_risk_seconds", "gauge", "", "Age of the oldest change that a kill would lose."),
    _own("history_written_total", "counter", "", "Tasks written to the history, each as often as it was."),
    _own("history_failures_total", "counter", "", "Times that writing the history failed."),
    _own("history_dropped_total", "counter", "", "Changes that the history has lost: too many, or not to be stored."),
    _own("history_refused_total", "counter", "", "Rows that the history's database refuses, which are left out."),
    _own("history_cleaned_total", "counter", "", "Tasks whose row was changed so that the database takes it."),
    _own("history_deleted_total", "counter", "", "Tasks deleted from the history, too old or too many."),
    _own("auth_refused_total", "counter", "reason", "Requests that were refused for who sends them, or how."),
    _own("auth_throttled_total", "counter", "", "Requests refused because too many came, or too many failed."),
    _own("logins_total", "counter", "outcome", "Logins with a provider: done or refused."),
    _own("sessions_total", "counter", "event", "Sessions of people: started by a login, or ended by a logout."),
    _own("build_info", "gauge", "version", "Always 1; the label is the version of taskmon."),
)

#: The metrics that are there with --history only.
HISTORY: Final = tuple(metric.name for metric in METRICS if metric.name.startswith("history_"))

#: The metrics of celery-exporter, which are there when they are asked for.
CELERY_EXPORTER: Final[tuple[Metric, ...]] = (
    *_exported_counters(),
    _exported("task_runtime", "histogram", "name hostname queue_name", "How long tasks ran, in seconds."),
    _exported("worker_up", "gauge", "hostname", "1 while the heartbeats of a worker come, else 0."),
    _exported("worker_tasks_active", "gauge", "hostname", "Tasks the worker says it runs."),
    _exported("queue_length", "gauge", "queue_name", "Messages in a queue."),
    _exported("active_consumer_count", "gauge", "queue_name", "Who consumes from a queue, where the broker tells."),
    _exported("active_worker_count", "gauge", "queue_name", "Workers online that consume from a queue."),
    _exported("active_process_count", "gauge", "queue_name", "Tasks the workers of a queue can run at a time."),
)
