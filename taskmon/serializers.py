"""What goes out over HTTP: records become JSON here, and nowhere else. The only home of the wire names of fields."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from celery.states import FAILURE

from .gaps import find_gaps
from .records import Task, Worker

#: Encode to strict JSON: no NaN, no lone surrogates.
encode: Final = msgspec.json.Encoder().encode

#: What a tree says of a task, besides its kin.
_TREE_FIELDS: Final = (
    *("name", "state", "worker", "sent", "received", "started", "rejected", "succeeded", "failed", "retried"),
    *("revoked", "timestamp", "runtime"),
)


def task_body(task: Task, children: list[str]) -> dict[str, Any]:
    """Give the task object of Flower's API: times in epoch seconds, None for what is not known.

    Newer Flower names the id `uuid`, older Flower and its manual `task-id`: both are there.
    """
    return {
        "task-id": task.uuid,
        "uuid": task.uuid,
        "name": task.name,
        "state": task.state,
        "received": task.received,
        "sent": task.sent,
        "started": task.started,
        "rejected": task.rejected,
        "succeeded": task.succeeded,
        "failed": task.failed,
        "retried": task.retried,
        "revoked": task.revoked,
        "args": task.args,
        "kwargs": task.kwargs,
        "eta": task.eta,
        "expires": task.expires,
        "retries": task.retries,
        "worker": task.worker,
        "result": task.result,
        "exception": task.exception,
        "timestamp": task.timestamp,
        "runtime": task.runtime,
        "traceback": task.traceback,
        "exchange": task.exchange,
        "routing_key": task.routing_key,
        "queue": task.queue,
        "clock": task.clock,
        "client": task.client,
        "root": task.root_id,
        "root_id": task.root_id,
        "parent": task.parent_id,
        "parent_id": task.parent_id,
        "children": children,
        "incomplete": find_gaps(task),
    }


def task_members(tasks: Collection[tuple[Task, list[str]]]) -> bytes:
    """Encode tasks, each with its children, as members of a listing: an id, a colon, a task object, and so on."""
    return encode({task.uuid: task_body(task, children) for task, children in tasks})[1:-1]


def task_types_body(names: list[str]) -> dict[str, list[str]]:
    """Give the answer of `/api/task/types`."""
    return {"task-types": names}


def tree_opening(task_id: str, root: str, truncated: bool) -> bytes:
    """Encode the answer of `/api/task/tree` up to its tasks, which are to follow, and then two closing braces."""
    return encode({"task-id": task_id, "root": root, "truncated": truncated})[:-1] + b',"tasks":{'


def tree_member(task_id: str, task: Task | None, parent: str | None, children: list[str]) -> bytes:
    """Encode a task as one member of a tree: its id, a colon, its object; what is not held has no state."""
    told = {field: getattr(task, field, None) for field in _TREE_FIELDS}
    return encode(task_id) + b":" + encode({"task-id": task_id, **told, "parent": parent, "children": children})


def finding_member(code: str, message: str, setting: str | None, **more: Any) -> dict[str, Any]:
    """Give one finding of `/api/diagnostics`; of what it may say more, only what it does say."""
    told = {name: value for name, value in more.items() if value}
    return {"code": code, "message": message, "setting": setting, **told}


def diagnostics_body(findings: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the answer of `/api/diagnostics`."""
    return {"findings": findings}


def error_body(status: int, message: str, **more: str) -> dict[str, Any]:
    """Give the body of every answer that is an error."""
    return {"error": {"status": status, "message": message, **more}}


def message_body(message: str) -> dict[str, str]:
    """Give the answer of a request that changed something."""
    return {"message": message}


def revoked_body(task_ids: Collection[str], revoked: int, dry_run: bool, more: bool) -> dict[str, Any]:
    """Give the answer of `/api/tasks/revoke`; `more` says that more tasks match than are revoked at once."""
    return {"matched": list(task_ids), "revoked": revoked, "dry_run": dry_run, "more": more}


def worker_body(
    worker: Worker, answers: Mapping[str, msgspec.Raw], inspected: float | None, now: float
) -> dict[str, Any]:
    """Give the object of a worker: its answers to inspect, as far as there are any, and what its heartbeats say.

    `inspected` is the time of the oldest of these answers, in epoch seconds; `age` is how old that is.
    """
    return {
        **answers,
        **({} if inspected is None else {"timestamp": inspected}),
        "status": worker.status(now),
        "last_seen": worker.seen,
        "age": None if inspected is None else max(0.0, now - inspected),
        "heartbeat": {
            "timestamp": worker.timestamp,
            "freq": worker.freq,
            "pid": worker.pid,
            "clock": worker.clock,
            "active": worker.active,
            "processed": worker.processed,
            "loadavg": worker.loadavg,
            "sw_ident": worker.sw_ident,
            "sw_ver": worker.sw_ver,
            "sw_sys": worker.sw_sys,
        },
    }


def worker_member(worker: Worker, answers: Mapping[str, msgspec.Raw], inspected: float | None, now: float) -> bytes:
    """Encode a worker as one member of a listing: its hostname, a colon, its object."""
    return encode(worker.hostname) + b":" + encode(worker_body(worker, answers, inspected, now))


def queue_member(name: str, messages: int, consumers: int | None) -> dict[str, Any]:
    """Give one queue of `/api/queues/length`; None consumers where the broker does not tell."""
    return {"name": name, "messages": messages, "consumers": consumers}


def queue_lengths_body(queues: Collection[dict[str, Any]]) -> dict[str, Any]:
    """Give the answer of `/api/queues/length`."""
    return {"active_queues": list(queues)}


def published_body(task_id: str, state: str | None) -> dict[str, Any]:
    """Give the answer about a task that was published; without a result backend there is no state."""
    return {"task-id": task_id} if state is None else {"task-id": task_id, "state": state}


def result_body(
    task_id: str,
    state: str,
    *,
    ready: bool,
    value: Any = None,
    traceback: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Give the state of a task and, once it is ready, its result; `reason` says why that is missing, if it is."""
    body: dict[str, Any] = {"task-id": task_id, "state": state}
    if ready:
        body["result"] = value
    if state == FAILURE:
        body["traceback"] = traceback
    if reason is not None:
        body["reason"] = reason
    return body
