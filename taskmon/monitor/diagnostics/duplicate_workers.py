"""Workers of one name: of two processes that call themselves the same, events cannot be told apart. Event loop only.

A worker that is started anew has another pid and never the old one again. Where pids take turns, both processes live.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct, field

from ...records import OFFLINE_AFTER_BEATS, Worker
from .findings import MAX_LISTED, Finding, count_of, name_some

#: Seconds for which they must take turns: while one replaces the other, both live for a moment.
MIN_OVERLAP: Final = 10.0

MAX_PIDS: Final = 16


class _Pids(Struct):
    """The pids of one hostname with the times of their last heartbeats; they take turns from `since` to `latest`."""

    last: int
    heard: dict[int, float] = field(default_factory=dict)
    since: float = 0.0
    latest: float = 0.0


class Namesakes:
    """Finds hostnames that several processes use."""

    def __init__(self) -> None:
        self._known: dict[str, _Pids] = {}

    def note(self, worker: Worker, pid: int, now: float) -> None:
        """Take note of a heartbeat."""
        known = self._known.get(worker.hostname)
        if known is None:
            known = self._known[worker.hostname] = _Pids(pid)
        if pid != known.last:
            window = OFFLINE_AFTER_BEATS * worker.freq
            known.heard = {one: at for one, at in known.heard.items() if now - at < window}
            if pid in known.heard:
                if now - known.latest >= window:
                    known.since = now
                known.latest = now
            known.last = pid
        if pid in known.heard or len(known.heard) < MAX_PIDS:
            known.heard[pid] = now

    def forget(self, hostname: str) -> None:
        """Forget a worker that State has dropped."""
        self._known.pop(hostname, None)

    def examine(self, workers: dict[str, Worker], now: float) -> Iterator[Finding]:
        """Find the names that processes share now."""
        shared = {}
        for hostname, known in self._known.items():
            window = OFFLINE_AFTER_BEATS * workers[hostname].freq
            if known.latest - known.since >= MIN_OVERLAP and now - known.latest < window:
                shared[hostname] = sorted(pid for pid, at in known.heard.items() if now - at < window)
        if shared:
            words = [f"{name}: pids {', '.join(map(str, pids))}" for name, pids in shared.items()]
            yield Finding(
                "hostname-shared",
                f"Several processes use the name of {count_of(len(shared), 'worker')} ({name_some(words)}): their"
                " events cannot be told apart, and a command reaches both; start each with its own --hostname",
                count=len(shared),
                workers=tuple(shared)[:MAX_LISTED],
            )
