"""Events that are dated ahead of receipt: by a wrong clock, or on purpose. Event loop only."""

from collections.abc import Iterator
from typing import Final

from ..dated_ahead import MAX_AHEAD, DatedAhead
from .findings import MAX_LISTED, Finding, count_of, name_some

#: Seconds after which such an event is no news any more.
RECENT: Final = 600.0


def examine_dates(dated_ahead: DatedAhead, now: float) -> Iterator[Finding]:
    """Find who has lately sent events of tasks that are dated ahead, the furthest first."""
    found = {
        hostname or "unnamed": round(ahead, 1)
        for hostname, (ahead, at) in dated_ahead.senders.items()
        if now - at < RECENT
    }
    if found:
        listed = dict(sorted(found.items(), key=lambda item: -item[1])[:MAX_LISTED])
        words = [f"{name} {ahead:g} s" for name, ahead in listed.items()]
        yield Finding(
            "events-dated-ahead",
            f"Events of {count_of(len(found), 'sender')} are dated more than {MAX_AHEAD:g} s ahead"
            f" ({name_some(words, len(found))}): their tasks are ordered and kept by the time of receipt; keep clocks"
            " by NTP",
            count=len(found),
            workers=tuple(listed),
            seconds=listed,
        )
