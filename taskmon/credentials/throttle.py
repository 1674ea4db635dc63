"""Throttle: failures counted by key, in a window. Event loop only."""

import math
import time
from collections.abc import Callable

from ..errors import TooManyRequests


class Throttle:
    """Count failures by key and refuse a key that has too many in a window; the oldest keys are forgotten."""

    def __init__(
        self, window: float = 60.0, most_keys: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._most_keys = most_keys
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def check(self, key: str, limit: int) -> None:
        """Raise TooManyRequests when this key has failed `limit` times in its window."""
        count, ends = self._failures.get(key, (0, 0.0))
        wait = ends - self._clock()
        if count >= limit and wait > 0:
            raise TooManyRequests("Too many failed attempts to log in", math.ceil(wait))

    def failed(self, key: str) -> None:
        """Count one failure; the first one opens the window."""
        now = self._clock()
        count, ends = self._failures.pop(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + self._window
        self._failures[key] = (count + 1, ends)
        while len(self._failures) > self._most_keys:
            del self._failures[next(iter(self._failures))]
