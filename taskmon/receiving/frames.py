"""Read AMQP frames from the socket of a py-amqp connection. Consumer thread only."""

import logging
import socket
from struct import Struct
from typing import Any, Final

from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame
from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

from .chunked_reader import Deliver, Pieces, Reject
from .deliveries import AmqpDelivery, Delivery

log = logging.getLogger(__name__)

_METHOD, _HEADER, _BODY = 1, 2, 3  # kinds of AMQP frames
_FRAME_END: Final = 0xCE
_BEFORE, _AROUND = 7, 8  # bytes of a frame before its payload, and besides it
_BEFORE_PROPERTIES: Final = 12
_BEFORE_TAG: Final = 5  # bytes of a delivery before its tag, besides the consumer's name
_read_frame: Final = Struct(">BHI").unpack_from
_read_method: Final = Struct(">HH").unpack_from
_read_tag: Final = Struct(">Q").unpack_from
_read_size: Final = Struct(">4xQ").unpack_from
_METHOD_PAYLOAD: Final = Struct(">HH")
_HEADER_PAYLOAD: Final = Struct(">HHQH")

_KNOWN_PROPERTIES: Final = 1000
_MAX_KNOWN_LENGTH: Final = 1024


class AmqpDrain:
    """Receives from RabbitMQ. Frames other than those of our deliveries go to py-amqp, in their turn.

    `tag` is that of the last message that was delivered whole, 0 before the first one.
    """

    def __init__(self, connection: Any, deliver: Deliver, reject: Reject, max_message: int) -> None:
        self._amqp = connection.connection
        self._transport = self._amqp.transport
        self._channel_id = connection.default_channel.channel_id
        self._deliver = deliver
        self._reject = reject
        self._max_message = max_message
        self._pieces = Pieces()
        self.tag = 0
        self._next_tag = 0  # of the message that is being received
        self._known: dict[bytes, Delivery] = {}
        self._expect = _METHOD
        self._left = 0  # bytes to come of the body of the message that is being received
        self._about: Delivery | None = None  # what its header says; None: it is not wanted
        self._parts: list[bytes] = []  # its body, as far as it is here
        self._held: list[bytes] = []  # the beginning of a frame
        self._missing = 0  # bytes without which it cannot be read
        self._parse(self._take_back())

    def __call__(self, timeout: float) -> None:
        data = self._pieces.read(self._transport.sock, timeout)
        self._held.append(data)
        self._missing -= len(data)
        if self._missing <= 0:
            self._parse(b"".join(self._held))

    def close(self) -> None:
        """Give py-amqp the frame that is not complete, and have it drop the message that is not."""
        if self._expect != _METHOD:  # nobody ever asks for what is got by this method
            self._hand(_METHOD, self._channel_id, _METHOD_PAYLOAD.pack(*spec.Basic.GetOk))
        if self._expect == _BODY:
            self._hand(_HEADER, self._channel_id, _HEADER_PAYLOAD.pack(spec.Basic.CLASS_ID, 0, self._left, 0))
        self._transport._read_buffer = b"".join(self._held)
        self._held.clear()

    def _parse(self, buf: bytes) -> None:
        """Go through all frames that are complete; keep the rest."""
        at, size_all, frames = 0, len(buf), 0
        ours, expect, left, about = self._channel_id, self._expect, self._left, self._about
        tag, whole = self._next_tag, self.tag
        deliver, parts = self._deliver, self._parts
        missing = _AROUND
        while size_all - at >= _AROUND:
            kind, channel, size = _read_frame(buf, at)
            start = at + _BEFORE
            end = start + size
            if end >= size_all:
                missing = size + _AROUND
                break
            if buf[end] != _FRAME_END:
                raise UnexpectedFrame(f"a frame ends with {buf[end]:#04x}")
            at = end + 1
            if (
                channel != ours
                or kind != expect
                or (kind == _METHOD and _read_method(buf, start) != spec.Basic.Deliver)
            ):
                buf = self._pass_on(kind, channel, buf[start:end], buf[at:], expect)
                at, size_all = 0, len(buf)
                continue
            frames += 1
            if kind == _METHOD:
                expect = _HEADER
                (tag,) = _read_tag(buf, start + _BEFORE_TAG + buf[start + _BEFORE_TAG - 1])
            elif kind == _HEADER:
                (left,) = _read_size(buf, start)
                about = self._describe(buf[start + _BEFORE_PROPERTIES : end], left)
                expect = _BODY if left else _METHOD
                if not left:
                    whole = tag
                    if about:
                        deliver(b"", about.content_type, about.content_encoding, about.compression)
            else:
                left -= size
                if about and (left > 0 or parts):
                    parts.append(buf[start:end])
                if left <= 0:
                    expect, whole = _METHOD, tag
                    if about:
                        body = b"".join(parts) if parts else buf[start:end]
                        parts.clear()
                        deliver(body, about.content_type, about.content_encoding, about.compression)
        self._expect, self._left, self._about = expect, left, about
        self._next_tag, self.tag = tag, whole
        self._held = [buf[at:]] if at < size_all else []
        self._missing = missing - (size_all - at)
        self._amqp.bytes_recv += frames  # of these py-amqp's heartbeats think that somebody is there

    def _pass_on(self, kind: int, channel: int, payload: bytes, rest: bytes, expect: int) -> bytes:
        """Let py-amqp handle a frame, with the `rest` in its buffer, for it may read on; give what it leaves."""
        if channel == self._channel_id and kind == _METHOD != expect:
            raise UnexpectedFrame("a method in the middle of a message")
        self._transport._read_buffer = rest
        self._hand(kind, channel, payload)
        return self._take_back()

    def _hand(self, kind: int, channel: int, payload: bytes) -> None:
        self._amqp.on_inbound_frame((kind, channel, payload))

    def _take_back(self) -> bytes:
        buf: bytes = self._transport._read_buffer
        self._transport._read_buffer = b""
        return buf

    def _describe(self, raw: bytes, size: int) -> Delivery | None:
        """Read the properties of a message, which are mostly those of the one before; None: it is too large."""
        if size > self._max_message:
            self._reject("too-large", f"{size} bytes")
            return None
        about = self._known.get(raw)
        if about is None:
            about = _read_properties(raw)
            if len(self._known) >= _KNOWN_PROPERTIES:
                self._known.clear()
            if len(raw) <= _MAX_KNOWN_LENGTH:
                self._known[raw] = about
        return about


def _read_properties(raw: bytes) -> Delivery:
    message = Message(b"")
    try:
        message._load_properties(spec.Basic.CLASS_ID, raw, 0)
    except Exception:  # the publisher wrote them
        log.debug("The properties of a message could not be read", exc_info=True)
        return Delivery(b"", "unreadable", None, None)
    return AmqpDelivery(message)


def is_known_amqp(connection: Any, channel: Any) -> bool:
    """Tell whether a connection, whose one consumer consumes, is as it is known here in every part that is used."""
    try:
        amqp = connection.connection
        transport = amqp.transport
        return (
            type(channel) is pyamqp.Channel
            and channel.connection is amqp
            and len(channel.callbacks) == 1
            and type(transport) in (TCPTransport, SSLTransport)
            and isinstance(transport.sock, socket.socket)
            and isinstance(transport._read_buffer, bytes)
            and isinstance(amqp.bytes_recv, int)
            and callable(amqp.on_inbound_frame)
        )
    except (AttributeError, TypeError):
        return False
