"""Queue lengths: asked for passively, shared, and kept fresh for the metrics."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound
from celery import Celery
from kombu import Queue
from patience import PATIENCE
from serving import AWAY, make_app, silent_server
from waiting import eventually

from taskmon.cluster import queues as module
from taskmon.cluster.calls import Lane
from taskmon.cluster.queues import QueueLength, Queues
from taskmon.errors import Unavailable


@pytest.fixture
def app(memory_broker: str) -> Celery:
    return make_app(memory_broker, task_default_queue="orders")


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane("The broker", threads=2, waiting=2)
    yield made
    made.close()


def put(app: Celery, queue: str, messages: int) -> None:
    with app.connection_for_write() as connection, connection.SimpleQueue(queue) as simple:
        for _ in range(messages):
            simple.put({})


async def test_lengths(app: Celery, lane: Lane) -> None:
    put(app, "orders", 3)
    put(app, "mail", 1)
    found = await Queues(app, lane).lengths(["orders", "mail", "missing", "", "x" * 256])
    assert found == [QueueLength("mail", 1), QueueLength("missing", 0), QueueLength("orders", 3)]


async def test_the_queues_of_the_app_when_none_is_named(app: Celery, lane: Lane) -> None:
    assert await Queues(app, lane).lengths() == [QueueLength("orders", 0)]
    app.conf.task_queues = [Queue("mail"), Queue("orders"), Queue()]
    assert Queues(app, lane).of_app() == ["mail", "orders"]


async def test_looking_makes_no_queue(app: Celery, lane: Lane) -> None:
    await Queues(app, lane).lengths(["missing"])
    with app.connection_for_read() as connection:
        assert not connection.default_channel._has_queue("missing")


async def test_at_most_so_many(app: Celery, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUES", 2)
    assert [queue.name for queue in await Queues(app, lane).lengths(["c", "b", "a"])] == ["a", "b"]


class FakeRabbit:
    """What `_ask_each` sees of a RabbitMQ connection: a channel that is closed once something was refused."""

    channel_errors = (NotFound, AccessRefused)
    transport = SimpleNamespace(driver_type="amqp")

    def __init__(self) -> None:
        self.channels = 0

        self._channel: Any = None

    @property
    def default_channel(self) -> Any:
        if self._channel is None:
            self._channel = self._make()
        return self._channel

    def revive(self, channel: None) -> None:
        self._channel = channel

    def _make(self) -> Any:
        self.channels += 1
        closed = False

        def queue_declare(queue: str, passive: bool) -> Any:
            nonlocal closed
            assert passive
            assert not closed
            closed = queue in ("missing", "private")
            if queue == "missing":
                raise NotFound("no queue", (50, 10))
            if queue == "private":
                raise AccessRefused("no", (50, 10))
            return SimpleNamespace(message_count=5, consumer_count=2)

        return SimpleNamespace(queue_declare=queue_declare)


def test_rabbitmq_tells_consumers_and_closes_channels() -> None:
    rabbit = FakeRabbit()
    assert list(module._ask_each(rabbit, ["a", "missing", "private", "z"])) == [  # type: ignore[arg-type]
        QueueLength("a", 5, 2),
        QueueLength("missing", 0, 0),
        QueueLength("z", 5, 2),
    ]
    assert rabbit.channels == 3


async def test_a_broker_that_is_away(lane: Lane) -> None:
    with pytest.raises(Unavailable, match="The broker"):
        await Queues(make_app(AWAY), lane).lengths()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_hangs(lane: Lane, scheme: str) -> None:
    with silent_server() as port:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(Unavailable):
                await Queues(make_app(f"{scheme}://127.0.0.1:{port}//"), lane).lengths()


class Slow(Queues):
    """Counts how often it asks, and waits to be let go."""

    def __init__(self, app: Celery, lane: Lane) -> None:
        super().__init__(app, lane)
        self.asked: list[Sequence[str]] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def _ask(self, names: Sequence[str]) -> list[QueueLength]:
        self.asked.append(names)
        self.go.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return [QueueLength(name, len(self.asked)) for name in names]


async def test_those_who_ask_the_same_share_the_answer(app: Celery, lane: Lane) -> None:
    queues = Slow(app, lane)
    waiting = [asyncio.create_task(queues.lengths(["b", "a"])) for _ in range(20)]
    given_up = asyncio.create_task(queues.lengths(["a", "b"]))
    await eventually(lambda: queues.asked)
    given_up.cancel()
    queues.go.set()
    answers = await asyncio.gather(*waiting)
    assert answers == [[QueueLength("a", 1), QueueLength("b", 1)]] * 20
    assert await queues.lengths(["a", "b"]) == [QueueLength("a", 2), QueueLength("b", 2)]


async def test_the_watch(app: Celery, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    queues = Slow(app, lane)
    queues.go.set()
    names = ["a"]
    assert (queues.latest, queues.age) == ({}, None)
    queues.watch(lambda: names)
    await eventually(lambda: len(queues.asked) > 2)
    assert queues.latest["a"].messages
    assert queues.age is not None
    assert queues.age < PATIENCE
    names.append("b")
    await eventually(lambda: set(queues.latest) == {"a", "b"})
    queues.error = Unavailable("The broker", "away")
    asked = len(queues.asked)
    await eventually(lambda: len(queues.asked) > asked + 2)
    kept = dict(queues.latest)
    queues.error = None
    await eventually(lambda: queues.latest != kept)
    queues.close()
    Queues(app, lane).close()


async def test_closing_gives_up_what_is_asked(app: Celery, lane: Lane, caplog: pytest.LogCaptureFixture) -> None:
    queues = Slow(app, lane)
    waiting = asyncio.create_task(queues.lengths(["a"]))
    await eventually(lambda: queues.asked)
    queues.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    queues.go.set()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
