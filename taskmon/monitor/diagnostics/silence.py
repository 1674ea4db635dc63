"""Silence: no worker has ever been heard, though taskmon is connected. Event loop only."""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from ...records import Event, Task, Worker
from ..state import State
from .findings import MAX_LISTED, Finding, count_of, name_some
from .views import BrokerView, InspectorView, MetricsView

#: Seconds of a connection after which a worker should have been heard: their heartbeats come every 2 s.
SILENT_FOR: Final = 30.0

#: The reason for which events are refused whose serializer is not accepted.
_CONTENT_TYPE: Final = "content-type"
_DEFAULT_EXCHANGE: Final = "celeryev"


class _Conf(Struct):
    """What is read of the settings that a worker says it has; those that are Celery's defaults are not in there."""

    event_exchange: str = _DEFAULT_EXCHANGE


class Silence:
    """Whether an event of a worker has come since taskmon started; `exchange` is the one that it listens to."""

    def __init__(
        self,
        state: State,
        broker: BrokerView,
        metrics: MetricsView,
        inspector: InspectorView,
        exchange: str,
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._inspector = inspector
        self._broker = broker
        self._metrics = metrics
        self._exchange = exchange
        self._clock = clock
        self._started = clock()
        self._was_heard = False
        self._since: float | None = None  # when it was first found connected, by this connection
        self._connection = 0

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Note that a worker was heard."""
        self._was_heard = self._was_heard or any(isinstance(subject, Worker) for _, subject in changes)

    def examine(self) -> Iterator[Finding]:
        """Find whether nothing has come from any worker for a while."""
        if not self._is_silent():
            return
        answering = self._inspector.inspections
        if answering:
            yield self._describe_answering(sorted(answering))
            return
        yield Finding(
            "no-worker-heard",
            "taskmon is connected, and no event has come from any worker since it started",
            causes=(
                *self._list_refusals(),
                "No worker runs: `celery inspect ping`, with the application of the workers, is answered by none",
                self._say_exchange(),
                "On Redis, the workers' keys have a prefix: `redis-cli --scan --pattern '*_kombu.binding.*'` shows"
                " it; taskmon needs the same global_keyprefix in broker_transport_options",
                "The workers use another virtual host, or another database of Redis: compare the end of their"
                " broker_url with taskmon's",
            ),
        )

    def _is_silent(self) -> bool:
        """Whether taskmon has been connected for a while, and has never heard a worker."""
        now = self._clock()
        if not self._broker.connected or self._connection != self._broker.reconnects:
            self._since, self._connection = None, self._broker.reconnects
        if self._broker.connected and self._since is None:
            self._since = now
        # One that sends no heartbeats is heard by its tasks; a history may bring back workers of earlier.
        workers = self._state.workers.values()
        was_heard = self._was_heard or any(worker.busy > self._started for worker in workers)
        return not was_heard and self._since is not None and now - self._since >= SILENT_FOR

    def _describe_answering(self, names: list[str]) -> Finding:
        """Say what keeps the events of workers back that answer commands: these come by other exchanges."""
        exchanges = {name: self._read_exchange(name) for name in names}
        elsewhere = sorted({exchange for exchange in exchanges.values() if exchange not in (None, self._exchange)})
        who = (
            f"{count_of(len(names), 'worker')} ({name_some(names)}) answer commands, and no event has come from them"
        )
        if elsewhere:
            return Finding(
                "no-worker-heard",
                f"{who}: events go to the exchange {name_some([str(one) for one in elsewhere])}, and taskmon listens"
                f" to {self._exchange}; give it the workers' event_exchange by --app",
                "event_exchange",
                count=len(names),
                workers=tuple(names[:MAX_LISTED]),
            )
        return Finding(
            "no-worker-heard",
            who,
            count=len(names),
            workers=tuple(names[:MAX_LISTED]),
            causes=(
                *self._list_refusals(),
                "The workers send neither heartbeats nor events of tasks (--without-heartbeat, and no -E)",
                *([] if None not in exchanges.values() else [self._say_exchange()]),
            ),
        )

    def _read_exchange(self, hostname: str) -> str | None:
        """Return the exchange to which a worker says it publishes, None where it has not said."""
        answer = self._inspector.inspections[hostname].answers.get("conf")
        try:
            return None if answer is None else msgspec.json.decode(answer, type=_Conf).event_exchange
        except msgspec.MsgspecError:
            return None

    def _say_exchange(self) -> str:
        return (
            f"The workers publish to another exchange than {self._exchange}: compare event_exchange in"
            " `celery inspect conf`, and give taskmon the same by --app"
        )

    def _list_refusals(self) -> list[str]:
        """Name what is refused, if anything is."""
        refused = self._metrics.rejections().get(_CONTENT_TYPE, 0)
        if not refused:
            return []
        return [
            f"{count_of(refused, 'message')} came in a format that taskmon does not accept: event_serializer of the"
            " workers must be json, or one that accept_content of taskmon's application (--app) allows"
        ]
