"""Prober: whether an event that is sent now would come in. A thread of its own, beside the one that receives.

A connection can be open and healthy while no event comes over it: the exchange was deleted and declared anew by a
worker, the queue was deleted or unbound, the broker hangs, a proxy forgot the connection. So after a short silence
the prober sends a message and expects it back through the subscription. As long as events come in, it sends nothing.

A probe is an empty list of events, which Celery's receivers, Flower's among them, read as no event at all. It goes to
the queue of this taskmon alone, where the broker has queues. Only after a longer silence one goes to the exchange of
events, on RabbitMQ with a time to live of 0: a queue that nothing consumes at that moment does not keep it.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery
from celery.events.event import get_exchange
from kombu.connection import Connection
from kombu.messaging import Producer

from ..broker_faults import BrokerBlocked, Fault, explain
from .connections import LATEST_RETRY, BrokerAway, away_errors, close_connection, drop_connection, open_connection

log = logging.getLogger(__name__)

#: The bodies of probes. One to the queue is shorter than all else that comes, so that bytes per message tell it.
QUEUE_PROBE: Final = b"[]"
EXCHANGE_PROBE: Final = b"[ ]"

#: Seconds between two looks at the subscription.
TICK: Final = 1.0

#: Seconds of silence after which the queue is probed; seconds without an event after which the exchange is.
QUIET: Final = 1.5
EXCHANGE_QUIET: Final = 15.0

#: Looks without an answer after which nothing comes in for sure, and after which taskmon subscribes again.
#: Looks are counted, not seconds: a machine that stands still for a while answers nothing meanwhile.
UNANSWERED: Final = 4
SUBSCRIBE_AGAIN: Final = 8
EXCHANGE_UNANSWERED: Final = 8

#: A subscription that brings nothing is renewed after twice as many looks each time, up to this factor.
MAX_PATIENCE: Final = 32

#: The kinds of probes, by what they are sent to.
_QUEUE, _EXCHANGE = _PROBES = ("its own queue", "the exchange of events")

_EXPIRES: Final = 10.0
_IDLE: Final = 20.0
_LOST: Final = Fault("test messages to the broker do not come back", "taskmon subscribes again")
_UNBOUND: Final = Fault(
    "the exchange of events was deleted, or its binding to the queue of taskmon",
    "taskmon subscribes again; events sent meanwhile are lost",
)
#: What RabbitMQ and Redis say to a user who may not publish.
_REFUSED: Final = 403
_REFUSED_BY_REDIS: Final = "NoPermissionError"
_NOT_FOUND: Final = 404


@dataclass(slots=True)
class Subscription:
    """What the receiving thread and the prober tell each other, in plain attributes; times are monotonic.

    `heard` is when anything came last, `heard_events` when something came that went through the exchange. `lost` is
    why to subscribe again, `proven` whether an event has come since the prober asked for that, and `busy` whether the
    receiver waits for the loop.
    """

    active: bool = False
    busy: bool = False
    heard: float = 0.0
    heard_events: float = 0.0
    lost: Fault | None = None
    proven: bool = False

    def begin(self) -> None:
        """Begin anew, with a connection that has just been made."""
        self.heard = self.heard_events = time.monotonic()
        self.lost, self.busy, self.active = None, False, True

    def note(self, messages: int, size: int) -> None:
        """Note messages that came, and how many bytes they have together."""
        self.heard = time.monotonic()
        if size > len(QUEUE_PROBE) * messages:
            self.heard_events, self.proven = self.heard, True


class Prober:
    """Probes the subscription of one event queue; `report` gets what is wrong, or None when all is well again."""

    def __init__(
        self,
        celery_app: Celery,
        queue: str,
        subscription: Subscription,
        report: Callable[[Fault | None], None],
    ) -> None:
        self._refused: set[str] = set()  # the probes that the broker does not let this user send
        self._app = celery_app
        self._queue = queue
        self._subscription = subscription
        self._report = report
        self._connection: Connection | None = None
        self._used = 0.0
        self._blocked = False
        self._unanswered = 0
        self._exchange_unanswered = 0
        self._patience = 1
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskmon-probe", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; does not wait for it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(TICK):
            try:
                self._close_idle()
                self._look()
            except Exception:
                log.debug("Probing failed", exc_info=True)
                self._drop()
        if self._connection is not None:
            with suppress(Exception):
                close_connection(self._connection)

    def _close_idle(self) -> None:
        """Take leave of the broker after a while without a probe: it would miss the heartbeats of the connection."""
        if self._connection is not None and not self._blocked and time.monotonic() - self._used > _IDLE:
            connection, self._connection = self._connection, None
            close_connection(connection)

    def _look(self) -> None:
        """Probe what is silent, and report what is found."""
        subscription, now = self._subscription, time.monotonic()
        if not subscription.active or subscription.busy or len(self._refused) == len(_PROBES):
            self._unanswered = self._exchange_unanswered = 0
            return
        if now - subscription.heard_events < EXCHANGE_QUIET:
            self._exchange_unanswered = 0
        if subscription.proven:
            self._patience = 1
        if now - subscription.heard < QUIET:
            self._unanswered = 0
            self._blocked = False
            self._report(None)
        fault = self._probe(now)
        if fault is not None and subscription.heard < now:
            self._report(fault)

    def _probe(self, now: float) -> Fault | None:
        """Send what is to be sent; return what is wrong."""
        subscription = self._subscription
        try:
            if now - subscription.heard >= QUIET:
                self._unanswered += 1
                self._send(_QUEUE if _QUEUE not in self._refused else _EXCHANGE)
            if now - subscription.heard_events >= EXCHANGE_QUIET and _EXCHANGE not in self._refused:
                self._exchange_unanswered += 1
                self._send(_EXCHANGE)
        except (BrokerBlocked, BrokerAway) as exc:
            self._blocked = isinstance(exc, BrokerBlocked)
            self._unanswered = self._exchange_unanswered = 0  # nothing was sent that could be answered
            return explain(exc)
        if self._exchange_unanswered >= EXCHANGE_UNANSWERED * self._patience:
            self._subscribe_again(_UNBOUND)
        elif self._unanswered >= SUBSCRIBE_AGAIN * self._patience:
            self._subscribe_again(_LOST)
        elif self._unanswered >= UNANSWERED:
            return _LOST
        return None

    def _subscribe_again(self, fault: Fault) -> None:
        """Have the receiver subscribe again, and say why."""
        self._unanswered = self._exchange_unanswered = 0
        self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._subscription.active = self._subscription.proven = False
        self._subscription.lost = fault

    def _send(self, probe: str) -> None:
        """Send a probe; raises BrokerAway, and BrokerBlocked while RabbitMQ accepts nothing."""
        fresh = self._connection is None
        if self._connection is None:
            self._connection = open_connection(self._app)
            self._blocked = False
        connection, self._used = self._connection, time.monotonic()
        try:
            if self._blocked:
                self._wait_for_unblocking(connection)
            if probe == _QUEUE:
                self._probe_queue(connection)
            else:
                self._probe_exchange(connection)
        except BrokerBlocked:
            raise
        except (*away_errors(connection), *connection.channel_errors) as exc:
            self._drop()
            if _code(exc) == _NOT_FOUND:
                self._exchange_unanswered = EXCHANGE_UNANSWERED * MAX_PATIENCE
                return
            if _code(exc) == _REFUSED or type(exc).__name__ == _REFUSED_BY_REDIS:
                self._refuse(probe, connection, exc)
                return
            if fresh or time.monotonic() - self._used > LATEST_RETRY:
                raise BrokerAway(str(explain(exc))) from exc
            self._send(probe)  # it was closed while it was not used

    def _refuse(self, probe: str, connection: Connection, exc: BaseException) -> None:
        """Send no more of a kind that the broker refuses; only RabbitMQ has two."""
        self._refused |= {probe} if connection.transport.driver_type == "amqp" else set(_PROBES)
        self._unanswered = self._exchange_unanswered = 0
        if _EXCHANGE in self._refused:
            log.warning(
                "taskmon may not publish to the exchange of events, so it cannot test whether events come in: %s",
                explain(exc),
            )

    def _wait_for_unblocking(self, connection: Connection) -> None:
        """Keep a connection that RabbitMQ has blocked, as it would not even notice that it is closed."""
        with suppress(TimeoutError):
            amqp: Any = connection.connection
            amqp.on_unblocked = self._unblock
            connection.drain_events(timeout=0.01)
        if self._blocked:
            raise BrokerBlocked

    def _unblock(self) -> None:
        self._blocked = False

    def _probe_queue(self, connection: Connection) -> None:
        if connection.transport.driver_type == "redis":  # a subscription, and no queue
            self._publish_event(connection, EXCHANGE_PROBE)
        elif connection.transport.driver_type in ("amqp", "filesystem"):
            self._publish(connection, QUEUE_PROBE, exchange="", routing_key=self._queue, expiration=_EXPIRES)
        else:  # one more message may cost money there, or stay
            self._unanswered = 0

    def _probe_exchange(self, connection: Connection) -> None:
        kind = connection.transport.driver_type
        if kind == "amqp":
            self._publish_event(connection, EXCHANGE_PROBE)
            return
        self._exchange_unanswered = 0
        if kind == "filesystem":  # where a message would stay in the queues of receivers that are gone
            table: Any = connection.default_channel.get_table(self._app.conf.event_exchange)
            if self._queue not in {entry[-1] for entry in table}:
                self._exchange_unanswered = EXCHANGE_UNANSWERED * MAX_PATIENCE

    def _publish_event(self, connection: Connection, body: bytes) -> None:
        name = self._app.conf.event_exchange
        if connection.transport.driver_type != "amqp":  # which only tells kombu of its kind
            get_exchange(connection, name=name)(connection.default_channel).declare()
        self._publish(connection, body, exchange=name, routing_key="taskmon.probe", expiration=0)

    def _publish(self, connection: Connection, body: bytes, **where: Any) -> None:
        producer = Producer(connection.default_channel, auto_declare=False)
        json = {"content_type": "application/json", "content_encoding": "utf-8"}
        producer.publish(body, delivery_mode=1, retry=False, **json, **where)

    def _drop(self) -> None:
        if self._connection is not None:
            drop_connection(self._connection)
            self._connection = None


def _code(exc: BaseException) -> int:
    return getattr(exc, "reply_code", None) or 0
