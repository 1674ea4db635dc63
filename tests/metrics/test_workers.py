"""Workers: what they can run, when they were last heard of, and how it is without their label."""

import pytest
from scene import NOW, Scene, task

from taskmon.metrics import event_counters


def test_pool_sizes_of_the_workers_that_have_been_asked(scene: Scene) -> None:
    scene.add_worker("w1", 1, 8)
    scene.add_worker("w2", 60, 4)
    scene.add_worker("w3", 1)
    scene.add_worker("w4", 1, None, "mail")
    assert scene.family("taskmon_worker_pool_size") == {frozenset({"w1"}): 8, frozenset({"w2"}): 0}


def test_pool_sizes_are_not_known_without_anybody_who_asks() -> None:
    scene = Scene(inspector=None, queues=None)
    scene.add_worker("w1", 1, 8)
    for name in ("taskmon_worker_pool_size", "taskmon_queue_length"):
        assert scene.family(name) == {}


def test_the_age_of_heartbeats(scene: Scene) -> None:
    scene.add_worker("w1", 1.5)
    scene.add_worker("w2", -3.0)
    assert scene.family("taskmon_worker_heartbeat_age_seconds") == {frozenset({"w1"}): 1.5, frozenset({"w2"}): 0.0}


def test_workers_that_share_a_label_have_the_longest_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "MAX_WORKERS", 1)
    scene = Scene()
    for age, hostname in enumerate(("w1", "w2", "w3")):
        scene.add_worker(hostname, age, 2)
    assert scene.get("taskmon_worker_heartbeat_age_seconds", worker="other") == 2
    assert scene.get("taskmon_worker_pool_size", worker="other") == 4


@pytest.mark.parametrize("prefix", ["taskmon", "flower"])
def test_without_its_label_no_worker_is_named_anywhere(prefix: str) -> None:
    scene = Scene(prefix, worker_label=False, celery_exporter=True)
    for hostname in ("celery@w1", "celery@w2"):
        scene.add_worker(hostname, 1, 4, "mail").active = 3
        scene.state.prefetched[hostname, "app.add"] = 2
        seen = task(sent=NOW - 2, received=NOW - 1, started=NOW, queue="mail")
        for kind in ("task-received", "task-started", "task-failed"):
            scene.see(kind, seen, hostname)
        scene.see("task-succeeded", seen, hostname, runtime=1.0)
        scene.see("order-shipped", None, hostname)
    scene.send("a")
    scene.state.workers["celery@w3"] = scene.add_worker("celery@w3", 100)
    text = scene.metrics.render()
    assert b"celery@" not in text
    assert b"worker=" not in text
    assert b"hostname=" not in text
    assert scene.get(f"{prefix}_events_total", type="task-received", task="app.add") == 2
    assert scene.get(f"{prefix}_events_total", type="task-sent", task="app.add") == 1
    assert scene.get(f"{prefix}_task_runtime_seconds_count", task="app.add") == 2
    assert scene.get(f"{prefix}_worker_prefetched_tasks", task="app.add") == 4
    assert scene.get(f"{prefix}_worker_online") == 2
    assert scene.get(f"{prefix}_worker_number_of_currently_executing_tasks") == 6
    assert scene.get("taskmon_worker_pool_size") == 8
    assert scene.get("taskmon_worker_heartbeat_age_seconds") == 100
    assert scene.get("celery_worker_up") == 1
    assert scene.get("celery_worker_tasks_active") == 6
    assert scene.get("celery_task_succeeded_total", name="app.add", queue_name="mail") == 2


def test_without_its_label_the_counts_of_a_purged_worker_stay() -> None:
    scene = Scene(worker_label=False)
    scene.see("task-received", task(), "w1")
    scene.metrics.remove_worker("w1")
    assert scene.get("taskmon_task_received_total", task="app.add") == 1
