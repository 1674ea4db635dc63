"""The tree of a task, and what makes answers incomplete, asked over a socket."""

import asyncio
import logging
from typing import Any
from urllib.parse import quote

import pytest
from patience import PATIENCE
from serving import Served, close, event, make_app, serving
from waiting import eventually

from taskmon.api import diagnosis
from taskmon.auth import Role
from taskmon.credentials.tokens import new_token
from taskmon.http import time_slice
from taskmon.monitor import monitor
from taskmon.monitor.diagnostics import heartbeats
from taskmon.records import CUT_MARK

KEYS = [
    *("task-id", "name", "state", "worker", "sent", "received", "started", "rejected", "succeeded", "failed"),
    *("retried", "revoked", "timestamp", "runtime", "parent", "children"),
]


async def ask_tree(served: Served, task_id: str) -> dict[str, Any]:
    answer = await served.get(f"/api/task/tree/{quote(task_id, safe='')}")
    assert answer.status == 200
    body: dict[str, Any] = answer.json()
    assert list(body) == ["task-id", "root", "truncated", "tasks"]
    assert body["task-id"] == task_id
    for name, task in body["tasks"].items():
        assert list(task) == KEYS
        assert task["task-id"] == name
    return body


def shape(body: dict[str, Any]) -> dict[str, tuple[str | None, list[str]]]:
    return {name: (task["parent"], task["children"]) for name, task in body["tasks"].items()}


async def test_a_tree() -> None:
    async with serving() as served:
        served.apply(
            event("task-sent", "r", 1.0, name="flow", root_id="r", hostname="gen1@web"),
            event("task-received", "r", 2.0, name="flow", root_id="r"),
            event("task-started", "r", 3.0),
            event("task-received", "a", 4.0, name="step", root_id="r", parent_id="r"),
            event("task-received", "b", 4.5, name="step", root_id="r", parent_id="r"),
            event("task-succeeded", "r", 5.0, runtime=2.0, result="1"),
            event("task-received", "other", 6.0, name="step", root_id="other"),
        )
        body = await ask_tree(served, "a")
    assert (body["root"], body["truncated"]) == ("r", False)
    assert shape(body) == {"r": (None, ["a", "b"]), "a": ("r", []), "b": ("r", [])}
    assert list(body["tasks"]) == ["r", "a", "b"]
    nothing = {"rejected": None, "failed": None, "retried": None, "revoked": None}
    assert body["tasks"]["r"] == nothing | {
        "task-id": "r", "name": "flow", "state": "SUCCESS", "worker": "celery@w1", "sent": 1.0, "received": 2.0,
        "started": 3.0, "succeeded": 5.0, "timestamp": 5.0, "runtime": 2.0, "parent": None, "children": ["a", "b"],
    }  # fmt: skip


async def test_what_is_not_held_has_no_state() -> None:
    async with serving() as served:
        served.apply(event("task-received", "a", root_id="gone", parent_id="gone"))
        for asked in ("a", "gone"):
            body = await ask_tree(served, asked)
            assert (body["root"], shape(body)) == ("gone", {"gone": (None, ["a"]), "a": ("gone", [])})
            gone = body["tasks"]["gone"]
            assert {name for name, value in gone.items() if value is not None} == {"task-id", "children"}


async def test_a_retried_task_is_not_its_own_parent() -> None:
    async with serving() as served:
        served.apply(event("task-received", "a", root_id="a", parent_id=None), event("task-retried", "a"))
        served.apply(event("task-received", "a", root_id="a", parent_id="a"))
        assert shape(await ask_tree(served, "a")) == {"a": (None, [])}


@pytest.mark.parametrize("task_id", ["a/b", '"', "ä€😀", "<b>", "\n", "%2F"])
async def test_any_id(task_id: str) -> None:
    async with serving() as served:
        served.apply(event("task-received", "x", root_id=task_id, parent_id=task_id))
        assert shape(await ask_tree(served, task_id))[task_id] == (None, ["x"])


async def test_an_unknown_task() -> None:
    async with serving(max_tasks=1) as served:
        never = (await served.get("/api/task/tree/x")).error
        assert (never["status"], never["message"]) == (404, "Unknown task 'x'")
        assert never["reason"].startswith("not connected")
        served.apply(event("task-received", "a"), event("task-received", "b"))
        await served.taskmon.monitor._consumer.stop()  # so that it does not try to connect again
        served.taskmon.monitor.broker.connected = True
        assert (await served.get("/api/task/tree/x")).error["reason"].startswith("never seen")
        assert (await served.get("/api/task/tree/a")).error["reason"].startswith("evicted")


def chain(count: int) -> list[Any]:
    return [
        event("task-received", str(n), float(n + 1), root_id="0", parent_id=str(n - 1) if n else None)
        for n in range(count)
    ]


async def test_a_deep_tree_is_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slice, "SLICE", 0.0)
    monkeypatch.setattr(time_slice, "CHUNK", 10_000)
    async with serving() as served:
        served.apply(*chain(2000))
        body, answer = await asyncio.gather(ask_tree(served, "1999"), served.get("/healthcheck"))
        assert answer.status == 200
        assert shape(body) == {
            str(n): (str(n - 1) if n else None, [str(n + 1)] if n < 1999 else []) for n in range(2000)
        }


async def test_a_tree_has_an_end() -> None:
    async with serving() as served:
        served.apply(*chain(10_050))
        body = await ask_tree(served, "10049")
        assert body["truncated"] is True
        assert len(body["tasks"]) == 10_000
        assert body["tasks"]["50"]["parent"] == "49"


async def test_whoever_asks_may_go_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(time_slice, "SLICE", 0.0)
    monkeypatch.setattr(time_slice, "CHUNK", 1000)
    ended = asyncio.Event()
    send = time_slice.send_members

    async def watch(*arguments: Any) -> None:
        try:
            await send(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(diagnosis, "send_members", watch)
    async with serving() as served:
        served.apply(*chain(9000))
        _, writer = await served.connect()
        token = served.credentials["Authorization"]
        head = f"GET /api/task/tree/0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        writer.transport.abort()
        await close(writer)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        assert (await served.get("/api/task/tree/0")).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# Incomplete task objects


async def test_task_objects_say_what_is_missing() -> None:
    async with serving() as served:
        served.apply(
            event("task-received", "whole", name="add", args="()", kwargs="{}"),
            event("task-succeeded", "late", result="1"),
            event("task-received", "cut", name="add", args="(1, ...)", kwargs="{'a': 'x" + CUT_MARK),
        )
        expected = {
            "whole": [],
            "late": ["name", "received", "started", "args", "kwargs"],
            "cut": ["args", "kwargs"],
        }
        listing = (await served.get("/api/tasks")).json()
        assert {name: task["incomplete"] for name, task in listing.items()} == expected
        for name, gaps in expected.items():
            assert (await served.get(f"/api/task/info/{name}")).json()["incomplete"] == gaps


# Diagnostics


async def findings(served: Served) -> dict[str, dict[str, Any]]:
    answer = await served.get("/api/diagnostics")
    assert answer.status == 200
    body = answer.json()
    assert body.keys() == {"findings"}
    for finding in body["findings"]:
        assert list(finding)[:3] == ["code", "message", "setting"]
        assert finding["message"]
    return {finding["code"]: finding for finding in body["findings"]}


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "MIN_DURATION", 0.0)
    monkeypatch.setattr(heartbeats, "ENABLING_LASTS", 0.0)


async def test_a_taskmon_without_anything() -> None:
    async with serving() as served:
        found = await findings(served)
        assert found.keys() == {"broker-away", "no-result-backend"}
        assert "wrong-horse" not in str(found)


async def test_a_cluster_where_all_is_well(memory_broker: str) -> None:
    celery_app = make_app(memory_broker, result_backend="cache+memory://", result_extended=True)
    async with serving(celery_app) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        assert await findings(served) == {}


@pytest.mark.parametrize(
    ("conf", "code"),
    [
        ({}, "no-result-backend"),
        ({"result_backend": "disabled://"}, "no-result-backend"),
        ({"result_backend": "no-such-backend://"}, "no-result-backend"),
        ({"result_backend": "cache+memory://"}, "result-extended-off"),
        ({"result_backend": "rpc://"}, "result-extended-off"),
    ],
)
async def test_the_result_backend(conf: dict[str, Any], code: str) -> None:
    app = make_app(**conf)
    app.task(findings, name="shop.pay", shared=False)  # without a task, its settings say nothing of the workers'
    async with serving(app) as served:
        assert (await findings(served)).keys() == {"broker-away", code}


@pytest.mark.usefixtures("_impatient")
async def test_every_finding() -> None:
    async with serving() as served:
        now = served.taskmon.monitor.started
        for number in range(3):
            served.apply(event("worker-heartbeat", at=now - 90, freq=60.0, processed=number))
            served.apply(event("worker-heartbeat", at=now, hostname="w2", freq=60.0, processed=0))
        served.apply(
            event("task-received", "a", name="add", args="(...,)", kwargs="{}", hostname="w2"),
            event("task-received", "b", name="add", args="()", kwargs="{" + CUT_MARK, hostname="w2"),
        )
        served.taskmon.monitor.intake.reject("too-large", 2)
        served.taskmon.monitor._reconciler._mailbox.pickled = now
        found = await findings(served)
    seconds = found["clocks-disagree"].pop("seconds")
    assert seconds.keys() == {"celery@w1"}
    assert -100 < seconds["celery@w1"] < -89
    assert [len(found[code].pop("causes")) for code in ("task-events-off", "task-sent-off")] == [3, 2]
    for finding in found.values():
        del finding["code"], finding["message"]
    assert found == {
        "broker-away": {"setting": "broker_url"},
        "task-events-off": {"setting": "worker_send_task_events", "count": 1, "workers": ["celery@w1"]},
        "clocks-disagree": {"setting": None, "count": 1, "workers": ["celery@w1"]},
        "replies-pickled": {"setting": "task_serializer"},
        "events-refused": {"setting": "--max-message", "count": 2, "reason": "too-large"},
        "task-sent-off": {"setting": "task_send_sent_event", "count": 2, "tasks": ["add"]},
        "arguments-shortened": {"setting": "argsrepr_maxsize", "count": 1},
        "text-cut": {"setting": "--max-text", "count": 1},
        "no-result-backend": {"setting": "result_backend"},
    }
    assert next(iter(found)) == "broker-away"


async def test_findings_are_logged_without_anybody_asking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitor, "_DIAGNOSE_INTERVAL", 0.01)
    async with serving() as served:
        await eventually(lambda: "no-result-backend" in caplog.text)
        await findings(served)
    lines = [record for record in caplog.records if record.name == "taskmon.monitor.diagnostics"]
    assert sorted(record.getMessage().partition(":")[0] for record in lines) == ["broker-away", "no-result-backend"]


@pytest.mark.parametrize("path", ["/api/task/tree/a", "/api/diagnostics"])
async def test_a_viewer_may_ask_and_a_stranger_may_not(path: str) -> None:
    token, line = new_token("viewer", Role.VIEWER)
    async with serving(token=(line,)) as served:
        served.apply(event("task-received", "a"))
        answer = await served.get(path, {"Authorization": f"Bearer {token}"}, anonymous=True)
        assert answer.status == 200
        assert (await served.get(path, anonymous=True)).status == 401
        assert (await served.request("POST", path, {"Authorization": f"Bearer {token}"})).status == 405
        head = await served.request("HEAD", path, {"Authorization": f"Bearer {token}"}, anonymous=True)
        assert (head.status, head.body) == (200, b"")
