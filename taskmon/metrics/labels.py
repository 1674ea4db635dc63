"""Labels: values short, printable and bounded in number, since whoever sends events can invent them."""

import re
from collections.abc import Iterable
from typing import Final

MAX_LABEL: Final = 200

#: The label value for what is beyond a bound, and the one that all publishers share.
OTHER: Final = "other"
CLIENT: Final = "client"

# Control characters, Unicode's line ends, and surrogates, which UTF-8 cannot hold.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean_label(text: str) -> str:
    """Make a label value short, printable and fit to stand between the quotes of the text format."""
    cut = text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
    return _UNPRINTABLE.sub("\ufffd", cut).replace("\\", r"\\").replace('"', r"\"")


def braced(labels: str) -> str:
    """Put labels, if there are any, between braces."""
    return f"{{{labels}}}" if labels else ""


#: Bytes of a line of the text format without the values of its labels: the metric's name, its labels' names, a bucket
#: and a number.
LINE_BYTES: Final = 96


class ByteBudget:
    """How many bytes of a scrape some samples may take: a bound that holds whatever the labels are.

    `line_bytes` is what a line has without the values of its labels.
    """

    def __init__(self, limit: int, line_bytes: int = LINE_BYTES) -> None:
        self.left = limit
        self._line_bytes = line_bytes

    def has_room(self, lines: int, labels: Iterable[str]) -> bool:
        """Whether so many lines with these values of labels still fit."""
        return self._bytes_of(lines, labels) <= self.left

    def spend(self, lines: int, labels: Iterable[str]) -> None:
        """Take what these lines need; a negative number of lines gives it back."""
        self.left -= self._bytes_of(lines, labels)

    def _bytes_of(self, lines: int, labels: Iterable[str]) -> int:
        return lines * (self._line_bytes + sum(map(_length, labels)))


def _length(label: str) -> int:
    return len(label) if label.isascii() else len(label.encode())


class Labels:
    """The clean values of one label, at most `limit` of them; every further value becomes `OTHER`.

    With a `budget`, each value takes what so many `lines` of a scrape need.
    """

    def __init__(
        self, limit: int, known: Iterable[str] = (), *, lines: int = 0, budget: ByteBudget | None = None
    ) -> None:
        self._limit = limit
        self._values = set(known)
        self._lines = lines
        self._budget = budget or ByteBudget(0)

    def admit(self, text: str) -> str:
        """Return the label of a value."""
        value = clean_label(text)
        if value not in self._values and not self._add(value):
            return OTHER
        return value

    def restore(self, label: str) -> None:
        """Take over a label that was admitted in an earlier run; it is clean already."""
        if label not in self._values:
            self._add(label)

    def _add(self, value: str) -> bool:
        if len(self._values) >= self._limit or not self._budget.has_room(self._lines, (value,)):
            return False
        self._values.add(value)
        self._budget.spend(self._lines, (value,))
        return True

    def discard(self, text: str) -> str | None:
        """Forget a value and return its label, or None if it had none of its own."""
        value = clean_label(text)
        if value not in self._values:
            return None
        self._values.remove(value)
        self._budget.spend(-self._lines, (value,))
        return value
