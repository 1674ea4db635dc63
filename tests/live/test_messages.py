"""taskmon leaves the messages of others alone, whatever it is asked and however it ends.

A worker has taken messages and not acknowledged them, others wait in a queue. Then every route is asked, while all
that taskmon does by itself goes on, and the broker is as it was before: what was taken, what waits, and the bindings.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest
from brokers import RabbitBroker, RedisBroker
from kombu import Connection, Consumer, Exchange, Queue
from monitor import TASKMON, Monitor
from patience import PATIENCE
from processes import wait_until
from redis import Redis
from workers import Project, Worker

from taskmon.cluster.connections import open_connection
from taskmon.http.base import ApiHandler
from taskmon.routes import ROUTES

#: Longer than any test, as where tasks take hours; taskmon is not told.
VISIBILITY_TIMEOUT = 43_200

#: Seconds ago that the worker took its messages, longer than kombu's own visibility timeout.
TAKEN_AGO = 7_200

SETTINGS = {"task_acks_late": True, "broker_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT}}

#: What taskmon is told to publish goes here; nothing consumes from it.
MINE = "published-by-taskmon"

#: The worker is told to consume from this one, and to leave it.
TAKEN_UP = f"{MINE}-not"

BACKGROUND = ("--orphan-after=1", "--purge-offline-workers=1", f"--publish-queues={MINE},{TAKEN_UP}")

Snapshot = dict[str, Any]


class Watched(Protocol):
    """A broker whose messages are watched."""

    project: Project

    def plant(self) -> None:
        """Make what is to stay: messages that wait, and what other programs have on the broker."""

    def age(self) -> None:
        """Make what the worker took look as if it had been taken long ago."""

    def snapshot(self) -> Snapshot:
        """Give all that others have on the broker."""

    def leftovers(self) -> list[str]:
        """List what of taskmon's own is on the broker and does not end by itself."""

    def awaits_reply(self) -> bool:
        """Whether there is a place on the broker where replies to taskmon arrive."""


def publish_waiting(project: Project, queue: str) -> None:
    with Connection(
        project.broker_url,
        transport=project.app.conf.broker_transport,
        transport_options=project.app.conf.broker_transport_options,
    ) as connection:
        producer = connection.Producer()
        for priority in (0, 3):
            producer.publish({"waits": priority}, routing_key=queue, priority=priority)


class WatchedRedis:
    def __init__(self, broker: RedisBroker) -> None:
        self.project = Project(broker.url, None, settings=SETTINGS)
        self.client = Redis.from_url(broker.url)

    def plant(self) -> None:
        self.client.flushall()
        publish_waiting(self.project, "of-others")
        self.client.sadd("_kombu.binding.reply.celery.pidbox", b"k\x06\x16\x06\x16other.reply.celery.pidbox")
        self.client.sadd("_kombu.binding.celeryev", b"\x06\x16\x06\x16another-monitor")
        self.client.rpush("other.reply.celery.pidbox", "a reply")
        self.client.set("of-another-program", "1")

    def age(self) -> None:
        taken = time.time() - TAKEN_AGO
        for tag in self.client.zrange("unacked_index", 0, -1):
            self.client.zadd("unacked_index", {tag: taken})

    def snapshot(self) -> Snapshot:
        found: Snapshot = {}
        for key in self.client.scan_iter():
            name = key.decode()
            if MINE in name or self.client.ttl(key) > 0 or name in ("unacked_mutex", "_kombu.binding_deadlines"):
                continue  # both belong to the worker; what others have does not expire
            kind = self.client.type(key)
            if kind == b"list":
                found[name] = self.client.lrange(key, 0, -1)
            elif kind == b"set":
                members = self.client.smembers(key)
                found[name] = sorted(member for member in members if MINE.encode() not in member)
            elif kind == b"zset":
                found[name] = self.client.zrange(key, 0, -1, withscores=True)
            elif kind == b"hash":
                found[name] = self.client.hgetall(key)
            else:
                found[name] = self.client.get(key)
        return found

    def leftovers(self) -> list[str]:
        found = []
        for key in self.client.scan_iter():
            name = key.decode()
            if (
                "reply" in name and not name.startswith("other") and name != "_kombu.binding.reply.celery.pidbox"
            ) or ("taskmon" in name and MINE not in name):
                ttl = self.client.ttl(key)
                if ttl < 0:
                    found.append(name)
        return found

    def awaits_reply(self) -> bool:
        return bool(list(self.client.scan_iter("*.reply.celery.pidbox.*")))


class WatchedRabbit:
    def __init__(self, broker: RabbitBroker) -> None:
        self.broker = broker
        self.project = Project(broker.url, None, settings=SETTINGS)

    def plant(self) -> None:
        with Connection(self.project.broker_url) as connection:
            connection.SimpleQueue("of-others").close()
            channel = connection.default_channel
            channel.queue_purge("of-others")
        publish_waiting(self.project, "of-others")

    def age(self) -> None:
        """RabbitMQ knows which messages are taken as long as their consumer is there."""

    def snapshot(self) -> Snapshot:
        columns = "name", "messages_ready", "messages_unacknowledged", "durable", "arguments"
        queues = self._list("list_queues", *columns)
        bindings = self._list("list_bindings")
        ours = re.compile(rf"taskmon|{MINE}|reply\.celery\.pidbox|amq\.gen")
        return {
            "queues": sorted(str(row) for row in queues if not ours.search(row["name"])),
            "bindings": sorted(str(row) for row in bindings if not ours.search(str(row))),
        }

    def leftovers(self) -> list[str]:
        return [
            row["name"]
            for row in self._list("list_queues", "name", "auto_delete", "exclusive", "arguments")
            if re.search(r"taskmon|reply\.celery\.pidbox", row["name"])
            and MINE not in row["name"]
            and "x-expires" not in str(row["arguments"])
        ]

    def awaits_reply(self) -> bool:
        return any(row["name"].endswith("reply.celery.pidbox") for row in self._list("list_queues", "name"))

    def _list(self, *command: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.broker.control(*command, "--formatter", "json", "--quiet"))
        return found


class WatchedDirectory:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("messages", "moving", "tables"):
            (folder / name).mkdir()
        options = {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "processed_folder": str(folder / "moving"),
            "control_folder": str(folder / "tables"),
            "polling_interval": 0.05,
        }
        settings = {
            "task_acks_late": True,
            "broker_transport": "taskmon.demo.transport:Transport",
            "broker_transport_options": options,
        }
        self.project = Project("filesystem://localhost//", None, settings=settings)

    def plant(self) -> None:
        publish_waiting(self.project, "of-others")
        (self.folder / "messages" / "of-another-program").write_text("1")
        (self.folder / "tables" / "celeryev.exchange").write_text(json.dumps([["", "", "another-monitor"]]))

    def age(self) -> None:
        """Nothing says how long ago a message was taken."""

    def snapshot(self) -> Snapshot:
        ours = re.compile(
            rf"taskmon|{MINE}|reply\.celery\.pidbox|pidbox\.msg|another-monitor\.msg|{self.project.queue}"
        )
        found: Snapshot = {
            path.name: path.read_bytes()
            for path in (self.folder / "messages").iterdir()
            if not ours.search(path.name)
        }
        for path in (self.folder / "tables").glob("*.exchange"):
            entries = [entry for entry in json.loads(path.read_text()) if not ours.search(str(entry))]
            if entries:
                found[path.name] = sorted(entries)
        return found

    def leftovers(self) -> list[str]:
        ours = re.compile(r"taskmon|reply\.celery\.pidbox")
        found = [
            path.name
            for name in ("messages", "moving", "tables")
            for path in (self.folder / name).iterdir()
            if ours.search(path.name) and MINE not in path.name and path.suffix != ".exchange"
        ]
        for path in (self.folder / "tables").glob("*.exchange"):
            with suppress(ValueError):
                found += [
                    entry[2]
                    for entry in json.loads(path.read_text())
                    if ours.search(entry[2]) and MINE not in entry[2]
                ]
        return found

    def awaits_reply(self) -> bool:
        return any((self.folder / "tables").glob("*.reply.celery.pidbox.taskmon"))


KINDS = ["redis", "redis with the app", "rabbitmq", "filesystem"]


@pytest.fixture(params=KINDS)
def watched(
    request: pytest.FixtureRequest, tmp_path: Path, new_redis: Callable[..., RedisBroker]
) -> Iterator[Watched]:
    made: Watched
    if request.param == "rabbitmq":
        made = WatchedRabbit(request.getfixturevalue("rabbitmq_broker"))
    elif request.param == "filesystem":
        (tmp_path / "broker").mkdir()
        made = WatchedDirectory(tmp_path / "broker")
    else:
        made = WatchedRedis(new_redis())
    yield made
    made.project.close()
    if isinstance(made, WatchedRedis):
        made.client.close()


@pytest.fixture
def start_monitor(
    request: pytest.FixtureRequest, watched: Watched, tmp_path: Path
) -> Iterator[Callable[..., Monitor]]:
    """A factory of running taskmons that are connected, started by the URL alone or with the app."""
    monitors: list[Monitor] = []
    by_url = request.node.callspec.params["watched"] in ("redis", "rabbitmq")

    def start(*options: str) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitor = Monitor(
            directory,
            watched.project.broker_url if by_url else None,
            options=[*BACKGROUND, *options, *([] if by_url else ["-A", "project"])],
            program=TASKMON,
            environment={} if by_url else watched.project.environment(),
        )
        monitors.append(monitor)
        monitor.start()
        monitor.wait_ready()
        return monitor

    yield start
    for monitor in monitors:
        monitor.kill()


@pytest.fixture
def busy_worker(
    watched: Watched, start_worker: Callable[..., Worker], tmp_path: Path
) -> Iterator[tuple[Worker, list[str]]]:
    """A worker that runs a task and has taken others that wait; their ids."""
    watched.plant()
    go = tmp_path / "go"
    worker = start_worker(watched.project, pool="threads")
    tasks = [watched.project.send("wait", str(go)).id for _ in range(3)]
    worker.wait_until(
        lambda: all(deliveries(worker, task_id) == 1 for task_id in tasks),
        timeout=PATIENCE,
        what="the tasks are there",
    )
    watched.age()
    yield worker, tasks
    go.touch()


def deliveries(worker: Worker, task_id: str) -> int:
    return worker.log_text().count(f"[{task_id}] received")


def requests(worker: Worker, tasks: list[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield a request to each route, by each method that it has: method, path, body."""
    bodies = {
        "/api/task/timeout/": b"soft=10",
        "/api/task/rate-limit/": b"ratelimit=1",
        "/api/worker/pool/autoscale/": b"min=1&max=1",
        "/api/worker/queue/": f"queue={TAKEN_UP}".encode(),
    }
    for pattern, handler in ROUTES:
        prefix = pattern.partition("(")[0].replace("\\", "")
        if "/api/worker" in prefix:
            names = ["nobody@nowhere"] if "shutdown" in prefix else [worker.hostname, "nobody@nowhere"]
        elif "revoke" in prefix or "abort" in prefix:
            names = ["no-such-task"]
        elif "apply" in prefix or "send-task" in prefix or "timeout" in prefix or "rate-limit" in prefix:
            names = ["project.never", "project.add"]
        else:
            names = [tasks[0], "no-such-task"]
        paths = [prefix + quote(name) for name in names] if "(" in pattern else [prefix]
        body = next((body for start, body in bodies.items() if prefix.startswith(start)), b"")
        if "apply" in prefix or "send-task" in prefix:
            body = json.dumps({"args": [1, 2], "queue": MINE}).encode()
        for path in paths:
            if handler.get is not ApiHandler.get:
                yield "GET", path, b""
            if handler.post is not ApiHandler.post:
                yield "POST", path, body
    yield "GET", "/api/workers?refresh=true", b""
    yield "GET", f"/api/workers?refresh=true&workername={quote(worker.hostname)}", b""
    yield "GET", "/api/tasks?limit=10&search=wait", b""
    yield "GET", "/api/queues/length?queues=of-others", b""


def wait_as_before(watched: Watched, before: Snapshot, monitor: Monitor) -> None:
    """Wait until only what was there before is there: what a worker was told may take it a moment."""
    wait_until(
        lambda: watched.snapshot() == before,
        timeout=20,
        what="the broker is as it was",
        detail=lambda: f"before: {before}\nafter: {watched.snapshot()}\n{monitor.log_tail()}",
    )


def test_no_route_touches_messages_of_others(
    watched: Watched, busy_worker: tuple[Worker, list[str]], start_monitor: Callable[..., Monitor]
) -> None:
    worker, tasks = busy_worker
    before = watched.snapshot()
    monitor = start_monitor()
    wait_until(
        lambda: monitor.get("/api/workers?refresh=true")[1].get(worker.hostname, {}).get("stats"),
        timeout=PATIENCE,
        what="the worker replies",
        detail=monitor.log_tail,
    )
    statuses: dict[str, int] = {}
    for method, path, body in requests(worker, tasks):
        status, answer = monitor.get(path) if method == "GET" else monitor.post(path, body)
        assert status != 500, (method, path, answer)
        statuses[path] = status
    assert statuses["/api/task/send-task/project.add"] == 200
    assert statuses[f"/api/worker/queue/add-consumer/{quote(worker.hostname)}"] == 200
    monitor.post(f"/api/worker/queue/cancel-consumer/{quote(worker.hostname)}", f"queue={TAKEN_UP}".encode())
    wait_as_before(watched, before, monitor)
    monitor.stop()
    wait_as_before(watched, before, monitor)
    assert [deliveries(worker, task_id) for task_id in tasks] == [1, 1, 1]
    wait_until(
        lambda: not watched.leftovers(), timeout=20, what="nothing is left", detail=lambda: str(watched.leftovers())
    )


def test_a_kill_during_a_call_leaves_nothing_that_stays(
    watched: Watched, busy_worker: tuple[Worker, list[str]], start_monitor: Callable[..., Monitor]
) -> None:
    worker, tasks = busy_worker
    monitor = start_monitor("--inspect-timeout=60000")
    before = watched.snapshot()
    worker.pause()

    def ask() -> None:
        with suppress(OSError):
            monitor.get("/api/workers?refresh=true")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_until(watched.awaits_reply, timeout=PATIENCE, what="the call is under way", detail=monitor.log_tail)
    monitor.kill()
    asking.join(PATIENCE)
    worker.resume()
    if isinstance(watched, WatchedDirectory):
        start_monitor().stop()
    wait_until(
        lambda: not watched.leftovers(), timeout=20, what="nothing stays", detail=lambda: str(watched.leftovers())
    )
    wait_as_before(watched, before, monitor)
    assert [deliveries(worker, task_id) for task_id in tasks] == [1, 1, 1]


@pytest.mark.parametrize("watched", ["redis with the app"], indirect=True)
def test_a_queue_for_results_expires_and_goes_at_the_end(
    watched: WatchedRedis, start_worker: Callable[..., Worker], start_monitor: Callable[..., Monitor]
) -> None:
    watched.project = Project(watched.project.broker_url, "rpc://", settings=SETTINGS)
    start_worker(watched.project)
    monitor = start_monitor()
    status, published = monitor.post("/api/task/async-apply/project.add", b'{"args": [1, 2]}')
    assert status == 200, published

    def lists() -> list[int]:
        return [watched.client.ttl(key) for key in watched.client.scan_iter("taskmon.replies.*")]

    assert [ttl > 0 for ttl in lists()] == [True]
    for _ in range(2):
        path = f"/api/task/result/{published['task-id']}?timeout=2"
        wait_until(
            lambda: monitor.get(path)[1].get("state") == "SUCCESS",  # noqa: B023
            timeout=PATIENCE,
            what="the result",
            detail=lambda: str(monitor.get(path)),  # noqa: B023
        )
        assert [ttl > 0 for ttl in lists()] == [True]
    monitor.stop()
    assert lists() == []


def test_who_waits_for_messages_restores_none(new_redis: Callable[..., RedisBroker]) -> None:
    broker = new_redis()
    envelope = {"body": "", "headers": {}, "properties": {"delivery_info": {}, "delivery_tag": "tag", "priority": 0}}
    with Redis.from_url(broker.url) as client:
        client.zadd("unacked_index", {"tag": time.time() - TAKEN_AGO})
        client.hset("unacked", "tag", json.dumps([envelope, "", "orders"]))
        app = Project(broker.url, None).app
        for connection, restored in ((open_connection(app), 0), (Connection(broker.url), 1)):
            queue = Queue("replies", Exchange("replies"), auto_delete=True)(connection.default_channel)
            with Consumer(connection.default_channel, [queue], no_ack=True, callbacks=[lambda *_: None]):
                for _ in range(12):  # kombu looks for what to restore at every tenth
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.01)
            connection.release()
            assert client.llen("orders") == restored
            assert client.hlen("unacked") == 1 - restored
