"""Reading brokers in large pieces: what comes out is what kombu makes of the same bytes, however they are cut."""

import base64
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from queue import Empty
from struct import pack
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import ConnectionForced, ConsumerCancelled, NotFound, UnexpectedFrame
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps
from amqp.transport import TCPTransport
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport import pyamqp
from kombu.transport import redis as kombu_redis
from patience import PATIENCE
from redis._parsers.hiredis import _HiredisParser
from redis.client import PubSub
from redis.connection import Connection as RedisConnection
from redis.exceptions import NoPermissionError, ResponseError

from taskmon.receiving import chunked_reader, frames
from taskmon.receiving.deliveries import VirtualDelivery, read_lean
from taskmon.receiving.drains import KombuDrain, RedisDrain, make_drain
from taskmon.receiving.frames import AmqpDrain

MAX_MESSAGE = 4_000_000
FRAME_MAX = 131_072
CHUNK = 60_000  # so much fits into a socket while nobody reads
Taken = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_reader, "PAUSE", 0)


def cut(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """Give `data` in pieces; `cuts` say where, modulo its length."""
    places = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts), *range(0, len(data), CHUNK)})
    for start, end in pairwise(places):
        yield data[start:end]


def as_bytes(body: bytes | str) -> bytes:
    """py-amqp makes text of a body where it can."""
    return body.encode() if isinstance(body, str) else body


class Wire:
    """One end of a socket for a client library, the other for a test that plays the broker."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, self.brokers = socket.socketpair()
        stack.callback(self.ours.close)
        stack.callback(self.brokers.close)
        self.taken: Taken = []
        self.refused: list[tuple[str, str]] = []

    def deliver(self, body: bytes | str, *about: str | None) -> None:
        self.taken.append((as_bytes(body), *about))

    def on_message(self, message: Any) -> None:
        self.deliver(message.body, message.content_type, message.content_encoding, message.compression)

    def reject(self, reason: str, detail: str) -> None:
        self.refused.append((reason, detail))

    def drain(self) -> Any:
        return make_drain(self.connection, self.deliver, self.reject, MAX_MESSAGE)

    connection: Any


def feed(wire: Wire, drain: Any, data: bytes, cuts: Sequence[int] = ()) -> Taken:
    for piece in cut(data, cuts):
        wire.brokers.sendall(piece)
        drain(5)
    return wire.taken


# RabbitMQ


class AmqpWire(Wire):
    """A py-amqp connection after its handshake, with one channel and one consumer."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self.amqp = pyamqp.Connection("localhost", heartbeat=20)
        transport = TCPTransport("localhost:5672")
        transport.sock = self.ours
        transport._setup_transport()
        transport.connected = True
        self.amqp.transport = transport
        self.amqp.on_inbound_frame = frame_handler(self.amqp, self.amqp.on_inbound_method)
        self.amqp.frame_writer = frame_writer(self.amqp, transport)
        self.channel = pyamqp.Channel(self.amqp, 1)
        self.channel.is_open = True
        read_lean(self.channel)
        self.channel.callbacks["tag"] = lambda message: self.on_message(self.channel.message_to_python(message))
        self.channel.no_ack_consumers.add("tag")
        self.connection = SimpleNamespace(
            connection=self.amqp, default_channel=self.channel, drain_events=self.amqp.drain_events
        )

    def sent(self) -> bytes:
        self.brokers.settimeout(0.1)
        with suppress(TimeoutError):
            return self.brokers.recv(65536)
        return b""


@contextmanager
def amqp_wire() -> Iterator[AmqpWire]:
    with ExitStack() as stack:
        yield AmqpWire(stack)


def written(*frame: Any) -> bytes:
    """Give a frame, or all of a message, as py-amqp writes it."""
    parts: list[bytes] = []
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    frame_writer(connection, SimpleNamespace(write=lambda part: parts.append(bytes(part))))(*frame)
    return b"".join(parts)


def amqp_message(
    body: bytes = b"[]", tag: str = "tag", channel: int = 1, number: int = 1, **properties: Any
) -> bytes:
    args = dumps("sLbss", (tag, number, False, "celeryev", "task.multi"))
    return written(1, channel, spec.Basic.Deliver, args, Message(body, **properties))


def method(sig: Any, form: str | None = None, args: Sequence[Any] = (), channel: int = 1) -> bytes:
    return written(1, channel, sig, dumps(form, args) if form else b"", None)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


HEARTBEAT = written(8, 0, None, None, None)
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
CLOSE_CHANNEL = method(spec.Channel.Close, "BsBB", (404, "no queue", 0, 0))
CLOSE = method(spec.Connection.Close, "BsBB", (320, "shutting down", 0, 0), channel=0)

bodies = st.binary(max_size=40) | st.sampled_from([b"", b'[{"type": "x"}]', b"\xce" * 9, b"y" * 150_000])
properties = st.sampled_from(
    [
        {},
        JSON,
        {**JSON, "application_headers": {"hostname": "w", "compression": "application/x-gzip"}},
        {**JSON, "application_headers": {"compression": 5}, "delivery_mode": 1, "priority": 3},
        {"content_type": "text/plain", "application_headers": {"deep": {"er": [1, {"x": "y"}]}}},
        {"application_headers": {"much": "x" * 2000}},
    ]
)
ours = st.builds(lambda body, about: amqp_message(body, **about), bodies, properties)
anything_amqp = st.lists(ours | st.just(HEARTBEAT), max_size=6)
cuts = st.lists(st.integers(0, 2**20), max_size=8)


def of_kombu(data: bytes, at: Sequence[int] = ()) -> Taken:
    with amqp_wire() as wire:
        for piece in cut(data, at):
            wire.brokers.sendall(piece)
            with suppress(TimeoutError):
                while True:
                    wire.amqp.drain_events(timeout=0.0005)
        return wire.taken


@given(anything_amqp, cuts)
def test_rabbitmq_as_kombu_reads_it(messages: list[bytes], at: list[int]) -> None:
    data = b"".join(messages)
    with amqp_wire() as wire:
        assert feed(wire, wire.drain(), data, at) == of_kombu(data)
        assert wire.amqp.bytes_recv > 0 or not data


def test_rabbitmq_cut_at_every_byte() -> None:
    data = amqp_message(b"first", **JSON) + HEARTBEAT + amqp_message(b"", **JSON) + amqp_message(b"last")
    with amqp_wire() as wire:
        drain = wire.drain()
        assert isinstance(drain, AmqpDrain)
        assert feed(wire, drain, data, range(len(data))) == of_kombu(data)
        assert [body for body, *_ in wire.taken] == [b"first", b"", b"last"]
        assert wire.amqp.bytes_recv == 9


@given(st.integers(0, 400), cuts)
def test_kombu_may_have_begun_to_read(begun: int, at: list[int]) -> None:
    data = b"".join(amqp_message(body, **JSON) for body in (b"one", b"two", b"three"))
    begun = min(begun, len(data))
    with amqp_wire() as wire:
        wire.brokers.sendall(data[:begun])
        with suppress(TimeoutError):
            while True:
                wire.amqp.drain_events(timeout=0.0005)
        feed(wire, wire.drain(), data[begun:], at)
        assert [body for body, *_ in wire.taken] == [b"one", b"two", b"three"]


@given(st.integers(0, 400), st.integers(0, 400))
def test_kombu_may_go_on_anywhere(until: int, later: int) -> None:
    data = b"".join(amqp_message(body, **JSON) for body in (b"one", b"two", b"three"))
    until = min(until, len(data))
    with amqp_wire() as wire:
        drain = wire.drain()
        feed(wire, drain, data[:until])
        half_read = drain._expect != 1
        seen = len(wire.taken)
        drain.close()
        wire.brokers.sendall(data[until:] + HEARTBEAT + method(spec.Queue.DeleteOk, "l", (0,)))
        wire.channel.wait(spec.Queue.DeleteOk)
        assert [body for body, *_ in wire.taken] == [
            body for number, body in enumerate((b"one", b"two", b"three")) if not (half_read and number == seen)
        ]


@given(st.lists(st.sampled_from([b"", b"[]", b"x" * (MAX_MESSAGE + 1)]), max_size=4), cuts)
def test_the_tag_is_that_of_the_last_whole_message(contents: list[bytes], cut_at: list[int]) -> None:
    parts = [amqp_message(body, number=2**40 + at, **JSON) for at, body in enumerate(contents)]
    data = b"".join(parts)
    ends = [sum(map(len, parts[: at + 1])) for at in range(len(parts))]
    with amqp_wire() as wire:
        drain = wire.drain()
        assert drain.tag == 0
        fed = 0
        for piece in cut(data, cut_at):
            feed(wire, drain, piece)
            fed += len(piece)
            whole = sum(end <= fed for end in ends)
            assert drain.tag == (2**40 + whole - 1 if whole else 0)


def test_a_body_of_many_frames_with_others_between() -> None:
    body = bytes(range(256)) * 4096
    data = amqp_message(body, **JSON)
    middle = data.index(b"\xce\x03", 200_000) + 1
    data = data[:middle] + HEARTBEAT + data[middle:]
    with amqp_wire() as wire:
        assert feed(wire, wire.drain(), data) == [(body, "application/json", "utf-8", None)]


def test_a_frame_larger_than_a_read() -> None:
    body = b"z" * (3 * chunked_reader.PIECE)
    head = amqp_message(b"z", **JSON)
    size = head.index(b"\x02\x00\x01") + 7 + 4
    data = head[:size] + pack(">Q", len(body)) + head[size + 8 : -9] + frame(3, 1, body)
    with amqp_wire() as wire:
        assert [taken[0] for taken in feed(wire, wire.drain(), data)] == [body]


def test_a_message_that_is_too_large_is_never_held() -> None:
    data = amqp_message(b"x" * (MAX_MESSAGE + 1), **JSON)
    with amqp_wire() as wire:
        drain = wire.drain()
        for piece in cut(data, ()):
            wire.brokers.sendall(piece)
            drain(5)
            assert not drain._parts
        feed(wire, drain, amqp_message(b"next"))
        assert [taken[0] for taken in wire.taken] == [b"next"]
        assert wire.refused == [("too-large", f"{MAX_MESSAGE + 1} bytes")]


def test_properties_that_cannot_be_read_cost_one_message() -> None:
    broken = frame(1, 1, pack(">HH", *spec.Basic.Deliver) + dumps("sLbss", ("tag", 1, False, "", "")))
    broken += frame(2, 1, pack(">HHQH", 60, 0, 2, 0xFFFE) + b"\xff\xff") + frame(3, 1, b"[]")
    with amqp_wire() as wire:
        feed(wire, wire.drain(), broken + amqp_message(b"next", **JSON))
    assert [about[:2] for about in wire.taken] == [(b"[]", "unreadable"), (b"next", "application/json")]


def test_what_is_known_of_properties_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_KNOWN_PROPERTIES", 3)
    with amqp_wire() as wire:
        drain = wire.drain()
        feed(wire, drain, b"".join(amqp_message(b"x", correlation_id=str(number)) for number in range(10)))
        feed(wire, drain, amqp_message(b"x", correlation_id="y" * 250, application_headers={"z": "z" * 5000}))
        assert len(wire.taken) == 11
        assert 0 < len(drain._known) <= 3


def test_a_connection_that_the_broker_closes() -> None:
    with amqp_wire() as wire:
        drain = wire.drain()
        with pytest.raises(ConnectionForced, match="shutting down"):
            feed(wire, drain, amqp_message(b"before") + CLOSE)
        assert [taken[0] for taken in wire.taken] == [b"before"]
        assert not wire.amqp.connected
    with amqp_wire() as wire:
        drain = wire.drain()
        wire.brokers.close()
        with pytest.raises(ConnectionError, match="closed"):
            drain(1)


def test_a_channel_that_the_broker_closes_is_noticed_though_more_has_come() -> None:
    data = CLOSE_CHANNEL + amqp_message(b"late") + method(spec.Channel.OpenOk) + HEARTBEAT[:3]
    with amqp_wire() as wire:
        drain = wire.drain()
        with pytest.raises(NotFound, match="no queue"):  # py-amqp opens it again first, and reads for that
            feed(wire, drain, amqp_message(b"before") + data)
        assert [taken[0] for taken in wire.taken] == [b"before", b"late"]


def test_a_consumer_that_the_broker_cancels() -> None:
    with amqp_wire() as wire, pytest.raises(ConsumerCancelled):
        feed(wire, wire.drain(), method(spec.Basic.Cancel, "sb", ("tag", True)))


def test_what_is_no_amqp_ends_the_connection() -> None:
    for data in (
        frame(3, 1, b"body of nothing"),
        amqp_message(b"[]")[:-1] + b"x",
        amqp_message(b"body")[:-12] + method(spec.Channel.OpenOk),
    ):
        with amqp_wire() as wire, pytest.raises(UnexpectedFrame):
            feed(wire, wire.drain(), data)


def test_heartbeats_are_counted_and_others_are_written_to_as_before() -> None:
    with amqp_wire() as wire:
        drain = wire.drain()
        wire.ours.settimeout(7)
        with pytest.raises(TimeoutError):
            drain(0.01)
        feed(wire, drain, HEARTBEAT)
        assert wire.amqp.bytes_recv == 1
        assert wire.ours.gettimeout() == 7
        wire.amqp.send_heartbeat()
        assert wire.sent() == HEARTBEAT
        assert wire.amqp.bytes_sent == 1


def test_a_stream_of_small_messages_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(chunked_reader, "PAUSE", 0.002)
    monkeypatch.setattr(chunked_reader, "time", SimpleNamespace(sleep=slept.append))
    with amqp_wire() as wire:
        drain = wire.drain()
        feed(wire, drain, HEARTBEAT)
        assert not slept  # what has come is delivered first
        feed(wire, drain, HEARTBEAT)
        assert slept == [0.002]
        wire.brokers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        wire.brokers.sendall(amqp_message(b"x" * 100_000))
        drain(1)
        with pytest.raises(TimeoutError):
            drain(0.001)
        assert slept == [0.002, 0.002]


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: setattr(wire.connection, "connection", None),
        lambda wire: wire.channel.callbacks.update(more=print),
        lambda wire: setattr(wire.amqp.transport, "_read_buffer", bytearray()),
        lambda wire: setattr(wire.amqp.transport, "sock", object()),
        lambda wire: setattr(wire.amqp, "bytes_recv", None),
        lambda wire: setattr(wire.connection, "default_channel", object()),
        lambda wire: setattr(wire.connection, "connection", SimpleNamespace(transport=wire.amqp.transport)),
    ],
)
def test_kombu_receives_where_py_amqp_looks_different(change: Callable[[AmqpWire], None]) -> None:
    with amqp_wire() as wire:
        change(wire)
        drain = wire.drain()
        assert isinstance(drain, KombuDrain)
        wire.connection.drain_events = lambda timeout: wire.deliver(b"through kombu", str(timeout))
        drain(0.5)
        drain.close()
        assert wire.taken == [(b"through kombu", "0.5")]


# Over TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl is needed to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(path), "-out", str(path) + ".crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(str(path) + ".crt").read_text())
    return path


def test_tls(certificate: Path) -> None:
    servers = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.load_cert_chain(certificate)
    clients = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    clients.check_hostname, clients.verify_mode = False, ssl.CERT_NONE
    body = bytes(range(256)) * 4000
    data = b"".join(amqp_message(part, **JSON) for part in (b"small", body, b"", b"last"))
    with amqp_wire() as wire:

        def serve() -> None:
            with servers.wrap_socket(wire.brokers, server_side=True) as server:
                server.sendall(data[:9])
                server.sendall(data[9:])
                with suppress(OSError):
                    server.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        wire.amqp.transport.sock = client = clients.wrap_socket(wire.ours)
        drain = wire.drain()
        assert isinstance(drain, AmqpDrain)
        while len(wire.taken) < 4:
            drain(5)
        assert [taken[0] for taken in wire.taken] == [b"small", body, b"", b"last"]
        with pytest.raises(TimeoutError):
            drain(0.01)
        client.close()
        thread.join(PATIENCE)


# Redis


class RedisWire(Wire):
    """A connection of redis-py that has subscribed, under a channel of kombu's."""

    def __init__(self, stack: ExitStack, protocol: int = 2) -> None:
        super().__init__(stack)
        self.redis = RedisConnection(protocol=protocol, health_check_interval=20)
        self.redis._sock = self.ours
        self.redis._parser = _HiredisParser(65536)
        self.redis._parser.on_connect(self.redis)
        pool = SimpleNamespace(get_encoder=lambda: self.redis.encoder, release=lambda connection: None)
        self.pubsub = PubSub(pool)  # type: ignore[arg-type]
        self.pubsub.connection = self.redis
        self.pubsub.subscribed_event.set()
        self.channel = kombu_redis.Channel.__new__(kombu_redis.Channel)
        cycle = SimpleNamespace(on_poll_start=lambda: None)
        transport = SimpleNamespace(cycle=cycle, _deliver=self.of_kombu, connection_errors=(OSError,))
        vars(self.channel).update(
            connection=transport,
            subclient=self.pubsub,
            active_fanout_queues={"queue"},
            _active_queues=["queue"],
            _fanout_to_queue={"celeryev": "queue"},
            closed=True,
        )
        self.connection = SimpleNamespace(default_channel=self.channel, connection=transport)

    def of_kombu(self, message: Any, queue: str) -> None:
        self.on_message(VirtualDelivery(message, self.channel))


@contextmanager
def redis_wire(protocol: int = 2) -> Iterator[RedisWire]:
    with ExitStack() as stack:
        wire = RedisWire(stack, protocol)
        yield wire
        wire.pubsub.connection = None


def bulk(*parts: bytes, protocol: int = 2) -> bytes:
    head = b">" if protocol == 3 else b"*"
    return head + b"%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def published(data: bytes, protocol: int = 2) -> bytes:
    return bulk(b"pmessage", b"/0.celeryev/*", b"/0.celeryev/task.multi", data, protocol=protocol)


def envelope(**changes: Any) -> dict[str, Any]:
    return {
        "body": base64.b64encode(b'[{"type": "x"}]').decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"hostname": "w", "compression": None},
        "properties": {"delivery_mode": 1, "body_encoding": "base64", "delivery_tag": "1"},
        **changes,
    }


ODD_ENVELOPES: list[Any] = [
    *(5, None, True, 1.5, "text", [], [5], {}, {"body": "W10="}, {"properties": {}}),
    envelope(headers={"compression": "application/x-gzip"}),
    envelope(headers=None),
    envelope(headers=[]),
    envelope(headers={"compression": 5}),
    envelope(body="[]", properties={}),
    envelope(body="[]", properties={"body_encoding": "utf-8"}),
    envelope(body="[]", properties={"body_encoding": None}),
    envelope(properties={"body_encoding": "BASE64"}),
    envelope(properties={"body_encoding": "rot13"}),
    envelope(properties=None),
    *(envelope(body=body) for body in ("", "W 10=", "W10", "!!!!", "äöü", None, 5, {}, [], "W1\n0=")),
    envelope(body={"__type__": "bytes", "__value__": "W10="}),
    {**envelope(), "content-type": 5},
    {**envelope(), "content-encoding": {}},
    {key: value for key, value in envelope().items() if not key.startswith("content")},
]
RAW = [
    b"",
    b"no JSON",
    b"\xff\xfe",
    b"[" * 100_000,
    b"\xef\xbb\xbf{}",
    b'{"body": "W10=", "properties": {"x": "\xff"}}',
    b"NaN",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
envelopes = (
    st.builds(envelope)
    | st.builds(lambda body: envelope(body=base64.b64encode(body).decode()), st.binary(max_size=99_000))
    | st.sampled_from(ODD_ENVELOPES)
    | anything
    | st.fixed_dictionaries({}, optional=dict.fromkeys(envelope(), anything))
).map(lambda payload: json.dumps(payload).encode())
PROTOCOLS = [2, 3] if hasattr(_HiredisParser, "handle_push_response") else [2]  # redis-py 5 leaves 3 to kombu
protocols = st.sampled_from(PROTOCOLS)


def of_kombus_redis(data: bytes, protocol: int = 2) -> Taken:
    """What kombu itself delivers of these bytes; it only logs what is no JSON."""
    with redis_wire(protocol) as wire:
        for piece in cut(data, ()):
            wire.redis._parser._reader.feed(piece)
        while wire.redis._parser._reader.has_data():
            with suppress(Empty, RecursionError):
                wire.channel._receive_one(wire.pubsub)
        return wire.taken


@given(st.lists(envelopes, max_size=5), cuts, protocols)
def test_redis_as_kombu_reads_it(payloads: list[bytes], at: list[int], protocol: int) -> None:
    data = b"".join(published(payload, protocol) for payload in payloads)
    with redis_wire(protocol) as wire:
        assert feed(wire, wire.drain(), data, at) == of_kombus_redis(data, protocol)


@pytest.mark.parametrize("payload", ODD_ENVELOPES)
def test_an_odd_envelope_is_read_as_kombu_reads_it(payload: Any) -> None:
    data = published(json.dumps(payload).encode())
    with redis_wire() as wire:
        assert feed(wire, wire.drain(), data) == of_kombus_redis(data)
        assert len(wire.taken) == 1


@pytest.mark.parametrize("raw", RAW)
def test_what_is_no_envelope_costs_only_itself(raw: bytes) -> None:
    fine = published(json.dumps(envelope()).encode())
    (expected,) = of_kombus_redis(published(raw)) or [(b"", None, None, None)]  # kombu drops what it cannot read
    with redis_wire() as wire:
        first, odd, last = feed(wire, wire.drain(), fine + published(raw) + fine)
    assert first == last == (b'[{"type": "x"}]', "application/json", "utf-8", None)
    assert odd == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_redis_cut_at_every_byte(protocol: int) -> None:
    pong = b"$21\r\nredis-py-health-check\r\n" if protocol == 3 else bulk(b"pong", b"redis-py-health-check")
    head = b">" if protocol == 3 else b"*"
    data = head + b"3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n"
    data += published(json.dumps(envelope()).encode(), protocol) + pong + published(b"5", protocol)
    with redis_wire(protocol) as wire:
        drain = wire.drain()
        assert isinstance(drain, RedisDrain)
        wire.pubsub.health_check_response_counter = 1
        wire.redis.next_health_check = 0
        feed(wire, drain, data, range(len(data)))
        assert [body for body, *_ in wire.taken] == [b'[{"type": "x"}]', b""]
        assert wire.pubsub.health_check_response_counter == 0
        assert wire.redis.next_health_check > 0
        drain.close()


def test_kombu_may_go_on_reading_redis() -> None:
    data = published(json.dumps(envelope()).encode())
    with redis_wire() as wire:
        drain = wire.drain()
        feed(wire, drain, data + data[:50])
        drain.close()
        wire.brokers.sendall(data[50:])
        wire.channel._receive_one(wire.pubsub)
        assert len(wire.taken) == 2


def test_redis_without_checks_of_its_health() -> None:
    with redis_wire() as wire:
        wire.redis.health_check_interval = 0
        assert len(feed(wire, wire.drain(), published(json.dumps(envelope()).encode()))) == 1


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"-NOPERM this user has no permissions\r\n", NoPermissionError),
        (b"-ERR something else\r\n", ResponseError),
        (bulk(b"punsubscribe", b"*", b"0"), ConnectionError),
        (b"nothing of Redis\r\n", Exception),
    ],
)
def test_what_ends_a_subscription(data: bytes, error: type[Exception]) -> None:
    with redis_wire() as wire, pytest.raises(error):
        feed(wire, wire.drain(), data)


@pytest.mark.skipif(not hasattr(RedisConnection, "mark_for_reconnect"), reason="this redis-py never asks for it")
def test_other_things_that_redis_says() -> None:
    with redis_wire(3) as wire:
        drain = wire.drain()
        feed(wire, drain, b"*0\r\n_\r\n:5\r\n" + bulk(b"invalidate", b"x", protocol=3) + bulk(b"else", protocol=3))
        wire.redis.mark_for_reconnect()
        with pytest.raises(ConnectionError, match="again"):
            feed(wire, drain, bulk(b"else", protocol=3))
        assert not wire.taken


def test_a_connection_to_redis_that_is_lost() -> None:
    with redis_wire() as wire:
        drain = wire.drain()
        with pytest.raises(TimeoutError):
            drain(0.001)
        wire.brokers.close()
        with pytest.raises(ConnectionError, match="closed"):
            drain(1)
        wire.redis._sock = None
        with pytest.raises(ConnectionError, match="lost"):
            drain(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire.channel.active_fanout_queues.add("second"),
        lambda wire: wire.channel._active_queues.append("a list"),
        lambda wire: setattr(wire.connection, "default_channel", object()),
        lambda wire: setattr(wire.redis, "_parser", object()),
        lambda wire: setattr(wire.redis, "_sock", object()),
        lambda wire: setattr(wire.redis.encoder, "decode_responses", True),
        lambda wire: wire.redis._parser._reader.feed(b"*3\r\n"),
        lambda wire: setattr(wire.redis._parser, "_reader", None),
        lambda wire: vars(wire.channel).update(subclient=SimpleNamespace(connection=wire.redis)),
    ],
)
def test_kombu_receives_where_redis_looks_different(change: Callable[[RedisWire], None]) -> None:
    with redis_wire() as wire:
        change(wire)
        assert isinstance(wire.drain(), KombuDrain)


def test_kombu_receives_without_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis._parsers.hiredis", None)
    with redis_wire() as wire:
        assert isinstance(wire.drain(), KombuDrain)


def test_kombu_receives_from_any_other_broker() -> None:
    with Connection("memory://") as connection:
        assert isinstance(make_drain(connection, print, print, 1), KombuDrain)
