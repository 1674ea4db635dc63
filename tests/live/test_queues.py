"""Lengths of queues on real brokers: what is known, what is not, and which queues stay known."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RabbitBroker, RedisBroker
from celery.events import EventDispatcher
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project


@pytest.fixture
def start_monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of running taskmons that are connected."""
    monitors: list[Monitor] = []

    def start(broker_url: str | None, **settings: Any) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitors.append(Monitor(directory, broker_url, **settings))
        monitors[-1].start()
        monitors[-1].wait_ready()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def lengths(monitor: Monitor) -> dict[str, dict[str, Any]]:
    status, body = monitor.get("/api/queues/length")
    assert status == 200, body
    return {queue["name"]: queue for queue in body["active_queues"]}


def has_metric(monitor: Monitor, name: str, queue: str) -> bool:
    """Whether there is such a metric of a queue, once the queues have been asked about."""
    label = f'{{queue="{queue}"}}'

    def text() -> str:
        return str(monitor.get("/metrics")[1])

    wait_until(lambda: f"taskmon_queue_consumers{label}" in text(), timeout=PATIENCE, what="queues were asked")
    return f"taskmon_queue_{name}{label}" in text()


def test_with_a_prefix_of_keys(
    redis_broker: RedisBroker, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    project = Project(
        redis_broker.url, redis_broker.url, settings={"broker_transport_options": {"global_keyprefix": "shop:"}}
    )
    try:
        options = ["--orphan-after", "2"]
        knows = start_monitor(None, options=["-A", "project:app", *options], environment=project.environment())
        by_url = start_monitor(project.broker_url, options=["--queues", project.queue, *options])
        sent = [project.send("add", 1, 2, priority=priority) for priority in (0, 3, 5, 9)]
        knows.wait_for(sent[0].id, "PENDING")
        wait_until(
            lambda: lengths(knows)[project.queue]["messages"] == 4,
            timeout=PATIENCE,
            what="the messages of all priorities are counted",
            detail=lambda: str(lengths(knows)),
        )
        assert lengths(knows)[project.queue]["consumers"] == 0
        unknown = lengths(by_url)[project.queue]
        assert unknown["messages"] is None
        assert "global_keyprefix" in unknown["reason"]
        assert has_metric(knows, "length", project.queue)
        assert not has_metric(by_url, "length", project.queue)
        with project.app.connection_for_write() as connection:
            events = EventDispatcher(connection, app=project.app, hostname="gone@host")
            events.send("task-started", uuid="ghost")
            events.close()
        wait_until(
            lambda: knows.task("ghost").get("orphaned"), timeout=PATIENCE, what="tasks unheard of are asked about"
        )
        assert not any(knows.task(one.id)["orphaned"] for one in sent)
        start_worker(project)
        knows.wait_for(sent[3].id, "SUCCESS")
        wait_until(
            lambda: (lengths(knows)[project.queue]["messages"], lengths(knows)[project.queue]["consumers"]) == (0, 1),
            timeout=PATIENCE,
            what="the worker says that it consumes",
        )
        assert not any(knows.task(one.id)["orphaned"] for one in sent)
        wait_until(lambda: "no-worker-heard" in by_url.log_text(), timeout=PATIENCE, what="it hears no worker")
        assert "global_keyprefix" in by_url.log_text()
        assert "no-worker-heard" not in knows.log_text()
    finally:
        project.close()


def test_messages_of_a_queue_whose_last_worker_is_gone(
    project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor], tmp_path: Path
) -> None:
    history = f"sqlite:///{tmp_path}/history.sqlite3"
    monitor = start_monitor(project.broker_url, options=["--purge-offline-workers", "1", "--history", history])
    worker = start_worker(project)
    wait_until(
        lambda: lengths(monitor).get(project.queue, {}).get("consumers") == 1, timeout=PATIENCE, what="it consumes"
    )
    worker.stop()
    for _ in range(3):  # without task-sent, so that nothing but the worker has named the queue
        project.app.send_task("project.add", (1, 2), queue=project.queue, task_send_sent_event=False)
    wait_until(lambda: monitor.get("/api/workers") == (200, {}), timeout=PATIENCE, what="the worker is purged")
    found = lengths(monitor)[project.queue]
    assert (found["messages"], found["consumers"]) == (3, 0)
    line = f'taskmon_queue_length{{queue="{project.queue}"}} 3'
    wait_until(lambda: line in monitor.get("/metrics")[1], timeout=PATIENCE, what="the metrics say so")
    monitor.stop()
    later = start_monitor(project.broker_url, options=["--history", history])
    assert lengths(later)[project.queue]["messages"] == 3


def test_a_queue_that_nobody_has_used(broker: Broker, start_monitor: Callable[..., Monitor]) -> None:
    """RabbitMQ knows that there is none; in Redis nothing says so."""
    monitor = start_monitor(broker.url, options=["--queues", "never-used"])
    assert lengths(monitor)["never-used"]["messages"] == (0 if isinstance(broker, RabbitBroker) else None)


def test_a_queue_that_only_its_owner_may_look_at(
    rabbitmq_broker: RabbitBroker, start_monitor: Callable[..., Monitor]
) -> None:
    project = Project(rabbitmq_broker.url, None)
    monitor = start_monitor(rabbitmq_broker.url, options=["--queues", f"{project.queue},gone"])
    try:
        with project.app.connection_for_write() as connection:
            connection.default_channel.queue_declare(queue=project.queue, exclusive=True)
            found = lengths(monitor)
        assert (found[project.queue]["messages"], found["gone"]["messages"]) == (None, 0)
        assert found[project.queue]["reason"]
    finally:
        project.close()
