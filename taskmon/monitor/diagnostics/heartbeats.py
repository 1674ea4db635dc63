"""What the heartbeats of workers tell: whether tasks run of which no event comes, whether clocks agree, and whether
several processes use one name.

Event loop only. Nothing is kept but a few numbers of each worker.
"""

from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from msgspec import Struct

from ...broker_status import BrokerStatus
from ...records import Event, Task, Worker
from ...settings import Settings
from ..state import State
from .duplicate_workers import Namesakes
from .findings import MAX_LISTED, Finding, count_of, name_some

#: Seconds that something must last which may be a matter of a moment.
MIN_DURATION: Final = 10.0

#: Seconds that it may take until a worker that came sends events, because taskmon asks it to.
ENABLING_LASTS: Final = 10.0

#: Seconds that a worker's clock may differ from taskmon's, and how steadily a clock that does so differs: what comes
#: late differs less and less.
MAX_SKEW: Final = 30.0
STEADY: Final = 5.0


class _Watch(Struct):
    """What the heartbeats of a worker told.

    It began at `began`, by the connection to the broker of that number. `processed` and `active` are from the first
    heartbeat after its last event of a task, which came at `since`; `grew` is when one said more since. `skew` is how
    far its clock has been ahead since `steady`.
    """

    began: float
    connection: int
    since: float = 0.0
    processed: int | None = None
    active: int | None = None
    grew: float | None = None
    skew: float = inf
    steady: float = 0.0

    def begin(self, now: float, connection: int) -> None:
        """Forget what was told: events since then may have been lost."""
        self.began, self.connection = now, connection
        self.restart()

    def restart(self) -> None:
        """Compare with what the next heartbeat says."""
        self.processed = self.active = self.grew = None


class Heartbeats:
    """What each worker's heartbeats say; `observe` hears of workers' events, `forget` of workers that go."""

    def __init__(self, state: State, settings: Settings, broker: BrokerStatus, clock: Callable[[], float]) -> None:
        self._state = state
        self._broker = broker
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
                    watch.begin(self._clock(), self._broker.reconnects)

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
            if watch.grew is not None and now - watch.grew >= MIN_DURATION and workers[name].busy < watch.since
        ]
        if silent:
            yield Finding(
                "task-events-off",
                f"Heartbeats of {count_of(len(silent), 'worker')} ({name_some(silent)}) say that tasks run, and"
                " no event of a task has come from there",
                "worker_send_task_events",
                count=len(silent),
                workers=tuple(silent[:MAX_LISTED]),
                causes=self._list_causes(),
            )
        skewed = {
            name: round(watch.skew, 1)
            for name, watch in watches
            if abs(watch.skew) > MAX_SKEW and now - watch.steady >= MIN_DURATION
        }
        if skewed:
            yield _describe_skew(skewed)
        yield from self._namesakes.examine(workers, now)

    def _list_causes(self) -> tuple[str, ...]:
        """List what can keep back events of tasks where heartbeats come: neither the exchange nor the serializer."""
        if self._settings.enable_events:
            obeys = (
                "it hears no commands (worker_enable_remote_control is off), or something disables its events again"
            )
        else:
            obeys = "taskmon does not ask for them (--no-enable-events)"
        return (
            f"The worker was started without -E, and {obeys}: its banner says 'task events: OFF'; start it with -E",
            "Its tasks are declared with send_events=False: look for that in their code",
            "taskmon refuses its events of tasks: then there is a finding events-refused, which says why",
        )

    def _note_heartbeat(self, worker: Worker, event: Event) -> None:
        if worker.hostname not in self._state.workers:
            return
        now, connection = self._clock(), self._broker.reconnects
        watch = self._watches.get(worker.hostname)
        if watch is None:
            watch = self._watches[worker.hostname] = _Watch(now, connection)
        elif watch.connection != connection:
            watch.begin(now, connection)
        elif worker.busy >= watch.since:
            watch.restart()
        if event.pid is not None:
            self._namesakes.note(worker, event.pid, now)
        skew = (event.timestamp or now) - now
        if abs(skew - watch.skew) > STEADY:
            watch.skew, watch.steady = skew, now
        self._note_numbers(watch, worker, event, now)

    def _note_numbers(self, watch: _Watch, worker: Worker, event: Event, now: float) -> None:
        """Note whether a worker has run tasks since. A heartbeat that a command asked for says nothing of that."""
        processed, active = event.processed, event.active
        if processed is None and active is None:
            return
        is_waited_for = self._settings.enable_events and now - watch.began < ENABLING_LASTS
        has_begun = watch.processed is not None or watch.active is not None
        has_restarted = processed is not None and watch.processed is not None and processed < watch.processed
        if is_waited_for or has_restarted or not has_begun:
            watch.processed, watch.active, watch.grew = processed, active, None
            watch.since = worker.seen
        elif watch.grew is None and (_is_more(processed, watch.processed) or _is_more(active, watch.active)):
            watch.grew = now


def _is_more(number: int | None, before: int | None) -> bool:
    return number is not None and before is not None and number > before


def _describe_skew(skewed: dict[str, float]) -> Finding:
    listed = dict(sorted(skewed.items(), key=lambda item: -abs(item[1]))[:MAX_LISTED])
    words = [f"{name} {abs(s):g} s {'ahead' if s > 0 else 'behind'}" for name, s in listed.items()]
    return Finding(
        "clocks-disagree",
        f"The clock of {count_of(len(skewed), 'worker')} and taskmon's disagree ({name_some(words, len(skewed))}):"
        " times and runtimes across machines are wrong; keep clocks by NTP",
        count=len(skewed),
        workers=tuple(listed),
        seconds=listed,
    )
