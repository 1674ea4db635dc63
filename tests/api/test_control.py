"""Endpoints that change workers and running tasks: arguments, statuses, bodies; what is refused is not sent."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from remote import Remote, answering, fine, inspectable, refusing, saying
from serving import AWAY, Response, Served, event, make_app, serving
from waiting import eventually

from taskmon.api import control as module
from taskmon.api import revoking
from taskmon.auth import ROLES, Role
from taskmon.credentials.tokens import new_token
from taskmon.http import time_slice

W1, W2 = "celery@w1", "celery@w2"

#: Milliseconds that a worker has which answers, and one which does not. A call for which nobody waits any more takes
#: as long, in a thread that keeps a processor a little busy.
LONG, SHORT = 20_000.0, 100.0

#: Each worker command: its path, what is sent, and what is answered.
COMMANDS = {
    f"/api/worker/shutdown/{W1}": ("shutdown", {}, "Shutting down!"),
    f"/api/worker/pool/restart/{W1}": ("pool_restart", {"reload": False}, f"Restarting '{W1}' worker's pool"),
    f"/api/worker/pool/grow/{W1}": ("pool_grow", {"n": 1}, f"Growing '{W1}' worker's pool by 1"),
    f"/api/worker/pool/grow/{W1}?n=3": ("pool_grow", {"n": 3}, f"Growing '{W1}' worker's pool by 3"),
    f"/api/worker/pool/shrink/{W1}": ("pool_shrink", {"n": 1}, f"Shrinking '{W1}' worker's pool by 1"),
    f"/api/worker/pool/autoscale/{W1}?min=1&max=3": (
        "autoscale", {"min": 1, "max": 3}, f"Autoscaling '{W1}' worker (min=1, max=3)",
    ),
    f"/api/worker/queue/add-consumer/{W1}?queue=mail": ("add_consumer", {"queue": "mail"}, "done"),
    f"/api/worker/queue/add-consumer/{W1}?queue=eu/mail%2B1": ("add_consumer", {"queue": "eu/mail+1"}, "done"),
    f"/api/worker/queue/cancel-consumer/{W1}?queue=mail": ("cancel_consumer", {"queue": "mail"}, "done"),
    f"/api/task/timeout/app.add?workername={W1}&soft=3&hard=5.5": (
        "time_limit", {"soft": 3.0, "hard": 5.5, "task_name": "app.add"}, "done",
    ),
    f"/api/task/timeout/app.add?workername={W1}&soft=0&hard=none": (
        "time_limit", {"soft": None, "hard": None, "task_name": "app.add"}, "done",
    ),
    f"/api/task/timeout/app.add?workername={W1}&type=hard&soft=none&hard=3": (
        "time_limit", {"soft": None, "hard": 3.0, "task_name": "app.add"}, "done",
    ),
    f"/api/worker/queue/add-consumer/{W1}?queue=mail&workername={W1}": ("add_consumer", {"queue": "mail"}, "done"),
    f"/api/worker/pool/restart/{W1}?workername={W1}": (
        "pool_restart", {"reload": False}, f"Restarting '{W1}' worker's pool",
    ),
    f"/api/task/rate-limit/app.add?workername={W1}&ratelimit=10/m": (
        "rate_limit", {"rate_limit": "10/m", "task_name": "app.add"}, "done",
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("path", COMMANDS)


@asynccontextmanager
async def watching(broker: str, timeout: float = LONG, **options: Any) -> AsyncIterator[Served]:
    """Serve, with two workers known."""
    options = {"publish_queues": "mail,eu/mail+1", **options}
    async with serving(make_app(broker), inspect_timeout=timeout, enable_events=False, **options) as served:
        served.apply(event("worker-heartbeat", hostname=W1), event("worker-heartbeat", hostname=W2))
        yield served


@contextmanager
def worker(served: Served, hostname: str = W1, **handlers: Any) -> Iterator[Remote]:
    """Run a worker that answers inspects, and these commands besides."""
    app = make_app("memory://")
    with answering(app, hostname, **(inspectable() | handlers)) as remote:
        yield remote


def heard(remote: Remote) -> list[tuple[str, dict[str, Any]]]:
    """Give the commands that a worker heard, but for inspects."""
    return [(name, arguments) for name, arguments in remote.heard if name not in inspectable()]


async def post(served: Served, path: str, body: Any = None, token: str | None = None) -> Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await served.request("POST", path, headers, b"" if body is None else json.dumps(body).encode())


@EVERY
async def test_a_command(memory_broker: str, path: str) -> None:
    command, arguments, message = COMMANDS[path]
    async with watching(memory_broker) as served:
        handler = {command: fine()} if command != "shutdown" else {}
        with worker(served, ping=fine("pong"), **handler) as remote, worker(served, W2) as other:
            answer = await post(served, path)
            assert (answer.status, answer.json()) == (200, {"message": message})
            await eventually(lambda: (command, arguments) in heard(remote))
            assert not heard(other)


@EVERY
async def test_an_unknown_worker(memory_broker: str, path: str) -> None:
    async with watching(memory_broker) as served:
        answer = await post(served, path.replace(W1, "nobody"))
    assert answer.status == 404
    assert answer.error["message"] == "Unknown worker 'nobody'"


@EVERY
async def test_a_silent_worker(memory_broker: str, path: str) -> None:
    async with watching(memory_broker, timeout=100) as served:
        answer = await post(served, path)
    assert answer.status == 504
    assert W1 in answer.error["message"]


@pytest.mark.parametrize("path", [path for path in COMMANDS if "shutdown" not in path])
async def test_a_worker_that_refuses(memory_broker: str, path: str) -> None:
    async with watching(memory_broker) as served:
        with worker(served, **{COMMANDS[path][0]: refusing("ValueError('not enabled')")}):
            answer = await post(served, path)
    assert answer.status == 409
    assert answer.error["message"] == f"{W1} refused: ValueError('not enabled')"


@EVERY
async def test_a_broker_that_is_away(path: str) -> None:
    async with watching(AWAY) as served:
        answer = await post(served, path)
    assert answer.status == 503
    assert answer.header("Retry-After")
    assert b"horse" not in answer.body


@pytest.mark.parametrize(
    ("path", "argument"),
    [
        (f"/api/worker/pool/grow/{W1}?n=0", "n"),
        (f"/api/worker/pool/grow/{W1}?n=-1", "n"),
        (f"/api/worker/pool/grow/{W1}?n=x", "n"),
        (f"/api/worker/pool/shrink/{W1}?n=1.5", "n"),
        (f"/api/worker/pool/autoscale/{W1}?min=4&max=3", "min"),
        (f"/api/worker/pool/autoscale/{W1}?min=1", "max"),
        (f"/api/worker/pool/autoscale/{W1}?max=1", "min"),
        (f"/api/worker/pool/autoscale/{W1}?min=0&max=0", "max"),
        (f"/api/worker/queue/add-consumer/{W1}", "queue"),
        (f"/api/worker/queue/add-consumer/{W1}?queue=a%20b", "queue"),
        (f"/api/worker/queue/cancel-consumer/{W1}?queue=" + "x" * 256, "queue"),
        (f"/api/worker/shutdown/{W1}?now=1", "now"),
        (f"/api/worker/pool/restart/{W1}?reload=1", "reload"),
        (f"/api/worker/pool/grow/{W1}?m=2", "m"),
        (f"/api/worker/pool/grow/{W1}?workername={W2}", "workername"),
        (f"/api/worker/shutdown/{W1}?workername={W2}", "workername"),
        (f"/api/worker/queue/add-consumer/{W1}?queue=", "queue"),
        (f"/api/worker/pool/autoscale/{W1}?min=&max=3", "min"),
        (f"/api/worker/pool/autoscale/{W1}?min=1&max=", "max"),
        ("/api/task/timeout/t", "soft"),
        (f"/api/task/timeout/t?workername={W1}", "soft"),
        ("/api/task/timeout/t?soft=&hard=", "soft"),
        ("/api/task/timeout/t?soft=3&workername=", "workername"),
        ("/api/task/timeout/t?soft=3&type=hard", "hard"),
        ("/api/task/timeout/t?soft=3&type=both", "type"),
        ("/api/task/rate-limit/t?ratelimit=", "ratelimit"),
        ("/api/task/rate-limit/t?ratelimit=1/m&workername=", "workername"),
        ("/api/tasks/revoke?state=STARTED&taskname=", "taskname"),
        ("/api/tasks/revoke?state=STARTED&limit=", "limit"),
        ("/api/tasks/revoke?taskname=&state=", "taskname"),
        ("/api/task/timeout/t?soft=x", "soft"),
        ("/api/task/timeout/t?soft=nan", "soft"),
        ("/api/task/timeout/t?hard=-1", "hard"),
        ("/api/task/timeout/t?soft=5&hard=4", "soft"),
        ("/api/task/timeout/t?softt=5", "softt"),
        ("/api/task/timeout/" + "t" * 1025, "The last part of the path"),
        ("/api/task/rate-limit/t", "ratelimit"),
        ("/api/task/rate-limit/t?ratelimit=10/d", "ratelimit"),
        ("/api/task/rate-limit/t?ratelimit=many", "ratelimit"),
        ("/api/task/rate-limit/t?ratelimit=-1", "ratelimit"),
        ("/api/task/rate-limit/t?ratelimit=10/m&worker=x", "worker"),
        ("/api/task/revoke/a?signal=SIGSTOP", "signal"),
        ("/api/task/revoke/a?signal=9", "signal"),
        ("/api/task/revoke/a?terminate=perhaps", "terminate"),
        ("/api/task/revoke/a?terminat=1", "terminat"),
        ("/api/task/revoke/" + "a" * 1025, "The last part of the path"),
        ("/api/tasks/revoke?state=STARTED&signal=HUP", "signal"),
        ("/api/tasks/revoke?state=STARTED&dry_run=perhaps", "dry_run"),
        ("/api/tasks/revoke?state=STARTED&dry_run", "dry_run"),
        ("/api/tasks/revoke?state=STARTED&dry_run=", "dry_run"),
        ("/api/tasks/revoke?taskanme=x", "taskanme"),
        ("/api/tasks/revoke?ids=a", "ids"),
        ("/api/tasks/revoke?search=ab", "search"),
        ("/api/tasks/revoke?state=STARTED&limit=-1", "limit"),
    ],
)
async def test_a_bad_argument_is_named_and_nothing_is_sent(memory_broker: str, path: str, argument: str) -> None:
    async with watching(memory_broker) as served:
        with worker(served) as remote:
            answer = await post(served, path)
            assert answer.status == 400
            assert answer.error["message"].startswith(f"{argument} ")
        assert not heard(remote)


@pytest.mark.parametrize(
    ("sent", "has", "gets"),
    [
        ({"soft": 5}, "app.add [soft_time_limit=1 time_limit=9.5]", (5.0, 9.5)),
        ({"hard": "20"}, "app.add [soft_time_limit=1 time_limit=9.5]", (1.0, 20.0)),
        ({"soft": 0}, "app.add [soft_time_limit=1 time_limit=9.5]", (None, 9.5)),
        ({"hard": "None"}, "app.add [soft_time_limit=1 time_limit=9.5]", (1.0, None)),
        ({"soft": 5}, "app.add", (5.0, None)),
        ({"soft": 5, "type": "soft"}, "app.add [time_limit=9]", (5.0, 9.0)),
    ],
)
async def test_a_time_limit_that_is_not_given_stays(
    memory_broker: str, sent: dict[str, Any], has: str, gets: tuple[float | None, float | None]
) -> None:
    async with watching(memory_broker) as served:
        handlers = {"time_limit": fine(), "registered": saying(["app.addx [time_limit=1]", has])}
        other = {"time_limit": fine(), "registered": saying(["app.other"])}
        with worker(served, **handlers) as remote, worker(served, W2, **other) as without:
            answer = await post(served, "/api/task/timeout/app.add", sent)
            assert (answer.status, answer.json()) == (200, {"message": "done"})
            limits = {"soft": gets[0], "hard": gets[1], "task_name": "app.add"}
            assert heard(remote) == [("time_limit", limits)]
            assert not heard(without)


async def test_a_time_limit_that_cannot_be(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        registered = saying(["app.add [time_limit=3]"])
        with worker(served, registered=registered) as remote, worker(served, W2, registered=saying([])):
            refused = await post(served, "/api/task/timeout/app.add", {"soft": 5})
            assert (refused.status, "above a hard one of 3 s" in refused.error["message"]) == (409, True)
            unknown = await post(served, "/api/task/timeout/app.none", {"soft": 5})
            assert (unknown.status, unknown.error["message"]) == (404, "Unknown task name 'app.none'")
            assert not heard(remote)


@pytest.mark.parametrize("limit", ["200", "10/m", "10/s", "10/h", "0.5/s", "0"])
async def test_rate_limits(memory_broker: str, limit: str) -> None:
    async with watching(memory_broker) as served:
        with worker(served, rate_limit=fine()) as remote:
            assert (await post(served, f"/api/task/rate-limit/t?workername={W1}", {"ratelimit": limit})).status == 200
    assert heard(remote) == [("rate_limit", {"rate_limit": limit, "task_name": "t"})]


@pytest.mark.parametrize("path", ["/api/task/rate-limit/app.add?ratelimit=5", "/api/task/timeout/app.add?soft=5"])
async def test_without_a_worker_all_are_told(memory_broker: str, path: str) -> None:
    limits = {"rate_limit": fine("set"), "time_limit": fine("set")}
    async with watching(memory_broker, timeout=SHORT) as served:
        with worker(served, W1, **limits), worker(served, W2):
            answer = await post(served, path)
            assert answer.status == 504
            assert W2 in answer.error["message"]
    async with watching(memory_broker) as served:
        with worker(served, W1, **limits) as one, worker(served, W2, **limits) as two:
            answer = await post(served, path)
            assert (answer.status, answer.json()) == (200, {"message": "set"})
        assert len(heard(one)) == len(heard(two)) == 1
        served.apply(event("worker-offline", hostname=W2))
        with worker(served, W1, **limits):
            assert (await post(served, path)).status == 200


async def test_a_task_that_no_worker_has(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        with worker(served, rate_limit=refusing("unknown task")):
            answer = await post(served, f"/api/task/rate-limit/nope?ratelimit=1&workername={W1}")
    assert answer.status == 404
    assert answer.error["message"] == "Unknown task name 'nope'"


async def test_what_changes_a_worker_has_it_inspected(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.WorkerPoolGrow, "settles", 0.0)
    async with watching(memory_broker) as served:
        served.apply(event("worker-offline", hostname=W2))  # else the first inspect would wait for it
        with worker(served, pool_grow=fine()) as remote:
            await eventually(lambda: W1 in served.taskmon.monitor.inspector.inspections)
            before = remote.count("stats")
            assert (await post(served, f"/api/worker/pool/grow/{W1}")).status == 200
            served.apply(event("worker-heartbeat", hostname=W1))
            await eventually(lambda: remote.count("stats") > before)


# Revoking


@pytest.mark.parametrize(
    ("query", "terminate", "signal"),
    [
        ("", False, "SIGTERM"),
        ("?terminate=true", True, "SIGTERM"),
        ("?terminate=1&signal=KILL", True, "SIGKILL"),
        ("?terminate=on&signal=sigusr1", True, "SIGUSR1"),
        ("?signal=INT", False, "SIGINT"),
        ("?signal=SIGQUIT&terminate=no", False, "SIGQUIT"),
    ],
)
async def test_revoking_one(memory_broker: str, query: str, terminate: bool, signal: str) -> None:
    async with watching(memory_broker) as served:
        with worker(served) as one, worker(served, W2) as two:
            answer = await post(served, f"/api/task/revoke/it's{query}")
            assert (answer.status, answer.json()) == (200, {"message": "Revoked 'it's'"})
            told = [("revoke", {"task_id": ["it's"], "terminate": terminate, "signal": signal})]
            await eventually(lambda: heard(one) == told and heard(two) == told)


def see_what_workers_have(served: Served) -> None:
    """Let it see a task that waits in a worker, one that has finished, and one in a worker that has gone."""
    served.apply(
        event("task-received", "waiting"),
        event("task-received", "finished"),
        event("task-succeeded", "finished"),
        event("task-received", "elsewhere", hostname="celery@w3"),
        event("worker-offline", hostname="celery@w3"),
    )


async def test_revoking_what_a_worker_has(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        see_what_workers_have(served)
        with worker(served, ping=fine("pong")) as remote:
            assert (await post(served, "/api/task/revoke/waiting")).status == 200
            await eventually(lambda: [name for name, _ in heard(remote)] == ["ping", "revoke"])
        assert (await post(served, "/api/task/revoke/finished")).status == 200
        assert (await post(served, "/api/task/revoke/elsewhere")).status == 200
    async with watching(memory_broker, timeout=SHORT) as served:
        see_what_workers_have(served)
        assert (await post(served, "/api/task/revoke/waiting")).status == 504
        answer = await post(served, "/api/tasks/revoke", {"ids": ["unknown", "waiting"]})
        assert (answer.status, answer.error["message"].startswith(W1)) == (504, True)
    async with watching(AWAY) as served:
        assert (await post(served, "/api/task/revoke/a")).status == 503
        assert (await post(served, "/api/tasks/revoke", {"ids": ["a"]})).status == 503
        assert (await post(served, "/api/tasks/revoke", {"ids": ["a"], "dry_run": True})).status == 200


def some_tasks(served: Served) -> None:
    """Let it see tasks `add-0` to `add-4`, of which the last is finished, and `mail`."""
    for number in range(5):
        served.apply(event("task-received", f"add-{number}", name="app.add", at=1000.0 + number))
    served.apply(event("task-succeeded", "add-4"), event("task-received", "mail", name="app.mail", hostname=W2))


async def test_revoking_many_by_id(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        some_tasks(served)
        with worker(served, ping=fine("pong")) as remote:
            answer = await post(served, "/api/tasks/revoke", {"ids": ["add-1", "unknown", "add-4", "add-1"]})
            assert answer.json() == {"matched": ["add-1", "unknown"], "revoked": 2, "dry_run": False, "more": False}
            told = {"task_id": ["add-1", "unknown"], "terminate": False, "signal": "SIGTERM"}
            await eventually(lambda: heard(remote) == [("ping", {}), ("revoke", told)])
            answer = await post(served, "/api/tasks/revoke", {"ids": ["add-4"], "terminate": True, "signal": "KILL"})
            assert answer.json() == {"matched": [], "revoked": 0, "dry_run": False, "more": False}
        assert len(heard(remote)) == 2
        assert (await post(served, "/api/tasks/revoke", {"ids": ["unknown"]})).status == 200


@pytest.mark.parametrize(
    ("query", "body", "matched"),
    [
        ("?taskname=app.add", None, {"add-0", "add-1", "add-2", "add-3"}),
        ("", {"taskname": "app.add"}, {"add-0", "add-1", "add-2", "add-3"}),
        ("?taskname=app.add", {"received_end": 1001}, {"add-0", "add-1"}),
        ("?taskname=app.add&limit=2&sort_by=received", None, {"add-0", "add-1"}),
        ("?taskname=app.add&limit=2&offset=1&sort_by=-received", None, {"add-1", "add-2"}),
        ("?taskname=app.add&limit=0", None, set()),
        (f"?workername={W2}", None, {"mail"}),
        ("?search=mail&state=RECEIVED", None, {"mail"}),
        ("?state=SUCCESS", None, set()),
    ],
)
async def test_revoking_by_filter(memory_broker: str, query: str, body: Any, matched: set[str]) -> None:
    async with watching(memory_broker) as served:
        some_tasks(served)
        pong = fine("pong")
        with worker(served, ping=pong) as remote, worker(served, W2, ping=pong):
            answer = await post(served, f"/api/tasks/revoke{query}", (body or {}) | {"dry_run": True})
            assert answer.status == 200
            assert answer.json().keys() == {"matched", "revoked", "dry_run", "more"}
            assert set(answer.json()["matched"]) == matched
            assert (answer.json()["revoked"], answer.json()["dry_run"]) == (0, True)
            assert not heard(remote)
            answer = await post(served, f"/api/tasks/revoke{query}", body)
            assert set(answer.json()["matched"]) == matched
            assert answer.json()["revoked"] == len(matched)
            if matched:
                await eventually(lambda: remote.count("revoke"))
                assert set(dict(heard(remote))["revoke"]["task_id"]) == matched


async def test_filters_as_a_form(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        some_tasks(served)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await served.request("POST", "/api/tasks/revoke", headers, b"taskname=app.mail&dry_run=yes")
        assert answer.json()["matched"] == ["mail"]
        answer = await served.request("POST", "/api/tasks/revoke", headers, b"ids=mail")
        assert answer.status == 400


@pytest.mark.parametrize(
    "body",
    [None, {}, {"ids": []}, {"ids": None}, {"ids": "a"}, {"ids": [5]}, {"ids": [""]}, {"ids": ["a" * 1025]},
     {"ids": ["a"] * 10_001}, {"ids": ["a"], "state": "STARTED"}, {"ids": ["a"], "limit": 1}, {"state": "All"},
     {"limit": 5}, {"sort_by": "name"}, {"dry_run": True}, {"terminate": True}, {"state": ["A"]}, {"search": " "},
     [], "x"],
)  # fmt: skip
async def test_what_does_not_say_which_tasks_is_refused(memory_broker: str, body: Any) -> None:
    async with watching(memory_broker) as served:
        some_tasks(served)
        with worker(served) as remote:
            answer = await post(served, "/api/tasks/revoke", body)
            assert answer.status == 400
            assert answer.error
        assert not heard(remote)


async def test_at_most_so_many_at_once(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoking, "MAX_REVOKED", 2)
    monkeypatch.setattr(time_slice, "SLICE", 0.0)
    async with watching(memory_broker) as served:
        some_tasks(served)
        answer = await post(served, "/api/tasks/revoke", {"taskname": "app.add", "dry_run": True})
        assert len(answer.json()["matched"]) == 2
        assert answer.json()["more"] is True
        answer = await post(served, "/api/tasks/revoke", {"taskname": "app.add", "limit": 2, "dry_run": True})
        assert answer.json()["more"] is False
        assert (await post(served, "/api/tasks/revoke", {"ids": ["a", "b", "c"]})).status == 400


# Who may


async def test_roles(memory_broker: str) -> None:
    tokens = {role: new_token(f"a-{role}", role) for role in ROLES}
    async with watching(memory_broker, timeout=50, token=tuple(line for _, line in tokens.values())) as served:
        for path in [*COMMANDS, "/api/task/revoke/a", "/api/tasks/revoke?state=STARTED"]:
            needed = Role.ADMIN if path.startswith("/api/worker/") else Role.OPERATOR
            for role, (token, _) in tokens.items():
                status = (await post(served, path, token=token)).status
                assert (status == 403) == (role < needed), (path, role, status)


async def test_hostnames_in_the_path_are_unquoted(memory_broker: str) -> None:
    async with watching(memory_broker) as served:
        hostname = "wörk er/1@h"
        served.apply(event("worker-heartbeat", hostname=hostname))
        with worker(served, hostname, pool_grow=fine()):
            answer = await post(served, f"/api/worker/pool/grow/{quote(hostname, safe='')}")
        assert answer.json() == {"message": f"Growing '{hostname}' worker's pool by 1"}
