"""Where tasks may be sent, before real brokers: what is refused leaves nothing behind, and workers go on."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from brokers import RabbitBroker, RedisBroker
from kombu import Connection, Exchange, Queue
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project, Worker

PREFIX = "shop:"


@contextmanager
def monitoring(directory: Path, project: Project, *options: str) -> Iterator[Monitor]:
    """Run a taskmon that has the app of a project."""
    directory.mkdir()
    monitor = Monitor(directory, None, options=["--app", "project", *options], environment=project.environment())
    monitor.start()
    try:
        monitor.wait_ready()
        yield monitor
    finally:
        monitor.kill()


def post(monitor: Monitor, path: str, body: Any) -> tuple[int, Any]:
    """Ask with POST; give the status and the JSON of the body."""
    return monitor.post(path, json.dumps(body).encode())


def wait_known(monitor: Monitor, worker: Worker) -> None:
    """Wait until taskmon knows from which queues a worker consumes."""
    wait_until(
        lambda: (monitor.get("/api/workers")[1].get(worker.hostname) or {}).get("active_queues"),
        timeout=PATIENCE,
        what="the worker is known",
        detail=monitor.log_tail,
    )


def refused(monitor: Monitor, worker: Worker, body: dict[str, Any]) -> None:
    """Expect every route that publishes to refuse, and add-consumer too."""
    routes = ("send-task/project.add", "async-apply/project.add", "apply/project.add")
    for route in routes:
        status, answer = post(monitor, f"/api/task/{route}", {"args": [1, 2], **body})
        assert status == 403, (route, body, answer)
    if "queue" in body:
        for command in ("add-consumer", "cancel-consumer"):
            path = f"/api/worker/queue/{command}/{quote(worker.hostname)}?queue={quote(body['queue'])}"
            assert monitor.post(path)[0] == 403, (command, body)


def finishes(monitor: Monitor, project: Project) -> None:
    """Expect the worker to run a task that is published to its queue."""
    body = {"args": [1, 2], "queue": project.queue, "priority": 3}
    status, answer = post(monitor, "/api/task/send-task/project.add", body)
    assert status == 200, answer
    wait_until(
        lambda: monitor.get(f"/api/task/info/{answer['task-id']}")[1].get("state") == "SUCCESS",
        timeout=PATIENCE,
        what="the task is done",
        detail=monitor.log_tail,
    )


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_on_redis(
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Worker],
    tmp_path: Path,
    prefix: str,
) -> None:
    options = {"broker_transport_options": {"global_keyprefix": prefix}} if prefix else {}
    project = new_project(redis_broker, **options)
    worker = start_worker(project)
    client = redis.Redis.from_url(redis_broker.url, decode_responses=True)
    client.hset(f"{prefix}sessions", "a", 1)
    client.rpush(f"{prefix}other-list", "x")
    client.zadd(f"{prefix}allowed-scores", {"a": 1})
    client.set(f"{prefix}allowed-text\x06\x163", "one priority of it")
    with monitoring(tmp_path / "taskmon", project, "--publish-queues=allowed-*,new") as monitor:
        wait_known(monitor, worker)
        names = ("sessions", "other-list", "unacked_index")
        with project.app.connection_for_write() as connection:
            dispatcher = project.app.events.Dispatcher(connection, hostname=worker.hostname)
            for name in names:  # events can be forged
                task = {"uuid": f"forged-{name}", "name": "project.add", "args": "(1, 2)", "kwargs": "{}"}
                dispatcher.send("task-sent", queue=name, **task)
                dispatcher.send("task-failed", exception="E()", **task)
            dispatcher.close()
        before = snapshot(client)
        for name in ("unacked_index", "unacked", "unacked_mutex", f"_kombu.binding.{project.queue}", "sessions",
                     "other-list", "allowed-scores", "allowed-text", "celeryev", "celery-task-meta-1",
                     "celery@w1.celery.pidbox", "nowhere"):  # fmt: skip
            refused(monitor, worker, {"queue": name})
            refused(monitor, worker, {"exchange": "", "routing_key": name})
        for name in ("celeryev", "celery.pidbox", "reply.celery.pidbox", "nowhere"):
            refused(monitor, worker, {"exchange": name, "routing_key": "task.multi"})
        assert snapshot(client) == before
        for name in names:
            wait_until(
                lambda name=name: monitor.get(f"/api/task/info/forged-{name}")[1].get("state") == "FAILURE",
                timeout=PATIENCE,
                what="the forged task is known",
                detail=monitor.log_tail,
            )
            status, answer = monitor.post(f"/api/task/retry/forged-{name}")
            assert status == 403, answer
        assert snapshot(client) == before
        finishes(monitor, project)
        assert post(monitor, "/api/task/send-task/any", {"queue": "new"})[0] == 200
        assert client.llen(f"{prefix}new") == 1
        client.delete(f"{prefix}new")


def test_on_rabbitmq(
    rabbitmq_broker: RabbitBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Worker],
    tmp_path: Path,
) -> None:
    project = new_project(rabbitmq_broker)
    worker = start_worker(project)
    with (
        monitoring(tmp_path / "taskmon", project, "--publish-queues=new") as monitor,
        Connection(project.broker_url) as connection,
    ):
        wait_known(monitor, worker)
        theirs = Queue("payments", Exchange("payments", type="topic"), "#")(connection.default_channel)
        theirs.declare()
        forged = {"kwargs": {"type": "task-succeeded", "uuid": "forged", "hostname": "celery@w9"}}
        for exchange in ("celeryev", "celery.pidbox", "reply.celery.pidbox", "payments", "amq.topic", "amq.fanout"):
            refused(monitor, worker, {"exchange": exchange, "routing_key": "task.multi", **forged})
        for name in (
            "payments",
            "celeryev.x",
            f"{worker.hostname}.celery.pidbox",
            "amq.rabbitmq.reply-to",
            "nowhere",
        ):
            refused(monitor, worker, {"queue": name})
            refused(monitor, worker, {"exchange": "", "routing_key": name})
        assert theirs.get(no_ack=True) is None
        queues = rabbitmq_broker.control("list_queues", "name", "--silent").split()
        assert "nowhere" not in queues
        assert monitor.get("/api/task/info/forged")[0] == 404
        finishes(monitor, project)
        assert post(monitor, "/api/task/send-task/any", {"queue": "new"})[0] == 200
        new = Queue("new")(connection.default_channel)
        assert new.get(no_ack=True).headers["task"] == "any"
        for queue in (new, theirs):
            queue.delete()


def snapshot(client: Any) -> dict[str, str]:
    """Return what the keys of Redis are, but for those of events and replies, which come and go."""
    found = {key: client.type(key) for key in client.scan_iter("*", count=1000)}
    return {
        key: kind
        for key, kind in found.items()
        if not any(
            part in key
            for part in ("pidbox", "unacked", "celeryev", "taskmon", "_kombu.binding_", "celery-task-meta")
        )
    }
