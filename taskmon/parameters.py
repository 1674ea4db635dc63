"""What a request may say: the arguments of a route, and how their values are read. Pure.

A route declares its arguments as a `Parameters` struct. Each field is an `Annotated` type with a description and, in
msgspec's `Meta`, its bounds. `parse_parameters` reads a request by it, and the OpenAPI document and the line of the
audit log are made from it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from functools import cache
from math import isfinite
from types import NoneType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from .errors import InvalidArgument
from .times import DATE, MAX_EPOCH, parse_time

Schema = dict[str, Any]

#: The length of an id or a name, in characters, that events may have; longer ones cannot be asked about either.
MAX_NAME_LENGTH: Final = 1024

#: Which values of an argument count as not given: blank texts and null, the empty text and null, null, or none.
Absent = Literal["blank", "empty", "null", "never"]


class Parameters(Struct):
    """The base of what a route takes; as it is, for a route that takes nothing."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the values of an argument are written; stands in `Annotated` where the type does not say it.

    `read` turns a JSON value, or a text of the query string or a form, into the argument's; its last argument is the
    zone of times without one. Where texts have to be decoded first, `decode` does that. Both raise InvalidArgument.
    `schema` describes the value, `text` is the pattern of the texts that JSON may have in its place, and `form`
    describes the texts of a form where these differ; False where a form cannot have it.
    """

    read: Callable[[str, Any, tzinfo], Any]
    schema: Schema
    text: str | None = None
    form: Schema | Literal[False] | None = None
    decode: Callable[[str, str], Any] | None = None
    absent: Absent = "blank"

    def is_absent(self, value: object) -> bool:
        """Whether a value counts as not given."""
        if value is None:
            return self.absent != "never"
        if not isinstance(value, str) or self.absent in ("null", "never"):
            return False
        return not (value.strip() if self.absent == "blank" else value)


@dataclass(frozen=True, slots=True)
class Argument:
    """One field of a `Parameters` struct: `name` on the wire, `field` in the struct.

    `excludes` is another argument that must not be given together with it.
    """

    name: str
    field: str
    format: Format
    description: str
    required: bool
    default: Any
    excludes: str | None

    def parse(self, given: Mapping[str, Any], zone: tzinfo) -> Any:
        """Return its value; raises InvalidArgument."""
        value = given.get(self.name)
        if isinstance(value, InvalidArgument):
            raise value
        if self.name in given and not self.format.is_absent(value):
            return self.format.read(self.name, value, zone)
        return self.format.read(self.name, "" if value is None else value, zone) if self.required else self.default


P = TypeVar("P", bound=Parameters)


@cache
def find_arguments(parameters: type[Parameters]) -> tuple[Argument, ...]:
    """Return the arguments of a route."""
    return tuple(map(_make_argument, fields(parameters)))


def parse_parameters(parameters: type[P], given: Mapping[str, Any], zone: tzinfo) -> P:
    """Read the given values, by name; raises InvalidArgument. A name that is not known is ignored."""
    values: dict[str, Any] = {}
    for argument in find_arguments(parameters):
        if argument.name not in given and not argument.required:
            continue
        values[argument.field] = value = argument.parse(given, zone)
        other = argument.excludes
        if other is not None and value is not None and values.get(other) is not None:
            raise InvalidArgument(argument.name, f"must not be given together with {other}")
    return parameters(**values)


def _make_argument(field: FieldInfo) -> Argument:
    base, *notes = get_args(field.type)
    (meta,) = [note for note in notes if isinstance(note, Meta)]
    known = [note for note in notes if isinstance(note, Format)]
    kind = next((one for one in get_args(base) if one is not NoneType), base)
    return Argument(
        field.encode_name,
        field.name,
        known[-1] if known else _FORMATS[kind](meta),
        meta.description or "",
        field.required,
        None if field.required else field.default,
        (meta.extra or {}).get("excludes"),
    )


def as_text(argument: str, value: object) -> str:
    """Write a JSON value as it would stand in a query string; raises InvalidArgument."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value + 0.0)  # -0.0 is 0
        return (f"{value:.9f}" if "e" in text else text).removesuffix(".0")
    if isinstance(value, str | int):
        return str(value)
    raise InvalidArgument(argument, "must be a text, a number or a boolean")


# Texts


def require_text(argument: str, value: object) -> str:
    """Give a text; raises InvalidArgument for anything else."""
    if not isinstance(value, str):
        raise InvalidArgument(argument, "must be a text")
    return value


def read_text(argument: str, value: object, zone: tzinfo) -> str:
    """Return a text as it is; raises InvalidArgument."""
    if "\0" in (text := require_text(argument, value)):  # no database of texts has it
        raise InvalidArgument(argument, "must not contain a NUL character", text)
    return text


#: What `read_text` takes, in JSON Schema.
TEXT_SCHEMA: Final[Schema] = {"type": "string", "pattern": r"^[^\x00]*$"}


#: What `parse_id` takes, in JSON Schema.
ID_SCHEMA: Final[Schema] = {
    "type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH, "pattern": r"^[^\x00]*$",
}  # fmt: skip


def parse_id(argument: str, value: object) -> str:
    """Return the id of a task, or a name that stands in a path; raises InvalidArgument. The rule for all routes."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH or "\0" in value:
        rule = f"must be a text of 1 to {MAX_NAME_LENGTH:,} characters, none of them NUL"
        raise InvalidArgument(argument, rule, quote(value))
    return value


def read_id(argument: str, value: object, zone: tzinfo) -> str:
    """Return an id or a hostname; raises InvalidArgument."""
    return parse_id(argument, require_text(argument, value))


#: The id of a task; an empty text is none.
TaskId = Annotated[str | None, Format(read_id, {**TEXT_SCHEMA, "maxLength": MAX_NAME_LENGTH}, absent="empty")]


def matching(pattern: str, rule: str) -> Format:
    """Return the format of texts that match a pattern as a whole; `rule` says so in words."""

    def read(argument: str, value: object, zone: tzinfo) -> str:
        if not re.fullmatch(pattern, text := require_text(argument, value)):
            raise InvalidArgument(argument, rule, text)
        return text

    return Format(read, {"type": "string", "pattern": whole(pattern)})


def whole(pattern: str) -> str:
    """Anchor a pattern: JSON Schema's may match anywhere."""
    return f"^(?:{pattern})$"


# Yes or no, and numbers

_TRUE: Final = ("y", "yes", "t", "true", "on", "1")
_FALSE: Final = ("n", "no", "f", "false", "off", "0")
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = r"[+-]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?"


def digits(most: int) -> str:
    """Give the pattern of whole numbers from 0 to `most`, without zeros in front."""
    last = str(most)
    choices = ["0", f"[1-9][0-9]{{0,{len(last) - 2}}}"] if len(last) > 1 else ["0"]
    for place, digit in enumerate(last):
        lowest = 1 if place == 0 else 0
        if int(digit) > lowest:
            rest = len(last) - place - 1
            choices.append(f"{last[:place]}[{lowest}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return "|".join([*choices, last])


def seconds_pattern(most: float) -> str:
    """Give the pattern of numbers from 0 to `most`, a whole number."""
    return rf"(?:{digits(int(most) - 1)})(?:\.[0-9]{{1,9}})?|{int(most)}"


def parse_bool(argument: str, value: object) -> bool:
    """Parse a yes or no as Flower does. Raises InvalidArgument."""
    if not isinstance(value, str):
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
        value = as_text(argument, value)
    word = value.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise InvalidArgument(argument, "must be true or false (or y, yes, t, on, 1, n, no, f, off, 0)", value)


def parse_int(argument: str, value: object, minimum: int, maximum: int) -> int:
    """Parse a whole number within bounds. Raises InvalidArgument."""
    number: object = value
    if isinstance(value, str):
        number = int(value) if _INTEGER.fullmatch(value.strip()) else None
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if isinstance(number, int) and not isinstance(number, bool) and minimum <= number <= maximum:
        return number
    rule = f"must be a whole number from {minimum:,} to {maximum:,}"
    raise InvalidArgument(argument, rule, as_text(argument, value))


def parse_seconds(argument: str, value: object, most: float) -> float:
    """Read a number of seconds, also from a text; raises InvalidArgument."""
    number = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e30 else -1.0
    elif isinstance(value, str) and is_number(value):
        number = float(value)
    if not isfinite(number) or not 0 <= number <= most:
        raise InvalidArgument(argument, f"must be a number of seconds from 0 to {most:,.0f}", quote(value))
    return number


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    return re.fullmatch(_NUMBER, text.strip()) is not None


def quote(value: object) -> str:
    """Put a value of JSON into a message, which cuts it."""
    return (
        value if isinstance(value, str) else type(value).__name__ if isinstance(value, list | dict) else repr(value)
    )


# Times


_YEARS: Final = "000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3}"


def epoch_schema(sign: str = "") -> Schema:
    """Describe a text of epoch seconds, with this pattern of a sign."""
    return {"type": "string", "pattern": whole(sign + r"[0-9]{1,11}(?:\.[0-9]{1,20})?")}


def date_schema(years: str) -> Schema:
    """Describe a date; `years` is the pattern of the year."""
    rest = DATE.partition(")")[2]
    return {"type": "string", "pattern": whole(f"(?:{years})" + re.sub(r"\?P<\w+>", "?:", rest))}


def read_time(argument: str, value: object, zone: tzinfo) -> float:
    """Return a moment in epoch seconds; raises InvalidArgument."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_EPOCH:
        return float(value)
    return parse_time(argument, as_text(argument, value), zone)


_TIME: Final[Schema] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": -MAX_EPOCH, "exclusiveMaximum": MAX_EPOCH},
        epoch_schema("-?"),
        date_schema(_YEARS),
    ]
}

#: A moment, in epoch seconds.
Time = Annotated[float | None, Format(read_time, _TIME)]


# What a type says by itself


def _whole_numbers(meta: Meta) -> Format:
    minimum, maximum = int(meta.ge or 0), int(meta.le or 0)
    text = digits(maximum).removeprefix("0|" if minimum > 0 else "")
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return Format(lambda argument, value, zone: parse_int(argument, value, minimum, maximum), schema, text)


def _seconds(meta: Meta) -> Format:
    most = float(meta.le or 0)
    schema = {"type": "number", "minimum": 0, "maximum": most}
    return Format(lambda argument, value, zone: parse_seconds(argument, value, most), schema, seconds_pattern(most))


_WORDS: Final = "|".join("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in w) for w in _TRUE + _FALSE)
FLAG: Final = Format(
    lambda argument, value, zone: parse_bool(argument, value),
    {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": whole(_WORDS)}, {"enum": [0, 1]}]},
)
_TEXT: Final = Format(read_text, TEXT_SCHEMA, absent="empty")

#: Yes or no as Flower reads it, a whole number within `ge` and `le`, seconds from 0 to `le`, any text.
_FORMATS: Final[dict[Any, Callable[[Meta], Format]]] = {
    bool: lambda meta: FLAG,
    int: _whole_numbers,
    float: _seconds,
    str: lambda meta: _TEXT,
}
