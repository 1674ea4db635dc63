"""What a request may say of a task to publish. Pure: whatever breaks a rule is InvalidArgument."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar, Final
from uuid import uuid4

import msgspec

from ..errors import InvalidArgument, shown
from ..nesting import MAX_DEPTH, find_repeated_key, is_too_deep
from ..parameters import (
    ID_SCHEMA,
    Kind,
    Parameter,
    Schema,
    Seconds,
    date_schema,
    epoch_schema,
    is_number,
    parse_bool,
    parse_id,
    parse_int,
    parse_seconds,
    quote,
    read_parameters,
    whole,
)
from ..times import MAX_EPOCH, parse_time

_MAX_DELAY: Final = 10 * 365 * 86_400.0
_YEARS: Final = "19[7-9][0-9]|[2-9][0-9]{3}"
_HIGHEST_PRIORITY: Final = 255
_QUEUE: Final = r"[\w.@:-]{1,255}"


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
    """Check what a body says of a task; times without a zone are in `zone`.

    An option that is null counts as not given. Raises InvalidArgument.
    """
    return make_call(name, read_parameters(PARAMETERS, body, zone))


def make_call(name: str, values: Mapping[str, Any]) -> Call:
    """Make a call of the values of PARAMETERS; raises InvalidArgument."""
    given = {one.name: values[one.name] for one in PARAMETERS if values[one.name] is not None}
    args, kwargs, retry = given.pop("args", []), given.pop("kwargs", {}), given.pop("retry", True)
    task_id = given.pop("task_id", None) or str(uuid4())
    return Call(parse_name("The task name", name), args, kwargs, given, retry, task_id)


class JsonKind(Kind):
    """The base of the kinds of a call's options: JSON values, of which null counts as not given."""

    in_query: ClassVar[bool] = False

    def from_json(self, argument: str, value: object) -> object:
        """Leave the value."""
        return value

    def is_absent(self, value: object) -> bool:
        """Tell whether it is null."""
        return value is None


class Args(JsonKind):
    """The positional arguments of a task."""

    def from_text(self, argument: str, text: str) -> object:
        """Return the JSON value that is in a text."""
        return decode_json(argument, text)

    def is_absent(self, value: object) -> bool:
        """Take null for what it is: no array."""
        return False

    def parse(self, argument: str, value: object, zone: tzinfo) -> list[Any]:
        """Give the array."""
        if not isinstance(value, list):
            raise InvalidArgument(argument, "must be an array")
        return value

    def schema(self) -> Schema:
        """Describe an array."""
        return {"type": "array", "items": {}}


class Kwargs(JsonKind):
    """The named arguments of a task."""

    def from_text(self, argument: str, text: str) -> object:
        """Return the JSON value that is in a text."""
        return decode_json(argument, text)

    def is_absent(self, value: object) -> bool:
        """Take null for what it is: no object."""
        return False

    def parse(self, argument: str, value: object, zone: tzinfo) -> dict[str, Any]:
        """Give the object."""
        if not isinstance(value, dict):
            raise InvalidArgument(argument, "must be an object")
        return value

    def schema(self) -> Schema:
        """Describe an object."""
        return {"type": "object"}


class Delay(JsonKind):
    """Seconds from now."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> float:
        """Give the seconds."""
        return parse_seconds(argument, value, _MAX_DELAY)

    def schema(self) -> Schema:
        """Describe a number of seconds, also as a text."""
        return Seconds(_MAX_DELAY).described()


class Date(JsonKind):
    """A moment, read as a datetime."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> datetime:
        """Give the moment."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:f}" if isinstance(value, float) else str(value)[:40]
        seconds = parse_time(argument, value if isinstance(value, str) else quote(value), zone)
        if seconds < 0:
            raise InvalidArgument(argument, "must be a time after 1970", quote(value))
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError) as exc:
            raise InvalidArgument(argument, "must be a time from the year 1 to the year 9999", quote(value)) from exc

    def schema(self) -> Schema:
        """Describe a moment since 1970."""
        seconds = {"type": "number", "minimum": 0, "exclusiveMaximum": MAX_EPOCH}
        return {"anyOf": [seconds, epoch_schema(), date_schema(_YEARS)]}


class Expiry(Date):
    """Seconds from now, or a moment; a number in a text is seconds, too."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> Any:
        """Give the seconds or the moment."""
        if isinstance(value, str) and not is_number(value):
            return super().parse(argument, value, zone)
        return parse_seconds(argument, value, _MAX_DELAY)

    def schema(self) -> Schema:
        """Describe seconds, and dates as texts."""
        return {"anyOf": [*Seconds(_MAX_DELAY).described()["anyOf"], date_schema(_YEARS)]}


class Name(JsonKind):
    """A name of 1 to 255 bytes, all printable."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> str:
        """Give the name."""
        return parse_name(argument, value)

    def schema(self) -> Schema:
        """Describe a short text."""
        return {"type": "string", "pattern": whole(r"[^\x00-\x1f\x7f]{1,255}")}


class ExchangeName(Name):
    """The name of an exchange; the empty one is the default exchange, which knows queues by their names."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> str:
        """Give the name."""
        return "" if value == "" else parse_name(argument, value)

    def schema(self) -> Schema:
        """Describe a short text."""
        return {"type": "string", "pattern": whole(r"[^\x00-\x1f\x7f]{0,255}")}


class NewId(JsonKind):
    """The id of a task to publish."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> str:
        """Return the id."""
        return parse_id(argument, value)

    def schema(self) -> Schema:
        """Describe an id."""
        return dict(ID_SCHEMA)


class QueueName(JsonKind):
    """The name of a queue."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> str:
        """Give the name."""
        if not isinstance(value, str) or not re.fullmatch(_QUEUE, value) or len(value.encode()) > 255:
            rule = "must be 1 to 255 letters, digits and any of _ . @ : -"
            raise InvalidArgument(argument, rule, quote(value))
        return value

    def schema(self) -> Schema:
        """Describe the pattern."""
        return {"type": "string", "pattern": whole(_QUEUE)}


class Priority(JsonKind):
    """The priority of a message."""

    def from_text(self, argument: str, text: str) -> int:
        """Return the number that is in a text."""
        return parse_int(argument, text, 0, _HIGHEST_PRIORITY)

    def parse(self, argument: str, value: object, zone: tzinfo) -> int:
        """Give the priority."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _HIGHEST_PRIORITY:
            raise InvalidArgument(argument, f"must be a whole number from 0 to {_HIGHEST_PRIORITY}", quote(value))
        return value

    def schema(self) -> Schema:
        """Describe the number."""
        return {"type": "integer", "minimum": 0, "maximum": _HIGHEST_PRIORITY}


class Boolean(JsonKind):
    """True or false."""

    def from_text(self, argument: str, text: str) -> bool:
        """Return what a text says."""
        return parse_bool(argument, text)

    def parse(self, argument: str, value: object, zone: tzinfo) -> bool:
        """Give it."""
        if not isinstance(value, bool):
            raise InvalidArgument(argument, "must be true or false")
        return value

    def schema(self) -> Schema:
        """Describe a boolean."""
        return {"type": "boolean"}


def decode_json(argument: str, text: str) -> object:
    """Return the JSON value that is in a text; raises InvalidArgument."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidArgument(argument, f"must be JSON in a form or a query string ({exc})") from exc
    if is_too_deep(text.encode(), value):
        raise InvalidArgument(argument, f"may be nested {MAX_DEPTH} levels deep at the most")
    if (key := find_repeated_key(text)) is not None:
        raise InvalidArgument(argument, f"must not have a key twice, as it has {shown(key)}")
    return value


def parse_name(argument: str, value: object) -> str:
    """Read a name; raises InvalidArgument."""
    if not isinstance(value, str) or not value or not value.isprintable() or len(value.encode()) > 255:
        raise InvalidArgument(argument, "must be a text of 1 to 255 bytes, all printable", quote(value))
    return value


#: What a request may say of a task, by the names of Celery's `apply_async`.
PARAMETERS: Final = (
    Parameter("args", Args(), "The positional arguments."),
    Parameter("kwargs", Kwargs(), "The named arguments."),
    Parameter("eta", Date(), "When it is to run."),
    Parameter("countdown", Delay(), "In how many seconds it is to run.", excludes="eta"),
    Parameter("expires", Expiry(), "After how many seconds, or when, it is not to run any more."),
    Parameter("queue", QueueName(), "The queue to send it to."),
    Parameter("exchange", ExchangeName(), "The exchange to send it to; the default one when it is empty."),
    Parameter("routing_key", Name(), "The routing key to send it with."),
    Parameter("priority", Priority(), "The priority of the message."),
    Parameter("task_id", NewId(), "Its id; a new one without it."),
    Parameter("retry", Boolean(), "Whether to try once more over a new connection.", default=True),
)
