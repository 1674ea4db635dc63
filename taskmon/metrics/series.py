"""What is counted: series, histograms and a rate, in plain attributes that the hot path adds to."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import inf
from typing import Final, Generic, TypeVar

from prometheus_client.utils import floatToGoString

from .labels import ByteBudget, braced
from .table import RATE_SECONDS

#: What an event of a series does besides being counted.
NOTHING: Final = 0
SENT: Final = 1
RECEIVED: Final = 2
STARTED: Final = 3
ENDED: Final = 4

KINDS: Final = {
    "task-sent": SENT,
    "task-received": RECEIVED,
    "task-started": STARTED,
    **dict.fromkeys(("task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected"), ENDED),
}


class Histogram:
    """Counts between bounds, and their sum; the last count is that of what exceeds every bound."""

    __slots__ = ("counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def add(self, other: "Histogram") -> None:
        """Add what another of the same bounds has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds

    def samples(self, edges: Sequence[str], labels: str = "") -> Iterator[str]:
        """Write the samples without the metric's name; `edges` are the bounds as text and +Inf."""
        comma = "," if labels else ""
        total = 0
        for edge, total in zip(edges, accumulate(self.counts), strict=True):
            yield f'_bucket{{le="{edge}"{comma}{labels}}} {number(total)}'
        yield f"_count{braced(labels)} {number(total)}"
        yield f"_sum{braced(labels)} {number(self.seconds)}"


def edges(bounds: Sequence[float]) -> list[str]:
    """Return the bounds of a histogram as the text format writes them."""
    return [number(bound) for bound in (*bounds, inf)]


def number(value: float) -> str:
    """Return a number as prometheus_client writes it, and so Flower: always a float."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


class Pair:
    """One task name at one worker: how long tasks waited there, and two times of the one that started last."""

    __slots__ = ("labels", "received", "started", "waits")

    def __init__(self, labels: str, waits: Histogram) -> None:
        self.labels = labels
        self.waits = waits
        self.received: float | None = None
        self.started: float | None = None

    @property
    def waited(self) -> float | None:
        """How long that task waited, 0 after an end, None if nothing has started here."""
        if self.started is None or self.received is None:
            return None
        return max(0.0, self.started - self.received)


class Series:
    """The events of one worker, type, task name and queue.

    `times` takes what an event of its kind measures: see `Counts.observe`. `exceptions` counts failures by class,
    where that is wanted. `repeats` are events that tell of a failure again: of a hard time limit Celery tells twice.
    """

    __slots__ = ("count", "exceptions", "kind", "label", "labels", "pair", "repeats", "times", "worker")

    def __init__(self, kind: int, label: str, labels: str, times: Histogram, pair: Pair, worker: str) -> None:
        self.count = 0
        self.repeats = 0
        self.kind = kind
        self.label = label
        self.labels = labels
        self.times = times
        self.pair = pair
        self.worker = worker
        self.exceptions: dict[str, int] | None = None


Item = TypeVar("Item")


class Table(Generic[Item]):
    """Things by their label values, made when they are first asked for: at most `limit`, then one for the rest.

    A scrape writes `lines` lines for each key: one that the budget has no room for is one of the rest too.
    """

    def __init__(self, limit: int, make: Callable[..., Item], lines: int, budget: ByteBudget) -> None:
        self.items: dict[tuple[str, ...], Item] = {}
        self._limit = limit
        self._make = make
        self._lines = lines
        self._budget = budget
        self._keys_by_first: dict[str, list[tuple[str, ...]]] = {}

    def has_room(self, key: tuple[str, ...]) -> bool:
        """Whether a key is there, or can be added."""
        return key in self.items or (len(self.items) < self._limit and self._budget.has_room(self._lines, key))

    def get(self, key: tuple[str, ...], beyond: tuple[str, ...]) -> Item:
        """Return the thing of a key, or that of `beyond` if it is new and there is no room."""
        item = self.items.get(key)
        if item is None and not self.has_room(key):
            key = beyond
            item = self.items.get(key)
        if item is None:
            self._budget.spend(self._lines, key)
            item = self.items[key] = self._make(*key)
            self._keys_by_first.setdefault(key[0], []).append(key)
        return item

    def drop(self, first: str) -> None:
        """Drop everything whose key begins with that value; takes time for what is dropped alone."""
        for key in self._keys_by_first.pop(first, ()):
            self._budget.spend(-self._lines, key)
            del self.items[key]


class Rate:
    """How a total grew in the last few seconds; needs no timer, only to be told when a second begins."""

    def __init__(self) -> None:
        self.second = 0
        self._began: deque[tuple[int, int]] = deque([(0, 0)], maxlen=RATE_SECONDS + 2)

    def begin(self, second: int, total: int) -> None:
        """Take note of the total before the first events of a second."""
        self.second = second
        self._began.append((second, total))

    def per_second(self, now: float, total: int) -> float:
        """Return the average over the whole seconds before this one."""
        end = int(now)
        return (self._before(end, total) - self._before(end - RATE_SECONDS, total)) / RATE_SECONDS

    def _before(self, second: int, total: int) -> int:
        return next((before for began, before in self._began if began >= second), total)
