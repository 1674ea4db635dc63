"""The metrics of a running taskmon read what they should."""

from types import SimpleNamespace

from serving import event, make_app, serving
from waiting import eventually

from taskmon.cluster.inspection import Inspection


async def test_lengths_come_from_the_watch_of_the_queues(memory_broker: str) -> None:
    app = make_app(memory_broker, result_backend=None)
    app.send_task("tasks.add")
    app.send_task("tasks.add")
    async with serving(app) as served:
        await eventually(lambda: served.taskmon.monitor.queues.latest)
        body = (await served.get("/metrics")).body
    assert b'\ntaskmon_queue_length{queue="celery"} 2\n' in body


async def test_a_scrape_asks_the_broker_nothing() -> None:
    async with serving() as served:
        queues = served.taskmon.monitor.queues
        queues.latest = {"celery": SimpleNamespace(messages=3, consumers=1)}  # type: ignore[dict-item]
        asked = dict(queues._asked)  # by the upkeep, perhaps
        body = served.taskmon.services.metrics.render()
        assert b"taskmon_queue_length{" not in body  # of an age that nobody knows
        assert queues._asked == asked


async def test_pool_sizes_come_from_the_inspector() -> None:
    async with serving() as served:
        served.apply(event("worker-online"))
        served.taskmon.monitor.inspector.inspections["celery@w1"] = Inspection(pool_size=4)
        assert b'\ntaskmon_worker_pool_size{worker="celery@w1"} 4\n' in (await served.get("/metrics")).body


async def test_the_options_of_the_metrics() -> None:
    async with serving(metrics_worker_label=False, metrics_celery_exporter=True) as served:
        served.apply(event("worker-heartbeat"), event("task-succeeded", "a", name="tasks.add", runtime=1.0))
        body = (await served.get("/metrics")).body
    assert b"celery@w1" not in body
    assert b'\ncelery_task_succeeded_total{name="tasks.add",queue_name="celery"} 1\n' in body
