"""What a request may say of a task to publish. Pure: whatever breaks a rule is InvalidArgument."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from math import isfinite
from typing import Any, Final
from uuid import uuid4

from ..errors import InvalidArgument
from ..query import parse_time

#: What a request may say of a task, by the names of Celery's `apply_async`.
OPTIONS: Final = (
    *("args", "kwargs", "eta", "countdown", "expires", "queue", "exchange", "routing_key", "priority", "task_id"),
    "retry",
)

_LONGEST_DELAY: Final = 10 * 365 * 86_400.0
_HIGHEST_PRIORITY: Final = 255
_QUEUE: Final = re.compile(r"[\w.@:-]{1,255}")
_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][+-]?\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Call:
    """A task to publish; `options` are `apply_async`'s, checked; `retry`: once more over a new connection."""

    name: str
    args: list[Any] | tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    retry: bool = True
    task_id: str = field(default_factory=lambda: str(uuid4()))


def parse_call(name: str, body: Mapping[str, Any], zone: tzinfo) -> Call:
    """Check what a body says of a task, its names known already; times without a zone are in `zone`.

    An option that is null counts as not given. Raises InvalidArgument.
    """
    args, kwargs = body.get("args", []), body.get("kwargs", {})
    if not isinstance(args, list):
        raise InvalidArgument("args", "must be an array")
    if not isinstance(kwargs, dict):
        raise InvalidArgument("kwargs", "must be an object")
    given = {option: value for option, value in body.items() if value is not None}
    options = {option: parse(option, given[option], zone) for option, parse in PARSERS.items() if option in given}
    if "eta" in options and "countdown" in options:
        raise InvalidArgument("countdown", "must not be given together with eta")
    retry = given.get("retry", True)
    if not isinstance(retry, bool):
        raise InvalidArgument("retry", "must be true or false")
    task_id = options.pop("task_id", None) or str(uuid4())
    return Call(parse_name("The task name", name), args, kwargs, options, retry, task_id)


def parse_seconds(argument: str, value: object, most: float) -> float:
    """Read a number of seconds, also from a text; raises InvalidArgument."""
    number = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e30 else -1.0
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
    if not isfinite(number) or not 0 <= number <= most:
        raise InvalidArgument(argument, f"must be a number of seconds from 0 to {most:,.0f}", _quote(value))
    return number


def _parse_delay(argument: str, value: object, zone: tzinfo) -> float:
    return parse_seconds(argument, value, _LONGEST_DELAY)


def _parse_date(argument: str, value: object, zone: tzinfo) -> datetime:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:f}" if isinstance(value, float) else str(value)[:40]
    seconds = parse_time(argument, value if isinstance(value, str) else _quote(value), zone)
    if seconds < 0:
        raise InvalidArgument(argument, "must be a time after 1970", _quote(value))
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise InvalidArgument(argument, "must be a time from the year 1 to the year 9999", _quote(value)) from exc


def _parse_expires(argument: str, value: object, zone: tzinfo) -> float | datetime:
    """Read seconds from now, or a date; a number in a text is seconds, too."""
    is_date = isinstance(value, str) and not _NUMBER.fullmatch(value.strip())
    return _parse_date(argument, value, zone) if is_date else _parse_delay(argument, value, zone)


def _parse_queue(argument: str, value: object, zone: tzinfo) -> str:
    if not isinstance(value, str) or not _QUEUE.fullmatch(value) or len(value.encode()) > 255:
        rule = "must be 1 to 255 letters, digits and any of _ . @ : -"
        raise InvalidArgument(argument, rule, _quote(value))
    return value


def _parse_text(argument: str, value: object, zone: tzinfo) -> str:
    return parse_name(argument, value)


def parse_name(argument: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or len(value.encode()) > 255:
        raise InvalidArgument(argument, "must be a text of 1 to 255 bytes, all printable", _quote(value))
    return value


def _parse_task_id(argument: str, value: object, zone: tzinfo) -> str:
    text = parse_name(argument, value)
    if "/" in text or "\\" in text:
        raise InvalidArgument(argument, "must not hold / or \\", text)
    return text


def _parse_priority(argument: str, value: object, zone: tzinfo) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _HIGHEST_PRIORITY:
        raise InvalidArgument(argument, f"must be a whole number from 0 to {_HIGHEST_PRIORITY}", _quote(value))
    return value


def _quote(value: object) -> str:
    """Put a value of JSON into a message, which cuts it."""
    return (
        value if isinstance(value, str) else type(value).__name__ if isinstance(value, list | dict) else repr(value)
    )


PARSERS: Final[dict[str, Callable[[str, object, tzinfo], Any]]] = {
    "eta": _parse_date,
    "countdown": _parse_delay,
    "expires": _parse_expires,
    "queue": _parse_queue,
    "exchange": _parse_text,
    "routing_key": _parse_text,
    "priority": _parse_priority,
    "task_id": _parse_task_id,
}
