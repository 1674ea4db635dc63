"""The task endpoints, asked over a socket."""

import asyncio
import json
import socket
import time
from urllib.parse import quote

import pytest
from serving import AWAY, Served, close, event, make_app, parse, serving
from waiting import eventually

from taskmon.api import listing, tasks
from taskmon.http import time_slice
from taskmon.http.serializers import Links
from taskmon.records import Task

SEED_KEYS = (
    *("args", "client", "clock", "eta", "exception", "exchange", "expires", "failed", "kwargs", "name", "received"),
    *("result", "retried", "retries", "revoked", "routing_key", "runtime", "sent", "started", "state", "succeeded"),
    *("task-id", "timestamp", "traceback", "worker"),
)
FLOWER_KEYS = {
    *(
        "uuid",
        "name",
        "state",
        "received",
        "sent",
        "started",
        "rejected",
        "succeeded",
        "failed",
        "retried",
        "revoked",
    ),
    *("args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp", "runtime"),
    *(
        "traceback",
        "exchange",
        "routing_key",
        "clock",
        "client",
        "root",
        "root_id",
        "parent",
        "parent_id",
        "children",
    ),
}


#: The tasks that one was retried as, or is a retry of.
LINKS = ("retried_as", "retry_of")


# One task


async def info(served: Served, task_id: str = "a") -> dict[str, object]:
    answer = await served.get(f"/api/task/info/{quote(task_id, safe='')}")
    assert answer.status == 200
    body = answer.json()
    assert body.keys() == {*FLOWER_KEYS, *SEED_KEYS, "queue", "incomplete", "source", "orphaned", *LINKS}
    assert body["task-id"] == body["uuid"] == task_id
    return body  # type: ignore[no-any-return]


async def test_every_key_has_its_meaning() -> None:
    async with serving() as served:
        served.apply(
            event(
                "task-sent", "a", 100.0, hostname="gen1@web", name="tasks.add", args="(1, 2)", kwargs="{'x': 1}",
                retries=0, eta="2030-01-01T00:00:00", expires="2030-01-02T00:00:00", queue="q", exchange="ex",
                routing_key="key", root_id="r", parent_id="p", clock=1,
            ),
            event("task-received", "a", 101.0, name="tasks.add", clock=2),
            event("task-started", "a", 102.0, clock=3, pid=7),
            event("task-succeeded", "a", 103.5, clock=4, result="3", runtime=1.5),
        )  # fmt: skip
        body = await info(served)
    expected = {
        "args": "(1, 2)", "client": "gen1@web", "clock": 4, "eta": "2030-01-01T00:00:00", "exception": None,
        "exchange": "ex", "expires": "2030-01-02T00:00:00", "failed": None, "kwargs": "{'x': 1}",
        "name": "tasks.add", "received": 101.0, "result": "3", "retried": None, "retries": 0, "revoked": None,
        "routing_key": "key", "runtime": 1.5, "sent": 100.0, "started": 102.0, "state": "SUCCESS",
        "succeeded": 103.5, "task-id": "a", "timestamp": 103.5, "traceback": None, "worker": "celery@w1",
    }  # fmt: skip
    assert tuple(expected) == SEED_KEYS
    assert {key: body[key] for key in SEED_KEYS} == expected
    others = {
        "queue": "q", "root": "r", "root_id": "r", "parent": "p", "parent_id": "p", "rejected": None, "children": [],
        "uuid": "a", "incomplete": [], "source": "events", "orphaned": False, "retried_as": None, "retry_of": None,
    }  # fmt: skip
    assert body == expected | others


async def test_a_task_that_failed_was_retried_revoked_and_rejected() -> None:
    async with serving() as served:
        served.apply(
            event("task-retried", "a", 1.0, exception="Timeout()", traceback="Traceback …"),
            event("task-failed", "a", 2.0, exception="ValueError()", traceback="Traceback: \ud7ff"),
            event("task-revoked", "b", 3.0),
            event("task-rejected", "c", 4.0),
        )
        a, b, c = [await info(served, task_id) for task_id in "abc"]
    assert (a["retried"], a["failed"], a["state"]) == (1.0, 2.0, "FAILURE")
    assert (a["exception"], a["traceback"]) == ("ValueError()", "Traceback: \ud7ff")
    assert (b["revoked"], b["state"], b["name"]) == (3.0, "REVOKED", None)
    assert (c["rejected"], c["state"]) == (4.0, "REJECTED")


async def test_children() -> None:
    async with serving() as served:
        served.apply(*(event("task-sent", child, float(n), parent_id="a") for n, child in enumerate("cb")))
        served.apply(event("task-sent", "a"))
        assert (await info(served))["children"] == ["c", "b"]


IDS = [
    "a/b",
    "/",
    "a/",
    "//a//",
    "%",
    "%2F",
    "ä€😀",
    "it's",
    '"',
    "<b>",
    "a b",
    "a+b",
    "?x=1",
    "#",
    "..",
    "\n",
    ";a=1",
]


@pytest.mark.parametrize("task_id", [*IDS, "x" * 1024])
async def test_any_id(task_id: str) -> None:
    async with serving() as served:
        missing = await served.get(f"/api/task/info/{quote(task_id, safe='')}")
        assert missing.status == 404
        assert missing.error["message"].startswith("Unknown task ")
        assert len(missing.error["message"]) < 500
        served.apply(event("task-sent", task_id))
        await info(served, task_id)
        assert list((await served.get("/api/tasks")).json()) == [task_id]


async def test_an_id_with_slashes_as_they_are() -> None:
    async with serving() as served:
        served.apply(event("task-sent", "a/b"))
        for path in ("a/b", "a/b/", "a%2Fb", "a%2fb/"):
            assert (await served.get(f"/api/task/info/{path}")).json()["uuid"] == "a/b"


@pytest.mark.parametrize("path", ["%FF", "%C3%28", "a%ED%A0%80", "%C0%80"])
async def test_an_id_that_is_no_utf_8(path: str) -> None:
    async with serving() as served:
        for method in ("GET", "HEAD", "POST"):
            answer = await served.request(method, f"/api/task/info/{path}")
            assert answer.status == 400
            assert method == "HEAD" or answer.error["message"] == "The path must be UTF-8"


@pytest.mark.parametrize("path", ["%", "%zz", "%u1234", "a%"])
async def test_escapes_that_are_none(path: str) -> None:
    async with serving() as served:
        answer = await served.get(f"/api/task/info/{path}")
        assert answer.status == 404
        assert path in answer.error["message"]


# Why an id is unknown


async def reason(served: Served, task_id: str = "a") -> str:
    answer = await served.get(f"/api/task/info/{task_id}")
    assert answer.status == 404
    error = answer.error
    assert error.keys() == {"status", "message", "reason"}
    assert error["message"] == f"Unknown task '{task_id}'"
    return str(error["reason"])


async def test_unknown_since_the_broker_is_away() -> None:
    async with serving(make_app(AWAY)) as served:
        await eventually(lambda: "refused" in served.taskmon.monitor.broker.reason)
        assert (await reason(served)).startswith("not connected: ")
        assert "wrong-horse" not in await reason(served)


async def test_unknown_since_no_worker_sends_events(memory_broker: str) -> None:
    async with serving(make_app(memory_broker)) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        served.apply(event("worker-heartbeat"))
        assert (await reason(served)).startswith("no task events: ")


async def test_never_seen(memory_broker: str) -> None:
    async with serving(make_app(memory_broker)) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        served.apply(event("task-sent", "b"))
        why = await reason(served)
        assert why.startswith("never seen: ")
        assert time.strftime("%Y-%m-%dT", time.gmtime(served.taskmon.monitor.started)) in why


@pytest.mark.parametrize("connected", [True, False])
async def test_evicted(memory_broker: str, connected: bool) -> None:
    async with serving(make_app(memory_broker if connected else AWAY), max_tasks=2) as served:
        served.apply(*(event("task-sent", name) for name in "abc"))
        assert await reason(served) == "evicted: only the latest 2 tasks are held (--max-tasks)"


# Names


async def test_types() -> None:
    async with serving() as served:
        assert (await served.get("/api/task/types")).json() == {"task-types": []}
        names = ["tasks.b", "tasks.a", "tasks.b", None, "ä", "Z"]
        served.apply(*(event("task-received", f"t{n}", name=name) for n, name in enumerate(names)))
        served.apply(event("task-received", "nameless"))
        assert (await served.get("/api/task/types")).json() == {"task-types": ["Z", "tasks.a", "tasks.b", "ä"]}


async def test_types_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_NAMES", 3)
    async with serving() as served:
        served.apply(*(event("task-succeeded", f"t{n}", name=f"name{n}") for n in range(10)))
        while served.state.maintain():
            pass
        assert (await served.get("/api/task/types")).json() == {"task-types": ["name0", "name1", "name2"], "other": 7}
        monkeypatch.setattr(tasks, "MAX_NAMES", 100)
        monkeypatch.setattr(tasks, "MAX_NAMES_BYTES", 20)
        found = (await served.get("/api/task/types")).json()
        assert len(found["task-types"]) == 4
        assert found["other"] == 6


# Listings


async def ids(served: Served, query: str = "") -> list[str]:
    answer = await served.get(f"/api/tasks{query}")
    assert answer.status == 200
    body = answer.json()
    assert all(task["uuid"] == task_id for task_id, task in body.items())
    return list(body)


async def test_listings() -> None:
    async with serving() as served:
        assert await ids(served) == []
        served.apply(
            event("task-received", "a", 1.0, name="tasks.add", hostname="w1", args='("it\'s",)'),
            event("task-received", "b", 3.0, name="tasks.mul", hostname="w2"),
            event("task-received", "c", 2.0, name="tasks.add", hostname="w2"),
            event("task-started", "c", 2.5, hostname="w2"),
        )
        assert await ids(served) == ["b", "c", "a"]
        assert await ids(served, "?limit=1") == ["b"]
        assert await ids(served, "?limit=1&offset=1") == ["c"]
        assert await ids(served, "?offset=5") == []
        assert await ids(served, "?limit=0") == []
        assert await ids(served, "?sort_by=received") == ["a", "c", "b"]
        assert await ids(served, "?sort_by=-received") == ["b", "c", "a"]
        assert await ids(served, "?taskname=tasks.add&sort_by=received") == ["a", "c"]
        assert await ids(served, "?workername=w2&state=STARTED") == ["c"]
        assert await ids(served, "?workername=All&taskname=All&state=All&search=&limit=&sort_by=") == ["b", "c", "a"]
        assert await ids(served, "?search=it%27s") == ["a"]
        assert await ids(served, "?search=state:STARTED") == ["c"]
        assert await ids(served, "?started_start=2&started_end=2.5") == ["c"]
        assert await ids(served, "/?limit=1") == ["b"]


async def test_dates_without_a_zone_are_in_the_apps() -> None:
    app = make_app(timezone="Asia/Tokyo")
    async with serving(app) as served:
        served.apply(event("task-received", "a", 1_767_258_000.0))  # 2026-01-01 18:00 in Tokyo
        assert await ids(served, "?received_start=2026-01-01%2018:00&received_end=2026-01-01%2018:00") == ["a"]
        assert await ids(served, "?received_start=2026-01-01%2018:01") == []
        assert await ids(served, "?received_end=2026-01-01T09:00:00Z") == ["a"]
        assert await ids(served, "?received_end=2026-01-01T08:59:59Z") == []


async def test_the_times_that_are_not_numbers_are_strict_json() -> None:
    async with serving() as served:
        served.apply(event("task-succeeded", "a", runtime=1e-9, result='"\\\n\x7f\u2028'))
        assert (await served.get("/api/tasks")).json()["a"]["result"] == '"\\\n\x7f\u2028'


def fill(served: Served, count: int, text: str = "x" * 2000) -> None:
    served.apply(*(event("task-received", f"task-{n}", float(n), name="tasks.add", args=text) for n in range(count)))


@pytest.fixture
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every listing a long one: sent after each few tasks."""
    monkeypatch.setattr(time_slice, "SLICE", 0.0)
    monkeypatch.setattr(time_slice, "CHUNK", 4000)


@pytest.mark.usefixtures("_eager")
async def test_a_long_listing_comes_in_chunks() -> None:
    async with serving() as served:
        fill(served, 500)
        answer = await served.get("/api/tasks?sort_by=received")
        assert answer.header("Transfer-Encoding") == "chunked"
        assert answer.header("Content-Length") is None
        assert list(answer.json()) == [f"task-{n}" for n in range(500)]
        head = await served.request("HEAD", "/api/tasks")
        assert (head.status, head.body) == (200, b"")
        assert await ids(served, "?limit=1") == ["task-499"]


@pytest.mark.usefixtures("_eager")
async def test_others_are_served_while_a_long_listing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slice, "CHUNK", 1 << 30)
    async with serving() as served:
        fill(served, 2000, "x")
        listing = asyncio.create_task(served.get("/api/tasks"))
        answered = 0
        while not listing.done():
            assert (await served.get("/healthcheck")).status == 200
            answered += 1
        assert len((await listing).json()) == 2000
        assert answered > 2


@pytest.mark.usefixtures("_eager")
async def test_a_listing_that_changes_while_it_is_made() -> None:
    async with serving(max_tasks=300) as served:
        fill(served, 300)
        listing = asyncio.create_task(served.get("/api/tasks"))
        for n in range(300):
            served.apply(event("task-received", f"new-{n}", 1000.0 + n))
            await asyncio.sleep(0)
        body = (await listing).json()
        assert all(len(task) == len(FLOWER_KEYS) + 5 + len(LINKS) for task in body.values())


@pytest.mark.usefixtures("_eager")
async def test_a_client_that_goes_away_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        fill(served, 3000, "x" * 20_000)
        for _ in range(3):
            reader, writer = await served.connect()
            head = f"Host: localhost\r\nAuthorization: {served.credentials['Authorization']}\r\n\r\n"
            writer.write(f"GET /api/tasks HTTP/1.1\r\n{head}".encode())
            assert (await reader.readexactly(100_000)).startswith(b"HTTP/1.1 200 OK")
            writer.transport.abort()
            await close(writer)
        await eventually(lambda: not served.taskmon.listeners.connected)
        assert await ids(served, "?limit=1") == ["task-2999"]
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_a_client_that_stops_reading_keeps_nothing_but_its_place() -> None:
    async with serving() as served:
        fill(served, 1000, "x" * 20_000)
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", served.port))
            credentials = served.credentials["Authorization"]
            head = f"Host: localhost\r\nConnection: close\r\nAuthorization: {credentials}\r\n\r\n"
            await loop.sock_sendall(client, f"GET /api/tasks HTTP/1.1\r\n{head}".encode())
            raw = await loop.sock_recv(client, 1000)
            (stalled,) = [place.stream for place in served.taskmon.listeners.connected]
            for _ in range(50):
                assert await ids(served, "?limit=1") == ["task-999"]
                assert len(stalled._write_buffer) < time_slice.CHUNK + (listing.BATCH + 1) * 21_000
            assert stalled.writing()
            while part := await loop.sock_recv(client, 1 << 20):  # and it may go on at any time
                raw += part
        assert len(parse(raw).json()) == 1000


@pytest.mark.usefixtures("_eager")
async def test_a_long_listing_is_not_made_for_head(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        fill(served, 500)
        made = []
        monkeypatch.setattr(listing, "task_members", lambda found, links: made.append(found) or b"x" * 5000)
        assert (await served.request("HEAD", "/api/tasks")).status == 200
        assert len(made) == 1


async def test_fewer_long_texts_are_encoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        fill(served, 20, "x" * 10)
        fill(served, 4, "x" * 60_000)
        sizes: list[int] = []
        make = listing.task_members

        def note(found: list[tuple[Task, list[str]]], links: Links) -> bytes:
            sizes.append(len(found))
            return make(found, links)

        monkeypatch.setattr(listing, "task_members", note)
        assert len((await served.get("/api/tasks?sort_by=received")).json()) == 20
        assert sizes == [2, 2, 16]


async def test_a_failure_halfway_does_not_look_like_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time_slice, "SLICE", 0.0)
    monkeypatch.setattr(time_slice, "CHUNK", 0)
    monkeypatch.setattr(listing, "BATCH", 1)
    async with serving() as served:
        fill(served, 10)
        make = listing.task_members

        def fail_at_last(found: list[tuple[Task, list[str]]], links: Links) -> bytes:
            if found[0][0].uuid == "task-0":
                raise RuntimeError("broken")
            return make(found, links)

        monkeypatch.setattr(listing, "task_members", fail_at_last)
        raw = await served.send(
            b"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: "
            + served.credentials["Authorization"].encode()
            + b"\r\n\r\n"
        )
        assert raw.startswith(b"HTTP/1.1 200 OK")
        text = raw.decode()
        assert '"task-1":' in text.replace(" ", "")
        assert "broken" not in text
        with pytest.raises(json.JSONDecodeError):
            json.loads("".join(line for line in text.partition("\r\n\r\n")[2].split("\r\n")[1::2]))
        assert (await served.get("/api/task/types")).status == 200
    assert "'/api/tasks' failed" in caplog.text


@pytest.mark.parametrize("task_id", ["é", "id-☃😀", "Ã©", "50%25 é", "a%2Fé"])
async def test_letters_outside_ascii_need_no_escapes(task_id: str) -> None:
    async with serving() as served:
        told = task_id.replace("%25", "%").replace("%2F", "/")
        served.apply(event("task-received", told))
        for path in (task_id.replace(" ", "%20"), quote(told, safe="")):
            assert (await served.get(f"/api/task/info/{path}")).json()["uuid"] == told
        raw = b"GET /api/task/info/\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        key, value = next(iter(served.credentials.items()))
        answer = parse(await served.send(raw + f"{key}: {value}\r\n\r\n".encode()))
        assert (answer.status, answer.error["message"]) == (400, "The path must be UTF-8")
