"""What is given to a browser to keep and must come back unchanged: signed texts, and those used up. Pure."""

import base64
import heapq
import hmac
import time
from collections.abc import Callable, Iterable
from typing import Final

MAX_COOKIE_LENGTH: Final = 4000  # a browser keeps 4096 bytes of a cookie, its name and attributes included


class Sealer:
    """Signs with the first key and takes what any of them has signed, so that keys can be rotated.

    What was sealed for one purpose does not open for another.
    """

    def __init__(self, secrets: Iterable[str], purpose: str) -> None:
        self._keys = [hmac.digest(secret.encode(), f"taskmon {purpose}".encode(), "sha256") for secret in secrets]

    def seal(self, content: bytes) -> str:
        """Give the content and its signature, as text that may stand in a cookie."""
        return f"{_encode(content)}.{_encode(hmac.digest(self._keys[0], content, 'sha256'))}"

    def open(self, text: str) -> bytes | None:
        """Give back the content, or None for what is not as it was sealed."""
        content, _, signature = text.partition(".")
        try:
            plain, digest = _decode(content), _decode(signature)
        except ValueError:
            return None
        # There is more than one way to write some bytes in base64: one of them counts.
        if len(text) > MAX_COOKIE_LENGTH or text != f"{_encode(plain)}.{_encode(digest)}":
            return None
        known = [hmac.compare_digest(hmac.digest(key, plain, "sha256"), digest) for key in self._keys]
        return plain if any(known) else None


class ReplayGuard:
    """Remembers what was used up, by key and time of birth, for as long as it would be good; bounded.

    Beyond `most` the oldest is forgotten, and from then on everything that is not younger counts as spent too.
    """

    def __init__(self, lifetime: float, most: int = 10_000, clock: Callable[[], float] = time.time) -> None:
        self._lifetime = lifetime
        self._most = most
        self._clock = clock
        self._keys: set[str] = set()
        self._births: list[tuple[float, str]] = []
        self._floor = float("-inf")

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, born: float) -> None:
        """Use up a key."""
        if key not in self._keys:
            self._keys.add(key)
            heapq.heappush(self._births, (born, key))
        while self._births and (self._births[0][0] + self._lifetime < self._clock() or len(self._keys) > self._most):
            oldest, gone = heapq.heappop(self._births)
            self._keys.discard(gone)
            self._floor = max(self._floor, oldest)

    def holds(self, key: str, born: float) -> bool:
        """Tell whether a key is used up."""
        return key in self._keys or born <= self._floor


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
