"""The metrics of celery-exporter, with its names and labels."""

import pytest
from scene import NOW, Scene, task

from taskmon.metrics.table import TASK_COUNTERS
from taskmon.records import Worker


@pytest.fixture
def scene() -> Scene:
    return Scene(celery_exporter=True)


def test_they_are_there_only_when_they_are_asked_for() -> None:
    plain = Scene()
    plain.see("task-received", task())
    assert b"celery_" not in plain.metrics.render()


def test_the_prefix_does_not_touch_them() -> None:
    scene = Scene("flower", celery_exporter=True)
    scene.add_worker("celery@web1")
    assert scene.get("celery_worker_up", hostname="web1") == 1


@pytest.mark.parametrize("kind", [kind for kind in TASK_COUNTERS if kind not in ("task-sent", "task-failed")])
def test_tasks_are_counted_by_name_host_and_queue(scene: Scene, kind: str) -> None:
    name = f"celery_{TASK_COUNTERS[kind]}"
    for hostname in ("a@web1", "b@web1", "a@web2", "bare"):
        scene.see(kind, task(queue="mail"), hostname)
    scene.see(kind, task(name=None), "a@web1")
    assert scene.get(name, name="app.add", hostname="web1", queue_name="mail") == 2
    assert scene.get(name, name="app.add", hostname="web2", queue_name="mail") == 1
    assert scene.get(name, name="app.add", hostname="bare", queue_name="mail") == 1
    assert scene.get(name, name="None", hostname="web1", queue_name="celery") == 1


def test_publishers_are_generic(scene: Scene) -> None:
    scene.send("a")
    scene.send("b")
    assert scene.family("celery_task_sent_total") == {frozenset({"app.add", "generic", "mail"}): 2}
    assert scene.family("celery_task_received_total") == {}


def test_failures_are_counted_by_the_class_of_the_exception(scene: Scene) -> None:
    for exception in ("ValueError('x')", "ValueError()", "KeyError(1)", "no repr", None, "a.B()"):
        scene.see("task-failed", task(exception=exception), "celery@web1")
    scene.see("task-retried", task(exception="OSError()"), "celery@web1")
    rows = scene.family("celery_task_failed_total")
    place = {"app.add", "web1", "celery"}
    assert rows == {
        frozenset({*place, "ValueError"}): 2,
        frozenset({*place, "KeyError"}): 1,
        frozenset({*place, "UnknownException"}): 3,
        frozenset({*place, ""}): 0,
    }
    assert scene.get("taskmon_task_failed_total", worker="celery@web1", task="app.add") == 6


def test_what_can_happen_at_a_worker_begins_at_zero(scene: Scene) -> None:
    scene.see("task-received", task(), "celery@web1")
    scene.see("task-progress", task(name="other.one"), "celery@web1")
    labels = {"name": "app.add", "hostname": "web1", "queue_name": "celery"}
    assert scene.get("celery_task_failed_total", **labels, exception="") == 0
    for word in ("started", "succeeded", "rejected", "revoked", "retried"):
        assert scene.get(f"celery_task_{word}_total", **labels) == 0
        assert len(scene.family(f"celery_task_{word}_total")) == 1


def test_runtimes(scene: Scene) -> None:
    for hostname, queue, runtime in (("a@web1", "mail", 0.5), ("b@web1", "mail", 5.0), ("a@web1", "web", 50.0)):
        scene.see("task-succeeded", task(queue=queue), hostname, runtime=runtime)
    labels = {"name": "app.add", "hostname": "web1", "queue_name": "mail"}
    assert scene.get("celery_task_runtime_count", **labels) == 2
    assert scene.get("celery_task_runtime_sum", **labels) == 5.5
    assert scene.get("celery_task_runtime_bucket", le="1.0", **labels) == 1
    assert scene.get("celery_task_runtime_count", **(labels | {"queue_name": "web"})) == 1


def test_the_workers_of_one_host_are_one(scene: Scene) -> None:
    for hostname, age in (("a@web1", 1), ("b@web1", 1), ("c@web2", 60)):
        scene.state.workers[hostname] = Worker(hostname, seen=NOW - age, active=3)
    assert scene.family("celery_worker_up") == {frozenset({"web1"}): 1, frozenset({"web2"}): 0}
    assert scene.family("celery_worker_tasks_active") == {frozenset({"web1"}): 6, frozenset({"web2"}): 0}


def test_queues_and_who_takes_from_them(scene: Scene) -> None:
    scene.find_queues({"mail": (7, 2), "web": (1, None)})
    scene.add_worker("a@web1", 1, 4, "mail", "slow")
    scene.add_worker("b@web1", 1, 8, "mail")
    scene.add_worker("c@web2", 60, 16, "mail")
    scene.add_worker("d@web2", 1, None, "slow")
    scene.add_worker("gone", 1, 2, "mail")
    del scene.state.workers["gone"]
    assert scene.family("celery_queue_length") == {frozenset({"mail"}): 7, frozenset({"web"}): 1}
    assert scene.family("celery_active_consumer_count") == {frozenset({"mail"}): 2}
    workers = {frozenset({"mail"}): 2, frozenset({"slow"}): 2, frozenset({"web"}): 0}
    assert scene.family("celery_active_worker_count") == workers
    processes = {frozenset({"mail"}): 12, frozenset({"slow"}): 4, frozenset({"web"}): 0}
    assert scene.family("celery_active_process_count") == processes


def test_a_purged_worker_takes_its_series_along(scene: Scene) -> None:
    for hostname in ("celery@web1", "celery@web2"):
        scene.see("task-succeeded", task(), hostname, runtime=1.0)
    scene.metrics.remove_worker("celery@web1")
    text = scene.metrics.render()
    assert b"web1" not in text
    assert b'hostname="web2"' in text


def test_without_queues_and_without_anybody_who_asks() -> None:
    scene = Scene(celery_exporter=True, queues=None, inspector=None)
    assert scene.family("celery_active_worker_count") == {}
