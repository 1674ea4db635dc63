"""Refusals: who was kept out, counted by reason, with a line in the log once a minute for each. Event loop only."""

import logging
import time
from collections.abc import Callable
from typing import Final

from ..metrics import AccessCounts

log = logging.getLogger(__name__)

#: Reasons for which a request is refused, in words for the log.
REASONS: Final = {
    "missing": "No credentials came",
    "credentials": "Credentials are wrong",
    "malformed": "Credentials are malformed",
    "assertion": "A proxy's assertion is refused",
    "host": "A host name is not served here",
    "cross_site": "A change comes from another site",
    "forbidden": "Somebody asked for what they may not do",
    "throttled": "Somebody asks too often",
}
#: What is logged by whoever refuses it, or is no news: it is only counted.
_COUNTED_ONLY: Final = frozenset({"missing", "credentials"})

_LOG_INTERVAL: Final = 60.0
_MAX_DETAIL: Final = 300


class Refusals:
    """The refusals of one taskmon, and the logins and sessions that were begun and ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Final = dict.fromkeys(REASONS, 0)
        self.logins: Final = {"done": 0, "refused": 0}
        self.sessions: Final = {"started": 0, "ended": 0}
        self.live_counts: Final = AccessCounts(self.counts, self.logins, self.sessions)
        self._clock = clock
        self._due = dict.fromkeys(REASONS, 0.0)
        self._pending: dict[str, tuple[int, str]] = {}

    def note(self, reason: str, detail: str, client: str) -> None:
        """Count a refusal, and log it: at once where none of its reason was logged for a minute."""
        self.counts[reason] += 1
        if reason in _COUNTED_ONLY:
            return
        count, _ = self._pending.get(reason, (0, ""))
        self._pending[reason] = count + 1, f"{detail[:_MAX_DETAIL]}, from {client[:_MAX_DETAIL]}"
        if self._clock() >= self._due[reason]:
            self._log(reason)

    def flush(self) -> None:
        """Log what has been refused since the last line, where that was a minute ago."""
        now = self._clock()
        for reason in [reason for reason in self._pending if now >= self._due[reason]]:
            self._log(reason)

    def _log(self, reason: str) -> None:
        count, last = self._pending.pop(reason)
        self._due[reason] = self._clock() + _LOG_INTERVAL
        log.warning("%s: %s (%d times since the last such line)", REASONS[reason], last, count)
