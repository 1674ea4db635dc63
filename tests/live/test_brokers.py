"""The fixtures themselves: brokers that break and come back, workers that run tasks and send events."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RabbitBroker, RedisBroker, listens
from celery import Celery
from processes import wait_until
from workers import Pool, Project, Worker

StartWorker = Callable[..., Worker]
Events = list[dict[str, Any]]


class Listener:
    """A plain Celery event receiver on a connection of its own."""

    def __init__(self, app: Celery) -> None:
        self.events: Events = []
        self._app = app

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Nothing that is sent after entering is missed."""
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.events.append})
            with receiver.consumer_context(wakeup=False) as (self._connection, _, _):
                self._hear_itself()
                yield

    def _hear_itself(self) -> None:
        # kombu subscribes on Redis only while it waits for messages; when that counts, only an event tells.
        with self._app.events.default_dispatcher() as dispatcher:

            def heard() -> bool:
                dispatcher.send("live-listening")
                self._receive()
                return bool(self.events)

            wait_until(heard, timeout=120, what="the listener hears itself")

    def _receive(self) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=0.1)

    def wait_for(self, event_type: str, **fields: object) -> dict[str, Any]:
        """Receive until such an event has come; return it."""
        wanted = {"type": event_type, **fields}
        found: Events = []

        def received() -> bool:
            self._receive()
            found.extend(event for event in self.events if wanted.items() <= event.items())
            return bool(found)

        wait_until(received, timeout=120, what=f"the event {wanted}", detail=lambda: repr(self.events))
        return found[0]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_runs_a_task_and_its_events_arrive(project: Project, start_worker: StartWorker, pool: Pool) -> None:
    worker = start_worker(project, pool=pool)
    listener = Listener(project.app)

    with listener.listening():
        result = project.send("add", 2, 3)
        assert result.get(timeout=120) == 5
        sent = listener.wait_for("task-sent", uuid=result.id)
        succeeded = listener.wait_for("task-succeeded", uuid=result.id)

    assert sent["name"] == "project.add"
    assert (succeeded["hostname"], succeeded["result"]) == (worker.hostname, "5")


def test_a_broker_comes_back_on_its_port_after_a_kill(
    broker: Broker, project: Project, new_project: Callable[..., Project], start_worker: StartWorker
) -> None:
    worker = start_worker(project)
    url = broker.url

    broker.kill()
    assert not listens(broker.port)
    broker.start()

    assert broker.url == url
    listener = Listener(project.app)
    with listener.listening():
        listener.wait_for("worker-heartbeat", hostname=worker.hostname)
        task_id = project.send("echo", "back").id
        assert listener.wait_for("task-succeeded", uuid=task_id)["result"] == "'back'"


def test_a_broker_comes_back_on_its_port_after_a_stop(broker: Broker) -> None:
    broker.stop()
    assert not listens(broker.port)

    broker.start()


def test_a_paused_broker_accepts_connections_and_answers_nothing(broker: Broker) -> None:
    broker.pause()
    assert listens(broker.port)
    assert not broker.answers()

    broker.restore()
    wait_until(broker.answers, timeout=120, what="it answers")


def test_the_tasks_of_the_project_do_what_they_say(
    rabbitmq_broker: RabbitBroker,
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: StartWorker,
) -> None:
    project = new_project(rabbitmq_broker, "redis", redis_broker)
    start_worker(project, pool="threads", concurrency=2)

    assert project.send("retry_then_succeed", 2).get(timeout=120) == 2
    assert project.send("sleep", 0.01).get(timeout=120) == 0.01
    failure = project.send("fail", "on purpose")
    assert str(failure.get(timeout=120, propagate=False)) == "on purpose"
    add = project.signature
    assert project.chain(add("add", 2, 3), add("add", 4)).apply_async().get(timeout=120) == 9
    assert project.group(add("add", 1, 1), add("add", 2, 2)).apply_async().get(timeout=120) == [2, 4]


def test_a_worker_without_events_in_another_time_zone(
    redis_broker: RedisBroker, new_project: Callable[..., Project], start_worker: StartWorker
) -> None:
    project = new_project(redis_broker)
    listener = Listener(project.app)

    with listener.listening():
        worker = start_worker(project, events=False, timezone="Asia/Tokyo")
        assert project.send("echo", 1).get(timeout=120) == 1
        online = listener.wait_for("worker-online", hostname=worker.hostname)
        project.app.control.enable_events(destination=[worker.hostname], reply=True)
        task_id = project.send("echo", 2).id
        listener.wait_for("task-succeeded", uuid=task_id)

    assert online["utcoffset"] == -9
    assert [event["uuid"] for event in listener.events if event["type"] == "task-succeeded"] == [task_id]


def test_a_redis_with_a_password(
    new_redis: Callable[..., RedisBroker], new_project: Callable[..., Project], start_worker: StartWorker
) -> None:
    project = new_project(new_redis(password="open sesame"))
    start_worker(project)

    assert project.send("add", "a", "b").get(timeout=120) == "ab"


def test_nothing_is_left_behind_when_the_test_run_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from processes import Process\n"
        "process = Process(['sleep', '600'], directory=Path('.'), log=Path(sys.argv[1]), environment={})\n"
        "process.start(); print(process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()

    wait_until(lambda: not _lives(pid), timeout=120, what=f"the process {pid} is gone")


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return False
