"""Tasks whose end was missed, with real workers: killed in mid-task, silent about what they did, or just slow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RabbitBroker, RedisBroker
from celery.events import EventDispatcher
from databases import PostgresServer
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project

ORPHAN_AFTER = 2.0


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[[Project], Monitor]]:
    """A factory of taskmons that reconcile soon, and leave it to the workers whether they send events."""
    monitors: list[Monitor] = []

    def start(project: Project) -> Monitor:
        options = ["--orphan-after", f"{ORPHAN_AFTER:g}", "--no-enable-events", "--inspect-timeout", "5000"]
        if project.result_backend:
            options += ["--result-backend", project.result_backend]
        monitors.append(Monitor(tmp_path, project.broker_url, options=options))
        monitors[-1].start()
        monitors[-1].wait_ready()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def wait_for_task(monitor: Monitor, task_id: str, **fields: Any) -> dict[str, Any]:
    """Wait until a task object has these fields; give it."""
    wait_until(
        lambda: fields.items() <= monitor.task(task_id).items(),
        timeout=120,
        what=f"{task_id} has {fields}",
        detail=lambda: f"{monitor.task(task_id)}\n{monitor.log_tail()}",
    )
    return monitor.task(task_id)


def outcome(monitor: Monitor, name: str) -> float:
    return monitor.metric(rf'taskmon_tasks_reconciled_total\{{outcome="{name}"\}}')


def test_what_became_of_tasks_whose_end_was_missed(
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[[Project], Monitor],
    tmp_path: Path,
) -> None:
    project = new_project(redis_broker)
    monitor = watch(project)
    killed = start_worker(project, pool="prefork", name="killed")
    lost = project.send("sleep", 600)
    monitor.wait_for(lost.id, "STARTED")
    killed.kill()
    silent = start_worker(project, pool="threads", concurrency=4, name="silent", events=False)
    project.app.control.enable_events(destination=[silent.hostname], reply=True)  # it could not be disabled otherwise
    slow = project.send("wait", str(tmp_path / "slow"))
    monitor.wait_for(slow.id, "STARTED")

    # Its end is told by nobody: the worker has been asked to keep its events to itself.
    missed = project.send("wait", str(tmp_path / "missed"))
    monitor.wait_for(missed.id, "STARTED")
    project.app.control.disable_events(destination=[silent.hostname], reply=True)
    (tmp_path / "missed").touch()
    unseen, failed = project.send("add", 2, 3), project.send("fail", "no stock")

    task = wait_for_task(monitor, lost.id, orphaned=True)
    assert (task["state"], task["source"], task["worker"]) == ("STARTED", "events", killed.hostname)
    task = wait_for_task(monitor, missed.id, state="SUCCESS")
    assert (task["source"], task["orphaned"], task["result"]) == ("result backend", False, "None")
    assert task["started"] <= task["succeeded"] == task["timestamp"]
    task = wait_for_task(monitor, unseen.id, state="SUCCESS")
    assert (task["source"], task["result"], task["worker"]) == ("result backend", "5", None)
    assert wait_for_task(monitor, failed.id, state="FAILURE")["exception"] == "ValueError('no stock')"
    # A worker that is slow to say what it has may have been given up meanwhile, until it says so.
    wait_until(
        lambda: list(monitor.get("/api/tasks?orphaned=true")[1]) == [lost.id], timeout=120, what="only one is lost"
    )
    wait_until(lambda: monitor.metric("taskmon_tasks_orphaned") == 1, timeout=120, what="that is counted")
    assert outcome(monitor, "orphaned") >= 1
    assert outcome(monitor, "settled") >= 2

    # A task that is only slow is left alone, and a late event wins.
    (tmp_path / "slow").touch()
    task = wait_for_task(monitor, slow.id, state="SUCCESS")
    assert task["orphaned"] is False
    with project.app.connection_for_write() as connection:
        late = EventDispatcher(connection, hostname=silent.hostname, app=project.app)
        late.send("task-succeeded", uuid=missed.id, result="'late'", runtime=1.25)
        late.send("task-failed", uuid=lost.id, exception="E()", traceback="at")
    task = wait_for_task(monitor, missed.id, source="events")
    assert (task["state"], task["result"], task["runtime"]) == ("SUCCESS", "'late'", 1.25)
    assert wait_for_task(monitor, lost.id, state="FAILURE")["orphaned"] is False
    assert monitor.metric("taskmon_tasks_orphaned") == 0


def test_results_in_a_database(
    rabbitmq_broker: RabbitBroker,
    postgres: PostgresServer,
    start_worker: Callable[..., Any],
    watch: Callable[[Project], Monitor],
    tmp_path: Path,
) -> None:
    url = "db+" + postgres.url("results").replace("postgresql:", "postgresql+psycopg:")
    project = Project(rabbitmq_broker.url, url)
    try:
        monitor = watch(project)
        worker = start_worker(project, pool="threads", concurrency=2, events=False)
        project.app.control.enable_events(destination=[worker.hostname], reply=True)
        missed = project.send("wait", str(tmp_path / "missed"))
        monitor.wait_for(missed.id, "STARTED")
        path = f"/api/task/result/{missed.id}"
        wait_until(lambda: monitor.get(path)[1]["state"] == "STARTED", timeout=PATIENCE, what="its row is there")
        project.app.control.disable_events(destination=[worker.hostname], reply=True)
        (tmp_path / "missed").touch()
        failed, lost = project.send("fail", "no ☃"), project.send("sleep", 600)
        task = wait_for_task(monitor, missed.id, state="SUCCESS")
        assert (task["source"], task["result"]) == ("result backend", "None")
        assert task["started"] <= task["succeeded"] < task["started"] + PATIENCE
        assert wait_for_task(monitor, failed.id, state="FAILURE")["exception"] == "ValueError('no ☃')"
        worker.kill()
        wait_for_task(monitor, lost.id, orphaned=True)
        postgres.stop()
        status, body = monitor.get(path)
        assert (status, "The result backend is unavailable" in body["error"]["message"]) == (503, True)
        postgres.start()
        status, body = monitor.get(f"/api/task/result/{failed.id}")
        assert (status, body["state"], body["result"]) == (200, "FAILURE", "ValueError('no ☃')")
    finally:
        project.close()


def test_a_task_that_waits_for_a_worker_is_no_orphan(
    rabbitmq_broker: RabbitBroker,
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[[Project], Monitor],
) -> None:
    project = new_project(rabbitmq_broker, "redis", redis_broker)
    monitor = watch(project)
    worker = start_worker(project, pool="prefork", options=["--prefetch-multiplier", "2"])
    running, prefetched, _, waiting = (project.send("sleep", 600) for _ in range(4))
    monitor.wait_for(running.id, "STARTED")
    monitor.wait_for(prefetched.id, "RECEIVED")
    monitor.wait_for(waiting.id, "PENDING")
    worker.kill()
    wait_for_task(monitor, running.id, orphaned=True)
    assert [monitor.task(task.id)["orphaned"] for task in (prefetched, waiting)] == [False, False]
    assert monitor.post(f"/api/task/retry/{prefetched.id}")[0] == 409
    status, body = monitor.post(f"/api/task/retry/{running.id}")
    assert (status, monitor.task(running.id)["retried_as"]) == (200, body["task-id"])
    assert monitor.post(f"/api/task/retry/{running.id}")[0] == 409

    def all_are_lost() -> bool:
        project.app.control.purge()
        return len(monitor.get("/api/tasks?orphaned=1")[1]) == 4

    wait_until(all_are_lost, timeout=120, what="without their messages all are lost", detail=monitor.log_tail)


def test_without_a_result_backend_the_workers_tell_who_is_lost(
    broker: Broker, start_worker: Callable[..., Any], watch: Callable[[Project], Monitor], tmp_path: Path
) -> None:
    project = Project(broker.url, None)
    try:
        monitor = watch(project)
        assert "no-result-backend" in monitor.log_text()
        options = {"pool": "prefork", "events": True}
        killed = start_worker(project, name="killed", **options)
        lost = project.send("sleep", 600)
        monitor.wait_for(lost.id, "STARTED")
        killed.kill()
        other = start_worker(project, name="other", **options)
        slow = project.send("wait", str(tmp_path / "slow"))
        monitor.wait_for(slow.id, "STARTED")
        wait_for_task(monitor, lost.id, orphaned=True, state="STARTED")
        wait_until(lambda: outcome(monitor, "orphaned") >= 1, timeout=PATIENCE, what="it is counted")
        assert monitor.task(slow.id)["orphaned"] is False, other.log_tail()
        (tmp_path / "slow").touch()
        monitor.wait_for(slow.id, "SUCCESS")
    finally:
        project.close()
