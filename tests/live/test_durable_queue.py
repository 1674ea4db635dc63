"""A named queue on RabbitMQ keeps events while taskmon is down, and has one reader."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import RabbitBroker
from monitor import Monitor
from processes import wait_until
from workers import Project


@pytest.fixture
def watch(rabbitmq_broker: RabbitBroker, tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of taskmons, started, with these options."""
    monitors: list[Monitor] = []

    def start(*options: str) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitors.append(Monitor(directory, rabbitmq_broker.url, options=options))
        monitors[-1].start()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def test_a_durable_queue_keeps_what_happens_while_taskmon_is_down(
    rabbitmq_broker: RabbitBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[..., Monitor],
) -> None:
    project = new_project(rabbitmq_broker, "rpc")
    queue = f"{project.queue}.events"
    first = watch("--durable-queue", queue)
    first.wait_ready()
    start_worker(project)
    first.wait_for(project.send("add", 1, 2).id, "SUCCESS")

    # A second reader would take a half of the events: it waits, and is there when the first one is gone.
    second = watch("--durable-queue", queue, "--event-queue-max-length", "500000")
    second.wait_until(
        lambda: f"another reads from the queue {queue}" in second.log_text(),
        timeout=120,
        what="the second one says why it waits",
    )
    assert second.get("/readyz")[0] == 503
    second.stop()

    first.stop()
    missed = [project.send("add", number, 1) for number in range(30)]
    assert [task.get(timeout=120) for task in missed] == [number + 1 for number in range(30)]
    first.start()
    first.wait_until(
        lambda: len(first.get("/api/tasks?taskname=project.add&state=SUCCESS")[1]) == len(missed),
        timeout=120,
        what="all that happened meanwhile is there",
    )
    assert {task.id for task in missed} == set(first.get("/api/tasks")[1])
    later = first.wait_for(project.send("add", 5, 6).id, "SUCCESS")
    assert later["result"] == "11"

    # Killed, it has acknowledged nothing that it had not taken in.
    first.kill()
    missed = [project.send("add", number, 2) for number in range(10)]
    assert [task.get(timeout=120) for task in missed] == [number + 2 for number in range(10)]
    first.start()
    first.wait_until(
        lambda: {task.id for task in missed} <= set(first.get("/api/tasks?state=SUCCESS")[1]),
        timeout=120,  # RabbitMQ may not have noticed yet that the first reader is gone
        what="all that happened meanwhile is there again",
    )

    with project.app.connection_for_write() as connection:
        channel = connection.default_channel
        wait_until(lambda: not channel.queue_declare(queue, passive=True)[1], timeout=120, what="all is taken")
        first.stop()
        wait_until(lambda: not channel.queue_declare(queue, passive=True)[2], timeout=120, what="nobody reads it")
        second.start()
        second.wait_ready()
        assert "was made with other settings, and is used as it is" in second.log_text()
        second.stop()
        wait_until(lambda: not channel.queue_declare(queue, passive=True)[2], timeout=120, what="nobody reads it")
        channel.queue_delete(queue)


def test_tasks_of_a_worker_that_sent_no_events_meanwhile(
    rabbitmq_broker: RabbitBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[..., Monitor],
) -> None:
    project = new_project(rabbitmq_broker, "rpc")
    queue = f"{project.queue}.events"
    monitor = watch("--durable-queue", queue)
    monitor.wait_ready()
    monitor.stop()
    start_worker(project, events=False)
    silent = [project.send("add", number, 1) for number in range(3)]
    assert [task.get(timeout=120) for task in silent] == [1, 2, 3]
    monitor.start()
    monitor.wait_ready()
    monitor.wait_until(
        lambda: [monitor.task(task.id).get("state") for task in silent] == ["PENDING"] * 3,
        timeout=120,
        what="the queue has kept that they were sent",
    )

    def find() -> dict[str, Any]:
        """Send one more, to which taskmon asked the worker for events, and look for the finding."""
        project.send("add", 1, 1).get(timeout=120)
        findings = monitor.get("/api/diagnostics")[1]["findings"]
        return next((one for one in findings if one["code"] == "tasks-overtaken"), {})

    monitor.wait_until(find, timeout=120, what="taskmon says that they were never received")
    found = find()
    assert (found["count"], found["tasks"], found["setting"]) == (3, ["project.add"], "worker_send_task_events")
    assert "without -E" in found["causes"][0]
    assert "tasks-overtaken: " in monitor.log_text()
    monitor.stop()
    with project.app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)


@pytest.mark.parametrize("consumed", [False, True])
def test_a_queue_of_tasks_is_refused(
    rabbitmq_broker: RabbitBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[..., Monitor],
    consumed: bool,
) -> None:
    project = new_project(rabbitmq_broker, "rpc")
    if consumed:
        start_worker(project)
        assert project.send("add", 1, 2).get(timeout=120) == 3
        says = f"another reads from the queue {project.queue}"
    else:
        waiting = project.send("add", 1, 2)
        says = "the durable queue is one of tasks"
    monitor = watch("--durable-queue", project.queue)
    monitor.wait_until(lambda: says in monitor.log_text(), timeout=120, what="taskmon refuses the queue")
    monitor.stop()
    bindings = rabbitmq_broker.control("list_bindings", "source_name", "destination_name", "--quiet")
    assert not [line for line in bindings.splitlines() if "celeryev" in line and project.queue in line]
    if not consumed:
        start_worker(project)
        assert waiting.get(timeout=120) == 3
