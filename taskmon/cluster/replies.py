"""Where the replies to one call arrive, and how they are read; nothing of it outlives the call, nor a kill.

On Redis the replies are read past kombu. There a queue is a list, which cannot expire while it is empty, and a
binding is a member of a set that all programs share, which must not expire. So the binding is in a set of our own,
and the list has an element that stays in it; both expire. Elsewhere the queue ends with its connection or, in a
directory, is removed by the next taskmon.
"""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol
from uuid import uuid4

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer
from kombu.transport import pyamqp, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from ..receiving.deliveries import AmqpDelivery, VirtualDelivery
from ..transports import claim_queue, is_redis

#: What stays in the list of replies on Redis, so that the list keeps the time at which it expires.
_KEEPER: Final = b"taskmon"

#: The same in a list of results, which kombu reads: a message that belongs to no task.
_NO_RESULT: Final = b"{}"

_REPLIES_PER_READ: Final = 100

#: Seconds between two looks into an empty list: at first, and at most.
_PAUSES: Final = (0.004, 0.03)


class ReplyPlace(Protocol):
    """Where the replies to one call arrive: workers send them to an exchange, with a routing key."""

    exchange: str
    routing_key: str

    def open(self) -> None:
        """Have replies arrive from now on."""

    def receive(self, timeout: float) -> None:
        """Hand over what has arrived, or wait for it; raises TimeoutError where nothing does in `timeout` seconds."""

    def close(self) -> None:
        """Remove what `open` made."""


class ConsumedReplies:
    """A queue like that of Celery's mailbox, but for one call alone."""

    def __init__(self, connection: Connection, mailbox: Any, on_message: Callable[[Any], None]) -> None:
        self._connection = connection
        channel = connection.default_channel
        queue: Queue = mailbox.get_reply_queue()
        queue.routing_key = self.routing_key = str(uuid4())
        self.exchange = mailbox.reply_exchange.name
        queue.name = f"{self.routing_key}.{self.exchange}"
        self._queue: Queue = queue(channel)
        self._consumer = Consumer(channel, [self._queue], no_ack=True, auto_declare=False)
        self._consumer.on_message = on_message
        _read_lean(channel)

    def open(self) -> None:
        """Declare the queue and consume from it."""
        claim_queue(self._connection.default_channel, self._queue.name)
        self._queue.declare()
        self._consumer.consume()

    def receive(self, timeout: float) -> None:
        """Hand over what has arrived, or wait for it."""
        self._connection.drain_events(timeout=timeout)

    def close(self) -> None:
        """Delete the queue."""
        self._consumer.cancel()
        self._queue.delete()


class RedisReplies:
    """A list on Redis and what makes workers put their replies into it; both expire."""

    def __init__(self, channel: Any, exchange: str, expires: int, on_message: Callable[[Any], None]) -> None:
        self._expires = expires
        self.exchange, self.routing_key = exchange, str(uuid4())
        self._channel = channel
        self._on_message = on_message
        self._client = _make_client(channel)
        name = f"{self.routing_key}.{exchange}"
        self._list = channel.global_keyprefix + channel._q_for_pri(name, 0)
        self._bindings = channel.global_keyprefix + channel.keyprefix_queue % exchange
        self._binding = channel.sep.join([self.routing_key, "", name])

    def open(self) -> None:
        """Make the list and the binding."""
        with self._client.pipeline() as commands:
            commands.rpush(self._list, _KEEPER)
            commands.expire(self._list, self._expires)
            commands.sadd(self._bindings, self._binding)
            commands.expire(self._bindings, self._expires)
            commands.execute()

    def receive(self, timeout: float) -> None:
        """Hand over what has arrived, or look again until something has."""
        deadline = time.monotonic() + timeout
        pause, longest = _PAUSES
        while not (waiting := self._client.llen(self._list) - 1) > 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
        count = min(waiting, _REPLIES_PER_READ)
        with self._client.pipeline() as commands:  # new replies come first in the list: its last element stays
            commands.lrange(self._list, 0, count - 1)
            commands.ltrim(self._list, count, -1)
            replies: list[bytes] = commands.execute()[0]
        for reply in reversed(replies):
            self._hand_over(reply)

    def close(self) -> None:
        """Remove the binding and the list."""
        with self._client.pipeline() as commands:
            commands.srem(self._bindings, self._binding)
            commands.delete(self._list)
            commands.execute()

    def _hand_over(self, reply: bytes) -> None:
        try:
            payload = loads(bytes_to_str(reply))
        except ValueError:
            return
        self._on_message(_VirtualReply(payload, self._channel))


def make_replies(
    connection: Connection, mailbox: Any, owner: str, expires: float, on_message: Callable[[Any], None]
) -> ReplyPlace:
    """Make the place where the replies to one call arrive; `owner` names this taskmon.

    Redis forgets it after `expires` seconds, which is the same for all calls of an owner.
    """
    channel: Any = connection.default_channel
    if is_redis(channel):
        return RedisReplies(channel, f"{mailbox.reply_exchange.name}.{owner}", round(expires), on_message)
    return ConsumedReplies(connection, mailbox, on_message)


def declare_result_queue(channel: Any, queue: Any) -> None:
    """Declare the queue to which workers send results; on Redis its list expires, as it does elsewhere."""
    queue(channel).queue_declare()
    if is_redis(channel):
        name = channel.global_keyprefix + channel._q_for_pri(queue.name, 0)
        client = _make_client(channel)
        if not client.exists(name):
            client.rpush(name, _NO_RESULT)
        client.expire(name, round(queue.expires))


def remove_result_queue(channel: Any, queue: Any) -> None:
    """Delete a queue for results, and what is in it."""
    if isinstance(channel, virtual.Channel):  # these delete only what is bound
        queue(channel).purge()
    else:
        queue(channel).delete()


def _make_client(channel: Any) -> Any:
    from redis import Redis

    return Redis(connection_pool=channel.pool)


class _AmqpReply(AmqpDelivery):
    __slots__ = ("ticket",)

    def __init__(self, message: Any, channel: Any = None) -> None:
        super().__init__(message, channel)
        self.ticket = _ticket(message.properties.get("application_headers"))


class _VirtualReply(VirtualDelivery):
    __slots__ = ("ticket",)

    def __init__(self, payload: Any, channel: Any = None) -> None:
        super().__init__(payload, channel)
        self.ticket = _ticket(payload.get("headers") if isinstance(payload, dict) else None)


def _ticket(headers: Any) -> Any:
    return headers.get("ticket") if isinstance(headers, dict) else None


def _read_lean(channel: Any) -> None:
    """Have the channel hand over replies as they are, where its kind is known: kombu would decompress them."""
    if isinstance(channel, pyamqp.Channel):
        channel.Message = _AmqpReply  # type: ignore[assignment]
    elif isinstance(channel, virtual.Channel):
        channel.Message = _VirtualReply  # type: ignore[assignment]
