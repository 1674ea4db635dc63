"""What a request asks for: arguments become a TaskQuery, or an InvalidArgument that names the broken rule.

Pure. The only home of the wire names of arguments that filter, sort and page tasks.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from .errors import InvalidArgument
from .search import Search, parse_search

if TYPE_CHECKING:
    from .records import Task

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


def _is_received(start: float, end: float) -> Match:
    return lambda task: task.received is not None and start <= task.received <= end


def _is_started(start: float, end: float) -> Match:
    return lambda task: task.started is not None and start <= task.started <= end


_EQUALITIES: Final[dict[str, Callable[[str], Match]]] = {
    "worker": _is_worker,
    "name": _is_name,
    "state": _is_state,
    "root_id": _is_root_id,
    "parent_id": _is_parent_id,
    "queue": _is_queue,
}
_RANGES: Final[dict[str, Callable[[float, float], Match]]] = {
    "received": _is_received,
    "started": _is_started,
}


# From arguments to values


def parse_query(arguments: Mapping[str, str], zone: tzinfo) -> TaskQuery:
    """Parse the arguments of a listing; times without a zone are in `zone`. Raises InvalidArgument.

    An argument that is empty counts as not given; one that is not known is ignored.
    """

    def text(argument: str) -> str | None:
        return arguments.get(argument) or None

    def choice(argument: str) -> str | None:
        value = text(argument)
        return None if value == "All" else value

    def time(argument: str) -> float | None:
        value = arguments.get(argument, "")
        return parse_time(argument, value, zone) if value.strip() else None

    def count(argument: str) -> int | None:
        value = arguments.get(argument, "")
        return parse_int(argument, value, 0, MAX_COUNT) if value.strip() else None

    search = arguments.get("search", "")
    sort_by, descending = _parse_sort(arguments.get("sort_by", ""))
    return TaskQuery(
        worker=choice("workername"),
        name=choice("taskname"),
        state=choice("state"),
        root_id=text("root_id"),
        parent_id=text("parent_id"),
        queue=text("queue"),
        received_start=time("received_start"),
        received_end=time("received_end"),
        started_start=time("started_start"),
        started_end=time("started_end"),
        search=parse_search(search) if search.strip() else None,
        sort_by=sort_by,
        descending=descending,
        limit=count("limit"),
        offset=count("offset") or 0,
    )


def _parse_sort(text: str) -> tuple[str | None, bool]:
    """Split `-received` into the key and whether it descends."""
    key = text.removeprefix("-")
    if not text:
        return None, False
    if key not in SORT_KEYS:
        keys = ", ".join(SORT_KEYS)
        raise InvalidArgument("sort_by", f"must be one of {keys}, with - in front to descend", text)
    return key, key != text


_TRUE: Final = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE: Final = frozenset({"n", "no", "f", "false", "off", "0"})
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")


def parse_bool(argument: str, text: str) -> bool:
    """Parse a yes or no as Flower does. Raises InvalidArgument."""
    value = text.strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise InvalidArgument(argument, "must be true or false (or y, yes, t, on, 1, n, no, f, off, 0)", text)


def parse_int(argument: str, text: str, minimum: int, maximum: int) -> int:
    """Parse a whole number within bounds. Raises InvalidArgument."""
    value = text.strip()
    if _INTEGER.fullmatch(value) and minimum <= int(value) <= maximum:
        return int(value)
    raise InvalidArgument(argument, f"must be a whole number from {minimum:,} to {maximum:,}", text)


_SECONDS: Final = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,20})?")
_DATE: Final = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2})"
    r"[Tt ](?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})"
    r"(?::(?P<second>[0-9]{1,2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?:(?P<utc> ?[Zz])|(?P<sign> ?[+-]| )(?P<hours>[01][0-9]|2[0-3])(?::?(?P<minutes>[0-5][0-9]))?)?"
)
_TIME_RULE: Final = (
    "must be a time such as 2026-01-31 13:30, 2026-01-31T13:30:00+01:00 or 1769862600 (seconds since 1970)"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = 253_402_300_800  # the year 10000; milliseconds by mistake are beyond it


def parse_time(argument: str, text: str, zone: tzinfo) -> float:
    """Parse epoch seconds, ISO 8601 or Flower's `2026-01-31 13:30` to epoch seconds, in `zone` by default.

    The + of an offset may have become a blank, as it does in a URL. Raises InvalidArgument.
    """
    value = text.strip()
    if _SECONDS.fullmatch(value) and abs(float(value)) < _LATEST:
        return float(value)
    date = _DATE.fullmatch(value)
    if date is None:
        raise InvalidArgument(argument, _TIME_RULE, text)
    try:
        moment = datetime(
            int(date["year"]),
            int(date["month"]),
            int(date["day"]),
            int(date["hour"]),
            int(date["minute"]),
            int(date["second"] or 0),
            int((date["fraction"] or "")[:6].ljust(6, "0")),
            _offset(date) or zone,
        )
        return (moment - _EPOCH).total_seconds()
    except (ValueError, OverflowError) as exc:
        raise InvalidArgument(argument, _TIME_RULE, text) from exc


def _offset(date: re.Match[str]) -> timezone | None:
    """Read the offset of a date, None when it has none."""
    if date["utc"]:
        return UTC
    if not date["sign"]:
        return None
    offset = timedelta(hours=int(date["hours"]), minutes=int(date["minutes"] or 0))
    return timezone(-offset if "-" in date["sign"] else offset)
