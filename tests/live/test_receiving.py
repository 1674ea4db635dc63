"""Receiving from real brokers past kombu: what is known works, what is not goes through kombu."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RedisBroker
from celery import Celery
from celery.events import EventDispatcher
from monitor import Monitor
from patience import PATIENCE
from workers import Project

from taskmon.broker_status import BrokerStatus
from taskmon.events import EventConsumer
from taskmon.receiving.drains import KombuDrain, RedisDrain
from taskmon.receiving.frames import AmqpDrain
from taskmon.receiving.intake import IntakeCounts
from taskmon.records import Event
from taskmon.settings import Settings


@pytest.fixture
def monitor(broker: Broker, tmp_path: Path) -> Iterator[Monitor]:
    """A taskmon that watches `broker`."""
    monitor = Monitor(tmp_path, broker.url)
    try:
        monitor.start()
        monitor.wait_ready()
        yield monitor
    finally:
        monitor.kill()


def receive_one(app: Celery, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str, float]:
    """Receive an event; give the drain, the name of the queue and the seconds from sending to applying."""
    drains: list[Any] = []
    subscribe = EventConsumer._subscribe

    def keep(consumer: EventConsumer, connection: Any) -> Any:
        drains.append(subscribe(consumer, connection))
        return drains[-1]

    monkeypatch.setattr(EventConsumer, "_subscribe", keep)
    applied: list[Event] = []
    status = BrokerStatus()

    async def run() -> tuple[str, float]:
        consumer = EventConsumer(app, Settings(), status, applied.extend, IntakeCounts())
        consumer.start()
        deadline = time.monotonic() + PATIENCE
        while not status.connected and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w") as sender:
            sender.send("task-sent", uuid="a")
            began = time.monotonic()
        while not applied and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        took = time.monotonic() - began
        await consumer.stop()
        consumer._thread.join(PATIENCE)
        assert not consumer._thread.is_alive()
        return consumer._queue.name, took

    name, took = asyncio.run(run())
    assert [event.uuid for event in applied] == ["a"]
    return drains[0], name, took


def test_the_brokers_are_as_they_are_known(
    broker: Broker, new_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_project(broker, "none").app
    drain, name, took = receive_one(app, monkeypatch)
    assert isinstance(drain, RedisDrain if isinstance(broker, RedisBroker) else AmqpDrain)
    assert took < PATIENCE
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        if isinstance(broker, RedisBroker):
            assert not any(name.encode() in member for member in channel.client.smembers("_kombu.binding.celeryev"))
            return
        with pytest.raises(connection.channel_errors, match="NOT_FOUND"):
            channel.queue_declare(name, passive=True)


def test_a_redis_with_prefixed_keys_goes_through_kombu(
    redis_broker: Broker, new_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_project(redis_broker, "none").app
    app.conf.broker_transport_options = {"global_keyprefix": "mine-"}
    drain, _, took = receive_one(app, monkeypatch)
    assert isinstance(drain, KombuDrain)
    assert took < PATIENCE


def test_a_redis_that_falls_silent_is_noticed(redis_broker: Broker, new_project: Callable[..., Project]) -> None:
    app = new_project(redis_broker, "none").app
    app.conf.broker_transport_options = {"health_check_interval": 1}
    status = BrokerStatus()

    async def watch() -> None:
        consumer = EventConsumer(app, Settings(), status, lambda events: None, IntakeCounts())
        consumer.start()
        deadline = time.monotonic() + PATIENCE
        while not status.connected and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        while time.monotonic() < began + 5:  # its answers to our pings are counted
            assert time.monotonic() < deadline, status.reason
            if not status.connected:  # the machine stood still
                began = time.monotonic()
            await asyncio.sleep(0.1)
        redis_broker.pause()
        deadline = time.monotonic() + PATIENCE
        while status.connected and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert "does not answer" in status.reason
        began = time.monotonic()
        await consumer.stop()
        assert time.monotonic() - began < PATIENCE

    asyncio.run(watch())


def test_messages_of_a_megabyte(broker: Broker, new_project: Callable[..., Project], monitor: Monitor) -> None:
    project = new_project(broker, "none")
    with project.app.connection_for_write() as connection:
        sender = EventDispatcher(connection, hostname="w@live", app=project.app, buffer_group={"task"})
        for number in range(100):
            sender.send("task-received", uuid=f"many-{number}", name="project.many", args="x" * 10_000)
        sender.flush()
        single = EventDispatcher(connection, hostname="w@live", app=project.app)
        single.send("task-received", uuid="large", name="project.large", args="y" * 1_000_000, kwargs="{}")
        single.send("task-succeeded", uuid="large", result="None", runtime=0.1)
    task = monitor.wait_for("large", "SUCCESS")
    assert task["args"].startswith("yyyy")
    assert len(monitor.get("/api/tasks?taskname=project.many")[1]) == 100


def send_pairs(project: Project, name: str, numbers: Iterable[int]) -> None:
    """Send two events a task, in a message each."""
    with project.app.connection_for_write() as connection:
        sender = EventDispatcher(connection, hostname="w@live", app=project.app)
        for number in numbers:
            sender.send("task-received", uuid=f"{name}-{number}", name=f"project.{name}", args="()")
            sender.send("task-started", uuid=f"{name}-{number}")


def test_a_broker_that_is_killed_in_a_burst(
    broker: Broker, new_project: Callable[..., Project], monitor: Monitor
) -> None:
    project = new_project(broker, "none")
    killed = threading.Event()

    def send_in_vain() -> None:
        with suppress(Exception):
            send_pairs(project, "first", takewhile(lambda _: not killed.is_set(), count()))

    burst = threading.Thread(target=send_in_vain, daemon=True)
    burst.start()
    monitor.wait_until(
        lambda: monitor.get("/api/tasks?taskname=project.first&limit=1")[1], timeout=120, what="it runs"
    )
    broker.kill()
    killed.set()
    burst.join(PATIENCE)
    assert not burst.is_alive()
    monitor.wait_until(lambda: monitor.get("/readyz")[0] == 503, timeout=120, what="the loss of the broker shows")
    broker.start()
    monitor.wait_ready()
    send_pairs(new_project(broker, "none"), "second", range(3000))
    monitor.wait_until(
        lambda: len(monitor.get("/api/tasks?taskname=project.second&state=STARTED")[1]) == 3000,
        timeout=120,
        what="all that came after is there",
    )
    assert monitor.metric("taskmon_broker_reconnects_total") >= 1
