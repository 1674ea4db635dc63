"""Events with a field of another type than it should have: converted where that loses nothing, else left out. Pure.

Only what the typed decoder refuses comes here. An event is refused as a whole for its `type`, and for the id that
says what it is about: the `uuid` of a task event, the `hostname` of a worker's.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from math import isfinite
from typing import Any, Final

from ..errors import InvalidEvent
from ..records import (
    FREQ_BOUNDS,
    INTEGER_BOUNDS,
    MAX_IDENTIFIER,
    MAX_LOADS,
    NUMBER_BOUNDS,
    TEXT_FIELDS,
    TIME_BOUNDS,
    Event,
    PartialEvent,
)

#: A number as JSON writes it, of a length that a number of an event has.
_NUMBER: Final = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE: Final = re.compile(r"-?\d+", re.ASCII)


def make_event(item: object) -> Event:
    """Make an event of an object whose fields may be anything; a PartialEvent where some had to be left out.

    Raises InvalidEvent for what is no event.
    """
    if not isinstance(item, dict):
        raise InvalidEvent("shape", f"not an object but {type(item).__name__}")
    if "type" not in item:
        raise InvalidEvent("no-type", "no field `type`")
    kind = _require(item, "type")
    fields: dict[str, Any] = {"type": kind}
    subject = "uuid" if kind.startswith("task-") else "hostname" if kind.startswith("worker-") else None
    if subject is not None and item.get(subject) is not None:
        fields[subject] = _require(item, subject)
    omitted = []
    for name, coerce in _COERCE.items():
        value = item.get(name)
        if value is None or name in fields:
            continue
        try:
            fields[name] = coerce(value)
        except (ValueError, OverflowError):
            omitted.append(name)
    return PartialEvent(**fields, omitted=tuple(omitted)) if omitted else Event(**fields)


def _require(item: Mapping[object, object], name: str) -> str:
    """Return an identifier without which an event is refused."""
    try:
        return _to_identifier(item[name])
    except UnicodeError as exc:
        raise InvalidEvent("encoding", f"`{name}` is not Unicode text") from exc
    except ValueError as exc:
        raise InvalidEvent("wrong-type", f"`{name}` is not a text of 1 to {MAX_IDENTIFIER} characters") from exc


def _to_identifier(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_IDENTIFIER:
        raise ValueError("no identifier")
    return _to_text(value)


def _to_text(value: object) -> str:
    """Return a text; a lone surrogate, which stands for an invalid byte as well, raises UnicodeError."""
    if isinstance(value, str):
        value.encode()
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if type(value) is int or (type(value) is float and isfinite(value)):
        return str(value)
    raise ValueError("no text")


def _to_integer(value: object) -> int:
    value = _parse_number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError("no whole number")
    return int(_within(value, *INTEGER_BOUNDS))


def _to_number(value: object, bounds: tuple[float, float]) -> float:
    value = _parse_number(value)
    if type(value) is not int and type(value) is not float:
        raise ValueError("no number")
    return float(_within(value, *bounds))


def _to_loads(value: object) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) > MAX_LOADS:
        raise ValueError("no load averages")
    return [_to_number(load, NUMBER_BOUNDS) for load in value]


def _to_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    number = _parse_number(value)
    if number in (0, 1) and type(number) in (int, float):
        return bool(number)
    raise ValueError("neither true nor false")


def _parse_number(value: object) -> object:
    """Return the number that a text is; anything else as it is."""
    if not isinstance(value, str):
        return value
    if not _NUMBER.fullmatch(value):
        raise ValueError("no number")
    return int(value) if _WHOLE.fullmatch(value) else float(value)


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:  # NaN is not
        raise ValueError("out of bounds")
    return value


_COERCE: Final[dict[str, Callable[[object], Any]]] = {
    **dict.fromkeys(("uuid", "hostname"), _to_identifier),
    **dict.fromkeys(TEXT_FIELDS, _to_text),
    **dict.fromkeys(("pid", "clock", "retries", "active", "processed"), _to_integer),
    "timestamp": partial(_to_number, bounds=TIME_BOUNDS),
    "runtime": partial(_to_number, bounds=NUMBER_BOUNDS),
    "freq": partial(_to_number, bounds=FREQ_BOUNDS),
    "loadavg": _to_loads,
    "requeue": _to_flag,
}
