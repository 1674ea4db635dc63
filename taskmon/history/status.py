"""Status: how writing the history goes."""

import time
from typing import Final, Literal

from msgspec import Struct

from ..wording import say_roughly

#: Seconds that what is unwritten may be old before it is said that the database is behind.
LATE: Final = 5.0


class Status(Struct):
    """How it goes: numbers for the metrics, and why nothing is written, empty while all is well."""

    reason: str = "not connected yet"
    written: int = 0
    failures: int = 0
    dropped: int = 0
    deleted: int = 0
    unfit: int = 0
    cleaned: int = 0
    changed_since: float | None = None
    writing_since: float | None = None

    @property
    def available(self) -> bool:
        """Whether the last round went well."""
        return not self.reason

    def lag(self) -> float:
        """Tell how many seconds ago the oldest change was made that is not written."""
        since = self.changed_since if self.writing_since is None else self.writing_since
        return 0.0 if since is None else max(0.0, time.monotonic() - since)

    def word(self) -> Literal["ok", "behind", "unavailable"]:
        """Say in a word how it goes."""
        if not self.available:
            return "unavailable"
        return "behind" if self.lag() > LATE else "ok"

    def sentence(self) -> str | None:
        """Return what is not written yet, for people; None while all is well."""
        if self.word() == "ok":
            return None
        return (
            f"The oldest change that is not written was made {say_roughly(self.lag())} ago"
            if self.lag()
            else ("Nothing can be written, and nothing waits to be written")
        )
