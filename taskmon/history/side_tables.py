"""What is written besides tasks: workers that were heard of or are gone, and the counters. Event loop only."""

import time
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from ..monitor.state import State
from ..records import Worker
from .batches import Batch, Row, clean_value

#: The counters are copied less often, where that takes long: a fiftieth of the time at the most.
_COUNTERS_INTERVAL: Final = 0.9
_SHARE: Final = 50


class Counters:
    """Copies of the counters, which `copy` makes."""

    def __init__(self, copy: Callable[[], str]) -> None:
        self._copy = copy
        self._document: str | None = None
        self._due = 0.0

    def latest(self) -> str | None:
        """Give a copy that is about a second old at the most, None before the first."""
        began = time.monotonic()
        if began >= self._due:
            self._document = self._copy()
            now = time.monotonic()
            self._due = began + max(_COUNTERS_INTERVAL, _SHARE * (now - began))
        return self._document

    def hurry(self) -> None:
        """Have the next one made anew."""
        self._due = 0.0


class Found(Struct):
    """Documents of workers with their `seen`, hostnames of those that are gone, and counters if they have changed."""

    workers: list[tuple[str, float, str]] = []
    gone: set[str] = set()
    counters: str | None = None

    def __bool__(self) -> bool:
        return bool(self.workers or self.gone or self.counters is not None)

    def batch(self, rows: list[Row], adopted: list[str], monitor: str) -> Batch:
        """Make a batch of it and of rows of tasks."""
        return Batch(rows, self.workers, list(self.gone), self.counters, monitor, time.time(), adopted)


class Besides:
    """What of that is not written yet, to one place."""

    def __init__(self, state: State, counters: Counters) -> None:
        self._state = state
        self._counters = counters
        self._seen: dict[str, float] = {}  # of each worker, as it was written
        self._gone: set[str] = set()
        self._counted: str | None = None

    def forget(self, hostname: str) -> None:
        """Note a worker that State has dropped."""
        self._seen.pop(hostname, None)
        self._gone.add(hostname)

    def take(self) -> Found:
        """Take what is to be written; `put_back` says that it could not be."""
        known = self._state.workers
        workers = [(name, one.seen, _encode(one)) for name, one in known.items() if one.seen != self._seen.get(name)]
        gone, self._gone = self._gone, set()
        counters = self._counters.latest()
        if counters == self._counted:
            counters = None
        else:
            self._counted = counters
        self._seen.update((hostname, seen) for hostname, seen, _ in workers)
        return Found(workers, {hostname for hostname in gone if hostname not in known}, counters)

    def put_back(self, found: Found) -> None:
        """Have it written again."""
        for hostname, _, _ in found.workers:
            self._seen.pop(hostname, None)
        self._gone |= found.gone
        if found.counters is not None:
            self._counted = None

    def refill(self) -> None:
        """Have all workers and the counters written again."""
        self._seen.clear()
        self._counted = None


def _encode(worker: Worker) -> str:
    try:
        return msgspec.json.encode(worker).decode()
    except (UnicodeError, OverflowError):  # a value that JSON has no form for
        values = {field: clean_value(getattr(worker, field)) for field in Worker.__struct_fields__}
        return msgspec.json.encode(values).decode()
