"""Read a broker message without what kombu does for one that is to be acknowledged, decoded and answered.

That is most of the cost of a small message. Bodies are not decompressed here either: kombu would do so without a
bound. Consumer thread only.
"""

from typing import Any, Final

from kombu.transport import pyamqp, virtual


class Delivery:
    """The body of a message and what is needed to decode it."""

    __slots__ = ("accept", "body", "compression", "content_encoding", "content_type", "errors")

    def __init__(self, body: Any, content_type: Any, content_encoding: Any, headers: Any) -> None:
        self.body: bytes | str = body if isinstance(body, bytes | str) else b""
        self.content_type = content_type if isinstance(content_type, str) else None
        self.content_encoding = content_encoding if isinstance(content_encoding, str) else None
        compression = headers.get("compression") if isinstance(headers, dict) else None
        self.compression = compression if isinstance(compression, str) else None
        self.errors = None  # kombu looks at these two
        self.accept = None


class AmqpDelivery(Delivery):
    """A message of RabbitMQ; `tag` is what it is acknowledged by, 0 where that is known elsewhere."""

    __slots__ = ("tag",)

    def __init__(self, message: Any, channel: Any = None) -> None:
        properties = message.properties
        self.tag = (getattr(message, "delivery_info", None) or {}).get("delivery_tag") or 0
        super().__init__(
            message.body,
            properties.get("content_type"),
            properties.get("content_encoding"),
            properties.get("application_headers"),
        )


class VirtualDelivery(Delivery):
    """A message of any broker for which kombu itself plays AMQP; anybody may have written it."""

    __slots__ = ()

    def __init__(self, payload: Any, channel: Any = None) -> None:
        try:
            body = channel.decode_body(payload["body"], payload["properties"].get("body_encoding"))
            parts = payload.get("content-type"), payload.get("content-encoding"), payload.get("headers")
        except (TypeError, KeyError, AttributeError, ValueError):
            body, parts = b"", (None, None, None)
        super().__init__(body, *parts)


_READERS: Final[tuple[tuple[type, Any], ...]] = ((pyamqp.Channel, AmqpDelivery), (virtual.Channel, VirtualDelivery))


def read_lean(channel: Any) -> None:
    """Make a channel of a transport known here deliver `Delivery`; others go on with kombu's own messages."""
    delivery = next((delivery for kind, delivery in _READERS if isinstance(channel, kind)), None)
    if delivery is not None:
        channel.Message = delivery
