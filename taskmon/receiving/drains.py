"""Read what a broker pushes in large pieces, past what kombu and the client libraries do for each message.

With small messages that is most of what receiving costs. A drain is called as kombu's `drain_events` is: it waits for
what comes, hands every message that is complete to `deliver`, and raises TimeoutError if nothing came. It depends on
how these libraries work inside, so `make_drain` looks first whether all is as it is known here; if anything looks
different, kombu goes on receiving. Consumer thread only.
"""

import logging
import socket
import time
from typing import Any, Final, Literal

import msgspec
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from ..broker_faults import SubscriptionLost
from ..transports import monitor_transport
from .chunked_reader import Deliver, Drain, Pieces, Reject
from .deliveries import VirtualDelivery
from .frames import AmqpDrain, is_known_amqp

log = logging.getLogger(__name__)

_MESSAGES: Final = (b"pmessage", b"message")
_PUSHING: Final = (3, "3")  # versions of the protocol; redis-py takes numbers and text
_ENDS: Final = (b"punsubscribe", b"unsubscribe")


class KombuDrain:
    """kombu's own way, for every transport; it delivers to the consumer's callback."""

    def __init__(self, connection: Any) -> None:
        self.tag = 0  # the consumer's callback is told
        self._connection = connection

    def __call__(self, timeout: float) -> None:
        self._connection.drain_events(timeout=timeout)

    def close(self) -> None:
        """Do nothing: kombu never left."""


class _Properties(msgspec.Struct, gc=False):
    body_encoding: Literal["base64"]


class _Headers(msgspec.Struct, gc=False):
    compression: str | None = None


class _Envelope(msgspec.Struct, gc=False, rename=lambda name: name.replace("_", "-")):
    """A message as kombu puts it on Redis; anything but this is left to kombu's own functions."""

    body: bytes
    properties: _Properties
    headers: _Headers | None = None
    content_type: str | None = None
    content_encoding: str | None = None


_read_envelope: Final = msgspec.json.Decoder(_Envelope).decode


class RedisDrain:
    """Receives from Redis, with the reader of redis-py's own connection: that may go on with it at any time."""

    def __init__(self, channel: Any, nothing: object, deliver: Deliver) -> None:
        self.tag = 0  # Redis wants no acknowledgement
        self._channel = channel
        self._nothing = nothing
        self._pubsub = channel.subclient
        self._connection = self._pubsub.connection
        self._sock = self._connection._sock
        self._reader = self._connection._parser._reader
        self._should_reconnect = getattr(self._connection, "should_reconnect", lambda: False)  # since redis-py 7
        self._deliver = deliver
        self._pieces = Pieces()

    def __call__(self, timeout: float) -> None:
        connection, reader = self._connection, self._reader
        if connection._sock is not self._sock:
            raise SubscriptionLost("the connection to Redis was lost")
        reader.feed(self._pieces.read(self._sock, timeout))
        if connection.health_check_interval:
            connection.next_health_check = time.monotonic() + connection.health_check_interval
        while (reply := reader.gets()) is not self._nothing:
            if isinstance(reply, list) and reply and reply[0] in _MESSAGES:
                self._take(reply[-1])
            else:
                self._note(reply)

    def close(self) -> None:
        """Do nothing: what was read is in redis-py's reader."""

    def _take(self, data: Any) -> None:
        try:
            envelope = _read_envelope(data)
        except Exception:
            self._take_slowly(data)
        else:
            headers = envelope.headers
            compression = headers.compression if headers else None
            self._deliver(envelope.body, envelope.content_type, envelope.content_encoding, compression)

    def _take_slowly(self, data: Any) -> None:
        """Read a message as kombu does; of what cannot be read a message without a body remains, to be counted."""
        try:
            payload = loads(bytes_to_str(data))
        except Exception:
            log.debug("A message of Redis could not be read", exc_info=True)
            payload = None
        message = VirtualDelivery(payload, self._channel)
        self._deliver(message.body, message.content_type, message.content_encoding, message.compression)

    def _note(self, reply: Any) -> None:
        """Take what is no message: answers to our own commands, and what else Redis has to say."""
        if isinstance(reply, Exception):
            raise reply
        if self._pubsub.is_health_check_response(reply):
            self._pubsub.health_check_response_counter -= 1
        elif isinstance(reply, list) and reply:
            if reply[0] in _ENDS:
                raise SubscriptionLost("Redis ended the subscription")
            if self._connection.protocol in _PUSHING:
                self._connection._parser.handle_push_response(reply)
            if self._should_reconnect():
                raise SubscriptionLost("Redis asks its clients to connect again")


def make_drain(connection: Any, deliver: Deliver, reject: Reject, max_message: int) -> Drain:
    """Make the quickest drain that is sure to work on a connection whose consumer already consumes."""
    channel = connection.default_channel
    if is_known_amqp(connection, channel):
        return AmqpDrain(connection, deliver, reject, max_message)
    nothing = _probe_redis(channel)
    if nothing is not None:
        return RedisDrain(channel, nothing, deliver)
    log.debug("Receiving through kombu from %s", type(channel))
    return KombuDrain(connection)


def _probe_redis(channel: Any) -> object | None:
    """Subscribe and give what the connection's reader says when it has nothing, if all is as it is known here."""
    try:
        from kombu.transport import redis as transport
        from redis._parsers.hiredis import NOT_ENOUGH_DATA, _HiredisParser
        from redis.client import PubSub
        from redis.connection import Connection
    except ImportError:
        return None
    known = transport.Channel, monitor_transport(transport.Transport).Channel
    if type(channel) not in known or len(channel.active_fanout_queues) != 1 or channel.active_queues:
        return None
    channel.connection.cycle.on_poll_start()
    try:
        connection = channel.subclient.connection
        reader = connection._parser._reader
        fits = (
            type(channel.subclient) is PubSub
            and isinstance(connection, Connection)
            and isinstance(connection._sock, socket.socket)
            and type(connection._parser) is _HiredisParser
            and not connection.encoder.decode_responses
            and (connection.protocol not in _PUSHING or callable(connection._parser.handle_push_response))
            and not reader.has_data()
            and reader.gets() is NOT_ENOUGH_DATA
        )
    except (AttributeError, TypeError):
        return None
    return NOT_ENOUGH_DATA if fits else None
