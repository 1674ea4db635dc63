"""Events that are dated further ahead of receipt than clocks may differ. Event loop only.

They get the time of receipt, so that no sender decides by its clock which tasks come first and which are kept. The
time that the sender gave goes to the task's `reported`.
"""

from typing import Final

from ..records import TASK_EVENTS, Event, Task

#: Seconds that an event may be dated ahead of receipt.
MAX_AHEAD: Final = 60.0

#: So many senders are remembered; the one that was noted longest ago is forgotten.
_MAX_SENDERS: Final = 1_000

#: Seconds between the times of two such events of one batch: their order stays.
_APART: Final = 1e-6


class DatedAhead:
    """Dates events by receipt; `senders` has how far ahead the last one of each hostname was, and when it came."""

    def __init__(self) -> None:
        self.senders: dict[str, tuple[float, float]] = {}
        self._last = 0.0

    def redate(self, event: Event, now: float) -> float:
        """Give an event the time of receipt; return the time that it had."""
        assert event.timestamp is not None
        reported = event.timestamp
        hostname = event.hostname or ""
        self.senders.pop(hostname, None)
        self.senders[hostname] = reported - now, now
        if len(self.senders) > _MAX_SENDERS:
            del self.senders[next(iter(self.senders))]
        event.timestamp = self._last = max(now, self._last + _APART if self._last - now < 1.0 else now)
        return reported


def merge_reported(task: Task, event: Event, reported: float | None) -> None:
    """Keep the time that a sender gave for a task's event; None is for an event that has the time it came with."""
    kind = TASK_EVENTS.get(event.type)
    field = "timestamp" if kind is None else kind[2]
    times = parse_reported(task.reported)
    times.pop(field, None)
    if reported is not None:
        times[field] = reported
    task.reported = " ".join(f"{name}={time!r}" for name, time in times.items()) or None


def parse_reported(text: str | None) -> dict[str, float]:
    """Return the times that senders gave, by field of the task."""
    pairs = (pair.partition("=") for pair in (text or "").split())
    return {name: float(time) for name, _, time in pairs}
