"""How many messages wait in queues, asked of a broker on a connection that is open. In a thread; nothing is changed.

What a broker cannot tell is None, with the reason: never 0.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kombu.connection import Connection
from kombu.transport import virtual

from .connections import say_why

log = logging.getLogger(__name__)

#: As many queues are asked about in one round trip to Redis.
QUEUES_PER_PIPELINE: Final = 50

#: All priorities that Celery gives a message on Redis, whichever steps the workers have.
PRIORITIES: Final = tuple(range(10))

#: Brokers whose client makes a queue when it is asked for its length.
_ASKING_CREATES: Final = frozenset({"sqs", "azureservicebus", "azurestoragequeues"})

_NOT_FOUND: Final = "404"
_GONE_IN_RABBITMQ: Final = "no queue"

NOT_IN_REDIS: Final = (
    "nothing in Redis names this queue, so it is empty, or its keys have a prefix that taskmon does not know"
    " (global_keyprefix in broker_transport_options)"
)
NOT_TOLD: Final = "this broker does not tell how many messages wait"


@dataclass(frozen=True, slots=True)
class QueueLength:
    """One queue: the messages that wait in it, None with a `reason` where that is not known, and its consumers.

    `unacknowledged` are those that consumers hold, None where that is not known.
    """

    name: str
    messages: int | None
    consumers: int | None = None
    reason: str | None = None
    unacknowledged: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What tells an empty queue from one that is not found on Redis, where an empty list does not exist.

    `is_prefix_known` is whether the prefix of the keys was configured, `consumed` are the queues that workers say
    they consume from, in replies that came by the same keys; `exchanges` are those to which queues may be bound.
    """

    is_prefix_known: bool = False
    consumed: Collection[str] = ()
    exchanges: Collection[str] = ()


@dataclass(slots=True)
class Bindings:
    """The queues that are bound to exchanges in Redis, read once for each exchange."""

    channel: Any
    queues: dict[str, frozenset[str]] = field(default_factory=dict)

    def have(self, queue: str, exchanges: Collection[str]) -> bool:
        """Whether a queue is bound to the exchange of its name, or to one of these."""
        return any(queue in self._bound_to(exchange) for exchange in (queue, *exchanges))

    def _bound_to(self, exchange: str) -> frozenset[str]:
        if exchange not in self.queues:
            channel = self.channel
            with channel.conn_or_acquire() as client:
                members = client.smembers(channel.keyprefix_queue % exchange)
            texts = (m.decode("utf-8", "replace") if isinstance(m, bytes) else str(m) for m in members)
            self.queues[exchange] = frozenset(text.rpartition(channel.sep)[2] for text in texts)
        return self.queues[exchange]


def measure(connection: Connection, names: Sequence[str], evidence: Evidence) -> Iterator[QueueLength]:
    """Yield the length of each queue; raises what the connection raises when the broker goes away."""
    driver = connection.transport.driver_type
    if driver == "amqp":
        yield from _measure_amqp(connection, names)
    elif driver == "redis":
        yield from _measure_redis(connection, names, evidence)
    elif driver.lower() in _ASKING_CREATES:
        yield from (QueueLength(name, None, reason=NOT_TOLD) for name in names)
    else:
        yield from _measure_virtual(connection, names)


def _measure_amqp(connection: Connection, names: Sequence[str]) -> Iterator[QueueLength]:
    """Declare queues passively: that changes nothing, and tells lengths and consumers."""
    for name in names:
        try:
            answer = connection.default_channel.queue_declare(queue=name, passive=True)
        except connection.channel_errors as exc:
            yield QueueLength(name, 0, 0) if _is_gone(connection, exc) else _unknown(name, exc)
            connection.revive(None)  # AMQP closes a channel on which something was refused: take a new one
        else:
            yield QueueLength(name, int(answer.message_count), int(answer.consumer_count))


def _is_gone(connection: Connection, exc: Exception) -> bool:
    """Whether an error says that there is no such queue.

    RabbitMQ answers 404 for a queue on a node that is down, too, and only its text tells the two apart. A text that
    is not the expected one leaves the queue unknown.
    """
    if str(getattr(exc, "reply_code", "")) != _NOT_FOUND:
        return False
    server = getattr(connection.connection, "server_properties", None) or {}
    return server.get("product") != "RabbitMQ" or _GONE_IN_RABBITMQ in str(getattr(exc, "reply_text", ""))


def _measure_redis(connection: Connection, names: Sequence[str], evidence: Evidence) -> Iterator[QueueLength]:
    """Add up the lists of all priorities. A passive declaration is no use: kombu looks there without the prefix."""
    channel: Any = connection.default_channel
    bindings = Bindings(channel)
    steps = sorted({*PRIORITIES, *channel.priority_steps})
    keys = [lambda name: name, *(_key_of(channel.sep, step) for step in steps if step)]
    for start in range(0, len(names), QUEUES_PER_PIPELINE):
        some = names[start : start + QUEUES_PER_PIPELINE]
        with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for name in some:
                for key in keys:
                    pipe.llen(key(name))
            answers = pipe.execute(raise_on_error=False)
        for place, name in enumerate(some):
            found = answers[place * len(keys) : (place + 1) * len(keys)]
            yield _judge_redis(connection, name, found, bindings, evidence)


def _key_of(sep: str, step: int) -> Callable[[str], str]:
    return lambda name: f"{name}{sep}{step}"


def _judge_redis(
    connection: Connection, name: str, found: Sequence[Any], bindings: Bindings, evidence: Evidence
) -> QueueLength:
    for answer in found:
        if isinstance(answer, Exception):
            if not isinstance(answer, connection.channel_errors):
                raise answer
            return _unknown(name, answer)
    messages = sum(found)
    if messages or evidence.is_prefix_known or name in evidence.consumed:
        return QueueLength(name, messages)
    try:
        is_bound = bindings.have(name, evidence.exchanges)
    except connection.channel_errors as exc:
        return _unknown(name, exc)
    return QueueLength(name, 0) if is_bound else QueueLength(name, None, reason=NOT_IN_REDIS)


def _measure_virtual(connection: Connection, names: Sequence[str]) -> Iterator[QueueLength]:
    """Ask kombu for lengths, as far as its transport knows them. A passive declaration would make some queues."""
    channel: Any = connection.default_channel
    if not isinstance(channel, virtual.Channel) or type(channel)._size is virtual.Channel._size:
        yield from (QueueLength(name, None, reason=NOT_TOLD) for name in names)
        return
    for name in names:
        try:
            has_queue = channel._has_queue(name)
            yield QueueLength(name, int(channel._size(name)) if has_queue else 0)
        except connection.channel_errors as exc:
            yield _unknown(name, exc)


def _unknown(name: str, exc: Exception) -> QueueLength:
    log.debug("The queue %.200r cannot be looked at: %s", name, exc)
    return QueueLength(name, None, reason=say_why(exc))
