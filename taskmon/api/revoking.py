"""The endpoints that revoke tasks. Event loop only."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import tzinfo
from typing import Annotated, Any, Final, NoReturn

from msgspec import Meta
from msgspec.structs import asdict, replace

from ..auth import Role
from ..cluster.inspection import QUEUES_SETTLE
from ..errors import InvalidArgument, Unavailable, UnknownTask, WorkerTimeout
from ..http.answers import Message, Revoked
from ..http.base import ApiHandler
from ..http.serializers import message_body, revoked_body
from ..http.time_slice import Turn
from ..monitor.query import Filters, Listing, TaskQuery, make_query
from ..monitor.state import State
from ..parameters import FLAG, ID_SCHEMA, Format, Parameters, as_text, parse_id, whole
from ..records import READY_STATES

#: So many tasks are revoked by one request, at the most.
MAX_REVOKED: Final = 10_000

SIGNALS: Final = ("TERM", "KILL", "INT", "QUIT", "USR1")


def _read_signal(argument: str, value: object, zone: tzinfo) -> str:
    """Return the name of a signal, which may come with or without SIG and in any case, in capitals and with SIG."""
    text = as_text(argument, value)
    name = text.strip().upper().removeprefix("SIG")
    if name not in SIGNALS:
        raise InvalidArgument(argument, f"must be one of {', '.join(SIGNALS)}, with or without SIG", text)
    return f"SIG{name}"


def _read_ids(argument: str, value: object, zone: tzinfo) -> list[str]:
    """Return the ids in a list, each once."""
    if not isinstance(value, list) or not value:
        raise InvalidArgument(argument, "must be a list of at least one task id")
    if len(value) > MAX_REVOKED:
        raise InvalidArgument(argument, f"may be {MAX_REVOKED:,} at the most", f"{len(value):,}")
    return list(dict.fromkeys(parse_id("Each of the ids", task_id) for task_id in value))


def _refuse_text(argument: str, text: str) -> NoReturn:
    raise InvalidArgument(argument, "must stand in a JSON object that is the body")


_SIGNALS: Final = "|".join("".join(f"[{c}{c.lower()}]" if c.isalpha() else c for c in name) for name in SIGNALS)
_IDS: Final = {"type": "array", "items": ID_SCHEMA, "minItems": 1, "maxItems": MAX_REVOKED}

Signal = Annotated[
    str, Format(_read_signal, {"type": "string", "pattern": whole(f"(?:[Ss][Ii][Gg])?(?:{_SIGNALS})")})
]
TaskIds = Annotated[list[str] | None, Format(_read_ids, _IDS, form=False, decode=_refuse_text, absent="never")]
#: A flag without a value is no slip to pass over: whoever writes `dry_run` alone does not mean no.
Guard = Annotated[bool, Format(FLAG.read, FLAG.schema, absent="null")]
Terminate = Annotated[bool, Meta(description="Whether to end the process that runs it, too.")]
EndedBy = Annotated[Signal, Meta(description="The signal to end it with.")]


class Revoking(Parameters):
    """How to revoke."""

    terminate: Terminate = False
    signal: EndedBy = "SIGTERM"


class RevokingMany(Listing):
    """Which tasks to revoke, and how."""

    ids: Annotated[TaskIds, Meta(description="The ids of the tasks, instead of filters.")] = None
    dry_run: Annotated[Guard, Meta(description="Only tell which tasks match.")] = False
    terminate: Terminate = False
    signal: EndedBy = "SIGTERM"


class TaskRevoke(ApiHandler):
    path = "/api/task/revoke/{task_id}"
    summary = "Revokes a task"
    role = Role.OPERATOR
    parameters = Revoking
    response_type = Message
    errors = (UnknownTask, Unavailable, WorkerTimeout)

    async def post(self, task_id: str) -> None:
        """Revoke a task, known or not; 504 when the worker that has it is silent."""
        how = asdict(self.parse_parameters())
        self.audit_intent()
        await _revoke(self, [task_id], how)
        self.answer(message_body(f"Revoked '{task_id}'"))


class TasksRevoke(ApiHandler):
    path = "/api/tasks/revoke"
    summary = "Revokes many tasks"
    role = Role.OPERATOR
    parameters = RevokingMany
    response_type = Revoked
    errors = (Unavailable, WorkerTimeout)

    async def post(self) -> None:
        """Revoke the tasks that are named by `ids` or found by the filters of `/api/tasks`, but for finished ones.

        504 when a worker that has one of them is silent.
        """
        given: RevokingMany = self.parse_parameters()
        self._refuse_empty()
        ids, dry_run = given.ids, given.dry_run
        narrowed = {name for name in Listing.__struct_fields__ if getattr(given, name) is not None}
        filters = narrowed & set(Filters.__struct_fields__)
        if ids is None and not filters:
            raise InvalidArgument("The request", "must have ids or a filter: it does not mean all tasks")
        if ids is not None and narrowed:
            raise InvalidArgument("ids", "cannot stand together with filters")
        query = self.restrict(make_query(given))
        found = await self._find(query) if ids is None else [task_id for task_id in ids if self._is_open(task_id)]
        matched, more = found[:MAX_REVOKED], len(found) > MAX_REVOKED
        if matched and not dry_run:
            how = {"terminate": given.terminate, "signal": given.signal}
            self.audited["task_ids"] = matched
            self.audit_intent()
            await _revoke(self, matched, how)
        self.answer(revoked_body(matched, 0 if dry_run else len(matched), dry_run, more))

    def _refuse_empty(self) -> None:
        """Refuse an argument without a value: what was meant to narrow the request would be lost."""
        for name, value in self.given.items():
            if isinstance(value, str) and not value.strip():
                raise InvalidArgument(name, "must not be empty here: leave it out")

    async def _find(self, query: TaskQuery) -> list[str]:
        """Find unfinished tasks, one more than may be revoked at once; lets others run meanwhile."""
        found: list[str] = []
        skip = query.offset
        most = MAX_REVOKED + 1 if query.limit is None else min(query.limit, MAX_REVOKED + 1)
        turn = Turn()
        for task in self.monitor.state.find(replace(query, limit=None, offset=0)):
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
            return self.monitor.state.get(task_id).state not in READY_STATES
        except UnknownTask:
            return True


async def _revoke(handler: ApiHandler, task_ids: Sequence[str], how: Mapping[str, Any]) -> None:
    """Revoke tasks; all workers are told, so a refresh asks them anew."""
    monitor = handler.monitor
    try:
        await monitor.control.revoke(task_ids, holders=_find_holders(monitor.state, task_ids), **how)
    finally:
        monitor.inspector.expect_change(None, QUEUES_SETTLE)


def _find_holders(state: State, task_ids: Iterable[str]) -> set[str]:
    """Give the workers that have these tasks, as far as that is known and they have not gone."""
    found = set()
    for task_id in task_ids:
        with suppress(UnknownTask):
            task = state.get(task_id)
            worker = state.workers.get(task.worker or "")
            if worker is not None and worker.online and task.state not in READY_STATES:
                found.add(worker.hostname)
    return found
