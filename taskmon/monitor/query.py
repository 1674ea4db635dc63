"""What a request asks for: arguments become a TaskQuery, or an InvalidArgument that names the broken rule.

Pure. The only home of the wire names of arguments that filter, sort and page tasks.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import tzinfo
from math import inf
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from ..errors import InvalidArgument
from ..outcomes import ORPHANED
from ..parameters import Flag, Kind, Parameter, Schema, TaskId, Text, Time, Whole, read_parameters
from .search import MAX_LENGTH, Search, parse_search

if TYPE_CHECKING:
    from ..records import Task

Match = Callable[["Task"], bool]

#: The fields of a task that may be sorted by; on the wire they have the same names.
SORT_KEYS: Final = (
    *(
        "name",
        "state",
        "received",
        "started",
        "succeeded",
        "failed",
        "runtime",
        "timestamp",
        "retries",
        "worker",
    ),
)

#: The largest `limit` and `offset`.
MAX_COUNT: Final = 1_000_000_000


class TaskQuery(Struct, frozen=True):
    """Which tasks, in which order, and which stretch of them.

    A filter that is None lets every task through. Times are epoch seconds, both ends included; a task without
    the time asked about does not match. `sort_by` is a field of Task; None puts the newest `timestamp` first.
    """

    worker: str | None = None
    name: str | None = None
    state: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    queue: str | None = None
    orphaned: bool | None = None
    received_start: float | None = None
    received_end: float | None = None
    started_start: float | None = None
    started_end: float | None = None
    search: Search | None = None
    sort_by: str | None = None
    descending: bool = False
    limit: int | None = None
    offset: int = 0


def make_filter(query: TaskQuery, without: Collection[str] = ()) -> Match:
    """Compile the filters of a query, `search` included, but for those fields of it that `without` names."""
    checks = [
        make(value)
        for field, make in _EQUALITIES.items()
        if field not in without and (value := getattr(query, field)) is not None
    ]
    for field, make_range in _RANGES.items():
        start, end = (
            None if bound in without else getattr(query, bound) for bound in (f"{field}_start", f"{field}_end")
        )
        if start is not None or end is not None:
            checks.append(make_range(-inf if start is None else start, inf if end is None else end))
    if query.search is not None and "search" not in without:
        checks.append(query.search.matches)
    return _all(tuple(checks))


def _all(checks: tuple[Match, ...]) -> Match:
    """Make one check of many; few are the rule, so they get no loop."""
    if not checks:
        return lambda task: True
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda task: first(task) and second(task)

    def check(task: "Task") -> bool:
        for one in checks:  # noqa: SIM110  (a generator would take twice as long)
            if not one(task):
                return False
        return True

    return check


def _is_worker(value: str) -> Match:
    return lambda task: task.worker == value


def _is_name(value: str) -> Match:
    return lambda task: task.name == value


def _is_state(value: str) -> Match:
    return lambda task: task.state == value


def _is_root_id(value: str) -> Match:
    return lambda task: task.root_id == value


def _is_parent_id(value: str) -> Match:
    return lambda task: task.parent_id == value


def _is_queue(value: str) -> Match:
    return lambda task: task.queue == value


def _is_orphaned(value: bool) -> Match:
    return lambda task: (task.reconciled == ORPHANED) is value


def _is_received(start: float, end: float) -> Match:
    return lambda task: task.received is not None and start <= task.received <= end


def _is_started(start: float, end: float) -> Match:
    return lambda task: task.started is not None and start <= task.started <= end


_EQUALITIES: Final[dict[str, Callable[[Any], Match]]] = {
    "worker": _is_worker,
    "name": _is_name,
    "state": _is_state,
    "root_id": _is_root_id,
    "parent_id": _is_parent_id,
    "queue": _is_queue,
    "orphaned": _is_orphaned,
}
_RANGES: Final[dict[str, Callable[[float, float], Match]]] = {
    "received": _is_received,
    "started": _is_started,
}


# From arguments to values


class SearchText(Kind):
    """A query in the search language."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> Search:
        """Compile the search."""
        return parse_search(value)

    def schema(self) -> Schema:
        """Describe a text."""
        return {"type": "string", "maxLength": MAX_LENGTH}


class SortKey(Kind):
    """A field to sort by, read as its name and whether it descends."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> tuple[str, bool]:
        """Split `-received` into the key and whether it descends."""
        key = value.removeprefix("-")
        if key not in SORT_KEYS:
            keys = ", ".join(SORT_KEYS)
            raise InvalidArgument(argument, f"must be one of {keys}, with - in front to descend", value)
        return key, key != value

    def schema(self) -> Schema:
        """List the keys."""
        return {"type": "string", "enum": [sign + key for key in SORT_KEYS for sign in ("", "-")]}


class StateName(Text):
    """The state of a task, in any case."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> str | None:
        """Give the state in capitals."""
        state = super().parse(argument, value, zone)
        return None if state is None else state.upper()


_CHOICE: Final = Text(none="All")

#: The arguments that filter tasks.
FILTERS: Final = (
    Parameter("workername", _CHOICE, "Hostname of the worker; All is no filter."),
    Parameter("taskname", _CHOICE, "Name of the task; All is no filter."),
    Parameter("state", StateName(none="All"), "State, in any case; All is no filter."),
    Parameter("root_id", TaskId(), "Id of the first task of a workflow."),
    Parameter("parent_id", TaskId(), "Id of the task that published it."),
    Parameter("queue", Text(), "Queue it was published to."),
    Parameter("orphaned", Flag(), "Whether nobody has it, though it has not ended."),
    Parameter("received_start", Time(), "Received at this time or later."),
    Parameter("received_end", Time(), "Received at this time or earlier."),
    Parameter("started_start", Time(), "Started at this time or later."),
    Parameter("started_end", Time(), "Started at this time or earlier."),
    Parameter("search", SearchText(), "A query in the search language."),
)

#: The arguments that say which of the tasks found, and in which order.
PAGING: Final = (
    Parameter("limit", Whole(0, MAX_COUNT), "At most so many tasks."),
    Parameter("offset", Whole(0, MAX_COUNT), "Leave out so many at the beginning."),
    Parameter("sort_by", SortKey(), "What to sort by, descending with - in front."),
)


def make_query(values: Mapping[str, Any]) -> TaskQuery:
    """Make a query of the values of FILTERS and PAGING."""
    sort_by, descending = values["sort_by"] or (None, False)
    return TaskQuery(
        worker=values["workername"],
        name=values["taskname"],
        sort_by=sort_by,
        descending=descending,
        limit=values["limit"],
        offset=values["offset"] or 0,
        **{name: values[name] for name in _SAME_NAMES},
    )


#: The filters whose fields have the same names as their arguments.
_SAME_NAMES: Final = tuple(one.name for one in FILTERS if one.name in TaskQuery.__struct_fields__)


def parse_query(arguments: Mapping[str, str], zone: tzinfo) -> TaskQuery:
    """Parse the arguments of a listing; times without a zone are in `zone`. Raises InvalidArgument.

    An argument that is empty counts as not given; one that is not known is ignored.
    """
    return make_query(read_parameters(FILTERS + PAGING, arguments, zone))
