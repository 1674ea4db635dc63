"""What `/metrics` says: counts over all events, and gauges read from State and the broker at a scrape.

All of it runs on the event loop, but for two methods of the consumer thread. `received` takes no lock: only
one thread at a time may call it, and the loop only reads its number. `rejected` takes one, and any thread may
call it. Counting is one dict lookup per event. A scrape writes its own text: prometheus_client's children
cost more per event, its writer ten times more per line, and the loop stands still meanwhile.
"""

import re
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import inf, isfinite
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, cast

from msgspec import UNSET
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.utils import floatToGoString

from . import __version__

if TYPE_CHECKING:
    from taskmon.records import Event, Task, Worker

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Bounds of what senders of events can make taskmon remember. What is beyond them is counted under `OTHER`.
MAX_TASK_NAMES: Final = 2_000
MAX_WORKERS: Final = 5_000
MAX_EVENT_TYPES: Final = 100
MAX_REASONS: Final = 100
MAX_EVENT_SERIES: Final = 50_000
MAX_PAIRS: Final = 10_000
MAX_LABEL: Final = 200

#: The label value for what is beyond a bound, and the one that all publishers share.
OTHER: Final = "other"
CLIENT: Final = "client"

LAG_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)

#: `taskmon_events_applied_per_second` is an average over this many whole seconds.
RATE_SECONDS: Final = 5

# Raw (hostname, type, name) keys that are remembered, and how many characters one of them may have.
_MAX_KNOWN: Final = 100_000
_MAX_KNOWN_TEXT: Final = 400

_STARTS: Final = "task-started"
_ENDS: Final = frozenset({"task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected"})
_TASK_TYPES: Final = frozenset({"task-sent", "task-received", _STARTS, *_ENDS})
_WORKER_TYPES: Final = frozenset({"worker-online", "worker-heartbeat", "worker-offline"})

# The hostname that Celery gives to a process that only publishes.
_PUBLISHER: Final = re.compile(r"gen\d+@")

# Control characters, Unicode's line ends, and surrogates, which UTF-8 cannot hold.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Metric(NamedTuple):
    """One metric; with `flower`, Flower has it too, and its name begins with the prefix option."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    flower: bool = False

    def full_name(self, prefix: str = "taskmon") -> str:
        """Return the name as it is exposed."""
        return f"{prefix if self.flower else 'taskmon'}_{self.name}"


def _flower(name: str, kind: Literal["counter", "gauge", "histogram"], labels: str, text: str) -> Metric:
    return Metric(name, kind, text, tuple(labels.split()), flower=True)


#: Every metric, in the order of the exposition. The docs are tested against it.
METRICS: Final[tuple[Metric, ...]] = (
    _flower("events_total", "counter", "worker type task", "Events about tasks, and custom events."),
    _flower("task_runtime_seconds", "histogram", "worker task", "How long tasks ran, as the worker said."),
    _flower("task_prefetch_time_seconds", "gauge", "worker task", "Wait of the last start; 0 after an end."),
    _flower("worker_prefetched_tasks", "gauge", "worker task", "Tasks waiting, without those with an ETA."),
    _flower("worker_online", "gauge", "worker", "1 while the heartbeats of a worker come, else 0."),
    _flower("worker_number_of_currently_executing_tasks", "gauge", "worker", "Tasks the worker says it runs."),
    Metric("events_received_total", "counter", "Events taken from the broker."),
    Metric("events_rejected_total", "counter", "Messages and events that were refused.", ("reason",)),
    Metric("events_applied_total", "counter", "Events applied to what taskmon holds."),
    Metric("events_applied_per_second", "gauge", f"Events applied per second, over {RATE_SECONDS} seconds."),
    Metric("event_lag_seconds", "histogram", "From the time of an event to the moment it was applied."),
    Metric("tasks", "gauge", "Tasks held in memory."),
    Metric("workers", "gauge", "Workers held in memory, online or not."),
    Metric("tasks_evicted_total", "counter", "Tasks dropped from memory to make room."),
    Metric("broker_connected", "gauge", "1 while taskmon is connected to the broker, else 0."),
    Metric("broker_reconnects_total", "counter", "Times the connection to the broker was made again."),
    Metric("build_info", "gauge", "Always 1; the label is the version of taskmon.", ("version",)),
)


class StateView(Protocol):
    """What is read of State at a scrape."""

    @property
    def workers(self) -> Mapping[str, "Worker"]: ...
    @property
    def prefetched(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def evicted_total(self) -> int: ...
    def __len__(self) -> int: ...


class BrokerView(Protocol):
    """What is read of the broker's status at a scrape."""

    @property
    def connected(self) -> bool: ...
    @property
    def reconnects(self) -> int: ...


def clean_label(text: str) -> str:
    """Make a label value short, printable and fit to stand between the quotes of the text format."""
    cut = text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
    return _UNPRINTABLE.sub("\ufffd", cut).replace("\\", r"\\").replace('"', r"\"")


class _Labels:
    """The clean values of one label, at most `limit` of them; every further value becomes `OTHER`."""

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._values = set(known)

    def admit(self, text: str) -> str:
        value = clean_label(text)
        if value not in self._values:
            if len(self._values) >= self._limit:
                return OTHER
            self._values.add(value)
        return value

    def discard(self, text: str) -> str | None:
        """Forget a value and return its label, or None if it had none of its own."""
        value = clean_label(text)
        if value not in self._values:
            return None
        self._values.remove(value)
        return value


class _Histogram:
    """Counts between bounds, and their sum; the last count is that of what exceeds every bound."""

    __slots__ = ("counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def samples(self, edges: Sequence[str], labels: str = "") -> Iterator[str]:
        """Write the samples without the metric's name; `edges` are the bounds as text and +Inf."""
        comma = "," if labels else ""
        total = 0
        for edge, total in zip(edges, accumulate(self.counts), strict=True):
            yield f'_bucket{{{labels}{comma}le="{edge}"}} {total}'
        braced = f"{{{labels}}}" if labels else ""
        yield f"_count{braced} {total}"
        yield f"_sum{braced} {self.seconds!r}"


def _edges(bounds: Sequence[float]) -> list[str]:
    """Return the bounds of a histogram as the text format writes them."""
    return [floatToGoString(bound) for bound in (*bounds, inf)]  # type: ignore[no-untyped-call]


def _by_worker(values: Mapping[str, int]) -> list[str]:
    return [f'{{worker="{worker}"}} {value}' for worker, value in values.items()]


class _Pair(_Histogram):
    """One task name at one worker: its runtimes, and two times of the task that started last."""

    __slots__ = ("labels", "received", "started")

    def __init__(self, bounds: Sequence[float], worker: str, task: str) -> None:
        super().__init__(bounds)
        self.labels = f'worker="{worker}",task="{task}"'
        self.received: float | None = None
        self.started: float | None = None

    @property
    def waited(self) -> float | None:
        """How long that task waited, 0 after an end, None if nothing has started here."""
        if self.started is None or self.received is None:
            return None
        return max(0.0, self.started - self.received)


class _Series:
    """The count of one label set of `events_total`; `pair` is set where the event starts or ends a task."""

    __slots__ = ("count", "pair", "starts")

    def __init__(self, starts: bool, pair: _Pair | None) -> None:
        self.count = 0
        self.starts = starts
        self.pair = pair


class _Rate:
    """Events in each of the last few seconds; needs no timer, only the time of each call."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque([(0, 0)], maxlen=RATE_SECONDS + 1)

    def add(self, now: float, count: int) -> None:
        second = int(now)
        last, before = self._seconds[-1]
        if last == second:
            self._seconds[-1] = (second, before + count)
        else:
            self._seconds.append((second, count))

    def per_second(self, now: float) -> float:
        """Return the average over the whole seconds before this one."""
        end = int(now)
        return sum(n for second, n in self._seconds if end - RATE_SECONDS <= second < end) / RATE_SECONDS


class Metrics:
    """Count events as they are applied and write everything in Prometheus' text format.

    `prefix` begins the names that Flower has too. `runtime_buckets` are upper bounds in seconds, in any
    order, with or without +Inf. `clock` gives epoch seconds. `registry` holds the collectors of
    prometheus_client, which speak of the process and the interpreter.
    """

    def __init__(
        self,
        prefix: str,
        runtime_buckets: Sequence[float],
        state: StateView,
        broker: BrokerView,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._prefix = prefix
        self._state = state
        self._broker = broker
        self._clock = clock
        self._bounds = sorted({float(bound) for bound in runtime_buckets if isfinite(bound)})
        self._lag = _Histogram(LAG_BUCKETS)
        self._workers = _Labels(MAX_WORKERS)
        self._names = _Labels(MAX_TASK_NAMES)
        self._types = _Labels(MAX_EVENT_TYPES, _TASK_TYPES)
        self._reasons = _Labels(MAX_REASONS)
        # By the event's own strings, and by label values. Many of the first may share a series.
        self._known: dict[tuple[str | None, str, str | None], _Series] = {}
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._rate = _Rate()
        self._applied = 0
        self._received = 0
        self._rejected: dict[str, int] = {}
        self._rejecting = Lock()

    # Counting

    def received(self, n: int) -> None:
        """Count events taken from the broker. Consumer thread only."""
        self._received += n

    def rejected(self, reason: str, n: int = 1) -> None:
        """Count messages or events that were refused. Any thread."""
        with self._rejecting:
            label = self._reasons.admit(reason)
            self._rejected[label] = self._rejected.get(label, 0) + n

    def observe(self, changes: "list[tuple[Event, Task | Worker | None]]") -> None:
        """Count the events of one apply, each with the task or worker that it changed."""
        known = self._known
        bounds = self._bounds
        for event, record in cast("list[tuple[Event, Any]]", changes):
            try:
                series = known[event.hostname, event.type, record.name]
            except KeyError:
                series = self._learn(event, record.name)
            except AttributeError:  # no task: a worker's event, or a custom one
                self._count_without_task(event)
                continue
            series.count += 1
            pair = series.pair
            if pair is None:
                continue
            if series.starts:
                if record.eta is None and record.received is not None:
                    pair.received = record.received
                    pair.started = record.started
                continue
            runtime = event.runtime
            if runtime is not UNSET and runtime is not None and runtime >= 0.0:
                pair.counts[bisect_left(bounds, runtime)] += 1
                pair.seconds += runtime
            if record.eta is None and record.started is not None:
                pair.started = pair.received
        self._applied += len(changes)
        now = self._clock()
        self._rate.add(now, len(changes))
        self._observe_lag([event.timestamp for event, _ in changes if event.timestamp is not None], now)

    def remove_worker(self, hostname: str) -> None:
        """Drop every series of a worker that State no longer holds."""
        label = self._workers.discard(hostname)
        if label is None:
            return
        self._known.clear()
        self._series = {key: series for key, series in self._series.items() if key[0] != label}
        self._pairs = {key: pair for key, pair in self._pairs.items() if key[0] != label}

    def _observe_lag(self, times: list[float], now: float) -> None:
        if not times:
            return
        times.sort()
        total = sum(times)
        past = len(times)
        if times[-1] > now:  # the sender's clock is ahead: that is a lag of 0
            past = bisect_right(times, now)
            total = sum(times[:past])
        self._lag.seconds += past * now - total
        # One search per bucket that the batch touches, mostly a single one, instead of one per event.
        counts = self._lag.counts
        first = bisect_left(LAG_BUCKETS, now - times[-1])
        last = bisect_left(LAG_BUCKETS, now - times[0])
        left = len(times)
        for bucket in range(first, last):
            older = bisect_left(times, now - LAG_BUCKETS[bucket])
            counts[bucket] += left - older
            left = older
        counts[last] += left

    # Finding the series of an event

    def _count_without_task(self, event: "Event") -> None:
        if event.type not in _WORKER_TYPES:
            name = event.name if isinstance(event.name, str) else None
            self._resolve(event.hostname, event.type, name).count += 1

    def _learn(self, event: "Event", name: str | None) -> _Series:
        """Find the series of an event about a task, and remember it under the event's own strings."""
        series = self._resolve(event.hostname, event.type, name)
        if len(event.hostname or "") + len(event.type) + len(name or "") <= _MAX_KNOWN_TEXT:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[event.hostname, event.type, name] = series
        return series

    def _resolve(self, hostname: str | None, event_type: str, name: str | None) -> _Series:
        key = (
            self._worker_label(hostname or "", event_type),
            self._types.admit(event_type),
            self._names.admit(name or ""),
        )
        if key not in self._series and len(self._series) >= MAX_EVENT_SERIES:
            key = (OTHER, key[1], OTHER)
        series = self._series.get(key)
        if series is None:
            starts = event_type == _STARTS
            pair = self._pair(key[0], key[2]) if starts or event_type in _ENDS else None
            series = self._series[key] = _Series(starts, pair)
        return series

    def _worker_label(self, hostname: str, event_type: str) -> str:
        if event_type == "task-sent" or (_PUBLISHER.match(hostname) and hostname not in self._state.workers):
            return CLIENT
        return self._workers.admit(hostname)

    def _pair(self, worker: str, task: str) -> _Pair:
        key = (worker, task)
        if key not in self._pairs and len(self._pairs) >= MAX_PAIRS:
            key = (OTHER, OTHER)
        if key not in self._pairs:
            self._pairs[key] = _Pair(self._bounds, *key)
        return self._pairs[key]

    # Writing

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4, see `CONTENT_TYPE`."""
        lines: list[str] = []
        samples = self._samples(self._clock())
        for metric in METRICS:
            name = metric.full_name(self._prefix)
            lines += (f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}")
            lines += [name + sample for sample in samples[metric.name]]
        lines.append("")
        return "\n".join(lines).encode() + generate_latest(self.registry)

    def _samples(self, now: float) -> dict[str, Iterable[str]]:
        """Return the samples of each metric, without its name."""
        online, executing = self._worker_values(now)
        state, broker = self._state, self._broker
        return {
            "events_total": self._event_samples(),
            "task_runtime_seconds": self._runtime_samples(),
            "task_prefetch_time_seconds": [
                f"{{{pair.labels}}} {pair.waited!r}" for pair in self._pairs.values() if pair.waited is not None
            ],
            "worker_prefetched_tasks": self._prefetched_samples(),
            "worker_online": _by_worker(online),
            "worker_number_of_currently_executing_tasks": _by_worker(executing),
            "events_received_total": [f" {self._received}"],
            "events_rejected_total": self._rejected_samples(),
            "events_applied_total": [f" {self._applied}"],
            "events_applied_per_second": [f" {self._rate.per_second(now)!r}"],
            "event_lag_seconds": self._lag.samples(_edges(LAG_BUCKETS)),
            "tasks": [f" {len(state)}"],
            "workers": [f" {len(state.workers)}"],
            "tasks_evicted_total": [f" {state.evicted_total}"],
            "broker_connected": [f" {int(broker.connected)}"],
            "broker_reconnects_total": [f" {broker.reconnects}"],
            "build_info": [f'{{version="{__version__}"}} 1'],
        }

    def _event_samples(self) -> Iterator[str]:
        for (worker, event_type, task), series in self._series.items():
            yield f'{{worker="{worker}",type="{event_type}",task="{task}"}} {series.count}'

    def _runtime_samples(self) -> Iterator[str]:
        edges = _edges(self._bounds)
        for pair in self._pairs.values():
            if any(pair.counts):
                yield from pair.samples(edges, pair.labels)

    def _prefetched_samples(self) -> list[str]:
        # State forgets a pair that has nothing waiting; a series that has begun goes on with 0.
        waiting = {pair.labels: 0 for pair in self._pairs.values() if pair.waited is not None}
        for (hostname, name), count in self._state.prefetched.items():
            labels = self._pair(self._workers.admit(hostname), self._names.admit(name)).labels
            waiting[labels] = waiting.get(labels, 0) + count
        return [f"{{{labels}}} {count}" for labels, count in waiting.items()]

    def _rejected_samples(self) -> list[str]:
        with self._rejecting:
            return [f'{{reason="{reason}"}} {count}' for reason, count in self._rejected.items()]

    def _worker_values(self, now: float) -> tuple[dict[str, int], dict[str, int]]:
        """Return by label who is online and what each runs, added up where workers share a label."""
        online: dict[str, int] = {}
        executing: dict[str, int] = {}
        for hostname, worker in self._state.workers.items():
            label = self._workers.admit(hostname)
            alive = worker.alive(now)
            online[label] = online.get(label, 0) + alive
            if worker.active is not None:
                executing[label] = executing.get(label, 0) + (max(worker.active, 0) if alive else 0)
        return online, executing
