"""Events as real workers send them where they are not quite what they should be: twice, without knowing, or odd."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RedisBroker
from celery.events import EventDispatcher
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project


@pytest.fixture
def monitor(broker: Broker, tmp_path: Path) -> Iterator[Monitor]:
    started = Monitor(tmp_path, broker.url)
    started.start()
    started.wait_ready()
    yield started
    started.kill()


def sum_metric(monitor: Monitor, name: str, *labels: str) -> float:
    """Add up the samples of a metric that have these labels."""
    lines = monitor.get("/metrics")[1].splitlines()
    found = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_a_hard_time_limit_is_one_failure(
    project: Project, start_worker: Callable[..., Any], monitor: Monitor
) -> None:
    start_worker(project, pool="prefork")
    task = project.send("sleep", 600, time_limit=1)
    monitor.wait_for(task.id, "FAILURE")
    after = project.send("add", 2, 3)  # runs in the process that takes the place of the one that was killed
    monitor.wait_for(after.id, "SUCCESS")
    assert sum_metric(monitor, "taskmon_task_failed_total", "project.sleep") == 1
    assert sum_metric(monitor, "taskmon_events_total", "project.sleep", "task-failed") >= 1


def test_a_retry_keeps_its_parent(
    project: Project, start_worker: Callable[..., Any], monitor: Monitor, tmp_path: Path
) -> None:
    start_worker(project)
    task = project.send("retry_then_succeed", 1, str(tmp_path / "go"))
    wait_until(lambda: monitor.task(task.id).get("sent"), timeout=PATIENCE, what="the client has told of it")
    (tmp_path / "go").touch()
    monitor.wait_for(task.id, "SUCCESS")
    info = monitor.task(task.id)
    assert (info["retries"], info["parent_id"], info["children"]) == (1, None, [])


def test_arguments_of_the_old_protocol(
    broker: Broker, new_project: Callable[..., Project], start_worker: Callable[..., Any], monitor: Monitor
) -> None:
    project = new_project(broker, task_protocol=1)
    start_worker(project)
    task = project.send("add", 2, 3)
    monitor.wait_for(task.id, "SUCCESS")
    wait_until(lambda: monitor.task(task.id)["sent"], timeout=PATIENCE, what="it is told when it was sent")
    info = monitor.task(task.id)
    assert (info["name"], info["args"], info["kwargs"]) == ("project.add", "(2, 3)", "{}")
    assert info["incomplete"] == []


def test_rejected_tasks(project: Project, start_worker: Callable[..., Any], monitor: Monitor, tmp_path: Path) -> None:
    start_worker(project)
    dropped, put_back = project.send("reject"), project.send("put_back", str(tmp_path / "put-back"))
    info = monitor.wait_for(put_back.id, "SUCCESS")
    assert info["rejected"] is not None
    wait_until(lambda: monitor.task(dropped.id)["rejected"], timeout=PATIENCE, what="it is rejected")
    # Since Celery 5.7 such a task fails as well.
    assert monitor.task(dropped.id)["state"] in ("REJECTED", "FAILURE")


def test_two_workers_of_one_name(
    redis_broker: RedisBroker, new_project: Callable[..., Project], start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    project = new_project(redis_broker)
    monitor = Monitor(tmp_path, project.broker_url)
    try:
        monitor.start()
        monitor.wait_ready()
        first, second = (start_worker(project, name="twin") for _ in range(2))

        def find() -> list[dict[str, Any]]:
            findings = monitor.get("/api/diagnostics")[1]["findings"]
            return [finding for finding in findings if finding["code"] == "hostname-shared"]

        wait_until(find, timeout=PATIENCE, what="the name is found to be shared", detail=monitor.log_tail)
        (found,) = find()
        assert found["workers"] == [first.hostname]
        assert all(str(one.pid) in found["message"] for one in (first, second))
    finally:
        monitor.kill()


def test_odd_events_of_another_sender(project: Project, monitor: Monitor) -> None:
    with project.app.connection_for_write() as connection:
        dispatcher = EventDispatcher(connection, hostname="other@sender", app=project.app)
        dispatcher.send("worker-heartbeat", freq=1e15, active="1", processed=2.0, loadavg="high")
        dispatcher.send("task-received", uuid="odd", name="tasks.add", args="(1,)", kwargs="{}", retries=1.0, eta=[1])
        dispatcher.send("task-started", uuid="odd", retries=None, queue={})
        info = monitor.wait_for("odd", "STARTED")
        assert (info["name"], info["args"], info["retries"], info["eta"]) == ("tasks.add", "(1,)", 1, None)
        assert info["incomplete"] == ["eta", "queue"]
        dispatcher.close()
    heartbeat = monitor.get("/api/workers")[1]["other@sender"]["heartbeat"]
    assert (heartbeat["active"], heartbeat["processed"], heartbeat["loadavg"]) == (1, 2, None)
    wait_until(
        lambda: monitor.get("/api/workers")[1]["other@sender"]["status"] != "online",
        timeout=PATIENCE,
        what="a worker that is gone is not online",
    )
    for field in ("freq", "loadavg", "eta", "queue"):
        assert sum_metric(monitor, "taskmon_event_fields_omitted_total", f'field="{field}"') == 1
