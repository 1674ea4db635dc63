"""Why no events come, with real workers: the finding says what is so, and no more."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RabbitBroker, RedisBroker
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project


@pytest.fixture
def start_monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of running taskmons that are connected."""
    monitors: list[Monitor] = []

    def start(broker_url: str, *options: str) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitors.append(Monitor(directory, broker_url, options=options))
        monitors[-1].start()
        monitors[-1].wait_ready()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def find(monitor: Monitor, code: str) -> dict[str, Any]:
    """Return a finding, an empty one where there is none."""
    findings = monitor.get("/api/diagnostics")[1]["findings"]
    return next((one for one in findings if one["code"] == code), {})


def test_only_a_worker_that_sends_no_task_events_is_said_to(
    broker: Broker, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    """Also once workers were asked for a heartbeat, which says nothing of the tasks they have run."""
    project = Project(broker.url, None)
    other = Project(broker.url, None)
    try:
        start_worker(project, name="tells")
        silent = start_worker(other, name="silent", events=False)
        project.send("add", 1, 2)
        monitor = start_monitor(broker.url, "--no-enable-events")

        def is_found() -> bool:
            for one in (project, other):
                one.app.control.broadcast("heartbeat")
                one.send("add", 1, 2)
            return bool(find(monitor, "task-events-off"))

        wait_until(is_found, timeout=PATIENCE, what="a worker sends no events of tasks", detail=monitor.log_tail)
        found = find(monitor, "task-events-off")
        assert found["workers"] == [silent.hostname]
        assert "--no-enable-events" in found["causes"][0]
        assert "no-worker-heard" not in monitor.log_text()
    finally:
        project.close()
        other.close()


def test_another_exchange(
    rabbitmq_broker: RabbitBroker, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    project = Project(rabbitmq_broker.url, None, settings={"event_exchange": "shop-events"})
    try:
        worker = start_worker(project)
        monitor = start_monitor(rabbitmq_broker.url)
        wait_until(
            lambda: find(monitor, "no-worker-heard").get("workers") == [worker.hostname],
            timeout=PATIENCE,
            what="the worker says why",
            detail=monitor.log_tail,
        )
        found = find(monitor, "no-worker-heard")
        assert found["setting"] == "event_exchange"
        assert "exchange shop-events" in found["message"]
        assert "task-events-off" not in monitor.log_text()
    finally:
        project.close()


def test_a_worker_that_comes_back_with_another_exchange(
    broker: Broker, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    """Also while another is heard: the findings about silence are not of the first minute alone."""
    before = Project(broker.url, None)
    after = Project(broker.url, None, settings={"event_exchange": "shop-events"})
    try:
        monitor = start_monitor(broker.url)
        start_worker(before, name="stays")
        worker = start_worker(before, name="changes")
        wait_until(
            lambda: {"stays", "changes"} <= {name.partition("@")[0] for name in monitor.get("/api/workers")[1]},
            timeout=PATIENCE,
            what="both are heard",
        )
        worker.stop()
        start_worker(after, name="changes")
        wait_until(
            lambda: find(monitor, "worker-unheard").get("setting") == "event_exchange",
            timeout=PATIENCE,
            what="the worker says why",
            detail=monitor.log_tail,
        )
        found = find(monitor, "worker-unheard")
        assert found["workers"] == [worker.hostname]
        assert "exchange shop-events" in found["message"]
    finally:
        before.close()
        after.close()


def test_a_serializer_that_is_not_accepted(
    redis_broker: RedisBroker, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    project = Project(redis_broker.url, None, settings={"event_serializer": "pickle"})
    try:
        worker = start_worker(project)
        monitor = start_monitor(redis_broker.url)
        wait_until(
            lambda: find(monitor, "no-worker-heard").get("workers") == [worker.hostname],
            timeout=PATIENCE,
            what="the worker answers",
            detail=monitor.log_tail,
        )
        found = find(monitor, "no-worker-heard")
        assert "event_serializer" in found["causes"][0]
        assert "task-events-off" not in monitor.log_text()
    finally:
        project.close()
