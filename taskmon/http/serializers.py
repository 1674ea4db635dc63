"""What goes out over HTTP: records become the structs of `answers.py` here, and these become JSON."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from celery.states import FAILURE
from msgspec import UNSET

from ..monitor.completeness import find_gaps
from ..monitor.dated_ahead import parse_reported
from ..outcomes import ORPHANED, SETTLED
from ..records import Task, Worker
from .answers import (
    Error,
    ErrorAnswer,
    Finding,
    Findings,
    Heartbeat,
    Message,
    Published,
    QueueLength,
    QueueList,
    ResultObject,
    Revoked,
    TaskNames,
    TaskObject,
    TreeTask,
    WorkerObject,
)

#: The types of events about tasks that a row of Flower's page of workers always counts.
TASK_EVENTS: Final = tuple(
    f"task-{what}" for what in ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected")
)
_HEARTBEAT: Final = Heartbeat.__struct_fields__[1:]

#: What stands for the answers to inspect that a worker has not given.
_NO_ANSWERS: Final = {
    **dict.fromkeys(("stats", "conf"), msgspec.Raw(b"{}")),
    **dict.fromkeys(
        ("active_queues", "registered", "scheduled", "active", "reserved", "revoked"), msgspec.Raw(b"[]")
    ),
}

#: Encode to strict JSON: no NaN, no lone surrogates.
encode: Final = msgspec.json.Encoder().encode


#: Returns the ids of the task that one was retried as, and of the one that it is a retry of.
Links = Callable[[str], tuple[str | None, str | None]]


def task_body(task: Task, children: list[str], links: tuple[str | None, str | None] = (None, None)) -> TaskObject:
    """Give the task object of Flower's API: times in epoch seconds, None for what is not known.

    Newer Flower names the id `uuid`, older Flower and its manual `task-id`: both are there. By their places the
    fields cost half of what they would by name, and a listing does this for every task.
    """
    return TaskObject(
        task.uuid,
        task.uuid,
        task.name,
        task.state,
        task.received,
        task.sent,
        task.started,
        task.rejected,
        task.succeeded,
        task.failed,
        task.retried,
        task.revoked,
        task.args,
        task.kwargs,
        task.eta,
        task.expires,
        task.retries,
        task.worker,
        task.result,
        task.exception,
        task.timestamp,
        task.runtime,
        task.traceback,
        task.exchange,
        task.routing_key,
        task.queue,
        task.clock,
        task.client,
        task.root_id,
        task.root_id,
        task.parent_id,
        task.parent_id,
        children,
        find_gaps(task),
        SETTLED if task.reconciled == SETTLED else "events",
        task.reconciled == ORPHANED,
        *links,
        parse_reported(task.reported) if task.reported is not None else UNSET,
    )


def task_members(tasks: Collection[tuple[Task, list[str]]], links: Links) -> bytes:
    """Encode tasks, each with its children, as members of a listing: an id, a colon, a task object, and so on."""
    return encode({task.uuid: task_body(task, children, links(task.uuid)) for task, children in tasks})[1:-1]


def task_items(tasks: Collection[tuple[Task, list[str]]], links: Links) -> bytes:
    """Encode tasks, each with its children, as items of an array, with commas between them."""
    return encode([task_body(task, children, links(task.uuid)) for task, children in tasks])[1:-1]


def datatable_opening(draw: int, total: int, matching: int) -> bytes:
    """Encode the answer of `/tasks/datatable` up to its tasks, which are to follow, then a bracket and a brace."""
    return encode({"draw": draw, "recordsTotal": total, "recordsFiltered": matching})[:-1] + b',"data":['


def datatable_error(draw: int, total: int, message: str) -> dict[str, Any]:
    """Return the answer of `/tasks/datatable` to a search that cannot be read."""
    return {"draw": draw, "recordsTotal": total, "recordsFiltered": 0, "data": [], "searchError": message}


def task_types_body(names: list[str], other: int) -> TaskNames:
    """Return the answer of `/api/task/types`; `other` names are left out."""
    return TaskNames(names, other or UNSET)


def tree_opening(task_id: str, root: str, truncated: bool) -> bytes:
    """Encode the answer of `/api/task/tree` up to its tasks, which are to follow, and then two closing braces."""
    return encode({"task-id": task_id, "root": root, "truncated": truncated})[:-1] + b',"tasks":{'


def tree_member(task_id: str, task: Task | None, parent: str | None, children: list[str]) -> bytes:
    """Encode a task as one member of a tree: its id, a colon, its object; what is not held has no state."""
    told: list[Any] = [getattr(task, field, None) for field in TreeTask.__struct_fields__[1:-2]]
    return encode(task_id) + b":" + encode(TreeTask(*[task_id, *told, parent, children]))


def finding_member(code: str, message: str, setting: str | None, **more: Any) -> Finding:
    """Give one finding of `/api/diagnostics`; of what it may say more, only what it does say."""
    return Finding(code, message, setting, **{name: value for name, value in more.items() if value})


def diagnostics_body(findings: list[Finding]) -> Findings:
    """Give the answer of `/api/diagnostics`."""
    return Findings(findings)


def error_body(status: int, message: str, **more: str) -> ErrorAnswer:
    """Give the body of every answer that is an error."""
    return ErrorAnswer(Error(status, message, **more))


def message_body(message: str) -> Message:
    """Give the answer of a request that changed something."""
    return Message(message)


def revoked_body(task_ids: Collection[str], revoked: int, dry_run: bool, more: bool) -> Revoked:
    """Give the answer of `/api/tasks/revoke`; `more` says that more tasks match than are revoked at once."""
    return Revoked(list(task_ids), revoked, dry_run, more)


def worker_body(
    worker: Worker, answers: Mapping[str, msgspec.Raw], inspected: float | None, now: float
) -> WorkerObject:
    """Give the object of a worker: its answers to inspect, as far as there are any, and what its heartbeats say.

    `inspected` is the time of the oldest of these answers, in epoch seconds; `age` is how old that is.
    """
    return WorkerObject(
        **{**_NO_ANSWERS, **answers},
        timestamp=inspected,
        status=worker.status(now),
        last_seen=worker.seen,
        age=None if inspected is None else max(0.0, now - inspected),
        heartbeat=Heartbeat(*[getattr(worker, field) for field in Heartbeat.__struct_fields__]),
    )


def worker_row(worker: Worker, counts: Mapping[str, int] | None, now: float) -> dict[str, Any]:
    """Return a row of Flower's page of workers; `counts` has the number of its events by type, None if not known."""
    return {
        **dict.fromkeys(TASK_EVENTS, None if counts is None else 0),
        **(counts or {}),
        "hostname": worker.hostname,
        "status": worker.alive(now),
        "heartbeats": [] if worker.timestamp is None else [worker.timestamp],
        **{field: getattr(worker, field) for field in _HEARTBEAT},
    }


def worker_member(worker: Worker, answers: Mapping[str, msgspec.Raw], inspected: float | None, now: float) -> bytes:
    """Encode a worker as one member of a listing: its hostname, a colon, its object."""
    return encode(worker.hostname) + b":" + encode(worker_body(worker, answers, inspected, now))


def queue_member(
    name: str, ready: int | None, unacknowledged: int | None, consumers: int | None, reason: str | None
) -> QueueLength:
    """Return one queue of `/api/queues/length`; None is not known, and `reason` says why of `ready`."""
    messages = None if ready is None else ready + (unacknowledged or 0)
    return QueueLength(name, messages, ready, unacknowledged, consumers, UNSET if reason is None else reason)


def queue_lengths_body(queues: Collection[QueueLength]) -> QueueList:
    """Give the answer of `/api/queues/length`."""
    return QueueList(list(queues))


def published_body(task_id: str, state: str | None) -> Published:
    """Give the answer about a task that was published; without a result backend there is no state."""
    return Published(task_id, UNSET if state is None else state)


def result_body(
    task_id: str,
    state: str,
    *,
    ready: bool,
    value: Any = None,
    traceback: str | None = None,
    reason: str | None = None,
) -> ResultObject:
    """Give the state of a task and, once it is ready, its result; `reason` says why that is missing, if it is."""
    return ResultObject(
        task_id,
        state,
        value if ready else UNSET,
        traceback if state == FAILURE else UNSET,
        UNSET if reason is None else reason,
    )
