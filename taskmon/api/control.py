"""Endpoints that change workers and running tasks. Event loop only."""

import math
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from ..auth import Role
from ..cluster.control import Control
from ..cluster.inspection import POOL_SETTLES, QUEUES_SETTLE
from ..errors import InvalidArgument, UnknownTask, UnknownWorker
from ..query import TaskQuery, parse_bool, parse_int, parse_query
from ..records import READY_STATES
from ..serializers import message_body, revoked_body
from .arguments import as_text, read_object, read_parameters, read_query, refuse_unknown
from .base import ApiHandler
from .turns import Turn

#: So many tasks are revoked by one request, at the most.
MAX_REVOKED: Final = 10_000

_MAX_POOL: Final = 10_000
_LONGEST_NAME: Final = 1024
_SIGNALS: Final = ("TERM", "KILL", "INT", "QUIT", "USR1")
_RATE: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:/[smh])?")
_QUEUE: Final = re.compile(r"[\w.@:-]{1,255}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_HOW: Final = ("terminate", "signal")
_FILTERS: Final = (
    *("workername", "taskname", "state", "root_id", "parent_id", "queue", "search"),
    *("received_start", "received_end", "started_start", "started_end"),
)
_PAGING: Final = ("limit", "offset", "sort_by")


# Tasks


class TaskRevoke(ApiHandler):
    """POST `/api/task/revoke/<id>`."""

    role = Role.OPERATOR

    async def post(self, task_id: str) -> None:
        """Revoke a task, known or not; 504 when the worker that has it is silent."""
        how = _parse_how(self.parameters(*_HOW))
        _check_length("The task id", task_id)
        await self.services.control.revoke([task_id], holder=self._holder(task_id), **how)
        self.answer(message_body(f"Revoked '{task_id}'"))

    def _holder(self, task_id: str) -> str | None:
        """Give the worker that has the task, as far as that is known and it has not gone."""
        state = self.services.state
        try:
            task = state.get(task_id)
        except UnknownTask:
            return None
        worker = state.workers.get(task.worker or "")
        return worker.hostname if worker is not None and worker.online and task.state not in READY_STATES else None


class TasksRevoke(ApiHandler):
    """POST `/api/tasks/revoke`."""

    role = Role.OPERATOR

    async def post(self) -> None:
        """Revoke the tasks that are named by `ids` or found by the filters of `/api/tasks`, but for finished ones."""
        ids, given = self._read()
        how = _parse_how(given)
        dry_run = parse_bool("dry_run", given.get("dry_run") or "false")
        query = parse_query(given, self.services.zone)
        if ids is None and not _filters(query):
            raise InvalidArgument("The request", "must have ids or a filter: it does not mean all tasks")
        if ids is not None and any(given.get(name) for name in (*_FILTERS, *_PAGING)):
            raise InvalidArgument("ids", "cannot stand together with filters")
        found = await self._find(query) if ids is None else [task_id for task_id in ids if self._is_open(task_id)]
        matched, more = found[:MAX_REVOKED], len(found) > MAX_REVOKED
        if matched and not dry_run:
            await self.services.control.revoke(matched, **how)
        self.answer(revoked_body(matched, 0 if dry_run else len(matched), dry_run, more))

    def _read(self) -> tuple[list[str] | None, dict[str, str]]:
        """Give the ids, None when there are none, and the other arguments."""
        known = ("ids", "dry_run", *_HOW, *_FILTERS, *_PAGING)
        if self.request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            return None, read_parameters(self.request, known[1:])
        body = read_object(self.request)
        ids = _parse_ids(body.pop("ids")) if "ids" in body else None
        given = read_query(self.request) | {name: as_text(name, value) for name, value in body.items()}
        if "ids" in given:
            raise InvalidArgument("ids", "must be a list in a JSON body")
        refuse_unknown(given, known)
        return ids, given

    async def _find(self, query: TaskQuery) -> list[str]:
        """Find unfinished tasks, one more than may be revoked at once; lets others run meanwhile."""
        found: list[str] = []
        skip = query.offset
        most = MAX_REVOKED + 1 if query.limit is None else min(query.limit, MAX_REVOKED + 1)
        turn = Turn()
        for task in self.services.state.find(_without_page(query)):
            if task is not None and task.state not in READY_STATES:
                if skip == 0:
                    found.append(task.uuid)
                skip = max(0, skip - 1)
            if len(found) >= most:
                break
            if turn.over:
                await turn.give_way()
        return found[:most]

    def _is_open(self, task_id: str) -> bool:
        try:
            return self.services.state.get(task_id).state not in READY_STATES
        except UnknownTask:
            return True


class TaskCommand(ApiHandler):
    """The base of every command about a task, to one worker or to all."""

    role = Role.OPERATOR
    #: The names of the arguments.
    known: ClassVar[tuple[str, ...]]

    async def post(self, task_name: str) -> None:
        """Give the command and answer what the workers say."""
        given = self.parameters("workername", *self.known)
        _check_length("The task name", task_name)
        hostname = _known_worker(self, given["workername"]) if given.get("workername") else None
        self.answer(message_body(await self.command(task_name, hostname, given)))

    async def command(self, task_name: str, hostname: str | None, given: Mapping[str, str]) -> str:
        """Give the command, to all workers if no hostname is given; tell what to answer."""
        raise NotImplementedError


class TaskTimeout(TaskCommand):
    """POST `/api/task/timeout/<name>`."""

    known = ("soft", "hard")

    async def command(self, task_name: str, hostname: str | None, given: Mapping[str, str]) -> str:
        """Set the time limits of a task."""
        soft, hard = _parse_seconds("soft", given), _parse_seconds("hard", given)
        if soft is not None and hard is not None and soft > hard:
            raise InvalidArgument("soft", "must not be above hard", given["soft"])
        return await self.services.control.time_limit(task_name, soft, hard, hostname, _online(self))


class TaskRateLimit(TaskCommand):
    """POST `/api/task/rate-limit/<name>`."""

    known = ("ratelimit",)

    async def command(self, task_name: str, hostname: str | None, given: Mapping[str, str]) -> str:
        """Set the rate limit of a task."""
        limit = given.get("ratelimit", "")
        if not _RATE.fullmatch(limit):
            raise InvalidArgument("ratelimit", "must be a number, or one with /s, /m or /h, as 10/m", limit)
        return await self.services.control.rate_limit(task_name, limit, hostname, _online(self))


# Workers


class WorkerCommand(ApiHandler):
    """The base of every command to one worker: 404 when it is not known."""

    role = Role.ADMIN
    #: The names of the arguments.
    known: ClassVar[tuple[str, ...]] = ()
    #: Seconds after which the worker is asked about itself anew; None where the command changes nothing of that.
    settles: ClassVar[float | None] = None

    async def post(self, hostname: str) -> None:
        """Give the command and answer what came of it."""
        _known_worker(self, hostname)
        message = await self.command(self.services.control, hostname, self.parameters(*self.known))
        if self.settles is not None:
            self.services.inspector.ask_again(hostname, self.settles)
        self.answer(message_body(message))

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Give the command; tell what to answer."""
        raise NotImplementedError


class WorkerShutdown(WorkerCommand):
    """POST `/api/worker/shutdown/<worker>`."""

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Shut the worker down."""
        await control.shutdown(hostname)
        return "Shutting down!"


class WorkerPoolRestart(WorkerCommand):
    """POST `/api/worker/pool/restart/<worker>`."""

    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Restart its pool."""
        await control.pool_restart(hostname)
        return f"Restarting '{hostname}' worker's pool"


class WorkerPoolGrow(WorkerCommand):
    """POST `/api/worker/pool/grow/<worker>`."""

    known = ("n",)
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Add to its pool."""
        n = parse_int("n", given.get("n") or "1", 1, _MAX_POOL)
        await control.pool_grow(hostname, n)
        return f"Growing '{hostname}' worker's pool by {n}"


class WorkerPoolShrink(WorkerCommand):
    """POST `/api/worker/pool/shrink/<worker>`."""

    known = ("n",)
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Take from its pool."""
        n = parse_int("n", given.get("n") or "1", 1, _MAX_POOL)
        await control.pool_shrink(hostname, n)
        return f"Shrinking '{hostname}' worker's pool by {n}"


class WorkerPoolAutoscale(WorkerCommand):
    """POST `/api/worker/pool/autoscale/<worker>`."""

    known = ("min", "max")
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Set the bounds of its pool."""
        minimum = parse_int("min", given.get("min", ""), 0, _MAX_POOL)
        maximum = parse_int("max", given.get("max", ""), 1, _MAX_POOL)
        if minimum > maximum:
            raise InvalidArgument("min", "must not be above max", given["min"])
        await control.autoscale(hostname, minimum, maximum)
        return f"Autoscaling '{hostname}' worker (min={minimum}, max={maximum})"


class WorkerAddConsumer(WorkerCommand):
    """POST `/api/worker/queue/add-consumer/<worker>`."""

    known = ("queue",)
    settles = QUEUES_SETTLE

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Have it consume from a queue."""
        return await control.add_consumer(hostname, _parse_queue(given))


class WorkerCancelConsumer(WorkerCommand):
    """POST `/api/worker/queue/cancel-consumer/<worker>`."""

    known = ("queue",)
    settles = QUEUES_SETTLE

    async def command(self, control: Control, hostname: str, given: Mapping[str, str]) -> str:
        """Have it no longer consume from a queue."""
        return await control.cancel_consumer(hostname, _parse_queue(given))


# Arguments


def _known_worker(handler: ApiHandler, hostname: str) -> str:
    if hostname not in handler.services.state.workers:
        raise UnknownWorker(hostname)
    return hostname


def _online(handler: ApiHandler) -> list[str]:
    """List the workers that should answer when all are asked."""
    now = time.time()
    return [worker.hostname for worker in handler.services.state.workers.values() if worker.alive(now)]


def _parse_how(given: Mapping[str, str]) -> dict[str, Any]:
    """Read whether to terminate, and with which signal."""
    terminate = parse_bool("terminate", given.get("terminate") or "false")
    signal = given.get("signal") or "SIGTERM"
    name = signal.strip().upper().removeprefix("SIG")
    if name not in _SIGNALS:
        raise InvalidArgument("signal", f"must be one of {', '.join(_SIGNALS)}, with or without SIG", signal)
    return {"terminate": terminate, "signal": f"SIG{name}"}


def _parse_ids(ids: object) -> list[str]:
    """Read a list of task ids; each counts once."""
    if not isinstance(ids, list) or not ids:
        raise InvalidArgument("ids", "must be a list of at least one task id")
    if len(ids) > MAX_REVOKED:
        raise InvalidArgument("ids", f"may be {MAX_REVOKED:,} at the most", f"{len(ids):,}")
    for task_id in ids:
        if not isinstance(task_id, str) or not 0 < len(task_id) <= _LONGEST_NAME:
            raise InvalidArgument("ids", f"must be texts of 1 to {_LONGEST_NAME:,} characters", str(task_id))
    return list(dict.fromkeys(ids))


def _parse_seconds(argument: str, given: Mapping[str, str]) -> float | None:
    value = given.get(argument, "").strip()
    if not value:
        return None
    if not _SECONDS.fullmatch(value) or not math.isfinite(float(value)):
        raise InvalidArgument(argument, "must be a number of seconds, 0 or more", given[argument])
    return float(value)


def _parse_queue(given: Mapping[str, str]) -> str:
    queue = given.get("queue", "")
    if not _QUEUE.fullmatch(queue):
        raise InvalidArgument("queue", "must be 1 to 255 letters, digits and . _ - : @", queue)
    return queue


def _check_length(what: str, text: str) -> None:
    if len(text) > _LONGEST_NAME:
        raise InvalidArgument(what, f"may have {_LONGEST_NAME:,} characters at the most")


def _without_page(query: TaskQuery) -> TaskQuery:
    return TaskQuery(**{field: getattr(query, field) for field in _fields(query) if field not in ("limit", "offset")})


def _filters(query: TaskQuery) -> bool:
    """Tell whether a query filters at all."""
    paging = ("limit", "offset", "sort_by", "descending")
    return any(getattr(query, field) is not None for field in _fields(query) if field not in paging)


def _fields(query: TaskQuery) -> tuple[str, ...]:
    return query.__struct_fields__
