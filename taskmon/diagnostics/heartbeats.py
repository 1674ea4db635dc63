"""What the heartbeats of workers tell: whether tasks run of which no event comes, whether clocks agree, and whether
several processes use one name.

Event loop only. Nothing is kept but a few numbers of each worker.
"""

from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from msgspec import Struct

from ..records import Event, Task, Worker
from ..settings import Settings
from ..state import State
from .findings import MOST_LISTED, Finding, count_of, name_some
from .namesakes import Namesakes

#: Seconds that something must last which may be a matter of a moment.
PATIENCE: Final = 10.0

#: Seconds that a worker's clock may differ from taskmon's, and how steadily a clock that does so differs: what comes
#: late differs less and less.
MOST_SKEW: Final = 30.0
STEADY: Final = 5.0


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


class Heartbeats:
    """What each worker's heartbeats say; `observe` hears of workers' events, `forget` of workers that go."""

    def __init__(self, state: State, settings: Settings, clock: Callable[[], float]) -> None:
        self._state = state
        self._settings = settings
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._namesakes = Namesakes()

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
        self._namesakes.forget(hostname)

    def examine(self) -> Iterator[Finding]:
        """Find workers whose tasks send no events, and clocks that disagree."""
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
                f"Tasks run, and no events of them come from {count_of(len(silent), 'worker')}"
                f" ({name_some(silent)}): {mend}",
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
        yield from self._namesakes.examine(workers, now)

    def _note_heartbeat(self, worker: Worker, event: Event) -> None:
        if worker.hostname not in self._state.workers:
            return
        watch = self._watches.get(worker.hostname)
        if watch is None:
            watch = self._watches[worker.hostname] = _Watch()
        elif worker.busy >= watch.since:
            watch.processed = watch.grew = None
        now = self._clock()
        if event.pid is not None:
            self._namesakes.note(worker, event.pid, now)
        skew = (event.timestamp or now) - now
        if abs(skew - watch.skew) > STEADY:
            watch.skew, watch.steady = skew, now
        processed, active = event.processed or 0, event.active or 0
        if watch.processed is None or processed < watch.processed:  # the latter: it has started anew
            watch.processed, watch.active, watch.grew = processed, active, None
            watch.since = worker.seen
        elif watch.grew is None and (processed > watch.processed or active > watch.active):
            watch.grew = now


def _describe_skew(skewed: dict[str, float]) -> Finding:
    listed = dict(sorted(skewed.items(), key=lambda item: -abs(item[1]))[:MOST_LISTED])
    words = [f"{name} {abs(s):g} s {'ahead' if s > 0 else 'behind'}" for name, s in listed.items()]
    return Finding(
        "clocks-disagree",
        f"The clock of {count_of(len(skewed), 'worker')} and taskmon's disagree ({name_some(words, len(skewed))}):"
        " times and runtimes across machines are wrong; keep clocks by NTP",
        count=len(skewed),
        workers=tuple(listed),
        seconds=listed,
    )
