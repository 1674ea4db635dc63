"""EventConsumer: the thread that takes Celery's events from the broker, and the one hop to the event loop.

The thread `taskmon-events` connects and receives, and connects again when the broker goes. Messages wait in a deque;
`_pump` runs on the event loop, decodes them and hands their events to `apply`, for a few milliseconds at a time. To
decode there costs less than to let objects cross from one processor's cache to the other's; but what takes long to
decode the thread decodes. Nothing else crosses between the two but the status, which only the loop writes.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from celery import Celery
from kombu.connection import Connection
from kombu.serialization import prepare_accept_content

from .broker_faults import Fault, SubscriptionLost, explain
from .broker_status import BrokerStatus
from .cluster.connections import describe_broker, drop_connection, open_events_connection
from .cluster.event_probe import Prober, Subscription
from .receiving.chunked_reader import Drain
from .receiving.decoding import EventDecoder, is_plain
from .receiving.drains import make_drain
from .receiving.intake import IntakeCounts
from .receiving.queue import EventQueue
from .records import Event
from .settings import Settings

log = logging.getLogger(__name__)

#: Seconds between two attempts to connect: doubled each time.
BACKOFF: Final = (1.0, 30.0)

#: So long the loop applies events before it lets others run, in seconds.
SLICE: Final = 0.004

#: So many bytes of messages may wait for the loop; the thread then stops receiving until half of them are gone.
MAX_WAITING: Final = 128 << 20

#: So many bytes of messages at least go to the loop together, where as many were read at once: some 200 events.
_BYTES_PER_HOP: Final = 65_536

_MISSED_PINGS: Final = 2
_LOG_EVERY: Final = 60.0


@dataclass(slots=True)
class Batch:
    """Messages that go to the loop together, each as its body or, where that takes long to decode, as its events."""

    messages: list[bytes | str | list[Event]] = field(default_factory=list)
    size: int = 0  # bytes of their bodies


class EventConsumer:
    """Feeds `apply` with the events of a Celery app's broker; `on_connect` is called on the loop at each connection.

    `start` and `stop` are for the event loop. Neither waits for the broker.
    """

    def __init__(
        self,
        celery_app: Celery,
        settings: Settings,
        status: BrokerStatus,
        apply: Callable[[list[Event]], None],
        counts: IntakeCounts,
        on_connect: Callable[[], None] = lambda: None,
    ) -> None:
        self.status = status
        self._app = celery_app
        self._settings = settings
        self._apply = apply
        self._counts = counts
        self._on_connect = on_connect
        self._decoder = EventDecoder(
            prepare_accept_content({celery_app.conf.event_serializer, *celery_app.conf.accept_content}),
            settings.max_message,
            settings.max_text,
            self._reject,
            self._omit,
        )
        self._queue = EventQueue(celery_app, settings)
        self._subscription = Subscription()
        self._prober = Prober(celery_app, self._queue.name, self._subscription, partial(self._on_loop, status.judge))
        self._pending = Batch()  # read, but not handed over yet; the thread's alone
        self._batches: deque[Batch] = deque()
        self._received = 0  # bytes of messages, counted by the thread alone
        self._applied = 0  # bytes of messages, counted by the loop alone
        self._tag = 0  # of the last message that came through kombu
        self._pumping = False
        self._room = threading.Event()
        self._stopping = threading.Event()
        self._logged: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="taskmon-events", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._prober.start()

    async def stop(self, timeout: float = 0.7) -> None:
        """Ask the thread to stop and wait for it, `timeout` seconds at most: a hanging broker holds up nobody."""
        self._stopping.set()
        self._prober.stop()
        self._room.set()
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if self._thread.is_alive():
            log.warning("The broker hangs; leaving its connection behind")
        while self._batches and time.monotonic() < deadline:  # else what a durable queue gave us would be lost
            self._pump()
            await asyncio.sleep(0)
        self._loop = None

    # On the event loop

    def _pump(self) -> None:
        """Apply what waits, for one slice; come back at once if that was not all."""
        deadline = time.monotonic() + SLICE
        while self._batches:
            batch = self._batches.popleft()
            try:
                events = self._read(batch)
                if events:
                    self._counts.receive(len(events))
                    self._apply(events)
            except Exception:  # else nobody would ever pump again
                log.exception("A batch of events could not be applied")
            self._applied += batch.size
            if time.monotonic() > deadline:
                break
        if self._received - self._applied < MAX_WAITING // 2:
            self._room.set()
        if self._batches:
            asyncio.get_running_loop().call_soon(self._pump)
            return
        self._pumping = False
        if self._batches:  # the thread may have looked at the flag just before
            self._wake()

    def _read(self, batch: Batch) -> list[Event]:
        """Decode the messages of a batch, where that is still to be done."""
        events: list[Event] = []
        for message in batch.messages:
            events += message if isinstance(message, list) else self._decode(message)
        return events

    def _connected(self, url: str, silence: float = 0.0, kept: bool = False) -> None:
        self.status.note_connected(url, silence, kept)
        self._on_connect()

    # In the thread

    def _run(self) -> None:
        delay = BACKOFF[0]
        while not self._stopping.is_set():
            connected = False
            broker = f"The broker {describe_broker(self._app)}".rstrip()
            fault = Fault("the connection was closed")
            try:
                with self._opened() as connection:
                    broker = f"The broker {connection.as_uri()}"
                    before = self._subscription
                    heard = before.heard_events if before.lost else before.heard
                    drain = self._subscribe(connection)
                    connected = True
                    delay = BACKOFF[0]
                    silence = time.monotonic() - heard if heard else 0
                    kept = self._queue.kept and self._subscription.lost is None
                    self._subscription.begin()
                    self._on_loop(self._connected, connection.as_uri(), silence, kept)
                    self._receive(connection, drain)
            except Exception as exc:
                fault = explain(exc)
                log.debug("Receiving events ended", exc_info=True)
            self._subscription.active = False
            if not self._stopping.is_set():
                self._on_loop(self.status.note_disconnected, broker, fault, connected, delay)
                self._stopping.wait(delay)
                delay = min(2 * delay, BACKOFF[1])

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """Give a connection; after an error let it go without a word, for the broker may no longer listen."""
        connection = open_events_connection(self._app)
        try:
            yield connection
        except BaseException:
            drop_connection(connection)
            raise
        connection.release()

    def _subscribe(self, connection: Connection) -> Drain:
        """Ask for the events."""
        self._tag = 0
        self._queue.consume(connection, self._on_message)
        drain = make_drain(connection, self._deliver, self._reject, self._settings.max_message)
        self._drain(drain, 0.01)  # on Redis, kombu subscribes only when it is first asked for messages
        return drain

    def _drain(self, drain: Drain, timeout: float) -> None:
        """Receive once, and hand over all that came, even if the connection was lost with it."""
        try:
            with suppress(TimeoutError):
                drain(timeout)
        finally:
            self._hand_over()
            if self._queue.acks is not None:
                self._queue.acks.note(max(drain.tag, self._tag), self._received)

    def _receive(self, connection: Connection, drain: Drain) -> None:
        beats = connection.supports_heartbeats and connection.heartbeat
        check = connection.heartbeat_check if beats else partial(_check_redis, connection.default_channel)
        checked = time.monotonic()
        while not self._stopping.is_set():
            self._drain(drain, 0.25)
            if self._queue.acks is not None:
                self._queue.acks.ack(self._applied)
            if (lost := self._subscription.lost) is not None:
                raise SubscriptionLost(*lost)
            if time.monotonic() - checked > 1:
                check()
                checked = time.monotonic()
        with suppress(Exception):  # only to leave nothing behind; the queue expires by itself, or is to stay
            drain.close()
            self._queue.leave(connection)

    def _on_message(self, message: Any) -> None:
        """Take a message from kombu, which is one of its own where `read_lean` does not know the transport."""
        try:
            parts = message.body, message.content_type, message.content_encoding, _compression(message)
        except Exception:
            self._fail()
            return
        self._deliver(*parts)
        self._hand_over()
        self._tag = getattr(message, "tag", 0)

    def _deliver(
        self, body: bytes | str, content_type: str | None, content_encoding: str | None, compression: str | None
    ) -> None:
        plain = is_plain(body, content_type, content_encoding, compression)
        message = body if plain else self._decode(body, content_type, content_encoding, compression)
        self._pending.messages.append(message)
        self._pending.size += len(body)
        if self._pending.size >= _BYTES_PER_HOP:
            self._hand_over()

    def _decode(self, body: bytes | str, *how: str | None) -> list[Event]:
        """Decode a message; in either thread."""
        try:
            return self._decoder.decode(body, *how)
        except Exception:  # whatever a message does to us, it may end nothing
            self._fail()
            return []

    def _fail(self) -> None:
        self._reject("failed", "see the log at level debug")
        log.debug("A message could not be decoded", exc_info=True)

    def _hand_over(self) -> None:
        """Let the loop have the messages that were read; wait while too many wait for it."""
        if not self._pending.messages:
            return
        batch, self._pending = self._pending, Batch()
        self._subscription.note(len(batch.messages), batch.size)
        self._received += batch.size
        self._batches.append(batch)
        if not self._pumping:
            self._wake()
        if self._received - self._applied > MAX_WAITING and not self._stopping.is_set():
            self._room.clear()
            self._subscription.busy = True
            self._room.wait(timeout=60)
            self._subscription.begin()

    def _reject(self, reason: str, detail: str) -> None:
        """Count what is refused, and log it once a minute for each reason."""
        self._counts.reject(reason)
        if self._is_news(reason):
            log.warning("An event was refused: %s (%.200r)", reason, detail)

    def _omit(self, field: str, event_type: str) -> None:
        """Count a field that is left out, and log it once a minute for each field."""
        self._counts.omit(field)
        if self._is_news(f"field {field}"):
            log.warning(
                "The field %s of a %.100r event was left out: it is of the wrong type or out of range",
                field,
                event_type,
            )

    def _is_news(self, topic: str) -> bool:
        """Whether nothing was logged about a topic in the last minute."""
        now = time.monotonic()
        if now - self._logged.get(topic, -_LOG_EVERY) < _LOG_EVERY:
            return False
        self._logged[topic] = now
        return True

    def _wake(self) -> None:
        self._pumping = True
        self._on_loop(self._pump)

    def _on_loop(self, callback: Callable[..., None], *args: object) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop was closed a moment ago
                loop.call_soon_threadsafe(callback, *args)


def _check_redis(channel: Any) -> None:
    """Ping Redis when it is due; raise ConnectionError once two pings are unanswered.

    kombu itself does so in workers only.
    """
    pubsub = vars(channel).get("subclient")
    if pubsub is not None and pubsub.subscribed:
        if pubsub.health_check_response_counter >= _MISSED_PINGS:
            raise SubscriptionLost("Redis does not answer", "it hangs, is overloaded, or the network drops packets")
        pubsub.check_health()


def _compression(message: Any) -> str | None:
    """Tell how a body is compressed; kombu's own messages, of transports not known here, no longer are."""
    compression: str | None = getattr(message, "compression", None)
    return compression
