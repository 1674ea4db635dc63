"""The consumer thread, with kombu's memory broker and with brokers that are away, hang or break."""

import asyncio
import logging
import re
import threading
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Producer
from kombu.transport import TRANSPORT_ALIASES, memory
from patience import PATIENCE
from serving import AWAY, make_app, serving, silent_server
from waiting import eventually, wait_until

from taskmon import events
from taskmon.broker_status import BrokerStatus
from taskmon.cluster import connections
from taskmon.events import Batch, EventConsumer
from taskmon.receiving.deliveries import Delivery
from taskmon.receiving.intake import IntakeCounts
from taskmon.records import Event
from taskmon.settings import Settings

JSON = "application/json"


class Consuming:
    """An EventConsumer, what it applied and what it counted."""

    def __init__(self, app: Celery, **options: Any) -> None:
        self.batches: list[list[Event]] = []
        self.counts = IntakeCounts()
        self.connections = 0
        self.status = BrokerStatus()
        self.consumer = EventConsumer(
            app, Settings(**options), self.status, self.apply, self.counts, self.count_connection
        )

    def apply(self, batch: list[Event]) -> None:
        self.batches.append(batch)

    def count_connection(self) -> None:
        self.connections += 1

    @property
    def applied(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]


@asynccontextmanager
async def consuming(app: Celery, **options: Any) -> AsyncIterator[Consuming]:
    scene = Consuming(app, **options)
    scene.consumer.start()
    try:
        yield scene
    finally:
        await scene.consumer.stop(PATIENCE)
        assert not scene.consumer._thread.is_alive()


def message(body: bytes | str, content_type: str = JSON) -> Delivery:
    return Delivery(body, content_type, "utf-8", {})


def send_raw(app: Celery, body: Any, content_type: str = JSON, encoding: str = "utf-8", **more: Any) -> None:
    """Publish a body as it is to where workers publish their events."""
    with app.connection_for_write() as connection:
        exchange = Exchange(app.conf.event_exchange, type="topic")
        producer = Producer(connection.default_channel, exchange=exchange)
        producer.publish(body, routing_key="task.multi", content_type=content_type, content_encoding=encoding, **more)


def send_events(app: Celery, *kinds: str, **fields: Any) -> None:
    """Send events as a worker does, by Celery's own dispatcher."""
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="celery@w1") as sender:
        for kind in kinds:
            sender.send(kind, **fields)


def own_records(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what taskmon itself has logged."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("taskmon")]


# From broker to apply


async def test_events_of_celerys_own_dispatcher(memory_broker: str) -> None:
    app = make_app(memory_broker)
    async with consuming(app) as scene:
        await eventually(lambda: scene.status.connected)
        send_events(app, "task-sent", "task-received", uuid="a", name="tasks.add", args="(1, 2)")
        send_events(app, "worker-heartbeat", freq=2, active=1, processed=5, loadavg=[0.1, 0.2, 0.3])
        await eventually(lambda: len(scene.applied) == 3)
    sent, received, heartbeat = scene.applied
    assert (sent.type, received.type, heartbeat.type) == ("task-sent", "task-received", "worker-heartbeat")
    assert (received.uuid, received.name, received.args) == ("a", "tasks.add", "(1, 2)")
    assert received.hostname == "celery@w1"
    assert abs((received.timestamp or 0) - time.time()) < 30
    assert heartbeat.loadavg == [0.1, 0.2, 0.3]
    assert scene.counts.received == 3
    assert not scene.counts.rejected


async def test_a_batch_stays_a_batch(memory_broker: str) -> None:
    app = make_app(memory_broker)
    async with consuming(app) as scene:
        await eventually(lambda: scene.status.connected)
        with app.connection_for_write() as connection:
            sender = app.events.Dispatcher(connection, hostname="w", buffer_group={"task"}, buffer_limit=24)
            for number in range(24):
                sender.send("task-received", uuid=f"t{number}")
            sender.close()
        await eventually(lambda: scene.applied)
    assert [len(batch) for batch in scene.batches] == [24]
    assert [event.uuid for event in scene.applied] == [f"t{number}" for number in range(24)]


async def test_nothing_that_is_sent_ends_the_thread(memory_broker: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(memory_broker, accept_content=["json"])
    async with consuming(app) as scene:
        await eventually(lambda: scene.status.connected)
        (queue,) = [name for name in memory.Channel.queues if ".taskmon." in name]
        for payload in (5, None, [], {}, "x", {"body": 5, "properties": {}}, {"body": "[]", "properties": []}):
            memory.Channel.queues[queue].put(payload)
        for body in ("", "no JSON", "5", "[" * 100_000, b"\xff", '[{"type": "task-sent"}]', '[{"uuid": "a"}]'):
            send_raw(app, body)
        send_raw(app, b"\x80\x04N.", "application/x-python-serialize", "binary")
        send_raw(app, "[]", headers={"compression": "application/x-gzip"})
        send_raw(app, "[]", headers={"compression": 5})
        send_raw(app, '[{"type": "task-sent", "uuid": "a"}, 5]')
        await eventually(lambda: scene.applied)
        assert scene.status.connected
        assert scene.connections == 1
    assert [event.uuid for event in scene.applied] == ["a"]
    assert scene.counts.rejected == {
        "malformed": 10,  # seven payloads without a body among them
        "shape": 2,
        "nesting": 1,
        "no-uuid": 1,
        "no-type": 1,
        "content-type": 1,
        "compression": 1,
    }
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_the_app_says_what_is_accepted(memory_broker: str) -> None:
    body = b'[{"type": "task-sent", "uuid": "a"}]'
    for accept, expected in ((["json"], "content-type"), (["json", "application/x-own"], "shape")):
        app = make_app(memory_broker, accept_content=accept)
        async with consuming(app) as scene:
            await eventually(lambda scene=scene: scene.status.connected)
            send_raw(app, body, "application/x-own", "binary")
            await eventually(lambda scene=scene: scene.counts.rejected)
        assert scene.counts.rejected == {expected: 1}


@pytest.mark.parametrize("conf", [{"event_serializer": "pickle"}, {"accept_content": ["pickle", "json"]}])
async def test_never_a_pickle_whatever_the_app_says(memory_broker: str, conf: dict[str, Any]) -> None:
    app = make_app(memory_broker, **conf)
    async with consuming(app) as scene:
        await eventually(lambda: scene.status.connected)
        send_raw(app, b"\x80\x04N.", "application/x-python-serialize", "binary")
        await eventually(lambda: scene.counts.rejected)
    assert scene.counts.rejected == {"content-type": 1}


async def test_the_exchange_of_the_app(memory_broker: str) -> None:
    mine = make_app(memory_broker, event_exchange="mine", event_queue_prefix="prefix")
    other = make_app(memory_broker, event_exchange="other")
    async with consuming(mine) as scene, consuming(other) as elsewhere:
        await eventually(lambda: scene.status.connected and elsewhere.status.connected)
        assert any(queue.startswith("prefix.taskmon.") for queue in memory.Channel.queues)
        send_events(other, "task-sent", uuid="b")
        send_events(mine, "task-sent", uuid="a")
        await eventually(lambda: scene.applied and elsewhere.applied)
    assert [event.uuid for event in scene.applied] == ["a"]
    assert [event.uuid for event in elsewhere.applied] == ["b"]


async def test_no_queue_is_left_behind(memory_broker: str) -> None:
    async with consuming(make_app(memory_broker)) as scene:
        await eventually(lambda: scene.status.connected)
        name = scene.consumer._queue.name
        assert name in memory.Channel.queues
    assert name not in memory.Channel.queues


def described(**options: Any) -> Any:
    """Describe the queue that RabbitMQ would be asked for."""
    scene = Consuming(make_app("amqp://"), **options)
    with scene.consumer._app.connection_for_read() as connection:
        return scene.consumer._queue._describe(connection, keeps=True, durable="durable_queue" in options)


def test_the_queue_on_rabbitmq_outlives_a_lost_connection() -> None:
    queue = described(event_queue_ttl=1200, event_queue_expires=90, event_queue_max_length=5000)
    assert (queue.durable, queue.auto_delete, queue.message_ttl, queue.expires) == (True, False, 1200, 90)
    assert (queue.routing_key, queue.exchange.name, queue.max_length) == ("#", "celeryev", 5000)


def test_a_durable_queue_has_a_name_and_no_end() -> None:
    queue = described(durable_queue="mine", event_queue_max_length=5000)
    assert (queue.name, queue.durable, queue.auto_delete, queue.exclusive) == ("mine", True, False, False)
    assert (queue.message_ttl, queue.expires, queue.max_length) == (None, None, 5000)


async def test_elsewhere_than_on_rabbitmq_no_queue_is_durable(
    memory_broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with consuming(make_app(memory_broker), durable_queue="mine") as scene:
        await eventually(lambda: scene.status.connected)
        assert "mine" in memory.Channel.queues
    assert "mine" not in memory.Channel.queues
    assert caplog.text.count("events sent while taskmon is down are lost") == 1


async def test_what_is_received_while_stopping_is_applied(memory_broker: str) -> None:
    scene = Consuming(make_app(memory_broker))
    scene.consumer._stopping.set()
    scene.consumer._batches += [Batch([[Event("task-sent", uuid=uuid)]]) for uuid in "ab"]
    scene.consumer.start()
    await scene.consumer.stop(PATIENCE)
    assert [event.uuid for event in scene.applied] == ["a", "b"]


def test_kombus_own_messages_of_other_transports_are_decompressed_already(memory_broker: str) -> None:
    scene = Consuming(make_app(memory_broker))
    with Connection(memory_broker) as connection:
        channel = connection.default_channel
        payload = channel.prepare_message("[]", content_type=JSON, content_encoding="utf-8")
        payload["properties"]["delivery_tag"] = "1"
        scene.consumer._on_message(channel.message_to_python(payload))
    assert not scene.counts.rejected
    assert not scene.counts.received


def test_a_message_like_none_other_is_counted() -> None:
    scene = Consuming(make_app())
    scene.consumer._on_message(object())
    scene.consumer._on_message(None)
    assert scene.counts.rejected == {"failed": 2}


def test_a_decoder_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Consuming(make_app())
    monkeypatch.setattr(scene.consumer._decoder, "decode", lambda *_: 1 / 0)
    scene.consumer._on_message(message("[]"))  # decoded on the loop, and this one in the thread
    scene.consumer._on_message(message("[]", "application/x-own"))
    scene.consumer._pump()
    assert scene.counts.rejected == {"failed": 2}
    assert scene.batches == []


def test_what_is_read_at_once_goes_to_the_loop_together() -> None:
    consumer = Consuming(make_app()).consumer
    body = b'[{"type": "x"}, {"type": "x"}]  '  # 32 bytes

    def drain(timeout: float) -> None:
        for _ in range(events._BYTES_PER_HOP // len(body) + 1):
            consumer._deliver(body, JSON, "utf-8", None)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        consumer._drain(drain, 0.1)  # type: ignore[arg-type]
    assert [batch.size for batch in consumer._batches] == [events._BYTES_PER_HOP, len(body)]
    assert sum(len(consumer._read(batch)) for batch in consumer._batches) == 2 * (
        events._BYTES_PER_HOP // len(body) + 1
    )


def test_what_takes_long_to_decode_the_thread_decodes() -> None:
    consumer = Consuming(make_app()).consumer
    bodies = b'[{"type": "x"}]', b'[{"type": "x"}, {"type": "y"}]' + b" " * 70_000, zlib.compress(b'[{"type": "x"}]')
    for body, compression in zip(bodies, (None, None, "application/x-gzip"), strict=True):
        consumer._deliver(body, JSON, "utf-8", compression)
    consumer._hand_over()
    found = [message for batch in consumer._batches for message in batch.messages]
    assert [len(message) if isinstance(message, list) else message for message in found] == [bodies[0], 2, 1]


# What is logged


def test_a_reason_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=lambda: clock.now))
    scene = Consuming(make_app())

    def feed(*bodies: str) -> list[str]:
        caplog.clear()
        for body in bodies:
            scene.consumer._on_message(message(body))
        scene.consumer._pump()
        return [record.getMessage() for record in caplog.records]

    first = feed("x", "x", "5", "x\n\x1b[31m", "5")
    assert len(first) == 2
    assert "malformed" in first[0]
    assert "shape" in first[1]
    clock.now += 59.9
    assert feed("x", "5") == []
    clock.now += 0.2
    assert len(feed("x", "x", "5", "5", "5")) == 2
    assert scene.counts.rejected == {"malformed": 6, "shape": 6}


def test_what_is_logged_of_a_stranger_is_short_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    scene = Consuming(make_app())
    scene.consumer._on_message(message("[]", "text/\n\x1b[31m" + "x" * 10_000))
    (record,) = caplog.records
    assert len(record.getMessage()) < 300
    assert record.getMessage().isprintable()


# On the loop


async def test_the_loop_may_do_other_things_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Consuming(make_app())
    order: list[str] = []

    def apply_slowly(batch: list[Event]) -> None:
        order.append("batch")
        deadline = time.monotonic() + events.SLICE
        while time.monotonic() <= deadline:
            pass

    monkeypatch.setattr(scene.consumer, "_apply", apply_slowly)
    scene.consumer._loop = asyncio.get_running_loop()
    scene.consumer._batches.extend([Batch([[Event("x")]])] * 3)
    scene.consumer._wake()
    asyncio.get_running_loop().call_soon(order.append, "other")
    await eventually(lambda: order.count("batch") == 3)
    assert order[:3] == ["batch", "other", "batch"] or order[:2] == ["other", "batch"]
    assert not scene.consumer._batches
    await eventually(lambda: not scene.consumer._pumping)


async def test_a_slice_takes_as_many_batches_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SLICE", PATIENCE)
    scene = Consuming(make_app())
    scene.consumer._batches.extend([Batch([[Event("x")]])] * 50)
    scene.consumer._pump()
    assert len(scene.batches) == 50


async def test_what_arrives_while_the_pump_ends_is_not_forgotten() -> None:
    scene = Consuming(make_app())
    consumer = scene.consumer
    consumer._loop = asyncio.get_running_loop()

    class Late(type(consumer._batches)):  # type: ignore[misc]
        """Gets a batch just after the pump has seen it empty, as the thread may do."""

        looked = 0

        def __bool__(self) -> bool:
            holds = len(self) > 0
            self.looked += not holds
            if self.looked == 2 and not holds:
                self.append(Batch([[Event("late")]]))
            return holds

    consumer._batches = Late([Batch([[Event("first")]])])
    consumer._wake()
    await eventually(lambda: len(scene.batches) == 2)
    assert [event.type for event in scene.applied] == ["first", "late"]


async def test_the_thread_stops_receiving_while_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_WAITING", 10 * 30)
    scene = Consuming(make_app())
    consumer = scene.consumer
    consumer._loop = asyncio.get_running_loop()
    body = b'[{"type": "x"}, {"type": "x"}]'
    cleared = threading.Event()
    clear = consumer._room.clear

    def clear_and_tell() -> None:
        clear()
        cleared.set()

    monkeypatch.setattr(consumer._room, "clear", clear_and_tell)
    thread = threading.Thread(target=lambda: [consumer._on_message(message(body)) for _ in range(50)], daemon=True)
    thread.start()
    assert cleared.wait(PATIENCE)  # this test holds the loop: nothing is applied meanwhile
    assert consumer._received == 11 * len(body)
    assert not scene.batches
    await eventually(lambda: len(scene.applied) == 100)
    await eventually(lambda: not thread.is_alive())
    assert scene.counts.received == 100


async def test_stopping_does_not_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_WAITING", 1)
    scene = Consuming(make_app())
    consumer = scene.consumer
    body = b'[{"type": "x"}, {"type": "x"}]'
    consumer._thread = threading.Thread(target=lambda: consumer._on_message(message(body)), daemon=True)
    consumer._thread.start()
    wait_until(lambda: consumer._received == len(body))
    await consumer.stop()
    await eventually(lambda: not consumer._thread.is_alive())


async def test_no_failure_of_apply_ends_anything(
    memory_broker: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(memory_broker)
    async with consuming(app) as scene:
        await eventually(lambda: scene.status.connected)

        def fail(batch: list[Event]) -> None:
            monkeypatch.undo()
            raise RuntimeError("no room")

        monkeypatch.setattr(scene.consumer, "_apply", fail)
        send_events(app, "task-sent", uuid="a")
        await eventually(lambda: own_records(caplog))
        send_events(app, "task-sent", uuid="b")
        await eventually(lambda: scene.applied)
    assert [event.uuid for event in scene.applied] == ["b"]
    assert own_records(caplog) == ["A batch of events could not be applied"]


def test_a_loop_that_is_closed_is_no_error() -> None:
    scene = Consuming(make_app())
    scene.consumer._on_message(message('[{"type": "x"}]'))  # before the start
    loop = asyncio.new_event_loop()
    loop.close()
    scene.consumer._loop = loop
    scene.consumer._pumping = False
    scene.consumer._on_message(message('[{"type": "x"}]'))
    assert len(scene.consumer._batches) == 2


# Brokers that are away, hang or break


async def test_a_broker_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(make_app(AWAY)) as served:
        status = served.taskmon.monitor.broker
        await eventually(lambda: "refused" in status.reason, "the status says why")
        assert not status.connected
        assert status.reconnects == 0
        ready = await served.get("/readyz", anonymous=True)
        assert ready.status == 503
        assert ready.error["message"] == "The broker is unavailable: nothing listens at its address"
        assert (await served.get("/healthcheck", anonymous=True)).status == 200
        assert (await served.get("/api/tasks")).json() == {}
        assert "refused" in (await served.get("/api/task/info/a")).error["reason"]
        metrics = await served.get("/metrics")
        assert b"taskmon_broker_connected 0" in metrics.body
        await served.taskmon.stop()
    assert re.search(
        r"The broker redis://:\*+@127\.0\.0\.1:1/0 is away: nothing listens .+; trying again in 1 s", caplog.text
    )
    for text in (caplog.text, repr(status), ready.raw.decode(), metrics.raw.decode()):
        assert "wrong-horse" not in text


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
async def test_a_broker_that_hangs(scheme: str) -> None:
    with silent_server() as port:
        async with serving(make_app(f"{scheme}://user:wrong-horse@127.0.0.1:{port}//")) as served:
            ready = await served.get("/readyz", anonymous=True)
            assert ready.status == 503
            assert ready.error["message"] == "The broker is unavailable: not connected"
            assert (await served.get("/api/tasks")).status == 200
    wait_until(lambda: not served.taskmon.monitor._consumer._thread.is_alive(), "the thread ends with the connection")


@pytest.mark.parametrize("broker", [AWAY, "amqp", "redis"])
async def test_no_broker_holds_up_the_start_or_the_end(broker: str) -> None:
    slow: list[tuple[float, float]] = []
    with silent_server() as port:
        for _ in range(5):  # on a machine that stands still for a moment one of them takes long
            began = time.monotonic()
            async with serving(make_app(broker if "://" in broker else f"{broker}://127.0.0.1:{port}//")) as served:
                started = time.monotonic()
                await served.taskmon.stop()
                took = started - began, time.monotonic() - started
            if max(took) < 1.5:
                return
            slow.append(took)
    pytest.fail(f"to start and to stop took {slow} s")


@pytest.mark.parametrize("broker", ["amqp://user:wrong/horse@127.0.0.1:1//", "redis://:wrong/horse@127.0.0.1:1/0"])
async def test_a_url_that_cannot_be_read(broker: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(make_app(broker)) as served:
        status = served.taskmon.monitor.broker
        await eventually(lambda: "URL" in status.reason)
        ready = await served.get("/readyz", anonymous=True)
    for text in (caplog.text, repr(status), ready.raw.decode()):
        assert "wrong" not in text
        assert "horse" not in text


async def test_a_transport_that_does_not_exist() -> None:
    async with consuming(make_app("carrier-pigeon://user:wrong-horse@loft")) as scene:
        await eventually(lambda: "carrier-pigeon" in scene.status.reason)
    assert "horse" not in repr(scene.status)


class Flaky(memory.Transport):
    """kombu's memory broker, which fails where a test says so."""

    away = False
    refuses = False
    breaks = False
    silent = False

    def establish_connection(self) -> Any:
        if type(self).away:
            raise ConnectionRefusedError("nobody there")
        return super().establish_connection()

    def create_channel(self, connection: Any) -> Any:
        if type(self).refuses:
            raise PermissionError("access refused to flaky://user:wrong-horse@host")
        return super().create_channel(connection)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        if type(self).breaks:
            raise ConnectionResetError("" if type(self).silent else "gone")
        super().drain_events(connection, timeout)


@pytest.fixture
def flaky(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> Celery:
    monkeypatch.setitem(TRANSPORT_ALIASES, "flaky", f"{__name__}:Flaky")
    for flag in ("away", "refuses", "breaks", "silent"):
        monkeypatch.setattr(Flaky, flag, False)
    app = make_app("flaky://user:wrong-horse@host")
    app.conf.broker_transport_options = {"polling_interval": 0.005}
    monkeypatch.setattr(events, "BACKOFF", (0.01, 0.04))
    return app


def delays(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Give the seconds that the consumer said it would wait, in order."""
    return [record.args[2] for record in caplog.records if "trying again" in record.msg]  # type: ignore[index, misc]


def test_the_backoff_is_from_1_to_30_seconds() -> None:
    assert events.BACKOFF == (1.0, 30.0)


async def test_the_backoff_doubles_and_begins_anew(
    flaky: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Flaky, "away", True)
    async with consuming(flaky) as scene:
        await eventually(lambda: len(delays(caplog)) >= 5)
        assert "The broker flaky://user:**@host// is away" in caplog.text
        assert delays(caplog)[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]
        assert scene.status.reconnects == 0
        Flaky.away = False
        await eventually(lambda: scene.status.connected)
        caplog.clear()
        Flaky.breaks = True
        await eventually(lambda: delays(caplog))
        assert delays(caplog)[0] == 0.01
        Flaky.breaks = False
        await eventually(lambda: scene.status.connected)


async def test_a_lost_connection_is_made_again_and_nothing_is_lost(flaky: Celery) -> None:
    async with consuming(flaky) as scene:
        await eventually(lambda: scene.status.connected)
        send_events(flaky, "task-sent", uuid="a")
        await eventually(lambda: scene.applied)
        Flaky.away = Flaky.breaks = True
        await eventually(lambda: not scene.status.connected)
        await eventually(lambda: "(nobody there)" in scene.status.reason)
        assert scene.status.reconnects == 1
        Flaky.away = Flaky.breaks = False
        await eventually(lambda: scene.status.connected)
        assert scene.status.reason == ""
        send_events(flaky, "task-sent", uuid="b")
        await eventually(lambda: len(scene.applied) == 2)
    assert scene.connections == 2
    assert [event.uuid for event in scene.applied] == ["a", "b"]
    assert scene.counts.received == 2


async def test_a_broker_that_refuses_us_is_not_hammered(flaky: Celery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Flaky.refuses = True
    async with consuming(flaky) as scene:
        await eventually(lambda: len(delays(caplog)) >= 4)
        assert delays(caplog)[:4] == [0.01, 0.02, 0.04, 0.04]
        assert scene.connections == scene.status.reconnects == 0
        assert "(access refused to flaky://user:***@host)" in scene.status.reason
        Flaky.refuses = False
        await eventually(lambda: scene.status.connected)
    assert "wrong-horse" not in "".join(record.getMessage() for record in caplog.records)


async def test_an_error_without_words_is_named(flaky: Celery) -> None:
    async with consuming(flaky) as scene:
        await eventually(lambda: scene.status.connected)
        Flaky.silent = Flaky.breaks = True
        await eventually(lambda: "(ConnectionResetError)" in scene.status.reason)


async def test_heartbeats_are_checked_where_the_broker_has_them(
    memory_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[float] = []
    monkeypatch.setattr(memory.Transport, "heartbeat_check", lambda *_, **__: checks.append(1), raising=False)
    monkeypatch.setattr(Connection, "supports_heartbeats", True)
    monkeypatch.setattr(memory.Transport, "get_heartbeat_interval", lambda *_: 20, raising=False)
    async with consuming(make_app(memory_broker)) as scene:
        await eventually(lambda: scene.status.connected)
        await eventually(lambda: checks)


async def test_a_redis_that_hangs_while_connecting_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections._REDIS_EVENTS_OPTIONS, "socket_timeout", 0.05)
    with silent_server() as port:
        async with consuming(make_app(f"redis://127.0.0.1:{port}/0")) as scene:
            await eventually(lambda: "no answer in time" in scene.status.reason)


def test_the_apps_own_options_for_redis_go_first() -> None:
    app = make_app(AWAY, broker_transport_options={"socket_timeout": 77, "master_name": "x"})
    expected = {**connections._REDIS_EVENTS_OPTIONS, "socket_timeout": 77, "master_name": "x"}
    with connections._make_events_connection(app, None) as connection:
        assert connection.transport_options == expected


class Pings:
    """What `_check_redis` uses of redis-py's PubSub, and a Redis that may have gone silent."""

    def __init__(self, subscribed: bool = True) -> None:
        self.subscribed = subscribed
        self.health_check_response_counter = 0
        self.answers = True
        self.checks = 0

    def check_health(self) -> None:
        self.checks += 1
        self.health_check_response_counter += not self.answers


def test_a_redis_that_no_longer_answers_is_noticed() -> None:
    pings = Pings()
    channel = SimpleNamespace(subclient=pings)
    for _ in range(5):
        events._check_redis(channel)
    pings.answers = False
    for _ in range(2):
        events._check_redis(channel)
    with pytest.raises(ConnectionError, match="does not answer"):
        events._check_redis(channel)


def test_nobody_is_pinged_where_nobody_listens() -> None:
    idle = Pings(subscribed=False)
    events._check_redis(SimpleNamespace(subclient=idle))
    events._check_redis(SimpleNamespace())
    assert idle.checks == 0


async def test_a_broken_connection_is_dropped_without_a_word(flaky: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    collect, release = Connection.collect, Connection.release

    def note(connection: Connection, end: str) -> None:
        if connection.transport_cls == "flaky":  # others are those of threads that an earlier test has left behind
            ends.append(end)

    def fail_to_collect(connection: Connection) -> None:
        note(connection, "collect")
        collect(connection)
        raise OSError("broken")

    def note_release(connection: Connection) -> None:
        note(connection, "release")
        release(connection)

    monkeypatch.setattr(Connection, "collect", fail_to_collect)
    monkeypatch.setattr(Connection, "release", note_release)
    async with consuming(flaky) as scene:
        await eventually(lambda: scene.status.connected)
        Flaky.breaks = True
        await eventually(lambda: "(gone)" in scene.status.reason)
        assert set(ends) == {"collect"}
        Flaky.breaks = False
        await eventually(lambda: scene.status.connected)
        ends.clear()
    assert ends == ["release"]


async def test_stopping_before_and_without_a_start() -> None:
    scene = Consuming(make_app())
    await scene.consumer.stop()
    assert not scene.connections


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, for what kombu does
async def test_a_broker_that_carries_no_events_gets_no_queue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(f"sqla+sqlite:///{tmp_path}/broker.sqlite")
    async with consuming(app) as scene:
        await eventually(lambda: scene.status.connected)
        await eventually(lambda: "carries no events" in caplog.text)
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        assert not channel.session.query(channel.queue_cls.name).all()
    assert caplog.text.count("carries no events") == 1
