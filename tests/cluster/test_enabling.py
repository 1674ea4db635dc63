"""Calls to the cluster: bounded in number and time, and every worker asked for its events once it appears."""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from patience import PATIENCE
from serving import AWAY, event, make_app, serving, silent_server
from waiting import eventually

from taskmon.cluster import event_enabler
from taskmon.cluster.event_enabler import Cluster, EventEnabler
from taskmon.errors import Unavailable
from taskmon.monitor.state import State
from taskmon.records import Event, Worker

# Cluster


@pytest.fixture
def control(memory_broker: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the workers of a memory broker would be told: a function that gives the commands so far."""
    commands: list[dict[str, Any]] = []
    with Connection(memory_broker) as connection:
        queue = Queue("a-worker", Exchange("celery.pidbox", type="fanout", durable=False), auto_delete=True)
        consumer = Consumer(
            connection.default_channel, [queue], callbacks=[lambda body, message: commands.append(body)], no_ack=True
        )

        def drain() -> list[dict[str, Any]]:
            try:
                while True:
                    connection.drain_events(timeout=0.001)
            except TimeoutError:
                return commands

        connection.connect()
        connection.transport.polling_interval = 0
        with consumer:
            yield drain


def told(commands: list[dict[str, Any]]) -> list[tuple[str, list[str] | None]]:
    """Give what was commanded about events, and to whom."""
    about_events = ("enable_events", "heartbeat")
    return [(c["method"], c["destination"]) for c in commands if c["method"] in about_events]


async def test_everybody_is_asked(memory_broker: str, control: Callable[[], list[dict[str, Any]]]) -> None:
    await Cluster(make_app(memory_broker)).enable_events()
    assert told(control()) == [("enable_events", None), ("heartbeat", None)]


async def test_some_are_asked(memory_broker: str, control: Callable[[], list[dict[str, Any]]]) -> None:
    await Cluster(make_app(memory_broker)).enable_events({"b", "a"})
    assert told(control()) == [("enable_events", ["a", "b"]), ("heartbeat", ["a", "b"])]


async def test_a_broker_that_is_away() -> None:
    with pytest.raises(Unavailable, match=r"^The broker is unavailable: .*refused") as caught:
        await Cluster(make_app(AWAY)).enable_events()
    assert "wrong-horse" not in str(caught.value)


async def test_a_password_in_an_error_is_masked() -> None:
    def fail(connection: Connection) -> None:
        raise OSError("cannot reach amqp://user:wrong-horse@host")

    with pytest.raises(Unavailable, match="cannot reach amqp://user:") as caught:
        await Cluster(make_app("memory://"))._call(fail)
    assert "horse" not in str(caught.value)


async def test_an_error_without_words_is_named() -> None:
    def fail(connection: Connection) -> None:
        raise ConnectionResetError

    with pytest.raises(Unavailable, match="ConnectionResetError"):
        await Cluster(make_app("memory://"))._call(fail)


async def test_the_answer_of_a_call_comes_back() -> None:
    assert await Cluster(make_app("memory://"))._call(lambda connection: connection.transport.driver_type) == "memory"


class Gate:
    """A call that takes until it is opened."""

    def __init__(self) -> None:
        self.entered = 0
        self._open = threading.Event()

    def __call__(self, connection: Connection) -> int:
        self.entered += 1
        assert self._open.wait(PATIENCE)
        return 1

    def open(self) -> None:
        self._open.set()


async def test_no_more_than_eight_calls_at_a_time() -> None:
    gate, calls = Gate(), Cluster(make_app("memory://"))
    waiting = [asyncio.create_task(calls._call(gate)) for _ in range(8)]
    await eventually(lambda: gate.entered == 8)
    with pytest.raises(Unavailable, match="too many calls"):
        await calls._call(gate)
    gate.open()
    assert await asyncio.gather(*waiting) == [1] * 8
    assert await calls._call(gate) == 1


async def test_a_call_that_takes_too_long_keeps_its_place_until_it_ends() -> None:
    gate, calls = Gate(), Cluster(make_app("memory://"))
    for _ in range(8):
        with pytest.raises(Unavailable, match=r"no answer within 0.01 s"):
            await calls._call(gate, timeout=0.01)
    with pytest.raises(Unavailable, match="too many calls"):
        await calls._call(gate)
    gate.open()
    await eventually(lambda: calls._calls == 0)
    assert await calls._call(gate) == 1


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
async def test_a_broker_that_hangs(scheme: str) -> None:
    with silent_server() as port:
        calls = Cluster(make_app(f"{scheme}://127.0.0.1:{port}//"))
        with pytest.raises(Unavailable, match=r"no answer within 0.2 s"):
            await calls._call(lambda connection: None, timeout=0.2)
    await eventually(lambda: calls._calls == 0, "the thread ends with the connection")


async def test_a_call_that_nobody_waits_for_any_more() -> None:
    gate, calls = Gate(), Cluster(make_app("memory://"))
    task = asyncio.create_task(calls._call(gate))
    await eventually(lambda: gate.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await eventually(lambda: calls._calls == 0)


def test_a_call_that_outlives_its_loop() -> None:
    gate = Gate()
    before = set(threading.enumerate())

    async def begin() -> None:
        task = asyncio.create_task(Cluster(make_app("memory://"))._call(gate))
        await eventually(lambda: gate.entered)
        task.cancel()

    asyncio.run(begin())
    gate.open()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)


# EventEnabler


class FakeCluster:
    """Notes who was asked; a call fails while `away`, and takes until `go` while that is not set."""

    def __init__(self) -> None:
        self.asked: list[list[str] | None] = []
        self.away = False
        self.go = asyncio.Event()
        self.go.set()

    async def enable_events(self, hostnames: Collection[str] | None = None) -> None:
        self.asked.append(None if hostnames is None else sorted(hostnames))
        await self.go.wait()
        if self.away:
            raise Unavailable("The broker", "away")


class Scene:
    """An EventEnabler that hears of a State's changes."""

    def __init__(self, max_workers: int = 100) -> None:
        self.cluster = FakeCluster()
        self.asked = self.cluster.asked
        self.enabler = EventEnabler(self.cluster)  # type: ignore[arg-type]
        self.state = State(max_workers=max_workers)
        self.state.subscribe(self.enabler.observe, workers_only=True)
        self.state.on_worker_gone(self.enabler.forget)

    async def see(self, *events: Event) -> None:
        """Apply events and let the enabler come to rest."""
        self.state.apply(events)
        await self.rest()

    async def rest(self) -> None:
        await eventually(lambda: self.enabler._task is None or self.enabler._task.done())

    async def reconnect(self) -> None:
        self.enabler.ask_all()
        await self.rest()


def worker_event(kind: str, hostname: str) -> Event:
    return event(f"worker-{kind}", hostname=hostname)


async def test_a_worker_is_asked_once_when_it_appears() -> None:
    scene = Scene()
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("heartbeat", "a"), worker_event("heartbeat", "b"), worker_event("heartbeat", "a"))
    await scene.see(worker_event("heartbeat", "a"), worker_event("heartbeat", "b"))
    assert scene.asked == [["a"], ["b"]]


async def test_workers_that_appear_together_are_asked_together() -> None:
    scene = Scene()
    await scene.see(*(worker_event("heartbeat", name) for name in "cab"))
    assert scene.asked == [["a", "b", "c"]]


async def test_workers_that_appear_during_a_call_are_asked_after_it() -> None:
    scene = Scene()
    scene.cluster.go.clear()
    scene.state.apply([worker_event("heartbeat", "a")])
    await eventually(lambda: scene.asked)
    scene.state.apply([worker_event("heartbeat", "b"), worker_event("heartbeat", "a")])
    scene.state.apply([worker_event("heartbeat", "c")])
    assert scene.asked == [["a"]]
    scene.cluster.go.set()
    await scene.rest()
    assert scene.asked == [["a"], ["b", "c"]]


async def test_a_worker_that_starts_is_asked_until_it_surely_listens() -> None:
    scene = Scene()
    await scene.see(worker_event("online", "a"))
    assert scene.asked == [["a"]]
    for _ in range(5):
        await scene.see(worker_event("heartbeat", "a"))
    assert scene.asked == [["a"]] * (1 + event_enabler._ASK_AGAIN_AFTER_HEARTBEATS)
    assert not scene.enabler._again


async def test_a_worker_that_starts_anew_is_asked_anew() -> None:
    scene = Scene()
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("online", "a"))
    assert scene.asked == [["a"], ["a"]]
    await scene.see(worker_event("offline", "a"))
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("heartbeat", "a"))
    assert scene.asked == [["a"]] * 3


async def test_a_worker_that_was_offline_is_asked_anew() -> None:
    scene = Scene()
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("offline", "a"))
    assert scene.asked == [["a"]]
    await scene.see(worker_event("heartbeat", "a"))
    assert scene.asked == [["a"], ["a"]]


async def test_a_worker_that_came_and_went_in_one_batch_is_not_asked() -> None:
    scene = Scene()
    await scene.see(worker_event("online", "a"), worker_event("offline", "a"))
    assert scene.asked == []
    await scene.see(worker_event("heartbeat", "a"))
    assert scene.asked == [["a"]]


async def test_other_events_ask_nobody() -> None:
    scene = Scene()
    await scene.see(event("task-received", "t1"), event("mine"), event("worker-offline"), Event("task-x", uuid="t2"))
    assert scene.asked == []


async def test_a_call_that_fails_is_made_again_at_the_next_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.cluster.away = True
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("heartbeat", "a"))
    scene.cluster.away = False
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("heartbeat", "a"))
    assert scene.asked == [["a"], ["a"], ["a"]]
    assert [record.getMessage() for record in caplog.records] == [
        "Workers could not be asked for events: The broker is unavailable: away"
    ] * 2


async def test_everybody_is_asked_at_each_connection() -> None:
    scene = Scene()
    await scene.reconnect()
    await scene.see(worker_event("heartbeat", "a"))
    await scene.reconnect()
    await scene.see(worker_event("heartbeat", "a"))
    assert scene.asked == [None, ["a"], None]


async def test_everybody_who_could_not_be_asked_is_asked_at_the_next_heartbeat() -> None:
    scene = Scene()
    await scene.see(worker_event("heartbeat", "a"), worker_event("heartbeat", "b"))
    scene.cluster.away = True
    await scene.reconnect()
    scene.cluster.away = False
    await scene.see(worker_event("heartbeat", "a"))
    await scene.see(worker_event("heartbeat", "b"), worker_event("heartbeat", "a"))
    assert scene.asked == [["a", "b"], None, ["a"], ["b"]]


async def test_a_worker_that_state_forgets_is_forgotten() -> None:
    scene = Scene(max_workers=2)
    for name in "abcdef":
        await scene.see(worker_event("heartbeat", name))
    assert scene.enabler._asked == set(scene.state.workers)
    scene.state.purge_workers(before=1e12)
    assert not scene.enabler._asked
    await scene.see(worker_event("heartbeat", "f"))
    assert scene.asked[-1] == ["f"]


async def test_stopping_gives_up_what_is_under_way() -> None:
    scene = Scene()
    await scene.enabler.stop()
    scene.cluster.go.clear()
    scene.enabler.ask_all()
    await eventually(lambda: scene.asked)
    await scene.enabler.stop()
    assert scene.enabler._task is not None
    assert scene.enabler._task.cancelled()


# As a whole


@pytest.fixture
def memory_app(memory_broker: str) -> Celery:
    return make_app(memory_broker)


async def test_taskmon_asks_workers(memory_app: Celery, control: Callable[[], list[dict[str, Any]]]) -> None:
    async with serving(memory_app) as served:
        await eventually(lambda: len(told(control())) == 2)
        with (
            memory_app.connection_for_write() as connection,
            memory_app.events.Dispatcher(connection, hostname="celery@w1") as sender,
        ):
            sender.send("worker-online", freq=2)
        await eventually(lambda: len(told(control())) == 4)
        assert list(served.state.workers) == ["celery@w1"]
        assert isinstance(served.state.workers["celery@w1"], Worker)
    everybody, w1 = None, ["celery@w1"]
    assert told(control()) == [
        ("enable_events", everybody),
        ("heartbeat", everybody),
        ("enable_events", w1),
        ("heartbeat", w1),
    ]


async def test_taskmon_asks_nobody_when_told_not_to(
    memory_app: Celery, control: Callable[[], list[dict[str, Any]]]
) -> None:
    async with serving(memory_app, enable_events=False) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        served.apply(worker_event("online", "a"))
        assert served.taskmon.monitor._enabler._task is None
    assert told(control()) == []


def test_the_bounds() -> None:
    assert (event_enabler._MAX_CALLS, event_enabler._CALL_TIMEOUT) == (8, 10.0)
