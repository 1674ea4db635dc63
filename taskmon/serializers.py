"""What goes out over HTTP: records become JSON here, and nowhere else. The only home of the wire names of fields."""

from typing import Any, Final

import msgspec

from .records import Task

#: Encode to strict JSON: no NaN, no lone surrogates.
encode: Final = msgspec.json.Encoder().encode


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
    }


def task_member(task: Task, children: list[str]) -> bytes:
    """Encode a task as one member of a listing: its id, a colon, the task object."""
    return encode(task.uuid) + b":" + encode(task_body(task, children))


def task_types_body(names: list[str]) -> dict[str, list[str]]:
    """Give the answer of `/api/task/types`."""
    return {"task-types": names}


def error_body(status: int, message: str, **more: str) -> dict[str, Any]:
    """Give the body of every answer that is an error."""
    return {"error": {"status": status, "message": message, **more}}
