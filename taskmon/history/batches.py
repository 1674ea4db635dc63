"""What is written together, what came of it, and how values become such as a database can hold. Pure."""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from ..monitor.task_fields import GROUPED
from ..records import CUT_MARK
from .columns import FIELDS

Row = tuple[Any, ...]

#: Rows that are named of all those that a database refused.
MAX_EXAMPLES: Final = 5

#: What a signed integer of 64 bits holds.
_INTEGERS: Final = range(-(2**63), 2**63)

#: Columns without a null, and what stands there instead.
_REQUIRED: Final = {"born": 0.0, "seen": 0.0}

#: Columns that are in an index, but for the key: a text that is too long for that may be cut.
_INDEXED: Final = frozenset((*GROUPED, "reconciled"))

_UUID: Final = FIELDS.index("uuid")


class Batch(Struct):
    """What is written in one transaction: rows of tasks, documents of workers with their `seen`, and counters.

    `counters` belong to `monitor`, and `now` is the time, in epoch seconds. `adopted` are the ids of those tasks that
    were marked as orphaned and are no longer: without a newer event, merging would keep the mark. All of it is of the
    database's own cluster, unless `cluster` is the key of another.
    """

    tasks: list[Row]
    workers: list[tuple[str, float, str]]
    gone: list[str]
    counters: str | None
    monitor: str
    now: float
    adopted: list[str] = []
    cluster: str | None = None


class Written(Struct):
    """What came of a batch: tasks that were not there before, rows that were cleaned and rows that were refused.

    `examples` names some of the refused rows, with the reason.
    """

    inserted: int = 0
    cleaned: int = 0
    refused: int = 0
    examples: list[str] = []

    def add(self, other: "Written") -> None:
        """Add what came of another batch."""
        self.inserted += other.inserted
        self.cleaned += other.cleaned
        self.refused += other.refused
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]

    def refuse(self, what: str, name: object, reason: str) -> None:
        """Count a row that cannot be stored."""
        self.refused += 1
        if len(self.examples) < MAX_EXAMPLES:
            shown = ascii(name)
            self.examples = [*self.examples, f"{what} {shown[:80]} ({reason[:120]})"]


def uuid_of(row: Row) -> object:
    """Return the id of a task's row."""
    return row[_UUID]


def clean_text(text: str) -> str:
    """Replace what no database holds: NUL characters and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def clean_batch(batch: Batch) -> Batch:
    """Clean what is written besides tasks; it is little."""
    return replace(
        batch,
        workers=[(clean_text(hostname), seen, clean_text(document)) for hostname, seen, document in batch.workers],
        gone=list(map(clean_text, batch.gone)),
        adopted=list(map(clean_text, batch.adopted)),
        counters=None if batch.counters is None else clean_text(batch.counters),
    )


def clean_rows(rows: Iterable[Row], longest: int | None = None) -> tuple[list[Row], int]:
    """Clean the rows of tasks, and cut indexed texts of more than `longest` bytes; return how many have changed."""
    found = [(row, clean_row(row, longest)) for row in rows]
    return [clean for _, clean in found], sum(row != clean for row, clean in found)


def clean_row(row: Row, longest: int | None = None) -> Row:
    """Replace the values in the row of a task that a database cannot hold."""
    return tuple(_clean(field, value, longest) for field, value in zip(FIELDS, row, strict=True))


def _clean(field: str, value: Any, longest: int | None) -> Any:
    value = clean_value(value)
    if isinstance(value, str) and longest is not None and field in _INDEXED:
        return cut_text(value, longest)
    return _REQUIRED.get(field) if value is None else value


def clean_value(value: Any) -> Any:
    """Replace a value that a database cannot hold, a number by None."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return value if value in _INTEGERS else None
    return None if isinstance(value, float) and not isfinite(value) else value


def cut_text(text: str, longest: int) -> str:
    """Cut a text that takes more than `longest` bytes."""
    content = text.encode()
    return text if len(content) <= longest else content[:longest].decode("utf-8", "ignore") + CUT_MARK


def names_of(rows: Sequence[Row]) -> set[str]:
    """Return the names of the tasks."""
    return {row[_NAME] for row in rows if row[_NAME] is not None}


_NAME: Final = FIELDS.index("name")
