"""The worker and queue endpoints: known from heartbeats, inspected on demand, with an age and without passwords."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from patience import PATIENCE
from remote import ANSWERS, answering, fine, inspectable
from serving import AWAY, Response, Served, event, make_app, serving, silent_server
from waiting import eventually, given_time

from taskmon.auth import ROLES, Role
from taskmon.cluster import inspection, mailbox
from taskmon.cluster.inspection import GENERAL, OF_TASKS, Inspector
from taskmon.credentials.tokens import new_token
from taskmon.http import time_slice

W1, W2 = "celery@w1", "celery@w2"
KEYS = {"status", "last_seen", "age", "heartbeat", "timestamp", *GENERAL, *OF_TASKS}


@asynccontextmanager
async def watching(broker: str, timeout: float = 20_000, **options: Any) -> AsyncIterator[Served]:
    async with serving(make_app(broker), inspect_timeout=timeout, enable_events=False, **options) as served:
        yield served


def beat(served: Served, hostname: str = W1, kind: str = "heartbeat", ago: float = 0.0) -> None:
    served.apply(event(f"worker-{kind}", hostname=hostname, freq=2.0, active=1, sw_ident="py-celery"))
    served.state.workers[hostname].seen -= ago


async def test_a_worker_is_known_from_its_heartbeats() -> None:
    async with watching(AWAY) as served:
        assert (await served.get("/api/workers")).json() == {}
        beat(served)
        beat(served, "stale", ago=10)
        beat(served, "gone", "offline")
        found = (await served.get("/api/workers")).json()
        assert {name: worker["status"] for name, worker in found.items()} == {
            W1: "online", "stale": "stale", "gone": "offline",
        }  # fmt: skip
        assert found[W1].keys() == KEYS
        lists = ("active_queues", "registered", *OF_TASKS)
        empty = {"stats": {}, "conf": {}, "timestamp": None, **{name: [] for name in lists}}
        assert {name: found[W1][name] for name in empty} == empty, "a silent worker has all keys, empty"
        assert (await served.get(f"/api/workers/{W1}")).json().keys() == KEYS
        assert found[W1]["age"] is None
        assert abs(found[W1]["last_seen"] - time.time()) < PATIENCE
        assert found[W1]["heartbeat"]["freq"] == 2.0
        assert found[W1]["heartbeat"]["active"] == 1
        assert (await served.get("/api/workers?status=1")).json() == {W1: True, "stale": False, "gone": False}
        served.state.purge_workers(time.time() - 5)
        assert (await served.get("/api/workers?status=true")).json().keys() == {W1, "gone"}


async def test_a_worker_that_comes_is_inspected(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        with answering(make_app(memory_broker), W1, **inspectable()):
            beat(served, kind="online")
            await eventually(lambda: W1 in served.taskmon.monitor.inspector.inspections)
        worker = (await served.get("/api/workers")).json()[W1]
        assert worker.keys() == KEYS
        assert 0 <= worker["age"] < PATIENCE
        assert abs(worker["timestamp"] - time.time()) < PATIENCE
        assert worker["registered"] == ANSWERS["registered"]
        served.state.purge_workers(time.time() + 5)
        assert served.taskmon.monitor.inspector.inspections == {}


async def test_refreshing_all(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(seconds: float) -> dict[str, dict[str, Any]]:
        monkeypatch.setattr(mailbox, "_LINGER", seconds)  # for the one that nobody knows
        async with watching(memory_broker) as served:
            beat(served)
            found: dict[str, dict[str, Any]] = (await served.get("/api/workers?refresh=true")).json()
            return found

    def tell_all(found: dict[str, dict[str, Any]]) -> bool:
        return all(worker["registered"] and worker["active"] for worker in found.values())

    app = make_app(memory_broker)
    with answering(app, W1, **inspectable()), answering(app, W2, **inspectable()):
        found = await given_time(ask, lambda found: W2 in found and tell_all(found))
    assert found.keys() == {W1, W2}, "one that sends no events is known by its answer"
    assert tell_all(found)


@pytest.mark.parametrize("path", [f"/api/workers?refresh=1&workername={W1}", f"/api/workers/{W1}?refresh=1"])
async def test_refreshing_one(memory_broker: str, path: str) -> None:
    async with watching(memory_broker) as served:
        beat(served)
        beat(served, W2)
        app = make_app(memory_broker)
        with answering(app, W1, **inspectable()), answering(app, W2, **inspectable()):
            for target in (path, path.replace("refresh=1", "")):
                answer = (await served.get(target)).json()
                worker = answer if "?" in path.split("@")[1] else answer[W1]
                assert (worker.keys(), worker["revoked"], len(worker["active"])) == (KEYS, ["b"], 1)
        listed = (await served.get("/api/workers")).json()[W1]
        assert (listed.keys(), listed["revoked"], len(listed["active"])) == (KEYS, [], 1)


async def test_who_may_not_see_arguments_does_not_see_them_in_a_listing(memory_broker: str) -> None:
    token, line = new_token("viewer", Role.VIEWER)
    active = [{"id": "a", "args": ["horse"], "kwargs": {"password": "horse"}}]
    async with watching(memory_broker, token=line, basic_auth="user:password", show_args="operator") as served:
        beat(served)
        admin = {"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}
        with answering(make_app(memory_broker), W1, **inspectable(active=active)):
            found = (await served.get("/api/workers?refresh=1", admin)).json()[W1]["active"]
            assert found == [{"id": "a", "args": ["horse"], "kwargs": {"password": "***"}}]
        hidden = (await served.get("/api/workers", {"Authorization": f"Bearer {token}"})).json()[W1]["active"]
        assert hidden == [{"id": "a", "args": None, "kwargs": None}]


@pytest.mark.parametrize(
    ("path", "everybody"),
    [
        (f"/api/worker/pool/grow/{W1}", False),
        (f"/api/worker/pool/shrink/{W1}", False),
        (f"/api/worker/pool/autoscale/{W1}?min=1&max=2", False),
        (f"/api/worker/pool/restart/{W1}", False),
        (f"/api/worker/queue/add-consumer/{W1}?queue=mail", False),
        (f"/api/worker/queue/cancel-consumer/{W1}?queue=mail", False),
        (f"/api/worker/shutdown/{W1}", False),
        (f"/api/task/rate-limit/t?ratelimit=1&workername={W1}", False),
        (f"/api/task/timeout/t?soft=1&hard=2&workername={W1}", False),
        ("/api/task/rate-limit/t?ratelimit=1", True),
        ("/api/task/timeout/t?soft=1&hard=2", True),
        ("/api/task/revoke/a", True),
    ],
)
async def test_after_a_command_the_workers_concerned_are_asked_anew(
    memory_broker: str, monkeypatch: pytest.MonkeyPatch, path: str, everybody: bool
) -> None:
    monkeypatch.setattr(inspection, "HOLD", PATIENCE)
    commands = ("pool_grow", "pool_shrink", "autoscale", "pool_restart", "add_consumer", "cancel_consumer")
    handlers = inspectable() | dict.fromkeys((*commands, "rate_limit", "time_limit", "ping"), fine())
    async with watching(memory_broker) as served:
        beat(served)
        beat(served, W2)
        app = make_app(memory_broker)
        with answering(app, W1, **handlers) as one, answering(app, W2, **handlers) as other:
            for target in ("/api/workers?refresh=1", f"/api/workers/{W1}?refresh=1", "/api/workers?refresh=1"):
                assert (await served.get(target)).status == 200
            assert (one.count("active"), one.count("reserved"), other.count("active")) == (2, 1, 1)
            assert (await served.request("POST", path)).status == 200
            for target in ("/api/workers?refresh=1", f"/api/workers/{W1}?refresh=1"):
                assert (await served.get(target)).status == 200
            assert (one.count("active"), one.count("reserved")) == (4, 2)
            assert other.count("active") == 1 + everybody


async def test_a_command_that_fails_ends_what_was_held_too(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        beat(served)
        handlers = inspectable(pool_grow={"error": "no"})
        with answering(make_app(memory_broker), W1, **handlers) as one:
            await served.get(f"/api/workers/{W1}?refresh=1")
            assert (await served.request("POST", f"/api/worker/pool/grow/{W1}")).status == 409
            await served.get(f"/api/workers/{W1}?refresh=1")
        assert one.count("reserved") == 2


async def test_however_many_ask_the_worker_is_asked_once(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "HOLD", PATIENCE)
    async with watching(memory_broker) as served:
        with answering(make_app(memory_broker), W1, **inspectable()) as remote:
            for _ in range(5):
                assert (await served.get(f"/api/workers?refresh=1&workername={W1}")).status == 200
        assert remote.count("reserved") == 1


@pytest.mark.parametrize("path", ["/api/workers?workername=nobody", "/api/workers/nobody"])
async def test_an_unknown_worker(memory_broker: str, path: str) -> None:
    async with watching(memory_broker, timeout=50) as served:
        for target in (path, path + ("&" if "?" in path else "?") + "refresh=1"):
            answer = await served.get(target)
            assert answer.status == 404
            assert answer.error["message"] == "Unknown worker 'nobody'"


async def test_a_silent_worker(memory_broker: str) -> None:
    async with watching(memory_broker, timeout=50) as served:
        beat(served)
        assert (await served.get(f"/api/workers?refresh=1&workername={W1}")).status == 504
        assert (await served.get(f"/api/workers/{W1}?refresh=1")).status == 504
        answer = await served.get("/api/workers?refresh=1")
        assert answer.status == 200
        assert answer.json()[W1]["age"] is None


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("path", ["/api/workers?refresh=1", "/api/queues/length"])
async def test_a_broker_that_is_away(path: str) -> None:
    async with watching(AWAY) as served:
        beat(served)
        answer = await served.get(path)
        assert answer.status == 503
        assert b"horse" not in answer.body
    with silent_server() as port:
        async with watching(f"redis://127.0.0.1:{port}/0") as served:
            began = time.monotonic()
            assert (await served.get(path)).status == 503
            assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    "path", ["/api/workers?refresh=perhaps", "/api/workers?status=2", f"/api/workers/{W1}?refresh=x"]
)
async def test_bad_arguments(path: str) -> None:
    async with watching(AWAY) as served:
        assert (await served.get(path)).status == 400


async def test_a_viewer_reads_and_does_not_refresh(memory_broker: str) -> None:
    tokens = {role: new_token(f"a-{role}", role) for role in ROLES}
    async with watching(memory_broker, timeout=50, token=tuple(line for _, line in tokens.values())) as served:
        beat(served)

        async def ask(path: str, role: Role) -> Response:
            return await served.get(path, {"Authorization": f"Bearer {tokens[role][0]}"})

        for path in ("/api/workers", "/api/workers?refresh=0", f"/api/workers/{W1}", "/api/queues/length"):
            assert (await ask(path, Role.VIEWER)).status == 200
        for path in ("/api/workers?refresh=1", f"/api/workers/{W1}?refresh=1"):
            answer = await ask(path, Role.VIEWER)
            assert answer.status == 403
            assert "operator" in answer.error["message"]
        assert (await ask("/api/workers?refresh=1", Role.OPERATOR)).status == 200


async def test_nothing_is_sent_to_workers_when_read_only(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(memory_broker, read_only=True) as served:
        beat(served)
        asked: list[object] = []
        monkeypatch.setattr(Inspector, "refresh", lambda self, *args: asked.append(args))
        for path in (
            "/api/workers?refresh=1",
            f"/api/workers?refresh=1&workername={W1}",
            f"/api/workers/{W1}?refresh=1",
        ):
            answer = await served.get(path)
            assert answer.status == 403
            assert "--read-only" in answer.error["message"]
        assert (await served.get("/api/workers?refresh=0")).status == 200
        assert not asked


async def test_no_password_shows(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        with answering(make_app(memory_broker), W1, **inspectable()):
            answer = await served.get(f"/api/workers?refresh=1&workername={W1}")
        assert b"horse" not in answer.body
        assert answer.json()[W1]["conf"]["broker_url"] == "redis://:***@h/0"


async def test_a_long_listing_is_sent_while_it_is_made(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slice, "SLICE", 0.0)
    monkeypatch.setattr(time_slice, "CHUNK", 1000)
    async with watching(memory_broker) as served:
        for number in range(50):
            beat(served, f"w{number}")
        assert len((await served.get("/api/workers")).json()) == 50
        _, writer = await served.connect()
        token = served.credentials["Authorization"]
        writer.write(f"GET /api/workers HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n".encode())
        writer.transport.abort()
        assert len((await served.get("/api/workers")).json()) == 50


async def test_queue_lengths(memory_broker: str) -> None:
    app = make_app(memory_broker, task_default_queue="default")
    async with serving(app, inspect_timeout=1000 * PATIENCE, enable_events=False) as served:
        answer = await served.get("/api/queues/length")
        (queue,) = answer.json()["active_queues"]
        counts = {"messages": 0, "messages_ready": 0, "messages_unacknowledged": None, "consumers": 0}
        assert queue == {"name": "default", **counts}
        with app.connection_for_write() as connection, connection.SimpleQueue("orders") as queue:
            queue.put({})
        with answering(app, W1, **inspectable()):
            beat(served)
            await eventually(lambda: served.taskmon.monitor.inspector.queues())
        answer = await served.get("/api/queues/length")
        assert [(queue["name"], queue["messages"]) for queue in answer.json()["active_queues"]] == [
            ("default", 0), ("mail", 0), ("orders", 1),
        ]  # fmt: skip


async def test_the_watch_keeps_lengths_for_the_metrics(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        await eventually(lambda: "celery" in served.taskmon.monitor.queues.latest)
        assert served.taskmon.monitor.queues.age is not None


async def test_a_worker_that_answers_with_rubbish(memory_broker: str) -> None:
    rubbish = dict.fromkeys((*GENERAL, *OF_TASKS), 5) | {"stats": {"total": float("nan"), "a": "\ud800"}}

    async def ask(seconds: float) -> Response:
        async with watching(memory_broker, timeout=1000 * seconds) as served:
            beat(served)
            return await served.get(f"/api/workers?refresh=1&workername={W1}")

    with answering(make_app(memory_broker), W1, **inspectable(**rubbish)):
        answer = await given_time(ask, lambda answer: answer.status == 200)
        assert answer.status == 200
        worker = json.loads(answer.body)[W1]
        assert worker["stats"] == {"total": None, "a": "?"}
        assert worker["conf"] == {}
        assert inspection.GENERAL == GENERAL
