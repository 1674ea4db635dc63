"""Queue lengths: asked for passively, shared, and kept fresh for the metrics."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from celery import Celery
from patience import PATIENCE
from serving import AWAY, make_app, silent_server
from waiting import eventually

from taskmon.cluster import queues as module
from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.consumers import Consumers
from taskmon.cluster.inspection import Inspection
from taskmon.cluster.known_queues import KnownQueues
from taskmon.cluster.queue_lengths import Evidence, QueueLength
from taskmon.cluster.queues import Queues
from taskmon.errors import Unavailable
from taskmon.records import Worker


@pytest.fixture
def app(memory_broker: str) -> Celery:
    return make_app(memory_broker, task_default_queue="orders")


@pytest.fixture
def lane() -> Iterator[BlockingPool]:
    made = BlockingPool("The broker", threads=2, waiting=2)
    yield made
    made.close()


def make_queues(
    app: Celery,
    lane: BlockingPool,
    names: Sequence[str] = (),
    workers: dict[str, Worker] | None = None,
    inspections: dict[str, Inspection] | None = None,
) -> Queues:
    """Make the queues of an app, known by these names, and what workers say of them."""
    known = KnownQueues((lambda: names,), ())
    return Queues(app, lane, known, Consumers(workers or {}, inspections or {}))


def put(app: Celery, queue: str, messages: int) -> None:
    with app.connection_for_write() as connection, connection.SimpleQueue(queue) as simple:
        for _ in range(messages):
            simple.put({})


async def test_lengths(app: Celery, lane: BlockingPool) -> None:
    put(app, "orders", 3)
    put(app, "mail", 1)
    found = await make_queues(app, lane).lengths(["orders", "mail", "missing", "", "x" * 256])
    assert found == [QueueLength("mail", 1, 0), QueueLength("missing", 0, 0), QueueLength("orders", 3, 0)]


async def test_the_default_queue_of_the_app_when_none_is_named(app: Celery, lane: BlockingPool) -> None:
    assert await make_queues(app, lane).lengths() == [QueueLength("orders", 0, 0)]


async def test_consumers_are_what_the_workers_online_say(app: Celery, lane: BlockingPool) -> None:
    now = time.time()
    workers = {
        "a": Worker("a", online=True, seen=now, freq=60.0),
        "b": Worker("b", online=True, seen=now, freq=60.0),
        "gone": Worker("gone", online=False, seen=now),
    }
    said = {"active_queues": now}
    inspections = {
        "a": Inspection(queues=("mail", "orders"), times=said),
        "gone": Inspection(queues=("mail",), times=said),
    }
    queues = make_queues(app, lane, ["idle", "mail"], workers, inspections)
    assert [(queue.name, queue.consumers) for queue in await queues.all_lengths()] == [("idle", None), ("mail", 1)]
    inspections["b"] = Inspection(queues=("mail",), times=said)
    assert [(queue.name, queue.consumers) for queue in await queues.all_lengths()] == [("idle", 0), ("mail", 2)]
    workers["a"].online = workers["b"].online = False
    assert [queue.consumers for queue in await queues.all_lengths()] == [0, 0]


async def test_looking_makes_no_queue(app: Celery, lane: BlockingPool) -> None:
    await make_queues(app, lane).lengths(["missing"])
    with app.connection_for_read() as connection:
        assert not connection.default_channel._has_queue("missing")


async def test_at_most_so_many(app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUES", 2)
    assert [queue.name for queue in await make_queues(app, lane).lengths(["c", "b", "a"])] == ["a", "b"]


async def test_a_broker_that_is_away(lane: BlockingPool) -> None:
    with pytest.raises(Unavailable, match="The broker"):
        await make_queues(make_app(AWAY), lane).lengths()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_hangs(lane: BlockingPool, scheme: str) -> None:
    with silent_server() as port:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(Unavailable):
                await make_queues(make_app(f"{scheme}://127.0.0.1:{port}//"), lane).lengths()


class Slow(Queues):
    """Counts how often it asks, and waits to be let go."""

    def __init__(self, app: Celery, lane: BlockingPool, names: Sequence[str] = ()) -> None:
        super().__init__(app, lane, KnownQueues((lambda: names,), ()), Consumers({}, {}))
        self.asked: list[Sequence[str]] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def _ask(self, names: Sequence[str], evidence: Evidence) -> list[QueueLength]:
        self.asked.append(names)
        self.go.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return [QueueLength(name, len(self.asked)) for name in names]


async def test_those_who_ask_the_same_share_the_answer(app: Celery, lane: BlockingPool) -> None:
    queues = Slow(app, lane)
    waiting = [asyncio.create_task(queues.lengths(["b", "a"])) for _ in range(20)]
    given_up = asyncio.create_task(queues.lengths(["a", "b"]))
    await eventually(lambda: queues.asked)
    given_up.cancel()
    queues.go.set()
    answers = await asyncio.gather(*waiting)
    assert answers == [[QueueLength("a", 1, 0), QueueLength("b", 1, 0)]] * 20
    assert await queues.lengths(["a", "b"]) == [QueueLength("a", 2, 0), QueueLength("b", 2, 0)]


async def test_the_watch(app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.01)
    names = ["a"]
    queues = Slow(app, lane, names)
    queues.go.set()
    assert (queues.latest, queues.age) == ({}, None)
    queues.watch()
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
    make_queues(app, lane).close()


async def test_closing_gives_up_what_is_asked(
    app: Celery, lane: BlockingPool, caplog: pytest.LogCaptureFixture
) -> None:
    queues = Slow(app, lane)
    waiting = asyncio.create_task(queues.lengths(["a"]))
    await eventually(lambda: queues.asked)
    queues.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    queues.go.set()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
