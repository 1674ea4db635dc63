"""The queue in which events wait for us, and consuming from it. Consumer thread only.

Elsewhere than on RabbitMQ it is gone with its connection. There it outlives a lost one for a while, and keeps its
messages for long, where Celery's own event queue drops what nobody took within 5 s. A durable one has a name, stays
when taskmon ends, and has one reader at a time: two would each get a half of the events.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from celery.events.event import get_exchange
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from ..broker_faults import SubscriptionLost
from ..settings import Settings
from ..transports import claim_queue
from .deliveries import read_lean

log = logging.getLogger(__name__)

#: As many messages may be on their way to us, or here and not applied yet.
PREFETCH: Final = 10_000

#: Seconds between two acknowledgements: each is a packet.
ACK_INTERVAL: Final = 0.05

#: How RabbitMQ answers who declares a queue that exists with other arguments, and who may not consume from one.
_OTHERWISE: Final = 406
_REFUSED: Final = 403


class Acks:
    """Acknowledges messages once their events are applied: what a lost connection takes with it is sent again."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._open: deque[tuple[int, int]] = deque()
        self._last = 0
        self._due = 0.0  # in monotonic seconds

    def note(self, tag: int, received: int) -> None:
        """Take note that the messages up to this tag are here, with which so many bytes have been received."""
        if tag > self._last:
            self._last = tag
            self._open.append((received, tag))

    def ack(self, applied: int) -> None:
        """Acknowledge the messages that are among so many bytes whose events were applied; every 50 ms."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + ACK_INTERVAL
        tag = 0
        while self._open and self._open[0][0] <= applied:
            _, tag = self._open.popleft()
        if tag:
            self._channel.basic_ack(tag, multiple=True)


class EventQueue:
    """A queue of our own for the events of a Celery app; `acks` is there where messages are to be acknowledged.

    `kept` is whether it was there already when it was declared last, with what came meanwhile.
    """

    def __init__(self, celery_app: Celery, settings: Settings) -> None:
        self.name = settings.durable_queue or f"{celery_app.conf.event_queue_prefix}.taskmon.{uuid4()}"
        self._exchange_name = celery_app.conf.event_exchange
        named = {getattr(queue, "name", None) for queue in celery_app.conf.task_queues or ()}
        self._task_queues = {celery_app.conf.task_default_queue, *named}
        self._settings = settings
        self.acks: Acks | None = None
        self.kept = False
        self._warned: set[str] = set()

    def consume(self, connection: Connection, on_message: Callable[[Any], None]) -> None:
        """Declare the queue and consume from it; raises what the connection raises."""
        channel = connection.default_channel
        read_lean(channel)
        claim_queue(channel, self.name)
        keeps = connection.transport.driver_type == "amqp"
        durable = keeps and self._settings.durable_queue is not None
        if not keeps and "fanout" not in connection.transport.implements.exchange_type:
            self._warn("This broker carries no events from one process to another: taskmon hears of no task")
            return
        queue = self._describe(connection, keeps, durable)
        self.kept = keeps and self._exists(connection)
        if durable:
            self._refuse_tasks(connection)
            self._declare(connection, queue)
            channel.basic_consume = partial(channel.basic_consume, exclusive=True)  # type: ignore[method-assign]
        elif self._settings.durable_queue is not None:
            self._warn("This broker has no durable queues: events sent while taskmon is down are lost")
        self.acks = Acks(channel) if keeps else None
        if keeps:
            channel.basic_qos(0, PREFETCH, False)
        try:
            Consumer(
                channel, queues=[queue], on_message=on_message, no_ack=not keeps, auto_declare=not durable
            ).consume()
        except connection.channel_errors as exc:
            if durable and getattr(exc, "reply_code", None) == _REFUSED:
                raise self._has_reader() from exc
            raise

    def leave(self, connection: Connection) -> None:
        """Delete the queue, if it is not to stay."""
        if self._settings.durable_queue is None or self.acks is None:  # it may not be there, which is no error
            connection.default_channel.queue_delete(self.name)

    def _describe(self, connection: Connection, keeps: bool, durable: bool) -> Queue:
        settings = self._settings
        return Queue(
            self.name,
            exchange=get_exchange(connection, name=self._exchange_name),
            routing_key="#",
            durable=keeps,
            auto_delete=not keeps,
            max_length=settings.event_queue_max_length,
            message_ttl=None if durable else settings.event_queue_ttl,
            expires=None if durable else settings.event_queue_expires,
        )

    def _exists(self, connection: Connection) -> bool:
        """Whether the queue is there; on a channel of its own, as RabbitMQ closes that if it is not."""
        channel = connection.channel()
        try:
            channel.queue_declare(self.name, passive=True)
        except connection.channel_errors:
            return False
        channel.close()
        return True

    def _refuse_tasks(self, connection: Connection) -> None:
        """Raise SubscriptionLost for a durable queue that holds tasks, or that others read: before it is bound."""
        if self.name in self._task_queues:
            raise self._holds_tasks()
        if not self.kept:
            return
        channel: Any = connection.channel()
        found = channel.queue_declare(self.name, passive=True)
        if found.consumer_count:
            raise self._has_reader()
        message = channel.basic_get(self.name) if found.message_count else None
        channel.close()  # the message goes back to its place
        if message is not None and "task" in (message.headers or {}):
            raise self._holds_tasks()

    def _holds_tasks(self) -> SubscriptionLost:
        return SubscriptionLost(
            "the durable queue is one of tasks", "give --durable-queue a name of its own", f"the queue {self.name}"
        )

    def _has_reader(self) -> SubscriptionLost:
        return SubscriptionLost(
            "another reads from the durable queue",
            "give each taskmon its own --durable-queue",
            f"another reads from the queue {self.name}, which has one reader only",
        )

    def _declare(self, connection: Connection, queue: Queue) -> None:
        """Declare a durable queue; one that is there already is used as it is, for it may hold events."""
        channel = connection.channel()
        try:
            queue(channel).declare()
        except connection.channel_errors as exc:
            if getattr(exc, "reply_code", None) != _OTHERWISE:
                raise
            self._warn(f"The queue {self.name} was made with other settings, and is used as it is: {exc}")
            channel = connection.channel()  # RabbitMQ closes one on which something was refused
            queue(channel).queue_bind()
        channel.close()

    def _warn(self, text: str) -> None:
        """Log a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)
