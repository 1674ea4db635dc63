"""How often is too often: failures counted by key in a window, and requests of a token. Event loop only."""

import math
import time
from collections import Counter
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
        self._under_way: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._failures)

    def check(self, key: str, limit: int) -> None:
        """Raise TooManyRequests when this key has `limit` failures in its window, attempts under way included."""
        count, ends = self._failures.get(key, (0, 0.0))
        wait = ends - self._clock()
        if count >= limit and wait > 0:
            raise TooManyRequests("Too many failed attempts to log in", math.ceil(wait))
        if (count if wait > 0 else 0) + self._under_way[key] >= limit:
            raise TooManyRequests("Too many attempts to log in are under way", 1)

    def begin(self, *keys: str) -> None:
        """Count an attempt that is under way: until `end` it may become a failure."""
        self._under_way.update(keys)

    def end(self, *keys: str) -> None:
        """Count it no longer."""
        self._under_way.subtract(keys)
        for key in keys:
            if not self._under_way[key]:
                del self._under_way[key]

    def failed(self, key: str) -> None:
        """Count one failure; the first one opens the window."""
        now = self._clock()
        count, ends = self._failures.pop(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + self._window
        self._failures[key] = (count + 1, ends)
        while len(self._failures) > self._most_keys:
            del self._failures[next(iter(self._failures))]


class RateLimit:
    """So many requests in a second, a minute or an hour: `600/m`; unused ones gather up to that number."""

    def __init__(self, rate: str, clock: Callable[[], float] = time.monotonic) -> None:
        count, _, unit = rate.partition("/")
        self.rate = rate
        self._most = int(count)
        self._a_second = self._most / {"s": 1, "m": 60, "h": 3600}[unit]
        self._clock = clock
        self._left, self._at = float(self._most), clock()

    def take(self, who: str) -> None:
        """Count a request; raise TooManyRequests for one too many."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._a_second)
        self._at = now
        if self._left < 1:
            wait = math.ceil((1 - self._left) / self._a_second)
            raise TooManyRequests(f"The token {who} may make {self.rate} requests", max(1, wait))
        self._left -= 1
