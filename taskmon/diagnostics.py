"""Diagnostics: what makes the answers of taskmon incomplete, and the setting that mends it. Event loop only.

It counts nothing by itself but the heartbeats of each worker, and never looks at more than the newest few hundred
tasks. What is found is logged once, when it first shows.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf
from typing import Final, Protocol

from msgspec import Struct, field

from .gaps import is_shortened
from .query import TaskQuery
from .records import CUT_MARK, Event, Task, Worker
from .settings import Settings
from .state import State

log = logging.getLogger(__name__)

#: Seconds that something must last which may be a matter of a moment.
PATIENCE: Final = 10.0

#: Seconds that a worker's clock may differ from taskmon's, and how steadily a clock that does so differs: what comes
#: late differs less and less.
MOST_SKEW: Final = 30.0
STEADY: Final = 5.0

#: As many of the newest tasks are looked at.
NEWEST: Final = 300

#: Seconds after which the last refused event is no news any more.
RECENT: Final = 600.0

#: As many workers or tasks of one finding are listed, and named in its message.
MOST_LISTED: Final = 100
_MOST_NAMED: Final = 3
_LONGEST: Final = 80

#: What lets in events that are refused, by the reason for which they are.
_REFUSALS: Final = {"too-large": "--max-message", "content-type": "event_serializer"}


class AppFacts(Struct, frozen=True):
    """What matters here of a Celery app: is a result backend configured, can taskmon read it, what does it store."""

    has_backend: bool
    readable: bool
    result_extended: bool


class Finding(Struct, frozen=True):
    """One thing that is found; `setting` is what mends it, as far as it is a setting of Celery or taskmon.

    `count` counts workers, tasks or events, `workers` and `tasks` list hostnames and names, not all where there are
    many, and `seconds` tells how far the clock of a worker is ahead.
    """

    code: str
    message: str
    setting: str | None = None
    count: int | None = None
    reason: str | None = None
    workers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


class BrokerView(Protocol):
    """What is read of the broker's status."""

    @property
    def connected(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class MetricsView(Protocol):
    """What is read of the metrics."""

    def rejections(self) -> Mapping[str, int]:
        """The messages and events refused so far, by reason."""


class RepliesView(Protocol):
    """What is read of the replies of workers."""

    @property
    def pickled(self) -> float | None:
        """When a worker replied with a pickle last, in epoch seconds."""


class _Watch(Struct):
    """What the heartbeats of a worker told.

    `processed` and `active` are from the first heartbeat after its last event of a task, which came at `since`;
    `grew` is when one said more since. `skew` is how far its clock has been ahead since `steady`.
    """

    since: float = 0.0
    processed: int | None = None
    active: int = 0
    grew: float | None = None
    skew: float = inf
    steady: float = 0.0


class Diagnostics:
    """Finds what is missing; `observe` is to hear of workers' events, `forget` of workers that go."""

    def __init__(
        self,
        state: State,
        settings: Settings,
        facts: AppFacts,
        broker: BrokerView,
        metrics: MetricsView,
        replies: RepliesView,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._settings = settings
        self._facts = facts
        self._broker = broker
        self._metrics = metrics
        self._replies = replies
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._refused: dict[str, tuple[int, float]] = {}
        self._shown: set[tuple[str, str | None]] = set()

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Take note of what workers tell of themselves."""
        for event, worker in changes:
            if isinstance(worker, Worker):
                if event.type == "worker-heartbeat":
                    self._note_heartbeat(worker, event)
                elif event.type == "worker-online" and (watch := self._watches.get(worker.hostname)) is not None:
                    watch.processed = watch.grew = None

    def forget(self, hostname: str) -> None:
        """Forget a worker that State has dropped."""
        self._watches.pop(hostname, None)

    def examine(self) -> list[Finding]:
        """List what is found now, the worst first; log what was not there the last time."""
        findings = [
            *self._examine_broker(),
            *self._examine_workers(),
            *self._examine_replies(),
            *self._examine_refusals(),
            *self._examine_tasks(),
            *self._examine_backend(),
        ]
        for finding in findings:
            if (finding.code, finding.reason) not in self._shown:
                log.warning("%s: %s", finding.code, finding.message)
        self._shown = {(finding.code, finding.reason) for finding in findings}
        return findings

    def _note_heartbeat(self, worker: Worker, event: Event) -> None:
        if worker.hostname not in self._state.workers:
            return
        watch = self._watches.get(worker.hostname)
        if watch is None:
            watch = self._watches[worker.hostname] = _Watch()
        elif worker.busy >= watch.since:
            watch.processed = watch.grew = None
        now = self._clock()
        skew = (event.timestamp or now) - now
        if abs(skew - watch.skew) > STEADY:
            watch.skew, watch.steady = skew, now
        processed = event.processed if isinstance(event.processed, int) else 0
        active = event.active if isinstance(event.active, int) else 0
        if watch.processed is None or processed < watch.processed:  # the latter: it has started anew
            watch.processed, watch.active, watch.grew = processed, active, None
            watch.since = worker.seen
        elif watch.grew is None and (processed > watch.processed or active > watch.active):
            watch.grew = now

    def _examine_broker(self) -> Iterator[Finding]:
        if not self._broker.connected:
            reason = self._broker.reason
            yield Finding("broker-away", f"No events come in: the broker is away ({reason})", "broker_url")

    def _examine_workers(self) -> Iterator[Finding]:
        now = self._clock()
        workers = self._state.workers
        watches = [(name, watch) for name, watch in self._watches.items() if workers[name].alive(now)]
        silent = [
            name
            for name, watch in watches
            if watch.grew is not None and now - watch.grew >= PATIENCE and workers[name].busy < watch.since
        ]
        if silent:
            mend = "start them with -E"
            mend += "" if self._settings.enable_events else ", or taskmon with --enable-events"
            yield Finding(
                "task-events-off",
                f"Tasks run, and no events of them come from {_count(len(silent), 'worker')}"
                f" ({_name(silent)}): {mend}",
                "worker_send_task_events",
                count=len(silent),
                workers=tuple(silent[:MOST_LISTED]),
            )
        skewed = {
            name: round(watch.skew, 1)
            for name, watch in watches
            if abs(watch.skew) > MOST_SKEW and now - watch.steady >= PATIENCE
        }
        if skewed:
            yield _describe_skew(skewed)

    def _examine_replies(self) -> Iterator[Finding]:
        """Find whether workers have lately replied with what is never loaded."""
        pickled = self._replies.pickled
        if pickled is not None and self._clock() - pickled < RECENT:
            yield Finding(
                "replies-pickled",
                "Workers reply with pickles, which taskmon never loads: they count as silent, though they do as told",
                "task_serializer",
            )

    def _examine_refusals(self) -> Iterator[Finding]:
        """Find the reasons for which events have been refused lately."""
        now = self._clock()
        for reason, count in self._metrics.rejections().items():
            before, since = self._refused.get(reason, (0, now))
            if count != before:
                since = now
            self._refused[reason] = (count, since)
            if now - since < RECENT:
                yield Finding(
                    "events-refused",
                    f"Messages or events were refused, {_count(count, 'time')}: {reason}",
                    _REFUSALS.get(reason),
                    count=count,
                    reason=reason,
                )

    def _examine_tasks(self) -> Iterator[Finding]:
        """Look at the newest tasks for what is missing of them all, and for what is cut."""
        tasks = [task for task in self._state.find(TaskQuery(limit=NEWEST)) if task is not None]
        sent = {task.name for task in tasks if task.sent is not None}
        unsent = [task.name for task in tasks if task.received is not None and task.name and task.name not in sent]
        if unsent:
            names = sorted(set(unsent))
            yield Finding(
                "task-sent-off",
                f"Who publishes {_name(names)} sends no task-sent: time of sending, client and queue are not known",
                "task_send_sent_event",
                count=len(unsent),
                tasks=tuple(names[:MOST_LISTED]),
            )
        shortened = sum(_any_text(task, is_shortened) for task in tasks)
        if shortened:
            yield Finding(
                "arguments-shortened",
                f"Celery has shortened arguments or results of {_count(shortened, 'task')} of the newest"
                f" {len(tasks)}: raise argsrepr_maxsize and kwargsrepr_maxsize of app.amqp, resultrepr_maxsize of"
                " tasks; task_repr_maxlevels for what is nested deep",
                "argsrepr_maxsize",
                count=shortened,
            )
        cut = sum(_any_text(task, _is_cut) for task in tasks)
        if cut:
            yield Finding(
                "text-cut",
                f"{_count(cut, 'task')} of the newest {len(tasks)} have texts longer than --max-text allows",
                "--max-text",
                count=cut,
            )

    def _examine_backend(self) -> Iterator[Finding]:
        facts = self._facts
        if not facts.has_backend:
            yield Finding(
                "no-result-backend", "No result backend is configured: results are not known", "result_backend"
            )
        elif not facts.readable:
            message = "taskmon cannot read the result backend that is configured: results are not known"
            yield Finding("no-result-backend", message, "result_backend")
        elif not facts.result_extended:
            message = "The result backend does not store names and arguments of tasks"
            yield Finding("result-extended-off", message, "result_extended")


def _describe_skew(skewed: dict[str, float]) -> Finding:
    listed = dict(sorted(skewed.items(), key=lambda item: -abs(item[1]))[:MOST_LISTED])
    words = [f"{name} {abs(s):g} s {'ahead' if s > 0 else 'behind'}" for name, s in listed.items()]
    return Finding(
        "clocks-disagree",
        f"The clock of {_count(len(skewed), 'worker')} and taskmon's disagree ({_name(words, len(skewed))}):"
        " times and runtimes across machines are wrong; keep clocks by NTP",
        count=len(skewed),
        workers=tuple(listed),
        seconds=listed,
    )


def _any_text(task: Task, cut: Callable[[str], bool]) -> bool:
    """Tell whether one of the texts is cut of which Celery tells only the beginning."""
    return any(text is not None and cut(text) for text in (task.args, task.kwargs, task.result))


def _is_cut(text: str) -> bool:
    return text.endswith(CUT_MARK)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _name(names: Collection[str], total: int | None = None) -> str:
    """Name a few, and say how many more there are."""
    few = [name if len(name) <= _LONGEST else name[:_LONGEST] + "…" for name in list(names)[:_MOST_NAMED]]
    more = (len(names) if total is None else total) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")
