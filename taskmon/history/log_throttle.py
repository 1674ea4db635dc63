"""A reminder: what goes wrong again and again is logged at once, and then once a minute with what came meanwhile."""

import time
from collections.abc import Callable, Sequence
from typing import Final

#: Seconds between two lines.
LOG_INTERVAL: Final = 60.0

#: Examples that one line has.
_MAX_EXAMPLES: Final = 5


class Reminder:
    """Counts what `say` logs: how much came since the last time, and some examples."""

    def __init__(self, say: Callable[[int, list[str]], None]) -> None:
        self._say = say
        self._count = 0
        self._examples: list[str] = []
        self._due = 0.0

    def add(self, count: int, examples: Sequence[str] = ()) -> None:
        """Count something, and log it if it is time to."""
        self._count += count
        self._examples = [*self._examples, *examples][:_MAX_EXAMPLES]
        self.check()

    def check(self) -> None:
        """Log what has come, if it is time to."""
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Log what has come, if anything has."""
        if not self._count:
            return
        self._due = time.monotonic() + LOG_INTERVAL
        count, self._count = self._count, 0
        examples, self._examples = self._examples, []
        self._say(count, examples)
