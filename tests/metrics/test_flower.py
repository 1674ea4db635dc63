"""The metrics that Flower has too."""

from math import inf
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from scene import NOW, Scene, task

from taskmon.metrics.table import METRICS
from taskmon.records import Worker


@pytest.mark.parametrize(
    ("kind", "hostname", "name", "labels"),
    [
        ("task-received", "w1", "app.add", ("w1", "task-received", "app.add")),
        ("task-succeeded", "w1", "app.add", ("w1", "task-succeeded", "app.add")),
        ("task-sent", "gen7@web", "app.add", ("client", "task-sent", "app.add")),
        ("task-sent", "any-name", "app.add", ("client", "task-sent", "app.add")),
        ("task-progress", "w1", "app.add", ("w1", "task-progress", "app.add")),
        ("task-progress", "gen7@web", "app.add", ("client", "task-progress", "app.add")),
        ("task-failed", "w1", None, ("w1", "task-failed", "")),
        ("task-failed", None, "app.add", ("", "task-failed", "app.add")),
    ],
)
def test_events_are_counted(
    scene: Scene, kind: str, hostname: str | None, name: str | None, labels: tuple[str, str, str]
) -> None:
    for _ in range(3):
        scene.see(kind, task(name=name), hostname)
    worker, event_type, task_name = labels
    assert scene.get("taskmon_events_total", worker=worker, type=event_type, task=task_name) == 3


def test_publishers_share_one_series(scene: Scene) -> None:
    for process in range(50):
        scene.see("task-sent", task(), f"gen{process}@host")
    assert scene.get("taskmon_events_total", worker="client", type="task-sent", task="app.add") == 50
    assert b"gen" not in b"".join(
        line for line in scene.metrics.render().splitlines() if line.startswith(b"taskmon_events_total")
    )


def test_a_worker_may_be_named_like_a_publisher(scene: Scene) -> None:
    scene.state.workers["gen1@host"] = Worker("gen1@host", seen=NOW)
    scene.see("task-started", task(), "gen1@host")
    assert scene.get("taskmon_events_total", worker="gen1@host", type="task-started", task="app.add") == 1


@pytest.mark.parametrize(("name", "label"), [("app.order", "app.order"), (None, "")])
def test_a_custom_event_is_counted_under_its_own_name(scene: Scene, name: str | None, label: str) -> None:
    scene.see("order-shipped", None, name=name)
    assert scene.get("taskmon_events_total", worker="w1", type="order-shipped", task=label) == 1


def test_events_of_workers_are_applied_but_not_counted_by_type(scene: Scene) -> None:
    for kind in ("worker-online", "worker-heartbeat", "worker-offline"):
        scene.see(kind, Worker("w1"))
    assert not [name for name, _ in scene.samples() if name == "taskmon_events_total"]
    assert scene.get("taskmon_events_applied_total") == 3


def test_runtimes_fill_a_histogram(scene: Scene) -> None:
    for runtime in (0.0, 0.1, 0.5, 99.0):
        scene.see("task-succeeded", task(), runtime=runtime)
    for useless in (None, -1.0, float("nan")):
        scene.see("task-succeeded", task(), runtime=useless)
    scene.see("task-failed", task())
    labels = {"worker": "w1", "task": "app.add"}
    counts = {
        le: scene.get("taskmon_task_runtime_seconds_bucket", le=le, **labels) for le in ("0.1", "1.0", "10.0", "+Inf")
    }
    assert counts == {"0.1": 2, "1.0": 3, "10.0": 3, "+Inf": 4}
    assert scene.get("taskmon_task_runtime_seconds_count", **labels) == 4
    assert scene.get("taskmon_task_runtime_seconds_sum", **labels) == pytest.approx(99.6)


def test_runtimes_are_as_prometheus_client_would_write_them() -> None:
    buckets = (5.0, 0.5, 1000000.0, 0.5, inf)
    scene = Scene(buckets=buckets)
    theirs = Histogram("h", "h", registry=None, buckets=(0.5, 5.0, 1000000.0, inf))
    for runtime in (0.5, 0.50001, 4.0, 5.0, 6.0, 1e9):
        scene.see("task-succeeded", task(), runtime=runtime)
        theirs.observe(runtime)
    ours = {
        (name.removeprefix("taskmon_task_runtime_seconds"), dict(labels).get("le")): value
        for (name, labels), value in scene.samples().items()
        if name.startswith("taskmon_task_runtime_seconds")
    }
    expected = {
        (sample.name.removeprefix("h"), sample.labels.get("le")): sample.value
        for family in theirs.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert ours == expected


@pytest.mark.parametrize(
    ("events", "waited"),
    [
        ([("task-started", {"received": 10.0, "started": 12.5})], 2.5),
        ([("task-started", {"received": 12.0, "started": 11.0})], 0.0),
        ([("task-started", {"received": 10.0, "started": 12.0, "eta": "2030-01-01T00:00:00"})], None),
        ([("task-started", {"received": None, "started": 12.0})], None),
        ([("task-started", {"received": 10.0, "started": None})], None),
        ([("task-succeeded", {"received": 10.0, "started": 12.0})], None),
        *(
            (
                [
                    ("task-started", {"received": 10.0, "started": 12.0}),
                    (end, {"received": 10.0, "started": 12.0}),
                ],
                0.0,
            )
            for end in ("task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected")
        ),
        # The end of another task, one with an ETA or one that never started, says nothing of this one.
        (
            [
                ("task-started", {"received": 10.0, "started": 12.0}),
                ("task-succeeded", {"received": 1.0, "started": 2.0, "eta": "2030-01-01T00:00:00"}),
                ("task-revoked", {"received": 1.0}),
            ],
            2.0,
        ),
        (
            [
                ("task-started", {"received": 10.0, "started": 12.0}),
                ("task-succeeded", {"received": 10.0, "started": 12.0}),
                ("task-started", {"received": 10.0, "started": 15.0}),
            ],
            5.0,
        ),
    ],
)
def test_prefetch_time(scene: Scene, events: list[tuple[str, dict[str, Any]]], waited: float | None) -> None:
    for kind, fields in events:
        scene.see(kind, task(**fields))
    assert scene.get("taskmon_task_prefetch_time_seconds", worker="w1", task="app.add") == waited


def test_prefetched_tasks_are_those_of_the_state_and_then_zero(scene: Scene) -> None:
    labels = {"worker": "w1", "task": "app.add"}
    scene.state.prefetched["w1", "app.add"] = 4
    assert scene.get("taskmon_worker_prefetched_tasks", **labels) == 4
    scene.see("task-started", task(received=1.0, started=2.0))
    scene.state.prefetched.clear()
    assert scene.get("taskmon_worker_prefetched_tasks", **labels) == 0


@pytest.mark.parametrize(
    ("worker", "age", "online", "executing"),
    [
        (Worker("w1", freq=2.0, active=3), 1, 1, 3),
        (Worker("w1", freq=2.0, active=3), 60, 0, 0),
        (Worker("w1", freq=2.0, active=3, online=False), 0, 0, 0),
        (Worker("w1", freq=2.0), 1, 1, None),
        (Worker("w1", freq=2.0, active=-5), 1, 1, 0),
    ],
)
def test_online_follows_the_heartbeats(
    scene: Scene, worker: Worker, age: float, online: int, executing: int | None
) -> None:
    worker.seen = NOW - age
    scene.state.workers["w1"] = worker
    assert scene.get("taskmon_worker_online", worker="w1") == online
    assert scene.get("taskmon_worker_number_of_currently_executing_tasks", worker="w1") == executing


def test_the_prefix_is_for_the_names_of_flower_only() -> None:
    scene = Scene("flower")
    scene.state.workers["w1"] = Worker("w1", seen=NOW, active=1)
    scene.state.prefetched["w1", "app.add"] = 1
    scene.see("task-started", task(received=1.0, started=2.0))
    scene.see("task-succeeded", task(), runtime=1.0)
    names = {name for name, _ in scene.samples()}
    assert {name for name in names if name.startswith("flower_")} == {
        "flower_events_total",
        "flower_task_runtime_seconds_bucket",
        "flower_task_runtime_seconds_count",
        "flower_task_runtime_seconds_sum",
        "flower_task_prefetch_time_seconds",
        "flower_worker_prefetched_tasks",
        "flower_worker_online",
        "flower_worker_number_of_currently_executing_tasks",
    }
    assert {"taskmon_events_applied_total", "taskmon_tasks"} <= names


@pytest.mark.parametrize("worker_label", [True, False])
def test_the_text_is_what_prometheus_client_writes(worker_label: bool) -> None:
    """Read all of Flower's metrics and have prometheus_client, which Flower uses, write them again."""
    scene = Scene(worker_label=worker_label)
    scene.state.workers["w1"] = Worker("w1", seen=NOW, active=3)
    hostile = 'a",worker="x\\,\n'
    for name in ("app.add", hostile):
        one = task(name=name, received=NOW - 3, started=NOW - 1)
        scene.see("task-received", one)
        scene.see("task-started", one)
        scene.see("task-succeeded", one, runtime=0.25)
    scene.metrics._counts.series.items["w1" if worker_label else "", "task-started", "app.add", ""].count = 12_345_678
    text = scene.metrics.render().decode()
    names = [metric.full_name() for metric in METRICS if metric.owner == "flower"]
    written = [line for line in text.splitlines() if line.startswith(tuple(names))]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReadAgain(list(text_string_to_metric_families(text))))
    again = [line for line in generate_latest(registry).decode().splitlines() if line.startswith(tuple(names))]
    assert written == again
    assert [line for line in written if line.endswith(" 1.2345678e+07")]


class ReadAgain(Collector):
    """A collector of metrics that were read."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


def test_the_process_comes_first_as_in_flower(scene: Scene) -> None:
    names = [line.split()[2] for line in scene.metrics.render().decode().splitlines() if line.startswith("# TYPE")]
    assert names.index("python_gc_objects_collected_total") == 0
    assert names.index("python_info") < names.index("process_max_fds") < names.index("taskmon_events_total")
