"""taskmon before real clusters: what its users rely on."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from celery.events import EventDispatcher
from monitor import Monitor
from processes import wait_until
from workers import Project

FLOWERS_KEYS = {
    *("args", "client", "clock", "eta", "exception", "exchange", "expires", "failed", "kwargs", "name", "received"),
    *("result", "retried", "retries", "revoked", "routing_key", "runtime", "sent", "started", "state", "succeeded"),
    *("task-id", "timestamp", "traceback", "worker"),
}


@pytest.fixture
def start_monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of running taskmons: `start_monitor(broker_url, options=[...])`."""
    monitors: list[Monitor] = []

    def start(broker_url: str | None, **settings: Any) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitors.append(Monitor(directory, broker_url, **settings))
        monitors[-1].start()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def wait_whole(monitor: Monitor, task_id: str) -> dict[str, Any]:
    """Wait until a task has ended, and until it is told when it was sent: whoever sends it tells that after."""
    monitor.wait_for(task_id, "SUCCESS")
    wait_until(lambda: monitor.task(task_id)["sent"], timeout=120, what="it is told when it was sent")
    return monitor.task(task_id)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_ran_is_answered_whole(
    pool: str, project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url)
    monitor.wait_ready()
    worker = start_worker(project, pool=pool)
    sent = project.send("add", 2, 3)
    task = wait_whole(monitor, sent.id)
    assert set(task) >= FLOWERS_KEYS
    assert (task["task-id"], task["uuid"]) == (sent.id, sent.id)
    assert (task["name"], task["args"], task["kwargs"]) == ("project.add", "(2, 3)", "{}")
    assert (task["result"], task["worker"], task["retries"]) == ("5", worker.hostname, 0)
    assert (task["queue"], task["routing_key"]) == (project.queue, project.queue)
    assert task["root"] == task["root_id"] == sent.id
    times = [task[key] for key in ("received", "started", "succeeded")]
    assert times == sorted(times)
    assert abs(task["received"] - task["sent"]) < 300  # Celery stamps `task-sent` after publishing
    assert task["timestamp"] in (task["succeeded"], task["sent"])  # whichever event came last
    assert abs(time.time() - task["succeeded"]) < 300
    assert task["client"] is not None
    assert task["runtime"] >= 0


def test_every_fate_of_a_task(
    project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url)
    monitor.wait_ready()
    worker = start_worker(project)
    failed = project.send("fail", "no stock")
    retried = project.send("retry_then_succeed", 2)
    chained = project.chain(project.signature("add", 1, 1), project.signature("add", 2)).apply_async()
    revoked = project.send("add", 1, 1, countdown=3600)
    task = monitor.wait_for(failed.id, "FAILURE")
    assert "no stock" in task["exception"]
    assert "ValueError" in task["traceback"]
    task = monitor.wait_for(retried.id, "SUCCESS")
    assert task["retried"] is not None
    task = monitor.wait_for(chained.id, "SUCCESS")
    assert task["result"] == "4"
    assert task["parent"] == chained.parent.id
    assert task["root"] == chained.parent.id
    assert monitor.task(chained.parent.id)["children"] == [chained.id]
    monitor.wait_for(revoked.id, "RECEIVED")
    assert monitor.task(revoked.id)["eta"] is not None
    project.app.control.revoke(revoked.id)
    status, failures = monitor.get("/api/tasks?state=FAILURE&sort_by=-received&limit=10")
    assert (status, list(failures)) == (200, [failed.id])
    status, listed = monitor.get(f"/api/tasks?workername={worker.hostname}&taskname=project.add&search=2")
    assert status == 400
    status, listed = monitor.get(f"/api/tasks?workername={worker.hostname}&taskname=project.add")
    assert {chained.id, chained.parent.id, revoked.id} == set(listed)
    assert monitor.get("/api/task/types")[1] == {
        "task-types": ["project.add", "project.fail", "project.retry_then_succeed"]
    }


def test_a_worker_without_events_is_asked_for_them(
    project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    early = start_worker(project, events=False)
    monitor = start_monitor(project.broker_url)
    monitor.wait_ready()

    def is_seen() -> bool:
        return bool(monitor.task(project.send("add", 1, 2).id).get("received"))

    wait_until(is_seen, timeout=120, what="a worker that was there before sends events", detail=monitor.log_tail)
    early.stop()
    start_worker(project, events=False)
    wait_until(is_seen, timeout=120, what="a worker that came later sends events", detail=monitor.log_tail)


def test_times_are_right_across_time_zones(
    rabbitmq_broker: Broker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    start_monitor: Callable[..., Monitor],
) -> None:
    project = new_project(rabbitmq_broker, "none")
    monitor = start_monitor(project.broker_url, environment={"TZ": "America/New_York"})
    monitor.wait_ready()
    start_worker(project, timezone="Asia/Tokyo")
    task = wait_whole(monitor, project.send("add", 1, 2).id)
    assert abs(time.time() - task["received"]) < 300
    assert abs(task["received"] - task["sent"]) < 300


def test_the_broker_may_come_late_and_go(
    broker: Broker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    start_monitor: Callable[..., Monitor],
) -> None:
    broker.stop()
    monitor = start_monitor(broker.url)
    status, body = monitor.get("/readyz")
    assert status == 503
    assert "broker" in body["error"]["message"].lower()
    assert monitor.get("/healthcheck") == (200, "OK")
    assert monitor.get("/api/tasks") == (200, {})
    broker.start()
    monitor.wait_ready()
    project = new_project(broker, "none")
    worker = start_worker(project)
    first = wait_whole(monitor, project.send("add", 1, 2).id)
    worker.stop()
    broker.kill()
    monitor.wait_until(lambda: monitor.get("/readyz")[0] == 503, timeout=120, what="the loss of the broker shows")
    assert monitor.task(first["uuid"]) == first
    broker.start()
    monitor.wait_ready()
    start_worker(project)
    again = new_project(broker, "none")
    second = again.send("add", 3, 4, queue=project.queue)
    monitor.wait_for(second.id, "SUCCESS")
    assert monitor.task(first["uuid"]) == first
    assert monitor.metric("taskmon_broker_reconnects_total") >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_while_the_broker_hangs(
    number: signal.Signals, broker: Broker, start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(broker.url)
    monitor.wait_ready()
    broker.pause()
    monitor.signal_group(number)
    wait_until(lambda: not monitor.running, timeout=120, what="taskmon stops", detail=monitor.log_tail)
    assert "Stopped" in monitor.log_text()


def test_a_burst_loses_nothing(
    broker: Broker, new_project: Callable[..., Project], tmp_path: Path, start_monitor: Callable[..., Monitor]
) -> None:
    tasks = 8_000
    project = new_project(broker, "none")
    monitor = start_monitor(broker.url)
    monitor.wait_ready()
    with (
        project.app.connection_for_write() as connection,
        EventDispatcher(connection, hostname="w1@live", app=project.app, buffer_group={"task"}) as dispatcher,
    ):
        for number in range(tasks):
            dispatcher.send("task-received", uuid=f"burst-{number}", name="project.burst", args="()", kwargs="{}")
            dispatcher.send("task-started", uuid=f"burst-{number}")
            dispatcher.send("task-succeeded", uuid=f"burst-{number}", result="None", runtime=0.1)
            if number % 8 == 7:
                dispatcher.flush()
    monitor.wait_until(
        lambda: monitor.metric("taskmon_events_applied_total") >= 3 * tasks, timeout=120, what="all is applied"
    )
    assert monitor.metric("taskmon_events_applied_total") == 3 * tasks
    assert len(monitor.get("/api/tasks?state=SUCCESS")[1]) == tasks


def test_as_a_command_of_celery(
    redis_broker: Broker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    start_monitor: Callable[..., Monitor],
) -> None:
    project = new_project(redis_broker, "none")
    monitor = start_monitor(
        None,
        program=[sys.executable, "-m", "celery", "-A", "project", "taskmon"],
        environment=project.environment(),
    )
    monitor.wait_ready()
    start_worker(project)
    assert monitor.wait_for(project.send("add", 1, 2).id, "SUCCESS")["result"] == "3"
