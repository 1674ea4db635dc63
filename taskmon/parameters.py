"""What a request may say: the names of its arguments, the kind of each, and how a value is read. Pure.

A route declares its arguments by a tuple of Parameter. Requests are read by it, and the OpenAPI document is made of
it, so that the one says what the other does.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from math import isfinite
from typing import Any, ClassVar, Final

from .errors import InvalidArgument
from .times import DATE, MAX_EPOCH, parse_time

Schema = dict[str, Any]

#: The length of an id or a name, in characters, that events may have; longer ones cannot be asked about either.
MAX_NAME_LENGTH: Final = 1024


class Kind:
    """How the values of an argument are written; the base of every kind.

    One that is `in_query` is written alike in the query string, in a form and in a JSON object, where null means that
    it is not given; any other is a JSON value of its own.
    """

    in_query: ClassVar[bool] = True

    def from_text(self, argument: str, text: str) -> Any:
        """Return what `parse` reads, made of a text of the query string or a form; raises InvalidArgument."""
        return text

    def from_json(self, argument: str, value: object) -> Any:
        """Make of a value of a JSON object what `parse` reads: as a rule the text that a query string would have."""
        return as_text(argument, value)

    def is_absent(self, value: object) -> bool:
        """Tell whether a value counts as not given: a blank text does."""
        return isinstance(value, str) and not value.strip()

    def parse(self, argument: str, value: Any, zone: tzinfo) -> Any:
        """Read a value; times without a zone are in `zone`. Raises InvalidArgument."""
        raise NotImplementedError

    def schema(self) -> Schema:
        """Describe the values, in JSON Schema."""
        raise NotImplementedError

    def text(self) -> str | None:
        """Give the pattern of the texts that a JSON object may have in place of what `schema` says, if there are."""
        return None

    def described(self) -> Schema:
        """Describe the values, and the texts that a JSON object may have in their place."""
        schema, text = self.schema(), self.text()
        return schema if text is None else {"anyOf": [schema, {"type": "string", "pattern": whole(text)}]}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument; `default` is what one that is not given is read as, and `help` says what it is for.

    `excludes` is another one that cannot stand beside it.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    required: bool = False
    excludes: str | None = None

    def read(self, given: Mapping[str, Any], zone: tzinfo) -> Any:
        """Read its value; raises InvalidArgument."""
        value = given.get(self.name, "")
        if self.name in given and not self.kind.is_absent(value):
            return self.kind.parse(self.name, value, zone)
        return self.kind.parse(self.name, value, zone) if self.required else self.default


def read_parameters(parameters: Iterable[Parameter], given: Mapping[str, Any], zone: tzinfo) -> dict[str, Any]:
    """Read the values of all parameters, by name; raises InvalidArgument."""
    values = {}
    for parameter in parameters:
        values[parameter.name] = parameter.read(given, zone)
        other = parameter.excludes
        if other is not None and values[parameter.name] is not None and values.get(other) is not None:
            raise InvalidArgument(parameter.name, f"must not be given together with {other}")
    return values


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


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Any text, taken as it is; `none` is the one that means nothing in particular."""

    none: str | None = None

    def from_json(self, argument: str, value: object) -> str:
        """Refuse what is no text."""
        return require_text(argument, value)

    def is_absent(self, value: object) -> bool:
        """Tell whether a text is empty; a blank one is not."""
        return value == ""

    def parse(self, argument: str, value: str, zone: tzinfo) -> str | None:
        """Give the text."""
        if "\0" in value:  # no database of texts has it
            raise InvalidArgument(argument, "must not contain a NUL character", value)
        return None if value == self.none else value

    def schema(self) -> Schema:
        """Describe any text without NUL."""
        return {"type": "string", "pattern": r"^[^\x00]*$"}


class TaskId(Text):
    """The id of a task."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> str:
        """Return the id."""
        return parse_id(argument, value)

    def schema(self) -> Schema:
        """Describe an id, or an empty text."""
        return {**super().schema(), "maxLength": MAX_NAME_LENGTH}


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


@dataclass(frozen=True, slots=True)
class Pattern(Kind):
    """A text that matches a pattern as a whole; `rule` says so in words."""

    pattern: str
    rule: str

    def from_json(self, argument: str, value: object) -> str:
        """Refuse what is no text."""
        return require_text(argument, value)

    def parse(self, argument: str, value: str, zone: tzinfo) -> str:
        """Give the text if it matches."""
        if not re.fullmatch(self.pattern, value):
            raise InvalidArgument(argument, self.rule, value)
        return value

    def schema(self) -> Schema:
        """Describe the pattern."""
        return {"type": "string", "pattern": whole(self.pattern)}


def whole(pattern: str) -> str:
    """Anchor a pattern: JSON Schema's may match anywhere."""
    return f"^(?:{pattern})$"


# Yes or no, and numbers

_TRUE: Final = ("y", "yes", "t", "true", "on", "1")
_FALSE: Final = ("n", "no", "f", "false", "off", "0")
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = r"[+-]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?"


class Flag(Kind):
    """Yes or no, as Flower reads it."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> bool:
        """Give true or false."""
        return parse_bool(argument, value)

    def schema(self) -> Schema:
        """Describe a boolean, and the words for it in any case."""
        words = "|".join("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in w) for w in _TRUE + _FALSE)
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": whole(words)}, {"enum": [0, 1]}]}


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A whole number, from `minimum` to `maximum`."""

    minimum: int
    maximum: int

    def parse(self, argument: str, value: str, zone: tzinfo) -> int:
        """Give the number."""
        return parse_int(argument, value, self.minimum, self.maximum)

    def schema(self) -> Schema:
        """Describe the number."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}

    def text(self) -> str:
        """Give the pattern of its digits."""
        return digits(self.maximum).removeprefix("0|" if self.minimum > 0 else "")


@dataclass(frozen=True, slots=True)
class Seconds(Kind):
    """A number of seconds, from 0 to `most`."""

    most: float

    def from_json(self, argument: str, value: object) -> object:
        """Leave the value: `parse` knows numbers from texts."""
        return value

    def parse(self, argument: str, value: object, zone: tzinfo) -> float:
        """Give the seconds."""
        return parse_seconds(argument, value, self.most)

    def schema(self) -> Schema:
        """Describe the number."""
        return {"type": "number", "minimum": 0, "maximum": self.most}

    def text(self) -> str:
        """Give the pattern of a number."""
        return seconds_pattern(self.most)


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


class Time(Kind):
    """A moment, read as epoch seconds."""

    def parse(self, argument: str, value: str, zone: tzinfo) -> float:
        """Give the moment in epoch seconds."""
        return parse_time(argument, value, zone)

    def schema(self) -> Schema:
        """Describe epoch seconds, and dates as texts."""
        seconds = {"type": "number", "exclusiveMinimum": -MAX_EPOCH, "exclusiveMaximum": MAX_EPOCH}
        return {"anyOf": [seconds, epoch_schema("-?"), date_schema(_YEARS)]}


def epoch_schema(sign: str = "") -> Schema:
    """Describe a text of epoch seconds, with this pattern of a sign."""
    return {"type": "string", "pattern": whole(sign + r"[0-9]{1,11}(?:\.[0-9]{1,20})?")}


def date_schema(years: str) -> Schema:
    """Describe a date; `years` is the pattern of the year."""
    rest = DATE.partition(")")[2]
    return {"type": "string", "pattern": whole(f"(?:{years})" + re.sub(r"\?P<\w+>", "?:", rest))}
