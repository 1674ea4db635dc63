"""Bounds, and values that their senders chose to do harm."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene import NOW, Scene, task

from taskmon.metrics import clean_label, event_counters
from taskmon.metrics.labels import MAX_LABEL
from taskmon.records import Worker


def test_task_names_beyond_the_bound_are_other(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "MAX_TASK_NAMES", 10)
    scene = Scene()
    for number in range(25):
        scene.see("task-succeeded", task(name=f"t{number}"), runtime=1.0)
    assert scene.get("taskmon_events_total", worker="w1", type="task-succeeded", task="other") == 15
    assert scene.get("taskmon_task_runtime_seconds_count", worker="w1", task="other") == 15
    assert scene.get("taskmon_events_total", worker="w1", type="task-succeeded", task="t9") == 1


def test_event_types_beyond_the_bound_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "MAX_EVENT_TYPES", 10)
    scene = Scene()
    for number in range(20):
        scene.see(f"custom-{number}", None)
    scene.see("task-rejected", task())
    assert scene.get("taskmon_events_total", worker="w1", type="other", task="") == 18
    assert scene.get("taskmon_events_total", worker="w1", type="task-rejected", task="app.add") == 1


def test_workers_beyond_the_bound_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "MAX_WORKERS", 2)
    scene = Scene()
    for number in range(5):
        hostname = f"w{number}"
        scene.state.workers[hostname] = Worker(hostname, seen=NOW, active=2)
        scene.see("task-received", task(), hostname)
    assert scene.get("taskmon_worker_online", worker="other") == 3
    assert scene.get("taskmon_worker_number_of_currently_executing_tasks", worker="other") == 6
    assert scene.get("taskmon_events_total", worker="other", type="task-received", task="app.add") == 3


def test_series_beyond_the_bound_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "MAX_EVENT_SERIES", 4)
    monkeypatch.setattr(event_counters, "MAX_PAIRS", 3)
    scene = Scene()
    for number in range(10):
        scene.see("task-started", task(name=f"t{number}", received=1.0, started=2.0), f"w{number}")
    assert scene.get("taskmon_events_total", worker="other", type="task-started", task="other") == 6
    assert scene.get("taskmon_task_prefetch_time_seconds", worker="other", task="other") == 1.0


def test_what_is_remembered_of_the_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "_MAX_KNOWN", 10)
    scene = Scene()
    for number in range(35):
        scene.see("task-sent", task(), f"gen{number}@host")
        assert len(scene.metrics._counts._known) <= 10
    scene.metrics._counts._known.clear()
    for _ in range(2):
        scene.see("task-received", task(name="x" * 60_000))
    assert not scene.metrics._counts._known
    assert scene.get("taskmon_events_total", worker="client", type="task-sent", task="app.add") == 35
    label = clean_label("x" * 60_000)
    assert len(label) == MAX_LABEL
    assert scene.get("taskmon_events_total", worker="w1", type="task-received", task=label) == 2


def test_a_purged_worker_takes_its_series_along(scene: Scene) -> None:
    for hostname in ("w1", "w2"):
        scene.state.workers[hostname] = Worker(hostname, seen=NOW, active=1)
        scene.see("task-started", task(received=1.0, started=2.0), hostname)
        scene.see("task-succeeded", task(received=1.0), hostname, runtime=1.0)
    del scene.state.workers["w1"]
    scene.metrics.remove_worker("w1")
    scene.metrics.remove_worker("never-seen")
    text = scene.metrics.render()
    assert b'"w1"' not in text
    assert text.count(b'"w2"') > 5
    scene.see("task-started", task(received=1.0, started=2.0), "w1")
    assert scene.get("taskmon_events_total", worker="w1", type="task-started", task="app.add") == 1


hostile = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from('"\\\n\r\0{},= \u2028\ud800')),
    max_size=300,
)


@given(st.lists(st.tuples(hostile, hostile, hostile, hostile), max_size=8), st.booleans())
def test_hostile_labels_stay_valid_text(events: list[tuple[str, str, str, str]], worker_label: bool) -> None:
    scene = Scene(celery_exporter=True, worker_label=worker_label)
    for hostname, kind, name, queue in events:
        worker = scene.add_worker(hostname, 0, 4, queue, name)
        worker.active = 1
        scene.find_queues({queue: (1, 1), name: (0, None)})
        scene.state.prefetched[hostname, name] = 1
        seen = task(name=name, queue=queue, sent=1.0, received=1.0, started=2.0, exception=f"{name}()")
        scene.see(kind, seen, hostname)
        for known in ("sent", "received", "started", "failed"):
            scene.see(f"task-{known}", seen, hostname)
        scene.see("task-succeeded", seen, hostname, runtime=0.5)
    found = scene.samples()
    counted = sum(value for (name, _), value in found.items() if name == "taskmon_events_total")
    assert counted == 6 * len(events)
    for name in ("taskmon_task_failed_total", "celery_task_failed_total", "celery_task_runtime_count"):
        assert sum(value for (found_name, _), value in found.items() if found_name == name) >= len(events)
    assert sum(value for (name, _), value in found.items() if name == "taskmon_worker_online") == len(
        scene.state.workers
    )


def unescape(label: str) -> str:
    return re.sub(r"\\(.)", r"\1", label)


@given(hostile)
def test_a_label_is_short_printable_and_of_one_line(text: str) -> None:
    label = unescape(clean_label(text))
    assert len(label) <= MAX_LABEL
    assert len(label.splitlines()) <= 1
    label.encode()


def test_queues_and_exceptions_beyond_the_bound_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counters, "MAX_QUEUES", 2)
    monkeypatch.setattr(event_counters, "MAX_EXCEPTIONS", 3)
    scene = Scene(celery_exporter=True)
    for number in range(5):
        failed = task(queue=f"q{number}", exception=f"Error{number}()")
        scene.see("task-failed", failed, "celery@w1")
    labels = {"name": "app.add", "hostname": "w1"}
    assert scene.get("celery_task_failed_total", **labels, queue_name="q1", exception="Error1") == 1
    assert scene.get("celery_task_failed_total", **labels, queue_name="other", exception="Error2") == 1
    assert scene.get("celery_task_failed_total", **labels, queue_name="other", exception="other") == 2


def test_without_the_label_of_the_worker_what_is_beyond_a_bound_is_one_series(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_counters, "MAX_TASK_NAMES", 2)
    monkeypatch.setattr(event_counters, "MAX_PAIRS", 1)
    monkeypatch.setattr(event_counters, "MAX_EVENT_SERIES", 2)
    scene = Scene(worker_label=False, celery_exporter=True)
    for number in range(5):
        seen = task(name=f"t{number}", received=1.0, started=2.0)
        scene.see("task-started", seen)
        scene.see("task-succeeded", seen, runtime=1.0)
    assert scene.get("taskmon_task_started_total", task="other") == 4
    assert scene.get("taskmon_task_prefetch_time_seconds", task="other") == 0.0
