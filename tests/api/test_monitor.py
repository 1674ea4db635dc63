"""What machines ask: metrics, health, readiness."""

import re

from prometheus_client.parser import text_string_to_metric_families
from serving import event, make_app, serving
from waiting import eventually

from taskmon.broker_faults import Fault
from taskmon.metrics import METRICS


async def test_metrics() -> None:
    async with serving(max_tasks=1) as served:
        served.apply(event("task-received", "a", name="tasks.add"), event("task-received", "b", name="tasks.add"))
        answer = await served.get("/metrics")
    assert answer.status == 200
    assert answer.header("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    names = {metric.full_name().removesuffix("_total") for metric in METRICS}
    assert names <= families.keys()
    (sample,) = families["taskmon_events"].samples
    assert (sample.value, sample.labels) == (2, {"worker": "celery@w1", "type": "task-received", "task": "tasks.add"})
    assert families["taskmon_tasks_evicted"].samples[0].value == 1


async def test_metrics_for_dashboards_made_for_flower() -> None:
    async with serving(metrics_prefix="flower") as served:
        served.apply(event("worker-heartbeat"))
        assert b'\nflower_worker_online{worker="celery@w1"} ' in (await served.get("/metrics")).body


async def test_metrics_of_a_worker_that_is_dropped_end() -> None:
    async with serving(max_workers=1) as served:
        served.apply(event("task-received", "a", name="tasks.add"))
        served.apply(event("worker-online", hostname="celery@w2"))
        body = (await served.get("/metrics")).body
        assert b"celery@w2" in body
        assert b"celery@w1" not in body


async def test_health_says_nothing_else() -> None:
    async with serving() as served:
        answer = await served.get("/healthcheck", anonymous=True)
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.header("Content-Type") == "text/plain; charset=UTF-8"


async def test_ready_once_connected(memory_broker: str) -> None:
    async with serving(make_app(memory_broker)) as served:
        before = await served.get("/readyz", anonymous=True)
        assert before.status in (200, 503)
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        ready = await served.get("/readyz", anonymous=True)
        assert ready.json() == {"status": "ready"}
        assert ready.status == 200
        lost = ("The broker", Fault("it hangs", "wait", "host h"), True, 1)
        served.taskmon.monitor.broker.note_disconnected(*lost)
        answer = await served.get("/readyz", anonymous=True)
        assert answer.error == {"status": 503, "message": "The broker is unavailable: it hangs"}
        assert answer.header("Retry-After") == "1"
        served.taskmon.monitor.broker.away_since -= 185
        answer = await served.get("/readyz", anonymous=True)
        assert re.fullmatch(r"The broker is unavailable: it hangs, for \d minutes now", answer.error["message"])
        served.taskmon.monitor._consumer._connected("memory://")
        served.taskmon.monitor.broker.note_disconnected(*lost)
        assert (await served.get("/readyz", anonymous=True)).error["message"] == "The broker is unavailable: it hangs"
