"""What has been counted, as a document that outlives taskmon, and back. Event loop only."""

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct, field

from .event_counters import Counts
from .series import Histogram

Key = tuple[str, ...]


class _Times(Struct, array_like=True):
    counts: list[int]
    seconds: float


class _Pair(Struct, array_like=True):
    waits: _Times
    received: float | None
    started: float | None


class _Series(Struct, array_like=True):
    count: int
    exceptions: dict[str, int] | None
    repeats: int = 0


class _Document(Struct):
    """`bounds`, `worker_label` and `exceptions` are how it was counted: what was counted otherwise is of no use."""

    bounds: list[float]
    worker_label: bool
    exceptions: bool
    evicted: int = 0
    settled: int = 0
    orphaned: int = 0
    applied: int = 0
    taken: int = 0
    lag: _Times | None = None
    series: list[tuple[Key, _Series]] = field(default_factory=list)
    pairs: list[tuple[Key, _Pair]] = field(default_factory=list)
    runtimes: list[tuple[Key, _Times]] = field(default_factory=list)
    queueing: list[tuple[Key, _Times]] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    omitted: dict[str, int] = field(default_factory=dict)
    queues: dict[str, float] = field(default_factory=dict)


class Totals(NamedTuple):
    """How many tasks were evicted, settled and orphaned, and when each queue was known last: others know that."""

    evicted: int = 0
    settled: int = 0
    orphaned: int = 0
    queues: dict[str, float] = {}  # noqa: RUF012 - never changed


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Document).decode


def save_counts(counts: Counts, totals: Totals) -> str:
    """Write all that has been counted."""
    document = _Document(
        bounds=list(counts.runtime_bounds),
        worker_label=counts.worker_label,
        exceptions=counts.by_exception,
        **totals._asdict(),
        applied=counts.applied,
        taken=counts.intake.received,
        lag=_times(counts.lag),
        series=[(key, _Series(one.count, one.exceptions, one.repeats)) for key, one in counts.series.items.items()],
        pairs=[
            (key, _Pair(_times(pair.waits), pair.received, pair.started)) for key, pair in counts.pairs.items.items()
        ],
        runtimes=[(key, _times(times)) for key, times in counts.runtimes.items.items()],
        queueing=[(key, _times(times)) for key, times in counts.queueing.items.items()],
        rejected=counts.intake.rejected,
        omitted=counts.intake.omitted,
    )
    return _encode(document).decode()


def restore_counts(counts: Counts, text: str) -> Totals:
    """Go on counting from a document; give what others count. One that cannot be read counts as none."""
    try:
        document = _decode(text)
    except msgspec.MsgspecError:
        return Totals()
    totals = Totals(document.evicted, document.settled, document.orphaned, document.queues)
    if document.worker_label != counts.worker_label or document.exceptions != counts.by_exception:
        return totals
    counts.applied, counts.intake.received = document.applied, document.taken
    if document.lag is not None:
        _restore(counts.lag, document.lag)
    for reason, rejected in document.rejected.items():
        counts.intake.reject(reason, rejected)
    for name, omitted in document.omitted.items():
        counts.intake.omit(name, omitted)
    for key, times in document.queueing:
        counts.admit(task=key[0], queue=key[1])
        _restore(counts.queueing.get(key, key), times)
    for key, pair in document.pairs:
        counts.admit(worker=key[0], task=key[1])
        found = counts.pairs.get(key, key)
        _restore(found.waits, pair.waits)
        found.received, found.started = pair.received, pair.started
    for key, one in document.series:
        counts.admit(worker=key[0], type=key[1], task=key[2], queue=key[3])
        series = counts.series.get(key, key)
        series.count, series.exceptions, series.repeats = one.count, one.exceptions, one.repeats
    if document.bounds == list(counts.runtime_bounds):
        for key, times in document.runtimes:
            _restore(counts.runtimes.get(key, key), times)
    return totals


def _times(histogram: Histogram) -> _Times:
    return _Times(histogram.counts, histogram.seconds)


def _restore(histogram: Histogram, times: _Times) -> None:
    """Take a histogram over, unless its bounds have changed."""
    if len(times.counts) == len(histogram.counts):
        histogram.counts, histogram.seconds = list(times.counts), times.seconds
