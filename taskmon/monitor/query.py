"""What a request asks for: arguments become a TaskQuery, or an InvalidArgument that names the broken rule.

Pure. The only home of the wire names of arguments that filter, sort and page tasks.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import tzinfo
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, Struct

from ..errors import InvalidArgument
from ..outcomes import ORPHANED
from ..parameters import TEXT_SCHEMA, Format, Parameters, TaskId, Time, as_text, parse_parameters, read_text
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


def _read_search(argument: str, value: object, zone: tzinfo) -> Search:
    return parse_search(as_text(argument, value))


def _read_sort_key(argument: str, value: object, zone: tzinfo) -> tuple[str, bool]:
    """Split `-received` into the key and whether it descends."""
    text = as_text(argument, value)
    key = text.removeprefix("-")
    if key not in SORT_KEYS:
        keys = ", ".join(SORT_KEYS)
        raise InvalidArgument(argument, f"must be one of {keys}, with - in front to descend", text)
    return key, key != text


def _read_choice(argument: str, value: object, zone: tzinfo) -> str | None:
    """Return a text, None for All, which Flower's pages send for no filter."""
    text = read_text(argument, value, zone)
    return None if text == "All" else text


def _read_state(argument: str, value: object, zone: tzinfo) -> str | None:
    state = _read_choice(argument, value, zone)
    return None if state is None else state.upper()


Choice = Annotated[str | None, Format(_read_choice, TEXT_SCHEMA, absent="empty")]
StateName = Annotated[str | None, Format(_read_state, TEXT_SCHEMA, absent="empty")]
SearchText = Annotated[Search | None, Format(_read_search, {"type": "string", "maxLength": MAX_LENGTH})]
SortKey = Annotated[
    tuple[str, bool] | None,
    Format(_read_sort_key, {"type": "string", "enum": [sign + key for key in SORT_KEYS for sign in ("", "-")]}),
]


class Filters(Parameters):
    """The arguments that filter tasks."""

    workername: Annotated[Choice, Meta(description="Hostname of the worker; All is no filter.")] = None
    taskname: Annotated[Choice, Meta(description="Name of the task; All is no filter.")] = None
    state: Annotated[StateName, Meta(description="State, in any case; All is no filter.")] = None
    root_id: Annotated[TaskId, Meta(description="Id of the first task of a workflow.")] = None
    parent_id: Annotated[TaskId, Meta(description="Id of the task that published it.")] = None
    queue: Annotated[str | None, Meta(description="Queue it was published to.")] = None
    orphaned: Annotated[bool | None, Meta(description="Whether nobody has it, though it has not ended.")] = None
    received_start: Annotated[Time, Meta(description="Received at this time or later.")] = None
    received_end: Annotated[Time, Meta(description="Received at this time or earlier.")] = None
    started_start: Annotated[Time, Meta(description="Started at this time or later.")] = None
    started_end: Annotated[Time, Meta(description="Started at this time or earlier.")] = None
    search: Annotated[SearchText, Meta(description="A query in the search language.")] = None


class Listing(Filters):
    """The arguments that say which tasks, and which of those found, in which order."""

    limit: Annotated[int | None, Meta(ge=0, le=MAX_COUNT, description="Largest number of tasks to return.")] = None
    offset: Annotated[int | None, Meta(ge=0, le=MAX_COUNT, description="Number of tasks to skip.")] = None
    sort_by: Annotated[SortKey, Meta(description="Field to sort by; - in front sorts in descending order.")] = None


#: The filters whose fields in TaskQuery have the same names.
_SAME_NAMES: Final = tuple(name for name in Filters.__struct_fields__ if name in TaskQuery.__struct_fields__)


def make_query(listing: Listing) -> TaskQuery:
    """Return the query that a request asks."""
    sort_by, descending = listing.sort_by or (None, False)
    return TaskQuery(
        worker=listing.workername,
        name=listing.taskname,
        sort_by=sort_by,
        descending=descending,
        limit=listing.limit,
        offset=listing.offset or 0,
        **{name: getattr(listing, name) for name in _SAME_NAMES},
    )


def parse_query(arguments: Mapping[str, str], zone: tzinfo) -> TaskQuery:
    """Parse the arguments of a listing; times without a zone are in `zone`. Raises InvalidArgument.

    An argument that is empty counts as not given; one that is not known is ignored.
    """
    return make_query(parse_parameters(Listing, arguments, zone))
