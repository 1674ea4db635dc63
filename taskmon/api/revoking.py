"""The endpoints that revoke tasks. Event loop only."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import tzinfo
from typing import Any, Final

from msgspec.structs import replace

from ..auth import Role
from ..cluster.inspection import QUEUES_SETTLE
from ..errors import InvalidArgument, Unavailable, UnknownTask, WorkerTimeout
from ..http.answers import Message, Revoked
from ..http.arguments import read_parts
from ..http.base import ApiHandler
from ..http.serializers import message_body, revoked_body
from ..http.time_slice import Turn
from ..monitor.query import FILTERS, PAGING, TaskQuery, make_query
from ..monitor.state import State
from ..parameters import ID_SCHEMA, Flag, Kind, Parameter, Schema, parse_id, whole
from ..records import READY_STATES

#: So many tasks are revoked by one request, at the most.
MAX_REVOKED: Final = 10_000

SIGNALS: Final = ("TERM", "KILL", "INT", "QUIT", "USR1")


class Signal(Kind):
    """A signal, with or without SIG in front, in any case; read with it, in capitals."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> str:
        """Give the name of the signal."""
        name = value.strip().upper().removeprefix("SIG")
        if name not in SIGNALS:
            raise InvalidArgument(argument, f"must be one of {', '.join(SIGNALS)}, with or without SIG", value)
        return f"SIG{name}"

    def schema(self) -> Schema:
        """Describe the names."""
        names = "|".join("".join(f"[{c}{c.lower()}]" if c.isalpha() else c for c in name) for name in SIGNALS)
        return {"type": "string", "pattern": whole(f"(?:[Ss][Ii][Gg])?(?:{names})")}


class TaskIds(Kind):
    """A list of task ids; each counts once."""

    in_query = False

    def from_text(self, argument: str, text: str) -> object:
        """Refuse a text."""
        raise InvalidArgument(argument, "must stand in a JSON object that is the body")

    def from_json(self, argument: str, value: object) -> object:
        """Leave the value."""
        return value

    def is_absent(self, value: object) -> bool:
        """Take any value for one: only a name that is not there means no list."""
        return False

    def parse(self, argument: str, value: object, zone: tzinfo) -> list[str]:
        """Give the ids."""
        if not isinstance(value, list) or not value:
            raise InvalidArgument(argument, "must be a list of at least one task id")
        if len(value) > MAX_REVOKED:
            raise InvalidArgument(argument, f"may be {MAX_REVOKED:,} at the most", f"{len(value):,}")
        return list(dict.fromkeys(parse_id("Each of the ids", task_id) for task_id in value))

    def schema(self) -> Schema:
        """Describe the list."""
        return {"type": "array", "items": dict(ID_SCHEMA), "minItems": 1, "maxItems": MAX_REVOKED}


_HOW: Final = (
    Parameter("terminate", Flag(), "Whether to end the process that runs it, too.", default=False),
    Parameter("signal", Signal(), "The signal to end it with.", default="SIGTERM"),
)


class TaskRevoke(ApiHandler):
    """POST `/api/task/revoke/<id>`: revokes a task."""

    role = Role.OPERATOR
    takes = _HOW
    answer_type = Message
    errors = (UnknownTask, Unavailable, WorkerTimeout)

    async def post(self, task_id: str) -> None:
        """Revoke a task, known or not; 504 when the worker that has it is silent."""
        how = self.given()
        self.audit_intent()
        await _revoke(self, [task_id], how)
        self.answer(message_body(f"Revoked '{task_id}'"))


class Guard(Flag):
    """A flag without a value is no slip to pass over: whoever writes `dry_run` alone does not mean no."""

    def is_absent(self, value: object) -> bool:
        """Take any value for one."""
        return False


class TasksRevoke(ApiHandler):
    """POST `/api/tasks/revoke`: revokes many tasks."""

    role = Role.OPERATOR
    takes = (
        Parameter("ids", TaskIds(), "The ids of the tasks, instead of filters."),
        Parameter("dry_run", Guard(), "Only tell which tasks match.", default=False),
        *_HOW,
        *FILTERS,
        *PAGING,
    )
    answer_type = Revoked
    errors = (Unavailable, WorkerTimeout)

    async def post(self) -> None:
        """Revoke the tasks that are named by `ids` or found by the filters of `/api/tasks`, but for finished ones.

        504 when a worker that has one of them is silent.
        """
        given = self.given()
        self._refuse_empty()
        ids, dry_run = given["ids"], given["dry_run"]
        filters, paging = ([one.name for one in some if given[one.name] is not None] for some in (FILTERS, PAGING))
        if ids is None and not filters:
            raise InvalidArgument("The request", "must have ids or a filter: it does not mean all tasks")
        if ids is not None and (filters or paging):
            raise InvalidArgument("ids", "cannot stand together with filters")
        query = self.restrict(make_query(given))
        found = await self._find(query) if ids is None else [task_id for task_id in ids if self._is_open(task_id)]
        matched, more = found[:MAX_REVOKED], len(found) > MAX_REVOKED
        if matched and not dry_run:
            how = {one.name: given[one.name] for one in _HOW}
            self.audited["task_ids"] = matched
            self.audit_intent()
            await _revoke(self, matched, how)
        self.answer(revoked_body(matched, 0 if dry_run else len(matched), dry_run, more))

    def _refuse_empty(self) -> None:
        """Refuse an argument without a value: what was meant to narrow the request would be lost."""
        texts, body = read_parts(self.request, json_only=False)
        for name, value in (texts | body).items():
            if isinstance(value, str) and not value.strip():
                raise InvalidArgument(name, "must not be empty here: leave it out")

    async def _find(self, query: TaskQuery) -> list[str]:
        """Find unfinished tasks, one more than may be revoked at once; lets others run meanwhile."""
        found: list[str] = []
        skip = query.offset
        most = MAX_REVOKED + 1 if query.limit is None else min(query.limit, MAX_REVOKED + 1)
        turn = Turn()
        for task in self.services.state.find(replace(query, limit=None, offset=0)):
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


async def _revoke(handler: ApiHandler, task_ids: Sequence[str], how: Mapping[str, Any]) -> None:
    """Revoke tasks; all workers are told, so a refresh asks them anew."""
    services = handler.services
    try:
        await services.control.revoke(task_ids, holders=_find_holders(services.state, task_ids), **how)
    finally:
        services.inspector.expect_change(None, QUEUES_SETTLE)


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
