"""Secrets in every field of tasks, results and workers, and every route asked as every role: none comes out, and no
answer differs by one.

Three worlds are asked the same: `named` secrets stand under names such as password, or look like secrets, and are
masked for everybody; `plain` ones are in arguments, results and errors as any text is, and hidden from those below
`--show-args`.
"""

import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from celery.backends.cache import _DUMMY_CLIENT_CACHE
from kombu.transport import memory
from serving import Served, event, make_app, serving
from waiting import eventually

from taskmon.auth import ROLES, Role
from taskmon.cluster.inspect_replies import read_answer
from taskmon.cluster.inspection import GENERAL, OF_TASKS, Inspection
from taskmon.credentials.tokens import new_token
from taskmon.routes import ROUTES

TOKENS = {role: new_token(str(role), role) for role in ROLES}
HOST = "celery@w1"
JSON = {"Content-Type": "application/json"}


class World(NamedTuple):
    """The secrets of one run."""

    named: str
    plain: str


FIRST = World("hunter2hunter2", "squirrel77")
OTHER_NAMED = World("swordfish9999***", "squirrel77")
OTHER = World("swordfish9999***", "badger31415 and more")


def events(world: World) -> Iterator[Any]:
    named, plain = world
    inner = json.dumps({"a": json.dumps({"password": named})})
    texts = {
        "args": f"('{plain}', ('token', '{named}'), <Session: {plain} 'x'>)",
        "kwargs": f"{{'password': '{named}', 'n': 1, 'note': '{plain}', 'token': <T {named} a>, 'j': {inner!r}}}",
    }
    for task_id in ("a", "b", "c"):
        yield event("task-received", task_id, name="app.add", queue="celery", root_id="a", parent_id="a", **texts)
    yield event(
        "task-failed",
        "a",
        at=1_700_000_001.0,
        exception=f"ValueError('{plain} Authorization: Bearer {named}')",
        traceback=f"Traceback\n  File x, line 1\n    login(password='{named}', who='{plain}')\nredis://u:{named}@host/0",
    )
    yield event(
        "task-succeeded", "b", at=1_700_000_002.0, result=f"{{'pin': '{named}', 'v': '{plain}'}}", runtime=1.0
    )
    yield event("task-retried", "c", at=1_700_000_003.0, exception=f"E('{plain}', pwd='{named}')")
    yield event("task-received", "d", name="app.add", queue="celery", args=f"('{plain}',)", kwargs="{}")
    yield event("task-succeeded", "d", at=1_700_000_004.0, result=f"'sk_live_{named.strip('*')}'[:0] + '{plain}'")
    yield event("worker-heartbeat", hostname=HOST, freq=3600.0, active=1, processed=5)


def answers(world: World) -> dict[str, Any]:
    named, plain = world
    task = {
        "id": "c",
        "name": "app.add",
        "args": [plain, ["password", named]],
        "kwargs": {"token": named, "note": plain},
        "argsrepr": f"('{plain}',)",
        "headers": {"x": plain, "authorization": named},
        "delivery_info": {"exchange": "", "routing_key": "celery"},
    }
    return {
        "stats": {
            "total": {"app.add": 5},
            "broker": {"hostname": "h", "userid": "u", "password": named, "alternates": [f"redis://:{named}@h/0"]},
            "custom": {"secret": named},
        },
        "active_queues": [{"name": "celery", "queue_arguments": {"token": named}}],
        "registered": ["app.add"],
        "conf": {
            "timezone": "UTC",
            "broker_url": f"redis://:{named}@host/0",
            "result_backend": f"db+postgresql://u:{named}@host/db",
            "my_hook": f"https://hooks.slack.com/services/T/B/{named}",
            "certificate": f"-----BEGIN PRIVATE KEY-----\n{named}\n-----END PRIVATE KEY-----",
            "beat_schedule": {
                "x": {"task": "app.add", "args": [plain], "kwargs": {"note": plain, "pin": named}, "schedule": 5.0},
                "y": f"<ScheduleEntry: y app.add('{plain}', password='{named}')>",
            },
        },
        "scheduled": [{"eta": "2030", "request": task}],
        "active": [task],
        "reserved": [task],
        "revoked": ["x"],
    }


@asynccontextmanager
async def living_in(world: World, broker: str, history: Path | None, show_args: str) -> AsyncIterator[Served]:
    memory.Channel.queues.clear()
    _DUMMY_CLIENT_CACHE.clear()
    app = make_app(broker, result_backend="cache+memory://")

    @app.task(name="app.add", shared=False)  # type: ignore[untyped-decorator]
    def add(*args: Any, **kwargs: Any) -> None: ...

    app.backend.store_result("done", {"password": world.named, "v": world.plain}, "SUCCESS")
    app.backend.store_result(
        "failed", ValueError(f"{world.plain} token={world.named}"), "FAILURE", traceback=f"x(pin='{world.named}')"
    )
    more = {"history": f"sqlite:///{history}", "max_tasks": 2} if history is not None else {}
    lines = tuple(line for _, line in TOKENS.values())
    options = {
        "token": lines,
        "inspect_timeout": 20,
        "enable_events": False,
        "metrics_celery_exporter": True,
        **more,
    }
    async with serving(app, show_args=show_args, **options) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        served.apply(*events(world))
        read = {name: read_answer(name, answer)[0] for name, answer in answers(world).items()}
        assert read.keys() == {*GENERAL, *OF_TASKS}
        served.taskmon.monitor.inspector.inspections[HOST] = Inspection(read, dict.fromkeys(read, time.time()))
        yield served


def searches() -> list[str]:
    """List what somebody would ask who guesses at the secrets of the first world."""
    named, plain = FIRST
    guesses = [
        *(named, named[:4], plain, plain[:4], f"kwargs:password={named}", f"kwargs:note={plain}", "args:***"),
        *(f"kwargs:\"'password': '{named[0]}\"", f'"{plain} "', f"exception:{plain}", f"exception:{named[:5]}"),
        *(f"result:{named}", f"args:{plain}", '"***"', f"args:{named[-4:]}", f'"(\'{plain}"'),
    ]
    return [asked for guess in guesses for asked in (guess, f"name:app -{guess}", f"name:nope OR {guess}")]


def requests() -> list[tuple[str, str, bytes]]:
    """List the requests: every route of the table, by each of its methods, and the searches."""
    found = []
    ids = ("a", "b", "c", "d", "done", "failed", HOST, "app.add", "nope")
    bodies: dict[str, Any] = {
        "/api/tasks/revoke": {"ids": ["nope"]},
        "apply": {"args": [1], "timeout": 0.02},
        "send-task": {"args": [1]},
        "limit": {"ratelimit": "1"},
    }
    for path, handler in ROUTES:
        for part in ids if "(" in path else ("",):
            target = re.sub(r"\(.*?\)", part, path).replace("\\", "")
            body = next((value for key, value in bodies.items() if key in target), {})
            for method in handler.methods():
                found.append((method.upper(), target, json.dumps(body).encode() if method == "post" else b""))
    found += [("GET", f"/api/workers?workername={HOST}", b""), ("GET", f"/worker/{HOST}?json", b"")]
    found += [("GET", f"/api/tasks?sort_by={key}&limit=2", b"") for key in ("name", "-runtime", "received")]
    table = "/tasks/datatable?draw=1&start=0&length=9&order[0][column]=0&columns[0][data]=kwargs&search[value]="
    for asked in searches():
        found.append(("GET", f"/api/tasks?search={quote(asked)}", b""))
        found.append(("GET", table + quote(asked), b""))
        for dry_run in (True, False):
            body = json.dumps({"search": asked, "dry_run": dry_run}).encode()
            found.append(("POST", "/api/tasks/revoke", body))
    return found


def settled(method: str, target: str, body: bytes) -> str:
    """Return an answer without what differs each time: times, ids that are made, what is measured."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", body.decode())
    text = re.sub(r"\d+\.\d+(e-?\d+)?", "TIME", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", text)
    if target == "/metrics":
        return "\n".join(line for line in text.splitlines() if "exception" in line or not re.search(r" \S+$", line))
    return text


async def ask_all(served: Served, role: Role) -> dict[tuple[str, str, bytes], tuple[int, str]]:
    found = {}
    headers = {"Authorization": f"Bearer {TOKENS[role][0]}"}
    for method, target, body in requests():
        more = JSON if body and "datatable" not in target else {}
        answer = await served.request(method, target, headers | more, body)
        found[method, target, body] = answer.status, settled(method, target, answer.body)
    return found


CASES = [
    *((show_args, role, False) for show_args in ("none", "viewer", "operator") for role in ROLES),
    *(("none", Role.OPERATOR, True), ("viewer", Role.VIEWER, True)),
]


@pytest.mark.parametrize(("show_args", "role", "with_history"), CASES)
async def test_no_way_out_tells_what_is_hidden(
    memory_broker: str,
    tmp_path: Path,
    show_args: str,
    role: Role,
    with_history: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "taskmon")
    may_see = show_args != "none" and role >= Role.parse(show_args)
    worlds = FIRST, OTHER_NAMED if may_see else OTHER
    differing: set[tuple[str, str, bytes]] | None = None
    for attempt in range(3):  # what a secret decides differs each time, unlike what a busy machine does to an answer
        told = []
        for number, world in enumerate(worlds):
            history = tmp_path / f"{attempt}-{number}.sqlite3" if with_history else None
            async with living_in(world, memory_broker, history, show_args) as served:
                found = await ask_all(served, role)
            for place, (_, text) in found.items():
                assert world.named not in text, place
                if not may_see:
                    assert world.plain not in text, place
            logged = caplog.text
            caplog.clear()
            told.append(found)
        assert OTHER.named not in logged, "what is in a search is there, and that is of the first world"
        now = {place for place in told[0] if told[0][place] != told[1][place]}
        differing = now if differing is None else differing & now
        if not differing:
            break
    assert not differing, [(told[0][place], told[1][place]) for place in differing]
    shown = "".join(text for _, text in told[0].values())
    assert (FIRST.plain in shown) is may_see, "what is not hidden is there, or the walk says nothing"
    assert "***" in shown or not may_see
