"""What a request may say of a task to publish. Pure: whatever breaks a rule is InvalidArgument."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any, Final
from uuid import uuid4

import msgspec
from msgspec import Meta

from ..errors import InvalidArgument, shown
from ..nesting import MAX_DEPTH, find_repeated_key, is_too_deep
from ..parameters import (
    FLAG,
    ID_SCHEMA,
    Format,
    Parameters,
    Schema,
    date_schema,
    epoch_schema,
    is_number,
    parse_bool,
    parse_id,
    parse_int,
    parse_parameters,
    parse_seconds,
    quote,
    seconds_pattern,
    whole,
)
from ..times import MAX_EPOCH, parse_time

_MAX_DELAY: Final = 10 * 365 * 86_400.0
_YEARS: Final = "19[7-9][0-9]|[2-9][0-9]{3}"
_HIGHEST_PRIORITY: Final = 255
_QUEUE: Final = r"[^\s\x00-\x1f\x7f]{1,255}"


@dataclass(frozen=True, slots=True)
class Call:
    """A task to publish; `options` are `apply_async`'s, checked; `retry`: once more over a new connection."""

    name: str
    args: list[Any] | tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    retry: bool = True
    task_id: str = field(default_factory=lambda: str(uuid4()))


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


def _read_args(argument: str, value: object, zone: tzinfo) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidArgument(argument, "must be an array")
    return value


def _read_kwargs(argument: str, value: object, zone: tzinfo) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(argument, "must be an object")
    return value


def _read_delay(argument: str, value: object, zone: tzinfo) -> float:
    return parse_seconds(argument, value, _MAX_DELAY)


def _read_date(argument: str, value: object, zone: tzinfo) -> datetime:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:f}" if isinstance(value, float) else str(value)[:40]
    seconds = parse_time(argument, value if isinstance(value, str) else quote(value), zone)
    if seconds < 0:
        raise InvalidArgument(argument, "must be a time after 1970", quote(value))
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise InvalidArgument(argument, "must be a time from the year 1 to the year 9999", quote(value)) from exc


def _read_expiry(argument: str, value: object, zone: tzinfo) -> float | datetime:
    """Return seconds from now, or a moment; a number in a text is seconds, too."""
    if isinstance(value, str) and not is_number(value):
        return _read_date(argument, value, zone)
    return _read_delay(argument, value, zone)


def _read_exchange(argument: str, value: object, zone: tzinfo) -> str:
    """Return the name of an exchange; the empty one is the default exchange, which knows queues by their names."""
    return "" if value == "" else parse_name(argument, value)


def _read_queue(argument: str, value: object, zone: tzinfo) -> str:
    if not isinstance(value, str) or not re.fullmatch(_QUEUE, value) or not value.isprintable():
        raise InvalidArgument(
            argument, "must be a text of 1 to 255 bytes, all printable, without blanks", quote(value)
        )
    return parse_name(argument, value)


def _read_priority(argument: str, value: object, zone: tzinfo) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _HIGHEST_PRIORITY:
        raise InvalidArgument(argument, f"must be a whole number from 0 to {_HIGHEST_PRIORITY}", quote(value))
    return value


def _read_boolean(argument: str, value: object, zone: tzinfo) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(argument, "must be true or false")
    return value


_JSON_TEXT: Final = {"type": "string", "contentMediaType": "application/json"}
_SECONDS: Final[list[Schema]] = [
    {"type": "number", "minimum": 0, "maximum": _MAX_DELAY},
    {"type": "string", "pattern": whole(seconds_pattern(_MAX_DELAY))},
]
_SINCE_1970: Final[Schema] = {"type": "number", "minimum": 0, "exclusiveMaximum": MAX_EPOCH}
_PRIORITY: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": _HIGHEST_PRIORITY}


def _json(read: Any, schema: Schema, **more: Any) -> Format:
    """Return the format of an option: a JSON value, of which only null counts as not given."""
    return Format(read, schema, **{"absent": "null"} | more)


def _name(least: int) -> Schema:
    return {"type": "string", "pattern": whole(rf"[^\x00-\x1f\x7f]{{{least},255}}")}


Args = Annotated[
    list[Any] | None,
    _json(_read_args, {"type": "array", "items": {}}, form=_JSON_TEXT, decode=decode_json, absent="never"),
]
Kwargs = Annotated[
    dict[str, Any] | None,
    _json(_read_kwargs, {"type": "object"}, form=_JSON_TEXT, decode=decode_json, absent="never"),
]
Moment = Annotated[datetime | None, _json(_read_date, {"anyOf": [_SINCE_1970, epoch_schema(), date_schema(_YEARS)]})]
Delay = Annotated[float | None, _json(_read_delay, {"anyOf": _SECONDS})]
Expiry = Annotated[float | datetime | None, _json(_read_expiry, {"anyOf": [*_SECONDS, date_schema(_YEARS)]})]
#: How the name of a queue is written, in all routes.
QUEUE_FORMAT: Final = _json(_read_queue, {"type": "string", "pattern": whole(_QUEUE)})

QueueName = Annotated[str | None, QUEUE_FORMAT]
ExchangeName = Annotated[str | None, _json(_read_exchange, _name(0))]
RoutingKey = Annotated[str | None, _json(lambda argument, value, zone: parse_name(argument, value), _name(1))]
NewId = Annotated[str | None, _json(lambda argument, value, zone: parse_id(argument, value), ID_SCHEMA)]
Priority = Annotated[
    int | None,
    _json(_read_priority, _PRIORITY, decode=lambda name, text: parse_int(name, text, 0, _HIGHEST_PRIORITY)),
]
Boolean = Annotated[bool, _json(_read_boolean, {"type": "boolean"}, form=FLAG.schema, decode=parse_bool)]


class PublishOptions(Parameters):
    """What a request may say of a task, by the names of Celery's `apply_async`."""

    args: Annotated[Args, Meta(description="The positional arguments.")] = None
    kwargs: Annotated[Kwargs, Meta(description="The named arguments.")] = None
    eta: Annotated[Moment, Meta(description="When it is to run.")] = None
    countdown: Annotated[Delay, Meta(description="In how many seconds it is to run.", extra={"excludes": "eta"})] = (
        None
    )
    expires: Annotated[Expiry, Meta(description="After how many seconds, or when, it is not to run any more.")] = None
    queue: Annotated[QueueName, Meta(description="The queue to send it to.")] = None
    exchange: Annotated[
        ExchangeName, Meta(description="The exchange to send it to; the default one when it is empty.")
    ] = None
    routing_key: Annotated[RoutingKey, Meta(description="The routing key to send it with.")] = None
    priority: Annotated[Priority, Meta(description="The priority of the message.")] = None
    task_id: Annotated[NewId, Meta(description="Its id; a new one without it.")] = None
    retry: Annotated[Boolean, Meta(description="Whether to try once more over a new connection.")] = True


_PASSED_ON: Final = ("eta", "countdown", "expires", "queue", "exchange", "routing_key", "priority")


def parse_call(name: str, body: Mapping[str, Any], zone: tzinfo) -> Call:
    """Check what a body says of a task; times without a zone are in `zone`.

    An option that is null counts as not given. Raises InvalidArgument.
    """
    return make_call(name, parse_parameters(PublishOptions, body, zone))


def make_call(name: str, said: PublishOptions) -> Call:
    """Return the call that a request asks for; raises InvalidArgument for a bad name."""
    options = {key: value for key in _PASSED_ON if (value := getattr(said, key)) is not None}
    task_id = said.task_id or str(uuid4())
    return Call(parse_name("The task name", name), said.args or [], said.kwargs or {}, options, said.retry, task_id)
