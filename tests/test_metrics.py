"""Every metric is asserted through the text that a scrape gets."""

import re
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from taskmon import __version__, metrics
from taskmon.metrics import CONTENT_TYPE, METRICS, Metrics, clean_label
from taskmon.records import Event, Task, Worker

NOW = 1_700_000_000.0
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class FakeState(dict[str, Task]):
    """What Metrics reads of State."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[str, Worker] = {}
        self.prefetched: dict[tuple[str, str], int] = {}
        self.evicted_total = 0


class Scene:
    """Metrics with a state, a broker and a clock that a test moves."""

    def __init__(self, prefix: str = "taskmon", buckets: tuple[float, ...] = (0.1, 1.0, 10.0, inf)) -> None:
        self.now = NOW
        self.state = FakeState()
        self.broker = SimpleNamespace(connected=True, reconnects=0)
        self.metrics = Metrics(prefix, buckets, self.state, self.broker, clock=lambda: self.now)

    def see(self, kind: str, task: Task | Worker | None, hostname: str | None = "w1", **fields: Any) -> None:
        fields.setdefault("timestamp", self.now)
        self.metrics.observe([(Event(kind, hostname=hostname, **fields), task)])

    def samples(self) -> Samples:
        return parse(self.metrics.render())

    def get(self, name: str, **labels: str) -> float | None:
        return self.samples().get((name, frozenset(labels.items())))


def parse(text: bytes) -> Samples:
    """Read an exposition and insist that no sample comes twice and that every line belongs to its family."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation, f"{family.name} stands without its HELP line"
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def task(**fields: Any) -> Task:
    return Task("id", **{"name": "app.add", **fields})


@pytest.fixture
def scene() -> Scene:
    return Scene()


# Flower's metrics


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


# taskmon's own


def received(scene: Scene) -> None:
    scene.metrics.received(24)
    scene.metrics.received(1)


def state_and_broker(scene: Scene) -> None:
    scene.state.update(a=task(), b=task())
    scene.state.workers["w1"] = Worker("w1")
    scene.state.evicted_total = 7
    scene.broker.connected = False
    scene.broker.reconnects = 3


def rejected(scene: Scene) -> None:
    scene.metrics.rejected("no-type")
    scene.metrics.rejected("no-type", 2)


def nothing(scene: Scene) -> None:
    pass


@pytest.mark.parametrize(
    ("happens", "name", "labels", "value"),
    [
        (received, "taskmon_events_received_total", {}, 25),
        (rejected, "taskmon_events_rejected_total", {"reason": "no-type"}, 3),
        (nothing, "taskmon_events_rejected_total", {"reason": "no-type"}, None),
        (nothing, "taskmon_events_applied_total", {}, 0),
        (nothing, "taskmon_event_lag_seconds_count", {}, 0),
        (state_and_broker, "taskmon_tasks", {}, 2),
        (state_and_broker, "taskmon_workers", {}, 1),
        (state_and_broker, "taskmon_tasks_evicted_total", {}, 7),
        (state_and_broker, "taskmon_broker_connected", {}, 0),
        (nothing, "taskmon_broker_connected", {}, 1),
        (state_and_broker, "taskmon_broker_reconnects_total", {}, 3),
        (nothing, "taskmon_build_info", {"version": __version__}, 1),
    ],
)
def test_one_number(
    scene: Scene, happens: Callable[[Scene], None], name: str, labels: dict[str, str], value: float | None
) -> None:
    happens(scene)
    assert scene.get(name, **labels) == value


def test_applied_per_second_is_an_average_of_whole_seconds(scene: Scene) -> None:
    scene.now = NOW + 0.5
    for _ in range(100):
        scene.see("task-received", task())
    assert scene.get("taskmon_events_applied_per_second") == 0
    scene.now = NOW + 1.2
    scene.see("task-received", task())
    assert scene.get("taskmon_events_applied_per_second") == 100 / metrics.RATE_SECONDS
    scene.now = NOW + 2
    assert scene.get("taskmon_events_applied_per_second") == 101 / metrics.RATE_SECONDS
    scene.now = NOW + 6
    assert scene.get("taskmon_events_applied_per_second") == 1 / metrics.RATE_SECONDS
    scene.now = NOW + 3600
    assert scene.get("taskmon_events_applied_per_second") == 0


def test_lag_of_an_empty_batch_and_of_events_without_a_time(scene: Scene) -> None:
    scene.metrics.observe([])
    scene.see("task-received", task(), timestamp=None)
    assert scene.get("taskmon_event_lag_seconds_count") == 0
    assert scene.get("taskmon_events_applied_total") == 1


# Lags that floats hold exactly, also as a difference of two times.
lags_in_ticks = st.integers(-100 * 1024, 10_000 * 1024)


@given(st.lists(st.lists(lags_in_ticks, max_size=30), max_size=4))
def test_lag_is_what_counting_one_by_one_gives(batches: list[list[int]]) -> None:
    scene = Scene()
    theirs = Histogram("lag", "lag", registry=None, buckets=metrics.LAG_BUCKETS)
    for lags in batches:
        stamps = [NOW - lag / 1024 for lag in lags]
        scene.metrics.observe([(Event("task-received", timestamp=stamp), task()) for stamp in stamps])
        for stamp in stamps:
            theirs.observe(max(0.0, NOW - stamp))
    ours = scene.samples()
    for family in theirs.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                key = ("taskmon_event_lag_seconds" + sample.name[3:], frozenset(sample.labels.items()))
                assert ours[key] == pytest.approx(sample.value, abs=0.01)


def test_the_process_and_the_interpreter_are_there(scene: Scene) -> None:
    names = {name for name, _ in scene.samples()}
    assert {"process_resident_memory_bytes", "python_gc_collections_total", "python_info"} <= names


def test_two_live_side_by_side() -> None:
    one, other = Scene(), Scene()
    one.metrics.received(5)
    assert other.get("taskmon_events_received_total") == 0


def test_the_clock_is_the_systems_by_default() -> None:
    scene = Scene()
    scene.metrics = Metrics("taskmon", (1.0,), scene.state, scene.broker)
    scene.state.workers["w1"] = Worker("w1", seen=time.time())
    assert scene.get("taskmon_worker_online", worker="w1") == 1


def test_counting_in_a_thread_while_the_loop_scrapes(scene: Scene) -> None:
    def consume() -> None:
        for number in range(5_000):
            scene.metrics.received(1)
            scene.metrics.rejected(f"reason-{number % 200}")

    threads = [Thread(target=consume), Thread(target=scene.metrics.rejected, args=("late", 3))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        scene.metrics.render()
    for thread in threads:
        thread.join()
    found = scene.samples()
    assert found["taskmon_events_received_total", frozenset()] == 5_000
    by_reason = {labels: n for (name, labels), n in found.items() if name == "taskmon_events_rejected_total"}
    assert sum(by_reason.values()) == 5_003
    assert len(by_reason) == metrics.MAX_REASONS + 1


# Bounds and hostile values


def test_task_names_beyond_the_bound_are_other(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_TASK_NAMES", 10)
    scene = Scene()
    for number in range(25):
        scene.see("task-succeeded", task(name=f"t{number}"), runtime=1.0)
    assert scene.get("taskmon_events_total", worker="w1", type="task-succeeded", task="other") == 15
    assert scene.get("taskmon_task_runtime_seconds_count", worker="w1", task="other") == 15
    assert scene.get("taskmon_events_total", worker="w1", type="task-succeeded", task="t9") == 1


def test_event_types_beyond_the_bound_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_EVENT_TYPES", 10)
    scene = Scene()
    for number in range(20):
        scene.see(f"custom-{number}", None)
    scene.see("task-rejected", task())
    assert scene.get("taskmon_events_total", worker="w1", type="other", task="") == 18
    assert scene.get("taskmon_events_total", worker="w1", type="task-rejected", task="app.add") == 1


def test_workers_beyond_the_bound_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_WORKERS", 2)
    scene = Scene()
    for number in range(5):
        hostname = f"w{number}"
        scene.state.workers[hostname] = Worker(hostname, seen=NOW, active=2)
        scene.see("task-received", task(), hostname)
    assert scene.get("taskmon_worker_online", worker="other") == 3
    assert scene.get("taskmon_worker_number_of_currently_executing_tasks", worker="other") == 6
    assert scene.get("taskmon_events_total", worker="other", type="task-received", task="app.add") == 3


def test_series_beyond_the_bound_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_EVENT_SERIES", 4)
    monkeypatch.setattr(metrics, "MAX_PAIRS", 3)
    scene = Scene()
    for number in range(10):
        scene.see("task-started", task(name=f"t{number}", received=1.0, started=2.0), f"w{number}")
    assert scene.get("taskmon_events_total", worker="other", type="task-started", task="other") == 6
    assert scene.get("taskmon_task_prefetch_time_seconds", worker="other", task="other") == 1.0


def test_what_is_remembered_of_the_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MAX_KNOWN", 10)
    scene = Scene()
    for number in range(35):
        scene.see("task-sent", task(), f"gen{number}@host")
        assert len(scene.metrics._known) <= 10
    scene.metrics._known.clear()
    for _ in range(2):
        scene.see("task-received", task(name="x" * 60_000))
    assert not scene.metrics._known
    assert scene.get("taskmon_events_total", worker="client", type="task-sent", task="app.add") == 35
    label = clean_label("x" * 60_000)
    assert len(label) == metrics.MAX_LABEL
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


@given(st.lists(st.tuples(hostile, hostile, hostile), max_size=8), hostile)
def test_hostile_labels_stay_valid_text(events: list[tuple[str, str, str]], reason: str) -> None:
    scene = Scene()
    for hostname, kind, name in events:
        scene.state.workers[hostname] = Worker(hostname, seen=NOW, active=1)
        scene.state.prefetched[hostname, name] = 1
        scene.see(kind, task(name=name), hostname)
        scene.see("task-started", task(name=name, received=1.0, started=2.0), hostname)
        scene.see("task-succeeded", task(name=name), hostname, runtime=0.5)
    scene.metrics.rejected(reason)
    found = scene.samples()
    counted = sum(value for (name, _), value in found.items() if name == "taskmon_events_total")
    assert counted == 3 * len(events)
    assert sum(value for (name, _), value in found.items() if name == "taskmon_worker_online") == len(
        scene.state.workers
    )
    assert found["taskmon_events_rejected_total", frozenset({("reason", unescape(clean_label(reason)))})] == 1


def unescape(label: str) -> str:
    return re.sub(r"\\(.)", r"\1", label)


@given(hostile)
def test_a_label_is_short_printable_and_of_one_line(text: str) -> None:
    label = unescape(clean_label(text))
    assert len(label) <= metrics.MAX_LABEL
    assert len(label.splitlines()) <= 1
    label.encode()


# The text, the table and the docs


def test_every_metric_has_its_help_and_type_even_without_samples(scene: Scene) -> None:
    text = scene.metrics.render().decode()
    for metric in METRICS:
        assert f"# HELP {metric.full_name()} {metric.help}\n# TYPE {metric.full_name()} {metric.kind}\n" in text
    assert text.endswith("\n")
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_the_docs_list_every_metric_with_its_labels_and_nothing_else() -> None:
    text = Path(__file__).parent.parent.joinpath("docs", "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert listed == {metric.full_name(): (metric.kind, metric.labels) for metric in METRICS}
