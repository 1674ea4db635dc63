"""What taskmon says of itself."""

import time
from collections.abc import Callable
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families
from scene import NOW, Scene, task

from taskmon import __version__
from taskmon.metrics import Metrics, event_counters
from taskmon.metrics.table import RATE_SECONDS
from taskmon.records import Event, Worker


def received(scene: Scene) -> None:
    scene.intake.receive(24)
    scene.intake.receive(1)


def state_and_broker(scene: Scene) -> None:
    scene.state.update(a=task(), b=task())
    scene.state.workers["w1"] = Worker("w1")
    scene.state.evicted_total = 7
    scene.broker.connected = False
    scene.broker.reconnects = 3


def rejected(scene: Scene) -> None:
    scene.intake.reject("no-type")
    scene.intake.reject("no-type", 2)


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
    assert scene.get("taskmon_events_applied_per_second") == 100 / RATE_SECONDS
    scene.now = NOW + 2
    assert scene.get("taskmon_events_applied_per_second") == 101 / RATE_SECONDS
    scene.now = NOW + 6
    assert scene.get("taskmon_events_applied_per_second") == 1 / RATE_SECONDS
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
    theirs = Histogram("lag", "lag", registry=None, buckets=event_counters.LAG_BUCKETS)
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
    one.intake.receive(5)
    assert other.get("taskmon_events_received_total") == 0


def test_the_clock_is_the_systems_by_default() -> None:
    scene = Scene()
    scene.metrics = Metrics("taskmon", (1.0,), scene.state, scene.broker, scene.intake)
    scene.state.workers["w1"] = Worker("w1", seen=time.time())
    assert scene.get("taskmon_worker_online", worker="w1") == 1


def test_counting_in_a_thread_while_the_loop_scrapes(scene: Scene) -> None:
    def consume() -> None:
        for number in range(5_000):
            scene.intake.receive(1)
            scene.intake.reject(f"reason-{number % 20}")

    threads = [Thread(target=consume), Thread(target=scene.intake.reject, args=("late", 3))]
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
    assert len(by_reason) == 21


@pytest.mark.parametrize("exporter", [False, True])
def test_events_that_come_between_two_pieces_of_a_scrape_break_nothing(exporter: bool) -> None:
    scene = Scene(celery_exporter=exporter)

    def see(name: str, hostname: str) -> None:
        scene.see("task-received", task(name=name, sent=1.0, received=2.0), hostname)
        scene.see("task-started", task(name=name, received=1.0, started=2.0), hostname)
        scene.see("task-succeeded", task(name=name, received=1.0), hostname, runtime=1.0)

    for number in range(40):
        for worker in range(10):
            see(f"app.task_{number}", f"w{worker}")
    pieces: list[bytes] = []
    for number, piece in enumerate(scene.metrics.pieces()):
        pieces.append(piece)
        see(f"app.new_{number}", "w0")
        see("app.task_0", "w1")
    assert max(piece.count(b"\n") for piece in pieces) < 600
    assert len(pieces) > 60
    for family in text_string_to_metric_families(b"".join(pieces).decode()):
        if family.type == "histogram":
            of_labels: dict[tuple[tuple[str, str], ...], list[float]] = {}
            for sample in family.samples:
                if not sample.name.endswith("_sum"):  # the buckets and then the count of each
                    labels = tuple(pair for pair in sample.labels.items() if pair[0] != "le")
                    of_labels.setdefault(labels, []).append(sample.value)
            assert all(values == sorted(values) for values in of_labels.values()), family.name
