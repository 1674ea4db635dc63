"""Messages that workers hold, as RabbitMQ's management plugin counts them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import ManagedRabbitBroker
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project


@pytest.fixture
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedRabbitBroker]:
    if missing := ManagedRabbitBroker.missing():
        pytest.skip(missing)
    broker = ManagedRabbitBroker(tmp_path_factory.mktemp("managed"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def length(monitor: Monitor, queue: str) -> dict[str, Any]:
    status, body = monitor.get("/api/queues/length")
    assert status == 200, body
    return {one["name"]: one for one in body["active_queues"]}[queue]  # type: ignore[no-any-return]


def test_messages_that_workers_hold(
    managed: ManagedRabbitBroker, new_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = new_project(managed, "none")
    wrong = managed.api.replace("guest:guest", "guest:hunter2")
    urls = {"asks": managed.api, "second": f"{wrong};{managed.api}", "refused": wrong, "not": None}
    monitors = {}
    with project.app.connection_for_write() as connection:
        for _ in range(3):
            project.send("add", 1, 2)
        channel = connection.default_channel
        try:
            for name, url in urls.items():
                (tmp_path / name).mkdir()
                options = ["--queues", project.queue, *(["--broker-api", url] if url else [])]
                monitors[name] = Monitor(tmp_path / name, project.broker_url, options=options)
                monitors[name].start()
                monitors[name].wait_ready()
            assert channel.basic_get(project.queue) is not None
            for name, held in {"asks": 1, "second": 1, "refused": None, "not": None}.items():
                expected = {"messages_ready": 2, "messages_unacknowledged": held, "messages": 2 + (held or 0)}
                wait_until(
                    lambda name=name, expected=expected: (
                        expected.items() <= length(monitors[name], project.queue).items()
                    ),
                    timeout=PATIENCE,
                    what=f"{name} counts {expected}",
                )
            log = monitors["refused"].log_text()
            assert log.count("management API") == 1
            assert "hunter2" not in log
        finally:
            for monitor in monitors.values():
                monitor.kill()
