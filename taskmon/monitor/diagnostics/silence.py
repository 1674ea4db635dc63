"""Silence: no event comes from any worker, or from one that answers commands, though taskmon is connected.

Event loop only.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from ...broker_status import BrokerStatus
from ...cluster.inspection import Inspector
from ...receiving.intake import IntakeCounts
from ...records import Event, Task, Worker
from ..state import State
from .findings import MAX_LISTED, Finding, count_of, name_some

#: Seconds of a connection after which a worker should have been heard: their heartbeats come every 2 s.
SILENT_FOR: Final = 30.0

#: A worker whose heartbeats are rare must have missed as many of them.
_MISSED_BEATS: Final = 5

#: Seconds for which an answer to a command says that a worker runs.
ANSWER_HOLDS: Final = 90.0

#: Seconds for which a worker that went silent is asked whether it still runs.
_ASKED_FOR: Final = 300.0

#: Seconds between two answers of a worker of which nothing else is known: one that starts answers before it is heard.
_STARTS_WITHIN: Final = 10.0

#: The reason for which events are refused whose serializer is not accepted.
_CONTENT_TYPE: Final = "content-type"
_DEFAULT_EXCHANGE: Final = "celeryev"


class _Conf(Struct):
    """What is read of the settings that a worker says it has; those that are Celery's defaults are not in there."""

    event_exchange: str = _DEFAULT_EXCHANGE


class Silence:
    """Whether events of workers come; `exchange` is the one that taskmon listens to."""

    def __init__(
        self,
        state: State,
        broker: BrokerStatus,
        intake: IntakeCounts,
        inspector: Inspector,
        exchange: str,
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._inspector = inspector
        self._broker = broker
        self._intake = intake
        self._exchange = exchange
        self._clock = clock
        self._started = clock()
        self._was_heard = False
        self._since: float | None = None  # when it was first found connected, by this connection
        self._connection = 0
        self._unheard: dict[str, float] = {}  # workers that answer in spite of their silence, and since when

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Note that a worker was heard."""
        self._was_heard = self._was_heard or any(isinstance(subject, Worker) for _, subject in changes)

    def examine(self) -> Iterator[Finding]:
        """Find whether nothing has come for a while from any worker, or from some that answer commands."""
        self._note_connection()
        if not self._is_silent():
            yield from self._examine_unheard()
            return
        answering = self._inspector.inspections
        if answering:
            yield self._describe_answering("no-worker-heard", sorted(answering), "has come from them")
            return
        yield Finding(
            "no-worker-heard",
            "taskmon is connected, and no event has come from any worker since it started",
            causes=(
                *self._list_refusals(),
                "No worker runs: `celery inspect ping`, with the application of the workers, is answered by none",
                self._say_exchange(),
                "On Redis, the workers' keys have a prefix: `redis-cli --scan --pattern '*_kombu.binding.*'` shows"
                " it; taskmon needs the same: --set broker_transport_options.global_keyprefix=PREFIX",
                "The workers use another virtual host, or another database of Redis: compare the end of their"
                " broker_url with taskmon's",
            ),
        )

    @property
    def unheard(self) -> list[str]:
        """The workers that answer commands while no event comes from them, as they were found last."""
        return list(self._unheard)

    def must_ask(self) -> bool:
        """Whether a worker has gone silent lately, or was, so that all are to be asked who still runs."""
        now = self._clock()
        gone = (now - worker.seen for worker in self._state.workers.values() if not worker.alive(now))
        return bool(self._unheard) or any(seconds < _ASKED_FOR for seconds in gone)

    def _note_connection(self) -> None:
        if not self._broker.connected or self._connection != self._broker.reconnects:
            self._since, self._connection = None, self._broker.reconnects
        if self._broker.connected and self._since is None:
            self._since = self._clock()

    def _examine_unheard(self) -> Iterator[Finding]:
        """Find workers of which no event has come for a while before they last answered a command."""
        now, found = self._clock(), []
        silent = {name for name, at in self._inspector.answered.items() if self._is_unheard(name, at, now)}
        self._unheard = {name: self._unheard.get(name, self._inspector.answered[name]) for name in silent}
        for name, first in self._unheard.items():
            if self._last_event(name) is not None or self._inspector.answered[name] - first >= _STARTS_WITHIN:
                found.append(name)
        if found:
            yield self._describe_answering(
                "worker-unheard", sorted(found), f"has come from them for {SILENT_FOR:.0f} s or longer"
            )

    def _is_unheard(self, name: str, answered: float, now: float) -> bool:
        if self._since is None or now - answered >= ANSWER_HOLDS:
            return False
        heard = self._last_event(name)
        if heard is None:
            return answered - self._since >= SILENT_FOR
        longest = max(SILENT_FOR, _MISSED_BEATS * self._state.workers[name].freq)
        return answered - max(self._since, heard) >= longest

    def _last_event(self, name: str) -> float | None:
        """Return when an event of a worker came last; None for one that is known only by its answers."""
        worker = self._state.workers.get(name)
        return None if worker is None or (worker.timestamp is None and not worker.busy) else worker.seen

    def _is_silent(self) -> bool:
        """Whether taskmon has been connected for a while, and has never heard a worker."""
        now = self._clock()
        # One that sends no heartbeats is heard by its tasks; a history may bring back workers of earlier.
        workers = self._state.workers.values()
        was_heard = self._was_heard or any(worker.busy > self._started for worker in workers)
        return not was_heard and self._since is not None and now - self._since >= SILENT_FOR

    def _describe_answering(self, code: str, names: list[str], silence: str) -> Finding:
        """Say what keeps the events of workers back that answer commands: these come by other exchanges."""
        exchanges = {name: self._read_exchange(name) for name in names}
        elsewhere = sorted({exchange for exchange in exchanges.values() if exchange not in (None, self._exchange)})
        who = f"{count_of(len(names), 'worker')} ({name_some(names)}) answer commands, and no event {silence}"
        if elsewhere:
            return Finding(
                code,
                f"{who}: events go to the exchange {name_some([str(one) for one in elsewhere])}, and taskmon listens"
                f" to {self._exchange}; give it the workers' event_exchange by --set or --app",
                "event_exchange",
                count=len(names),
                workers=tuple(names[:MAX_LISTED]),
            )
        return Finding(
            code,
            who,
            count=len(names),
            workers=tuple(names[:MAX_LISTED]),
            causes=(
                *self._list_refusals(),
                "The workers send neither heartbeats nor events of tasks (--without-heartbeat, and no -E)",
                "The broker does not let them publish events: see their logs",
                *([] if None not in exchanges.values() else [self._say_exchange()]),
            ),
        )

    def _read_exchange(self, hostname: str) -> str | None:
        """Return the exchange to which a worker says it publishes, None where it has not said."""
        inspection = self._inspector.inspections.get(hostname)
        if inspection is None or inspection.times.get("conf", 0.0) < (self._last_event(hostname) or 0.0):
            return None  # what it said before may no longer hold: it may have been started anew
        answer = inspection.answers.get("conf")
        try:
            return None if answer is None else msgspec.json.decode(answer, type=_Conf).event_exchange
        except msgspec.MsgspecError:
            return None

    def _say_exchange(self) -> str:
        return (
            f"The workers publish to another exchange than {self._exchange}: compare event_exchange in"
            " `celery inspect conf`, and give taskmon the same by --set or --app"
        )

    def _list_refusals(self) -> list[str]:
        """Name what is refused, if anything is."""
        refused = self._intake.rejected.get(_CONTENT_TYPE, 0)
        if not refused:
            return []
        return [
            f"{count_of(refused, 'message')} came in a format that taskmon does not accept: event_serializer of the"
            " workers must be json, or one that accept_content of taskmon's application (--app) allows"
        ]
