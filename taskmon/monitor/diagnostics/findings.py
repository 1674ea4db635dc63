"""One thing that is found, and the words that findings have in common. Pure."""

from collections.abc import Collection
from typing import Final

from msgspec import Struct, field

#: As many workers or tasks of one finding are listed, and named in its message.
MAX_LISTED: Final = 100
_MAX_NAMED: Final = 3
_MAX_NAME_LENGTH: Final = 80


class Finding(Struct, frozen=True):
    """One thing that is found; `setting` is what mends it, as far as it is a setting of Celery or taskmon.

    `count` counts workers, tasks or events, `workers` and `tasks` list hostnames and names, not all where there are
    many, and `seconds` tells how far the clock of a worker is ahead. `causes` are what it may come from, where that
    is not known, each with how to tell.
    """

    code: str
    message: str
    setting: str | None = None
    count: int | None = None
    reason: str | None = None
    workers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    causes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return it as a line of the log."""
        return "; ".join((self.message, *(f"possible cause {n}: {one}" for n, one in enumerate(self.causes, 1))))


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def name_some(names: Collection[str], total: int | None = None) -> str:
    """Name a few, and say how many more there are."""
    few = [
        name if len(name) <= _MAX_NAME_LENGTH else name[:_MAX_NAME_LENGTH] + "…" for name in list(names)[:_MAX_NAMED]
    ]
    more = (len(names) if total is None else total) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")
