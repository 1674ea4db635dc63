"""What an option is: a row of the table, described by the field of `Settings` that it stands for."""

import math
from dataclasses import Field, dataclass, field
from typing import Any, Final, NamedTuple

from ..errors import InvalidSetting
from ..masking import mask_passwords
from .kinds import Kind, format_size, parse_switch

SWITCH: Final = Kind("", parse_switch)


def describe(
    section: str,
    default: object,
    kind: Kind,
    text: str,
    *,
    secret: bool = False,
    short: str | None = None,
    flower: str | bool = False,
) -> Any:
    """Describe a field; `flower` says that Flower has the option too, or how it is called there."""
    about = {
        "section": section,
        "kind": kind,
        "help": text,
        "secret": secret,
        "short": short,
        "flower": flower,
    }
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Option:
    """A row of the table, for the command line, the loader and the documentation."""

    name: str
    default: object
    section: str
    kind: Kind
    help: str
    secret: bool
    short: str | None
    flower: str | None

    @property
    def multiple(self) -> bool:
        """Whether it takes many values: a repeated flag, a text with commas, a TOML array."""
        return self.kind.split is not None

    @property
    def switch(self) -> bool:
        """Whether it is a boolean."""
        return self.kind is SWITCH

    @property
    def flag(self) -> str:
        """Its long name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "TASKMON_" + self.name.upper()

    @property
    def default_text(self) -> str:
        """Its default as a user writes it; empty for none."""
        match self.default:
            case bool():
                return "on" if self.default else "off"
            case int() if self.kind.metavar == "SIZE":
                return format_size(self.default)
            case float():
                return f"{self.default:g}"
            case tuple():
                shown = (each if isinstance(each, str) else f"{each:g}" for each in self.default if each != math.inf)
                return ", ".join(shown)
        return str(self.default or "")


class Given(NamedTuple):
    """A value and where it was given: a variable, a file, or empty for a flag."""

    value: object
    source: str


def to_option(entry: Field[Any]) -> Option:
    about = dict(entry.metadata)
    flower = about.pop("flower")
    return Option(
        name=entry.name,
        default=entry.default,
        flower=entry.name if flower is True else flower or None,
        **about,
    )


def checked(option: Option, value: object) -> object:
    if value is None and option.default is None:
        return None
    try:
        return option.kind.parse(value)
    except ValueError as exc:
        raise InvalidSetting(option.name, str(exc), None if option.secret else _quoted(value)) from None


def _quoted(value: object) -> str:
    return mask_passwords(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def shown(option: Option, value: object) -> str:
    if not option.secret or not value:
        return repr(value)
    return repr(mask_passwords(str(value)) if option.kind.metavar == "URL" else "***")
