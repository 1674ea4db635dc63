"""What a flood of invented names does: a scrape stays short, nothing goes uncounted, and forgetting costs little."""

import pytest
from scene import NOW, Scene, task

from taskmon.records import Worker

#: What a scrape may have, in bytes.
BOUND = 5_000_000

#: Enough for a scrape four times as long, if it had no bound.
WORKERS = 3_000


def flood(scene: Scene, number: int, name: str) -> None:
    """Have a worker, task names and queues of that number, each a long text."""
    hostname = f"{name}{number}@{name}"
    worker = scene.add_worker(hostname, 0.0, 4, f"{name}{number}")
    worker.active = 1
    seen = task(
        name=f"{name}.{number}",
        queue=f"q{number}{name}",
        sent=1.0,
        received=1.5,
        started=2.0,
        exception=f"E{number}{name}()",
    )
    for kind in ("sent", "received", "started", "failed", "retried"):
        scene.see(f"task-{kind}", seen, hostname)
    scene.see("task-succeeded", seen, hostname, runtime=0.5)
    scene.see(f"task-custom-{number}{name}", seen, hostname)
    scene.state.prefetched[hostname, seen.name or ""] = 1


@pytest.mark.parametrize("exporter", [False, True])
@pytest.mark.parametrize("name", ["x", "\N{SNOWMAN}" * 190])
def test_a_scrape_is_bounded_whatever_comes(name: str, exporter: bool) -> None:
    scene = Scene(celery_exporter=exporter, prefix="flower")
    for number in range(WORKERS):
        flood(scene, number, name)
    scene.find_queues({f"q{number}{name}": (1, 1) for number in range(1_000)})
    text = scene.metrics.render()
    assert len(text) < BOUND
    found = scene.samples()
    counted = sum(value for (metric, _), value in found.items() if metric == "flower_events_total")
    assert counted == WORKERS * 7
    assert scene.get("flower_events_total", worker="other", type="task-started", task="other") > 0
    assert sum(value for (metric, _), value in found.items() if metric == "flower_worker_online") == WORKERS
    assert sum(value for (metric, _), value in found.items() if metric == "taskmon_queue_length") == 1_000


def test_forgetting_a_worker_touches_only_what_is_its_own() -> None:
    scene = Scene()
    counts = scene.metrics._counts
    tables = (counts.series, counts.pairs, counts.runtimes, counts.places)
    scene.see("task-started", task(received=1.0, started=2.0), "first")
    before = [dict(table.items) for table in tables]
    kept = [table.items for table in tables]
    left = counts.places._budget.left
    for number in range(50):
        hostname = f"w{number}"
        scene.state.workers[hostname] = Worker(hostname, seen=NOW)
        for name in range(11):
            scene.see("task-started", task(name=f"t{name}", received=1.0, started=2.0), hostname)
            scene.see("task-succeeded", task(name=f"t{name}", received=1.0), hostname, runtime=1.0)
    assert len(counts._known) == 1 + 50 * 22
    for number in range(50):
        scene.metrics.remove_worker(f"w{number}")
    assert [table.items for table in tables] == before
    assert all(table.items is same for table, same in zip(tables, kept, strict=True)), "a table was built anew"
    assert list(counts._known) == [("first", "task-started", "app.add", None)]
    assert list(counts._known_by_worker) == ["first"]
    assert counts.places._budget.left == left
