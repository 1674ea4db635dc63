"""Tasks by what happened to them, and how long they waited for it."""

import re

import pytest
from factories import make_event
from scene import NOW, Scene, task

from taskmon.broker_status import BrokerStatus
from taskmon.metrics import Metrics
from taskmon.metrics.table import TASK_COUNTERS
from taskmon.monitor.state import State
from taskmon.receiving.intake import IntakeCounts


@pytest.mark.parametrize(("kind", "name"), TASK_COUNTERS.items())
def test_tasks_are_counted_by_what_happened(scene: Scene, kind: str, name: str) -> None:
    for queue in ("mail", "web", None):
        scene.see(kind, task(queue=queue))
    worker = "client" if kind == "task-sent" else "w1"
    assert scene.get(f"taskmon_{name}", worker=worker, task="app.add") == 3
    assert scene.get("taskmon_events_total", worker=worker, type=kind, task="app.add") == 3


def test_what_can_happen_at_a_worker_begins_at_zero(scene: Scene) -> None:
    scene.see("task-received", task())
    found = {name: scene.family(f"taskmon_{name}") for name in TASK_COUNTERS.values()}
    assert found.pop("task_sent_total") == {}
    assert found.pop("task_received_total") == {frozenset({"w1", "app.add"}): 1}
    assert all(samples == {frozenset({"w1", "app.add"}): 0} for samples in found.values())


def test_custom_events_and_clients_begin_nothing(scene: Scene) -> None:
    scene.see("task-sent", task())
    scene.see("task-progress", task())
    assert scene.family("taskmon_task_failed_total") == {}


@pytest.mark.parametrize(
    ("fields", "total"),
    [
        ({"sent": NOW - 4, "received": NOW}, 4.0),
        ({"sent": NOW - 4, "received": NOW, "eta": "2030-01-01T00:00:00"}, 4.0),
        ({"sent": NOW + 4, "received": NOW}, 0.0),
        ({"sent": None, "received": NOW}, None),
        ({"sent": NOW, "received": None}, None),
    ],
)
def test_time_in_the_queue(scene: Scene, fields: dict[str, object], total: float | None) -> None:
    scene.see("task-received", task(queue="mail", **fields))
    labels = {"task": "app.add", "queue": "mail"}
    assert scene.get("taskmon_task_sent_to_received_seconds_sum", **labels) == total
    assert scene.get("taskmon_task_sent_to_received_seconds_count", **labels) == (None if total is None else 1)


def test_time_in_the_queue_is_that_of_all_workers(scene: Scene) -> None:
    for hostname, age in (("w1", 0.02), ("w2", 7.0), ("w2", 4000.0)):
        scene.see("task-received", task(queue="mail", sent=NOW - age, received=NOW), hostname)
    labels = {"task": "app.add", "queue": "mail"}
    counts = [
        scene.get("taskmon_task_sent_to_received_seconds_bucket", le=le, **labels)
        for le in ("0.01", "0.05", "5.0", "10.0", "3600.0", "+Inf")
    ]
    assert counts == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("fields", "total"),
    [
        ({"received": 10.0, "started": 12.5}, 2.5),
        ({"received": 12.0, "started": 11.0}, 0.0),
        ({"received": 10.0, "started": 12.5, "eta": "2030-01-01T00:00:00"}, None),
        ({"received": None, "started": 12.5}, None),
        ({"received": 10.0, "started": None}, None),
    ],
)
def test_time_in_the_worker(scene: Scene, fields: dict[str, object], total: float | None) -> None:
    scene.see("task-started", task(**fields))
    labels = {"worker": "w1", "task": "app.add"}
    assert scene.get("taskmon_task_received_to_started_seconds_sum", **labels) == total
    assert scene.get("taskmon_task_received_to_started_seconds_count", **labels) == (None if total is None else 1)


def test_runtimes_are_added_up_over_queues(scene: Scene) -> None:
    for queue in ("mail", "web"):
        scene.see("task-succeeded", task(queue=queue), runtime=0.5)
    assert scene.get("taskmon_task_runtime_seconds_count", worker="w1", task="app.add") == 2
    assert scene.get("taskmon_task_runtime_seconds_sum", worker="w1", task="app.add") == 1.0


@pytest.mark.parametrize(
    ("types", "failures"),
    [
        (("failed",), 1),
        (("failed", "failed"), 1),  # as Celery tells of a hard time limit
        (("failed", "failed", "failed"), 1),
        (("failed", "retried", "failed"), 2),
        (("failed", "retried", "received", "started", "failed", "failed"), 2),
        (("retried", "failed", "failed"), 1),
        (("failed", "succeeded", "failed"), 2),
    ],
)
def test_a_task_counts_once_as_failed_unless_it_was_retried(types: tuple[str, ...], failures: int) -> None:
    state = State()
    metrics = Metrics("taskmon", (1.0,), state, BrokerStatus(), IntakeCounts(), celery_exporter=True)
    state.subscribe(metrics.observe)
    events = [make_event(type, name="add", exception="E()") for type in types]
    for batch in (events[:1], events[1:]):
        state.apply(batch)
    restored = Metrics("taskmon", (1.0,), state, BrokerStatus(), IntakeCounts(), celery_exporter=True)
    restored.restore(metrics.save(), [])
    for one in (metrics, restored):
        text = one.render().decode()
        assert f'taskmon_task_failed_total{{task="add",worker="celery@one"}} {failures}\n' in text
        assert f'queue_name="celery",exception="E"}} {failures}\n' in text
        sent = types.count("failed")
        assert re.search(rf'taskmon_events_total{{.*"task-failed".*}} {sent}(\.0)?\n', text)
