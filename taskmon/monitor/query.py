"""What a request asks for: arguments become a TaskQuery, or an InvalidArgument that names the broken rule.

Pure. The fields that are filtered and sorted by are those of `task_fields.py`.
"""

from collections.abc import Callable, Mapping
from datetime import tzinfo
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, defstruct

from ..errors import InvalidArgument
from ..outcomes import ORPHANED
from ..parameters import Format, Parameters, Time, as_text, parse_parameters
from .search import MAX_LENGTH, Search, parse_search
from .task_fields import RANGE_FILTERS, SORT_KEYS, TASK_FIELDS, VALUE_FILTERS

if TYPE_CHECKING:
    from ..records import Task

Match = Callable[["Task"], bool]

#: The largest `limit` and `offset`.
MAX_COUNT: Final = 1_000_000_000

#: The bounds of the filters by a range.
_BOUNDS: Final = tuple(f"{field}_{end}" for field in RANGE_FILTERS for end in ("start", "end"))
_Filters: Any = defstruct(
    "_Filters",
    [
        *((field, str | None, None) for field in VALUE_FILTERS),
        *((bound, float | None, None) for bound in _BOUNDS),
    ],
    frozen=True,
)


class TaskQuery(_Filters, frozen=True):  # type: ignore[misc, call-arg]
    """Which tasks, in which order, and which stretch of them; each filter of `task_fields.py` is a field.

    A filter that is None lets every task through. Times are epoch seconds, both ends included; a task without
    the time asked about does not match. `sort_by` is a field of Task; None puts the newest `timestamp` first.
    """

    orphaned: bool | None = None
    search: Search | None = None
    sort_by: str | None = None
    descending: bool = False
    limit: int | None = None
    offset: int = 0

    @property
    def values(self) -> list[tuple[str, str]]:
        """The filters by one value that are set."""
        return [(field, value) for field in VALUE_FILTERS if (value := getattr(self, field)) is not None]

    @property
    def ranges(self) -> dict[str, tuple[float | None, float | None]]:
        """The filters by a range that are set, with their bounds."""
        bounds = {field: (getattr(self, f"{field}_start"), getattr(self, f"{field}_end")) for field in RANGE_FILTERS}
        return {field: both for field, both in bounds.items() if both != (None, None)}


def make_filter(query: TaskQuery, with_search: bool = True) -> Match:
    """Compile the filters of a query, its search included unless `with_search` is false."""
    checks = [_EQUALS[field](value) for field, value in query.values]
    if query.orphaned is not None:
        checks.append(_is_orphaned(query.orphaned))
    for field, (start, end) in query.ranges.items():
        checks.append(_WITHIN[field](-inf if start is None else start, inf if end is None else end))
    if query.search is not None and with_search:
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


def _is_orphaned(value: bool) -> Match:
    return lambda task: (task.reconciled == ORPHANED) is value


def _compile(check: str) -> Callable[..., Match]:
    """Compile a check of one field, whose name stands in it: with `attrgetter` it would take twice as long."""
    return eval(check)  # type: ignore[no-any-return]


_EQUALS: Final = {field: _compile(f"lambda value: lambda task: task.{field} == value") for field in VALUE_FILTERS}
_WITHIN: Final = {
    field: _compile(f"lambda start, end: lambda task: task.{field} is not None and start <= task.{field} <= end")
    for field in RANGE_FILTERS
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


SearchText = Annotated[Search | None, Format(_read_search, {"type": "string", "maxLength": MAX_LENGTH})]
SortKey = Annotated[
    tuple[str, bool] | None,
    Format(_read_sort_key, {"type": "string", "enum": [sign + key for key in SORT_KEYS for sign in ("", "-")]}),
]


_Arguments: Any = defstruct(
    "_Arguments",
    [
        *(
            (field.argument, Annotated[field.value, Meta(description=field.meaning)], None)
            for field in TASK_FIELDS
            if field.argument
        ),
        *(
            (
                f"{field}_{end}",
                Annotated[Time, Meta(description=f"{field.capitalize()} at this time or {side}.")],
                None,
            )
            for field in RANGE_FILTERS
            for end, side in (("start", "later"), ("end", "earlier"))
        ),
    ],
    bases=(Parameters,),
)


class Filters(_Arguments):  # type: ignore[misc]
    """The arguments that filter tasks; those of the fields of a task are in `task_fields.py`."""

    orphaned: Annotated[bool | None, Meta(description="Whether nobody has it, though it has not ended.")] = None
    search: Annotated[SearchText, Meta(description="A query in the search language.")] = None


class Listing(Filters):
    """The arguments that say which tasks, and which of those found, in which order."""

    limit: Annotated[int | None, Meta(ge=0, le=MAX_COUNT, description="Largest number of tasks to return.")] = None
    offset: Annotated[int | None, Meta(ge=0, le=MAX_COUNT, description="Number of tasks to skip.")] = None
    sort_by: Annotated[SortKey, Meta(description="Field to sort by; - in front sorts in descending order.")] = None


def make_query(listing: Listing) -> TaskQuery:
    """Return the query that a request asks."""
    sort_by, descending = listing.sort_by or (None, False)
    return TaskQuery(
        **{field.name: getattr(listing, field.argument) for field in TASK_FIELDS if field.argument},
        **{name: getattr(listing, name) for name in (*_BOUNDS, "orphaned", "search", "limit")},
        sort_by=sort_by,
        descending=descending,
        offset=listing.offset or 0,
    )


def parse_query(arguments: Mapping[str, str], zone: tzinfo) -> TaskQuery:
    """Parse the arguments of a listing; times without a zone are in `zone`. Raises InvalidArgument.

    An argument that is empty counts as not given; one that is not known is ignored.
    """
    return make_query(parse_parameters(Listing, arguments, zone))
