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


class Labels:
    """The clean values of one label, at most `limit` of them; every further value becomes `OTHER`."""

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._values = set(known)

    def admit(self, text: str) -> str:
        """Return the label of a value."""
        value = clean_label(text)
        if value not in self._values:
            if len(self._values) >= self._limit:
                return OTHER
            self._values.add(value)
        return value

    def restore(self, label: str) -> None:
        """Take over a label that was admitted in an earlier run; it is clean already."""
        if len(self._values) < self._limit:
            self._values.add(label)

    def discard(self, text: str) -> str | None:
        """Forget a value and return its label, or None if it had none of its own."""
        value = clean_label(text)
        if value not in self._values:
            return None
        self._values.remove(value)
        return value
