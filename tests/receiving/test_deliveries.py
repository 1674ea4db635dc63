"""What is taken out of a broker's message, whoever wrote it."""

import base64
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.basic_message import Message
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport import pyamqp

from taskmon.receiving.deliveries import AmqpDelivery, Delivery, VirtualDelivery, read_lean

PAYLOAD = {
    "body": base64.b64encode(b"[]").decode(),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"compression": "application/x-gzip", "hostname": "celery@w1"},
    "properties": {"body_encoding": "base64", "delivery_tag": "1"},
}


def parts(delivery: Delivery) -> tuple[Any, ...]:
    return delivery.body, delivery.content_type, delivery.content_encoding, delivery.compression


def read_virtual(payload: Any) -> tuple[Any, ...]:
    with Connection("memory://") as connection:
        return parts(VirtualDelivery(payload, connection.default_channel))


def test_a_message_of_rabbitmq() -> None:
    message = Message(
        b"[]",
        content_type="application/json",
        content_encoding="utf-8",
        application_headers={"compression": "application/x-bz2"},
    )
    assert parts(AmqpDelivery(message)) == (b"[]", "application/json", "utf-8", "application/x-bz2")


def test_a_message_of_rabbitmq_that_says_nothing() -> None:
    assert parts(AmqpDelivery(Message(""))) == ("", None, None, None)


@pytest.mark.parametrize("odd", [5, None, [], ["compression"], "compression", b"x"])
def test_a_message_of_rabbitmq_with_odd_properties(odd: Any) -> None:
    message = SimpleNamespace(
        body=odd, properties={"content_type": odd, "content_encoding": odd, "application_headers": odd}
    )
    body, content_type, encoding, compression = parts(AmqpDelivery(message))
    assert body == (odd if isinstance(odd, bytes | str) else b"")
    assert content_type == encoding == (odd if isinstance(odd, str) else None)
    assert compression is None


def test_a_message_of_a_virtual_broker() -> None:
    assert read_virtual(PAYLOAD) == (b"[]", "application/json", "utf-8", "application/x-gzip")


def test_a_message_of_a_virtual_broker_that_is_not_encoded() -> None:
    assert read_virtual({"body": "[]", "properties": {}}) == ("[]", None, None, None)


@pytest.mark.parametrize(
    "payload",
    [
        *(5, None, "text", b"bytes", [], {}, True, 1.5),
        {"properties": {}},
        {"body": "[]"},
        {"body": "[]", "properties": None},
        {"body": "[]", "properties": []},
        *({**PAYLOAD, "body": odd} for odd in (5, None, [], {}, "a", "W10", 1.5)),
        *({**PAYLOAD, "properties": {"body_encoding": odd}} for odd in ("rot13", 5, ["base64"], b"base64")),
    ],
)
def test_a_message_of_a_virtual_broker_that_makes_no_sense(payload: Any) -> None:
    assert read_virtual(payload) == (b"", None, None, None)


@pytest.mark.parametrize("body", ["äöü", "====", ""])
def test_a_body_of_which_nothing_is_left(body: str) -> None:
    assert read_virtual({**PAYLOAD, "body": body})[0] == b""


def test_a_part_that_makes_no_sense_does_not_touch_the_others() -> None:
    assert read_virtual({**PAYLOAD, "headers": 5}) == (b"[]", "application/json", "utf-8", None)
    assert read_virtual({**PAYLOAD, "headers": {"compression": []}}) == (b"[]", "application/json", "utf-8", None)
    assert read_virtual({**PAYLOAD, "content-type": {}}) == (b"[]", None, "utf-8", "application/x-gzip")
    assert read_virtual({**PAYLOAD, "content-encoding": 5}) == (b"[]", "application/json", None, "application/x-gzip")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(ANYTHING | st.fixed_dictionaries({}, optional=dict.fromkeys(PAYLOAD, ANYTHING)))
def test_no_payload_whatever_raises(payload: Any) -> None:
    body, *rest = read_virtual(payload)
    assert isinstance(body, bytes | str)
    assert all(part is None or isinstance(part, str) for part in rest)


def test_channels_that_are_known() -> None:
    with Connection("memory://") as connection:
        channel = connection.default_channel
        read_lean(channel)
        assert channel.Message is VirtualDelivery
    amqp = pyamqp.Channel.__new__(pyamqp.Channel)
    read_lean(amqp)
    assert amqp.Message is AmqpDelivery


def test_a_channel_that_is_not_known_keeps_its_messages() -> None:
    channel = SimpleNamespace(Message="kombu's own")
    read_lean(channel)
    assert channel.Message == "kombu's own"


def test_only_this_channel_changes() -> None:
    with Connection("memory://") as connection:
        first, second = connection.channel(), connection.channel()
        read_lean(first)
        assert second.Message is not VirtualDelivery
