"""What of a worker's answers to inspects each role sees: by lists of what is known to be harmless. Pure.

A worker's configuration and statistics may hold anything: whoever is no admin sees what stands in these lists.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

#: Settings of Celery whose values say how a worker works and not with what credentials.
CONF: Final = frozenset(
    (
        *(
            "accept_content",
            "enable_utc",
            "timezone",
            "imports",
            "include",
            "beat_max_loop_interval",
            "beat_scheduler",
        ),
        *("task_serializer", "task_compression", "task_protocol", "task_default_queue", "task_default_exchange"),
        *("task_default_exchange_type", "task_default_routing_key", "task_default_delivery_mode"),
        *("task_default_priority", "task_default_rate_limit", "task_default_queue_type", "task_queue_max_priority"),
        *("task_create_missing_queues", "task_acks_late", "task_acks_on_failure_or_timeout", "task_ignore_result"),
        *("task_reject_on_worker_lost", "task_store_errors_even_if_ignored", "task_always_eager"),
        *("task_eager_propagates", "task_track_started", "task_send_sent_event", "task_time_limit"),
        *("task_soft_time_limit", "task_publish_retry", "task_inherit_parent_priority", "task_remote_tracebacks"),
        *("result_serializer", "result_compression", "result_accept_content", "result_expires", "result_extended"),
        *("result_persistent", "result_cache_max", "result_chord_join_timeout", "event_serializer", "event_exchange"),
        *(
            "event_queue_expires",
            "event_queue_ttl",
            "event_queue_prefix",
            "control_exchange",
            "control_queue_expires",
        ),
        *("control_queue_ttl", "broker_pool_limit", "broker_heartbeat", "broker_heartbeat_checkrate"),
        *("broker_connection_timeout", "broker_connection_retry", "broker_connection_retry_on_startup"),
        *("broker_connection_max_retries", "broker_channel_error_retry", "worker_concurrency", "worker_pool"),
        *("worker_prefetch_multiplier", "worker_max_tasks_per_child", "worker_max_memory_per_child"),
        *("worker_send_task_events", "worker_enable_remote_control", "worker_disable_rate_limits"),
        *("worker_pool_restarts", "worker_lost_wait", "worker_cancel_long_running_tasks_on_connection_loss"),
        *("worker_proc_alive_timeout", "worker_timer_precision", "worker_soft_shutdown_timeout", "worker_direct"),
        *("worker_enable_soft_shutdown_on_idle", "worker_detect_quorum_queues", "worker_hijack_root_logger"),
        *("worker_deduplicate_successful_tasks", "worker_redirect_stdouts"),
    )
)

_POOL: Final = frozenset(
    (
        *("implementation", "max-concurrency", "max-tasks-per-child", "processes", "put-guarded-by-semaphore"),
        *("timeouts", "free-threads", "running-threads", "threads"),
    )
)
_WRITES: Final = frozenset(("total", "avg", "all", "raw", "strategy", "inqueues"))
_BROKER: Final = frozenset(
    ("hostname", "port", "transport", "ssl", "heartbeat", "connect_timeout", "login_method", "virtual_host", "insist")
)

#: Of the tasks that a worker has, what is not their arguments.
_TASK: Final = frozenset(
    (
        *("id", "name", "type", "hostname", "time_start", "acknowledged", "worker_pid", "eta", "priority"),
        *("request", "delivery_info", "exchange", "routing_key", "redelivered"),
    )
)
_BEAT: Final = frozenset(("task", "schedule"))
_ARGUMENTS: Final = frozenset(("args", "kwargs", "argsrepr", "kwargsrepr"))


def limit_answer(method: str, answer: Any) -> Any:
    """Return what those who are no admin see of an answer."""
    if method == "conf":
        return {name: value for name, value in _pairs(answer).items() if name in CONF and _is_plain(value)}
    if method == "stats":
        return _limit_stats(_pairs(answer))
    if method == "active_queues" and isinstance(answer, list):
        return [_limit_queue(queue) for queue in answer]
    return answer


def hide_arguments(method: str, answer: Any) -> Any:
    """Return an answer without the arguments of tasks: of those that the worker has, and of those that beat sends."""
    if method == "conf":
        return {name: _hide_schedule(name, value) for name, value in _pairs(answer).items()}
    return _hide_in_tasks(answer)


def _limit_stats(stats: Mapping[str, Any]) -> dict[str, Any]:
    shown = {
        name: stats[name] for name in ("clock", "pid", "prefetch_count", "uptime") if _is_number(stats.get(name))
    }
    shown |= {name: _only_numbers(stats[name]) for name in ("total", "rusage") if name in stats}
    if "broker" in stats:
        shown["broker"] = _pick(stats["broker"], _BROKER)
    if "pool" in stats:
        pool = shown["pool"] = _pick(stats["pool"], _POOL)
        if "writes" in _pairs(stats["pool"]):
            pool["writes"] = _pick(stats["pool"]["writes"], _WRITES)
    return {name: shown[name] for name in stats if name in shown}


def _limit_queue(queue: Any) -> Any:
    """Return a queue without the values of its arguments, but for those that brokers define."""
    if isinstance(queue, dict):
        return {
            name: (
                {key: inner for key, inner in value.items() if str(key).startswith("x-") and _is_plain(inner)}
                if name.endswith("arguments") and isinstance(value, dict)
                else _limit_queue(value)
            )
            for name, value in queue.items()
        }
    return [_limit_queue(inner) for inner in queue] if isinstance(queue, list) else queue


def _hide_in_tasks(value: Any) -> Any:
    if isinstance(value, list):
        return [_hide_in_tasks(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: None if key in _ARGUMENTS else _hide_in_tasks(inner)
        for key, inner in value.items()
        if key in _TASK or key in _ARGUMENTS
    }


def _hide_schedule(name: str, value: Any) -> Any:
    """Return a setting without arguments; a schedule that is a text, or whose entries are, may have them in it."""
    if name.lower().endswith("schedule"):
        entries = _pairs(value).items()
        return {entry: _pick(about, _BEAT) if isinstance(about, dict) else None for entry, about in entries}
    if isinstance(value, dict):
        return {key: None if key in _ARGUMENTS else _hide_schedule("", inner) for key, inner in value.items()}
    return [_hide_schedule("", inner) for inner in value] if isinstance(value, list) else value


def _pick(value: Any, names: Collection[str]) -> dict[str, Any]:
    return {name: inner for name, inner in _pairs(value).items() if name in names and _is_plain(inner)}


def _only_numbers(value: Any) -> dict[str, Any]:
    return {name: inner for name, inner in _pairs(value).items() if _is_number(inner)}


def _pairs(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_plain(value: Any) -> bool:
    """Whether a value is a text, a number, or a list of such: nothing in which there could be more."""
    if isinstance(value, list):
        return all(inner is None or isinstance(inner, str | int | float) for inner in value)
    return value is None or isinstance(value, str | int | float)
