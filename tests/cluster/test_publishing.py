"""Publishing, before kombu's own broker in memory: what arrives there, and what becomes of failures."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery
from celery.backends.redis import RedisBackend
from destinations import anywhere
from kombu import Connection, Exchange, Queue
from kombu.messaging import Producer
from patience import PATIENCE
from serving import AWAY, make_app, silent_server

from taskmon.broker_faults import BrokerBlocked
from taskmon.cluster import publishing
from taskmon.cluster.announcing import Announcement
from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.publish_options import Call
from taskmon.cluster.publishing import PublishedTask, Publisher
from taskmon.errors import CommandRefused, InvalidArgument, Unavailable, UnknownTaskName
from taskmon.records import Task


def make_project(broker: str = "memory://", **conf: Any) -> Celery:
    """Make an app with the tasks `add` and `shout`."""
    app = make_app(broker, **conf)

    def add(x: int, y: int = 0) -> int:
        raise AssertionError("no task is run here")

    app.task(add, name="add", shared=False)
    app.task(add, name="shout", shared=False, ignore_result=True, typing=False)
    return app


@asynccontextmanager
async def publishing_for(app: Celery, reply_queue: Queue | None = None) -> AsyncIterator[Publisher]:
    """A publisher with a lane of its own."""
    lane = BlockingPool("The broker", threads=1, waiting=8)
    publisher = Publisher(app, lane, anywhere(app), reply_queue)
    try:
        yield publisher
    finally:
        await publisher.close()
        lane.close()


def take(queue: str = "celery") -> Any:
    """Take a message from a queue in memory, None when there is none."""
    with Connection("memory://") as connection:
        return Queue(queue)(connection.default_channel).get(no_ack=True)


async def test_a_task_of_the_app(memory_broker: str) -> None:
    async with publishing_for(make_project()) as publisher:
        task = await publisher.apply_async(Call("add", [1], {"y": 2}, {"countdown": 60.0}, task_id="mine"))
        assert task == PublishedTask("mine")
        message = take()
        assert (message.headers["task"], message.headers["id"]) == ("add", "mine")
        assert message.payload[:2] == [[1], {"y": 2}]
        assert datetime.fromisoformat(message.headers["eta"]).timestamp() == pytest.approx(time.time() + 60, abs=10)
        assert message.properties["correlation_id"] == "mine"


async def test_what_the_app_says_of_a_task_holds(memory_broker: str) -> None:
    async with publishing_for(make_project(task_routes={"shout": {"priority": 7}})) as publisher:
        task = await publisher.apply_async(Call("shout", ["any", "number", "of"]))
        assert task.ignored
        message = take()
        assert message.headers["ignore_result"]
        assert message.properties["priority"] == 7


async def test_options(memory_broker: str) -> None:
    when = datetime(2030, 1, 31, tzinfo=UTC)
    async with publishing_for(make_project()) as publisher:
        options = {"eta": when, "expires": when, "queue": "other", "priority": 3}
        await publisher.apply_async(Call("add", [1], options=options))
        message = take("other")
        assert (message.headers["eta"], message.headers["expires"]) == (when.isoformat(), when.isoformat())
        assert message.properties["priority"] == 3
        with Connection("memory://") as connection:
            Queue("bound", Exchange("e"), "r")(connection.default_channel).declare()
        await publisher.apply_async(Call("add", [1], options={"exchange": "e", "routing_key": "r"}))
        assert take("bound").headers["task"] == "add"


async def test_a_task_of_any_name(memory_broker: str) -> None:
    app = make_project()
    async with publishing_for(app) as publisher:
        task = await publisher.send_task(Call("else.where", [1], options={"queue": "nirvana"}))
        assert take("nirvana").headers["id"] == task.task_id
        assert set(app.amqp.queues) == {"celery"}, "a queue that somebody names is not the app's"


async def test_an_unknown_name(memory_broker: str) -> None:
    async with publishing_for(make_project()) as publisher:
        with pytest.raises(UnknownTaskName):
            await publisher.apply_async(Call("else.where"))
        assert take() is None


async def test_arguments_that_do_not_suit_the_task(memory_broker: str) -> None:
    async with publishing_for(make_project()) as publisher:
        with pytest.raises(InvalidArgument, match="args and kwargs must suit the task"):
            await publisher.apply_async(Call("add", [1, 2, 3]))
        assert take() is None


async def test_a_task_is_announced_once_nothing_is_left_but_to_publish_it(memory_broker: str) -> None:
    waiting: list[Any] = []

    def note() -> None:
        waiting.append(take())

    unreadable = Task("a", state="FAILURE", name="add", queue="celery", args="(<Order 1001>,)", kwargs="{}")
    async with publishing_for(make_project(task_create_missing_queues=False)) as publisher:
        for refused in (
            publisher.apply_async(Call("add", [1, 2, 3]), before=note),
            publisher.apply_async(Call("add", [object()]), before=note),
            publisher.send_task(Call("add", [object()]), before=note),
            publisher.send_task(Call("any", options={"queue": "other"}), before=note),
            publisher.publish_again(unreadable, "new", before=note),
        ):
            with pytest.raises((InvalidArgument, CommandRefused)):
                await refused
        assert waiting == []
        await publisher.apply_async(Call("add", [1]), before=note)
        assert waiting == [None], "announced once, before it was there"
        assert take() is not None


async def test_what_nobody_waits_for_any_more_is_not_published(memory_broker: str) -> None:
    announced: list[bool] = []
    announcement = Announcement(lambda: announced.append(True))
    announcement.withdraw()
    with pytest.raises(Unavailable, match="the time to publish was up"):
        await asyncio.to_thread(announcement.make)
    assert announced == []


async def test_no_task_is_run_here(memory_broker: str) -> None:
    async with publishing_for(make_project(task_always_eager=True)) as publisher:
        with pytest.raises(CommandRefused, match="task_always_eager"):
            await publisher.apply_async(Call("add", [1]))


async def test_a_queue_that_the_app_does_not_create(memory_broker: str) -> None:
    async with publishing_for(make_project(task_create_missing_queues=False)) as publisher:
        with pytest.raises(InvalidArgument, match="queue must be one of the app's task_queues, not 'other'"):
            await publisher.send_task(Call("any", options={"queue": "other"}))
        await publisher.send_task(Call("any", options={"queue": "celery"}))
        assert take() is not None


async def test_workers_are_told_where_to_reply(memory_broker: str) -> None:
    queue = Queue("replies", Exchange(""))
    async with publishing_for(make_project(result_backend="rpc://"), queue) as publisher:
        await publisher.apply_async(Call("add", [1]))
        assert take().properties["reply_to"] == "replies"


async def test_no_backend_is_told(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisBackend, "on_task_call", lambda *args: pytest.fail("it would subscribe"))
    for safe in (False, True):
        app = make_project(result_backend="redis://127.0.0.1:1/0", result_backend_thread_safe=safe)
        async with publishing_for(app) as publisher:
            await publisher.apply_async(Call("add", [1]))
            await publisher.send_task(Call("add", [1]))
        assert isinstance(app.backend, RedisBackend), "the app keeps its own"


async def test_a_finished_task_again(memory_broker: str) -> None:
    done = Task("a", state="FAILURE", name="add", args="(1, 'it\\'s')", kwargs="{'y': 2}", queue="other")
    async with publishing_for(make_project()) as publisher:
        task = await publisher.publish_again(done, "new")
        assert task.task_id != "a"
        message = take("other")
        assert message.headers["task"] == "add"
        assert message.payload[:2] == [[1, "it's"], {"y": 2}]
        with pytest.raises(CommandRefused):
            await publisher.publish_again(Task("a", state="STARTED", name="add", args="()", kwargs="{}"), "new")
        with pytest.raises(CommandRefused):
            await publisher.publish_again(Task("a", state="FAILURE", name="add", args="<x>", kwargs="{}"), "new")
        with pytest.raises(CommandRefused, match="cannot be sent as json"):
            await publisher.publish_again(Task("a", state="FAILURE", name="add", args="(1j,)", kwargs="{}"), "new")
        assert take() is None


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_is_away(scheme: str) -> None:
    async with publishing_for(make_project(AWAY.replace("redis", scheme))) as publisher:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="The broker is unavailable") as error:
                await publisher.apply_async(Call("add", [1]))
            assert time.monotonic() - began < PATIENCE
            assert "wrong-horse" not in str(error.value)


@pytest.mark.usefixtures("hasty")
async def test_a_broker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as port:
        async with publishing_for(make_project(f"redis://127.0.0.1:{port}/0")) as publisher:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await publisher.send_task(Call("any"))
            assert time.monotonic() - began < PATIENCE


class Broken:
    """Makes publishing raise, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.declared: list[Any] = []
        original = Producer.publish

        def publish(producer: Producer, *args: Any, **options: Any) -> Any:
            self.declared.append(options.get("declare"))
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error
            return original(producer, *args, **options)

        monkeypatch.setattr(Producer, "publish", publish)


async def test_a_lost_connection_is_opened_again(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing_for(make_project()) as publisher:
        broken = Broken(monkeypatch, ConnectionResetError("gone"))
        with pytest.raises(Unavailable, match="gone"):
            await publisher.send_task(Call("any"))
        await publisher.send_task(Call("any"))
        assert take() is not None
        broken.errors = [None, ConnectionResetError("gone")]
        await publisher.send_task(Call("any"))
        await publisher.send_task(Call("any"))
        assert (take() is not None, take() is not None, take()) == (True, True, None)
        broken.errors = [ConnectionResetError("gone")]
        with pytest.raises(Unavailable, match="gone"):
            await publisher.send_task(Call("any", retry=False))
        await publisher.send_task(Call("any"))
        broken.errors = [ConnectionResetError("gone"), ConnectionResetError("gone again")]
        with pytest.raises(Unavailable, match="gone again"):
            await publisher.send_task(Call("any"))


async def test_what_an_alarm_holds_up_is_not_sent_twice(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing_for(make_project()) as publisher:
        await publisher.send_task(Call("any"))
        assert take() is not None
        broken = Broken(monkeypatch, BrokerBlocked())
        with pytest.raises(Unavailable, match=r"alarm.*what was sent is accepted then"):
            await publisher.send_task(Call("any"))
        assert broken.errors == []
        assert take() is None


async def test_an_old_connection_is_not_used_again(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing_for(make_project()) as publisher:
        await publisher.send_task(Call("any"))
        first = publisher._connection
        await publisher.send_task(Call("any"))
        assert publisher._connection is first
        monkeypatch.setattr(publishing, "MAX_IDLE", 0.0)
        await publisher.send_task(Call("any"))
        assert publisher._connection is not first


async def test_what_the_broker_refuses(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu.transport.memory.Transport.channel_errors", (NotFound, PreconditionFailed))
    monkeypatch.setattr("kombu.transport.memory.Transport.recoverable_connection_errors", (), raising=False)
    monkeypatch.setattr("kombu.transport.memory.Transport.recoverable_channel_errors", (), raising=False)
    async with publishing_for(make_project()) as publisher:
        broken = Broken(monkeypatch, NotFound("no exchange 'e'"))
        with pytest.raises(CommandRefused, match=r"The broker refuses the task: .*no exchange 'e'"):
            await publisher.send_task(Call("any"))
        broken.errors = [PreconditionFailed("inequivalent arg")]
        await publisher.send_task(Call("any"))
        assert broken.declared[-1] == [], "the queue is there, declared otherwise"
        assert take() is not None
