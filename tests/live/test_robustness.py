"""What may go wrong around taskmon: it goes on, what it holds is right, and all its threads live."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RabbitBroker, RedisBroker
from celery import Celery
from celery.events import EventDispatcher
from patience import PATIENCE, REAL
from proxy import proxying
from serving import Response, Served, make_app, serving
from waiting import eventually
from workers import Project, Worker, running

from taskmon import events
from taskmon.cluster import connections
from taskmon.http import connections as http_connections
from taskmon.monitor.dated_ahead import parse_reported
from taskmon.monitor.query import TaskQuery


def send_lives(app: Celery, name: str, count: int, hostname: str = "w1@live") -> None:
    """Send the events of so many tasks, as workers do."""
    with app.connection_for_write() as connection:
        sender = EventDispatcher(connection, hostname=hostname, app=app, buffer_group={"task"})
        for number in range(count):
            task_id = f"{name}-{number}"
            sender.send("task-received", uuid=task_id, name=f"project.{name}", args="()", kwargs="{}")
            sender.send("task-started", uuid=task_id)
            sender.send("task-succeeded", uuid=task_id, result="None", runtime=0.1)
            if number % 8 == 7:
                sender.flush()
        sender.flush()


def count_done(served: Served, name: str) -> int:
    query = TaskQuery(name=f"project.{name}", state="SUCCESS")
    return sum(task is not None for task in served.state.find(query))


@asynccontextmanager
async def watching(app: Celery, **options: Any) -> AsyncIterator[Served]:
    """Run a Taskmon that is connected; at the end it must be sound, and leave no thread behind."""
    before = set(threading.enumerate())
    async with serving(app, **options) as served:
        await is_connected(served)
        yield served
        await is_sound(served, app)
    await eventually(
        lambda: not [thread for thread in set(threading.enumerate()) - before if "taskmon" in thread.name],
        "no thread is left",
        PATIENCE,
    )


async def send_and_wait(served: Served, app: Celery, name: str) -> None:
    """Send the events of 100 tasks and wait for them; again where the connection was lost meanwhile."""
    status = served.taskmon.monitor.broker
    while True:
        await is_connected(served)
        before = status.reconnects
        await asyncio.to_thread(send_lives, app, name, 100)
        await eventually(lambda: count_done(served, name) == 100 or status.reconnects > before, name)  # noqa: B023
        if count_done(served, name) == 100:
            return


async def answers(served: Served, target: str, status: int = 200) -> None:
    """Wait until a request is answered with this status."""
    async with asyncio.timeout(PATIENCE):
        while (await served.get(target)).status != status:
            await asyncio.sleep(0.05)


async def publish(served: Served) -> Response:
    return await served.request("POST", "/api/task/send-task/project.add", body=b'{"args": [1, 2]}')


async def is_connected(served: Served) -> None:
    status = served.taskmon.monitor.broker
    await eventually(lambda: status.connected, "connected", PATIENCE)


async def is_sound(served: Served, app: Celery) -> None:
    """Check that every thread lives and does its work, and that nothing failed on the way."""
    total, reconnects = served.state.task_events_total, served.taskmon.monitor.broker.reconnects
    await send_and_wait(served, app, "last")
    if served.taskmon.monitor.broker.reconnects == reconnects:
        assert served.state.task_events_total == total + 300
    assert served.state.failed_total == 0
    assert served.taskmon.monitor._consumer._thread.is_alive()
    for lane in served.taskmon.monitor._pools:
        assert not lane._started or all(thread.is_alive() for thread in lane._threads)
    await answers(served, "/api/queues/length")
    await answers(served, "/readyz")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice sooner that a broker is silent, and try again sooner."""
    monkeypatch.setattr(connections, "_HEARTBEAT", 2)
    monkeypatch.setitem(connections._REDIS_EVENTS_OPTIONS, "health_check_interval", 1)
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", REAL["CONNECT_TIMEOUT"])
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", REAL["ANSWER_TIMEOUT"])
    monkeypatch.setattr(events, "BACKOFF", (0.1, 0.5))


def test_a_network_that_stalls(broker: Broker, new_project: Callable[..., Project], impatient: None) -> None:
    app = new_project(broker, "none").app

    async def run(port: int) -> None:
        through = make_app(broker.url.replace(f":{broker.port}/", f":{port}/"))
        async with watching(through) as served:
            await send_and_wait(served, app, "before")
            proxy.stall()
            await asyncio.to_thread(send_lives, app, "meanwhile", 100)
            assert len((await served.get("/api/tasks?limit=10")).json()) == 10
            assert (await served.get("/api/queues/length")).status == 503
            status = served.taskmon.monitor.broker
            await eventually(lambda: not status.connected, "the silence is noticed", PATIENCE)
            assert (await served.get("/readyz")).status == 503
            proxy.heal()
            await send_and_wait(served, app, "after")
            assert count_done(served, "before") == 100
            if isinstance(broker, RabbitBroker):  # what was on its way was not acknowledged, and comes again
                await eventually(lambda: count_done(served, "meanwhile") == 100, "nothing is lost", PATIENCE)
            assert status.reconnects >= 1

    with proxying(broker.port) as proxy:
        asyncio.run(run(proxy.port))


def test_a_memory_alarm_of_rabbitmq(
    rabbitmq_broker: RabbitBroker, new_project: Callable[..., Project], impatient: None
) -> None:
    project = new_project(rabbitmq_broker, "none")
    app = make_app(rabbitmq_broker.url, task_default_queue=project.queue)

    async def run() -> None:
        async with watching(app) as served:
            await send_and_wait(served, app, "before")
            await asyncio.to_thread(rabbitmq_broker.control, "set_vm_memory_high_watermark", "absolute", "1")
            try:
                async with asyncio.timeout(PATIENCE):  # the alarm reaches those who publish a moment later
                    while (await publish(served)).status != 503:
                        pass
                await answers(served, "/readyz", 503)  # the events of workers do not come through either
                assert len((await served.get("/api/tasks?limit=10")).json()) == 10
            finally:
                await asyncio.to_thread(rabbitmq_broker.control, "set_vm_memory_high_watermark", "absolute", "1GB")
            async with asyncio.timeout(PATIENCE):
                while (await publish(served)).status != 200:
                    pass
            await answers(served, "/readyz")

    asyncio.run(run())


def test_many_connections_that_say_nothing(
    redis_broker: RedisBroker, new_project: Callable[..., Project], new_files: None
) -> None:
    project = new_project(redis_broker, "none")

    async def run() -> None:
        with ExitStack() as stack:
            async with watching(make_app(redis_broker.url)) as served:
                for number in range(2000):
                    silent = stack.enter_context(socket.socket())
                    silent.setblocking(False)
                    silent.connect_ex(("127.0.0.1", served.port))
                    if number % 100 == 99:
                        await asyncio.sleep(0)
                await send_and_wait(served, project.app, "meanwhile")
                for address in ("127.0.0.1", "127.0.0.2"):  # everybody is served, whoever opened them
                    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, local_addr=(address, 0))
                    writer.write(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert b" 200 " in await reader.readline()
                    writer.close()
                stack.close()
                await eventually(lambda: not served.taskmon.listeners.connected, "all are gone", PATIENCE)

    asyncio.run(run())


@pytest.fixture
def new_files() -> None:
    """See to it that there may be enough open files."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5000
    if soft < wanted:
        if hard < wanted:
            pytest.skip(f"only {hard} files may be open")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.mark.parametrize("head", [b"Content-Length: 104857600", b"Transfer-Encoding: chunked"])
def test_a_body_of_100_megabytes(head: bytes, redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "_LINGER", PATIENCE)

    async def run() -> None:
        async with watching(make_app(redis_broker.url)) as served:
            reader, writer = await served.connect()
            token = served.credentials["Authorization"].encode()
            writer.write(b"POST /api/tasks/revoke HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + token)
            writer.write(b"\r\nContent-Type: application/json\r\n" + head + b"\r\n\r\n")
            piece = b"x" * 65_536
            if b"chunked" in head:
                piece = b"10000\r\n" + piece + b"\r\n"
            answer = asyncio.create_task(reader.readline())
            sent = 0
            try:
                while sent < 104_857_600:
                    writer.write(piece)
                    await writer.drain()
                    sent += 65_536
            except ConnectionError:
                pass
            assert sent < 32 << 20
            assert b" 413 " in await answer
            writer.close()

    asyncio.run(run())


def test_workers_that_come_and_go(redis_broker: RedisBroker, new_project: Callable[..., Project]) -> None:
    app = new_project(redis_broker, "none").app
    names = [f"celery@pod-{number}" for number in range(500)]

    def send(*kinds: str) -> None:
        with app.connection_for_write() as connection:
            sender = EventDispatcher(connection, app=app, hostname="any")
            for sender.hostname in names:
                for kind in kinds:
                    sender.send(kind, freq=0.2, active=1, processed=2, sw_ident="py-celery")

    async def run() -> None:
        async with watching(make_app(redis_broker.url), inspect_timeout=50) as served:
            before = threading.active_count()
            await asyncio.to_thread(send_lives, app, "ran", 10, names[0])
            for _ in range(2):
                await asyncio.to_thread(send, "worker-online", "worker-heartbeat")
                await eventually(lambda: len(served.state.workers) == 500, "all have come", PATIENCE)
                assert len((await served.get("/api/workers?status=true")).json()) == 500
                await asyncio.to_thread(send, "worker-offline")
                await eventually(
                    lambda: not any(worker.online for worker in served.state.workers.values()),
                    "all have gone",
                    PATIENCE,
                )
                served.state.purge_workers(time.time() + 1)  # all: upkeep would do so an hour from now
                assert served.state.workers == {}
            enabler, inspector = served.taskmon.monitor._enabler, served.taskmon.monitor.inspector
            await eventually(lambda: not inspector._asking._wanted, "nobody is asked any more", PATIENCE)
            assert not enabler._asked
            assert not enabler._again
            assert not inspector._asking._due
            assert "pod-" not in (await served.get("/metrics")).body.decode()
            assert threading.active_count() - before < 40
            assert count_done(served, "ran") == 10

    asyncio.run(run())


def test_a_worker_whose_clock_is_an_hour_off(
    redis_broker: RedisBroker, new_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = new_project(redis_broker)
    ahead, right = (Worker(project, tmp_path, name=name, pool="threads") for name in ("ahead", "right"))
    ahead.environment |= {"CLOCK_OFFSET": "3600", "PYTHONPATH": str(Path(__file__).parent / "offset")}

    async def run() -> None:
        app = make_app(redis_broker.url, result_backend=redis_broker.url)
        async with watching(app, orphan_after=3) as served:
            # No retries: one that is told of late, an hour ahead, counts as later than the end.
            ids: set[str] = set()
            held: list[Any] = []

            def succeeded() -> set[str]:
                return {task.uuid for task in served.state.find(TaskQuery(state="SUCCESS")) if task is not None}

            while {task.worker for task in held} != {ahead.hostname, right.hostname}:
                ids.update(project.send("sleep", 0.3).id for _ in range(20))
                await eventually(lambda: succeeded() == ids, "all succeed", PATIENCE)
                held = [served.state.get(task_id) for task_id in ids]
            now = time.time()
            for task in held:
                assert task.succeeded is not None
                assert abs(task.succeeded - now) < 300  # by receipt, where it is dated too far ahead
                own = parse_reported(task.reported).get("succeeded", task.succeeded)
                assert abs(own - now - 3600 * (task.worker == ahead.hostname)) < 300
            workers = served.state.workers
            await eventually(lambda: all(one.alive(time.time()) for one in workers.values()), "their hearts beat")
            slow = project.send("sleep", 4)
            await eventually(lambda: slow.id in succeeded(), "it ends", PATIENCE)
            await eventually(lambda: {task.reconciled for task in held} == {None}, "nobody asks about them")
            await asyncio.to_thread(ahead.kill)
            await eventually(lambda: not workers[ahead.hostname].alive(time.time()), "its end is noticed")
            await eventually(lambda: workers[right.hostname].alive(time.time()), "the other one is alive")

    assert os.environ.get("CLOCK_OFFSET") is None
    with running(ahead, right):
        asyncio.run(run())
