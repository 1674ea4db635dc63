"""A whole taskmon with a history: what left the memory is found, and a restart changes nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from factories import find_ids, held_tasks, make_state
from patience import PATIENCE
from serving import Served, event, make_app, serving
from stored import list_queries, make_tasks
from waiting import eventually

from taskmon.cli import main
from taskmon.errors import InvalidSetting
from taskmon.history import history as history_module
from taskmon.history import recording
from taskmon.history.databases import Away
from taskmon.history.recording import Recorder
from taskmon.monitor.state import State
from taskmon.outcomes import Outcome
from taskmon.records import Event, Task
from taskmon.wording import say_roughly


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"history": f"sqlite:///{tmp_path}/history.sqlite3", "max_tasks": 20, **more}


def lives(count: int, *, parent: str | None = None) -> list[Event]:
    """Make the events of tasks that succeeded, each a minute after the one before."""
    made = []
    for number in range(count):
        told = {"name": f"tasks.n{number % 3}", "root_id": parent or f"id-{number:03}", "parent_id": parent}
        told |= {"args": "()", "kwargs": "{}"}
        for later, kind in enumerate(("received", "started", "succeeded")):
            made.append(event(f"task-{kind}", f"id-{number:03}", 1_700_000_000.0 + 60 * number + later, **told))
    return made


def copy_all(state: State, served: Served) -> None:
    """Put what a State holds into a taskmon, as the events would."""
    for task in sorted(held_tasks(state), key=lambda task: task.timestamp or 0.0):
        served.apply(*_events_of(task))


def _events_of(task: Task) -> list[Event]:
    told = {field: getattr(task, field) for field in ("name", "args", "kwargs", "retries", "root_id", "parent_id")}
    told |= {"clock": task.clock, "result": task.result, "exception": task.exception, "runtime": task.runtime}
    made = []
    for kind in ("sent", "received", "started", "succeeded", "failed"):
        at = getattr(task, kind)
        if at is not None:
            more = {"queue": task.queue, "hostname": task.client} if kind == "sent" else {"hostname": task.worker}
            made.append(event(f"task-{kind}", task.uuid, at, **told, **more))
    return made or [event("task-custom", task.uuid, task.timestamp or 0.0, **told, hostname=task.worker)]


async def ids(served: Served, query: str = "") -> list[str]:
    response = await served.get(f"/api/tasks{query}")
    assert response.header("X-Taskmon-History") is None
    return list(response.json())


async def test_pages_are_right_over_memory_and_history(tmp_path: Path) -> None:
    everything = make_state()
    async with serving(**options(tmp_path)) as served:
        for task in held_tasks(make_tasks(90)):
            events = _events_of(task)
            served.apply(*events)
            everything.apply(events)
        assert len(served.state) == 20
        for query in list_queries():
            if query.limit is None or query.descending != (query.sort_by in (None, "timestamp", "runtime")):
                continue  # a share of them: the others are asked of the database itself
            path = _write_query(query)
            expected = [task.uuid for task in everything.find(query) if task is not None]
            assert await ids(served, path) == expected, path
        assert await ids(served) == find_ids(everything)
        assert len(await ids(served, "?search=id-0")) == len(find_ids(everything))


def _write_query(query: Any) -> str:
    names = {"worker": "workername", "name": "taskname"}
    told = {names.get(f, f): v for f in query.__struct_fields__ if (v := getattr(query, f)) is not None}
    told.pop("descending")
    if query.search is not None:
        told["search"] = query.search.text
    if query.sort_by is not None:
        told["sort_by"] = ("-" if query.descending else "") + query.sort_by
    from urllib.parse import urlencode

    return "?" + urlencode(told)


async def test_the_newest_page_comes_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(*lives(60))
        history = served.taskmon.services.history
        assert history is not None

        async def refuse(timeout: float = 5.0) -> None:
            raise AssertionError("the database is asked")

        with monkeypatch.context() as patch:
            patch.setattr(history, "flush", refuse)
            assert await ids(served, "?limit=3&offset=2") == ["id-057", "id-056", "id-055"]
            assert await ids(served, "?limit=2&taskname=tasks.n0&sort_by=-timestamp") == ["id-057", "id-054"]
        assert await ids(served, "?limit=3&offset=18") == ["id-041", "id-040", "id-039"]
        assert await ids(served, "?limit=1&sort_by=received") == ["id-000"]


async def test_what_left_the_memory_is_found(tmp_path: Path) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(
            *lives(30), event("task-received", "child", 1_700_000_000.0, parent_id="id-002", root_id="id-002")
        )
        served.apply(*[event("task-succeeded", f"more-{n}", 1_800_000_000.0 + n) for n in range(30)])
        body = (await served.get("/api/task/info/id-002")).json()
        assert (body["state"], body["name"], body["children"]) == ("SUCCESS", "tasks.n2", ["child"])
        tree = (await served.get("/api/task/tree/child")).json()
        assert list(tree["tasks"]) == ["child", "id-002"]
        assert "tasks.n2" in (await served.get("/api/task/types")).json()["task-types"]
        assert (await served.request("POST", "/api/task/retry/id-002")).status == 503  # found, and the broker is away
        missing = await served.get("/api/task/info/nobody")
        assert missing.error["reason"]
        assert (await served.get("/api/task/tree/nobody")).status == 404
        head = await served.request("HEAD", "/api/tasks")
        assert (head.status, head.body) == (200, b"")


async def test_a_task_whose_beginning_left_the_memory_is_whole(tmp_path: Path) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(event("task-received", "long", 1_700_000_000.0, name="tasks.long"))
        served.apply(*[event("task-received", f"id-{n}", 1_700_000_001.0 + n, name="other") for n in range(30)])
        assert served.state.evicted_total
        await eventually(lambda: served.taskmon.services.history.backlog == 0)  # type: ignore[union-attr]
        served.apply(event("task-succeeded", "long", 1_700_000_100.0, result="1"))
        body = (await served.get("/api/task/info/long")).json()
        assert (body["name"], body["state"], body["received"]) == ("tasks.long", "SUCCESS", 1_700_000_000.0)
        assert await ids(served, "?taskname=tasks.long&limit=1") == ["long"]


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(
            *lives(30),
            event("task-started", "running", 1_600_000_000.0, name="tasks.long"),
            event("task-received", "waiting", 1_600_000_001.0, name="tasks.long"),
            event("worker-heartbeat", None, 1_700_000_000.0, active=1, processed=2, sw_ident="py-celery"),
        )
        served.state.reconciled.orphan("running")
        served.state.reconciled.resolve("waiting", Outcome("SUCCESS", 1_700_010_000.0))
        before, workers = held_tasks(served.state), dict(served.state.workers)
        prefetched, metrics = served.state.prefetched, await _counters(served)
        listing = await ids(served)
    async with serving(**options(tmp_path)) as served:
        assert held_tasks(served.state) == before
        assert served.state.workers == workers
        assert served.state.prefetched == prefetched
        assert await _counters(served) == metrics
        assert await ids(served) == listing
        served.apply(*[event("task-succeeded", f"new-{n}", 1_800_000_000.0 + n) for n in range(5)])
        gone = {task.uuid for task in before} - {task.uuid for task in held_tasks(served.state)}
        assert gone == {f"id-{n:03}" for n in range(12, 17)}  # the same that would have gone without the restart


async def _counters(served: Served) -> list[str]:
    """List the counters and histograms of what was counted."""
    lines = (await served.get("/metrics")).body.decode().splitlines()
    pattern = re.compile(r"taskmon_(events_(?!applied_per)|task_|tasks_(evicted|reconciled|orphaned)|event_lag)")
    return [line for line in lines if pattern.match(line)]


async def test_fewer_come_back_where_less_fits(tmp_path: Path) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(*lives(20), event("task-started", "running", 1_600_000_000.0))
        assert len(await ids(served)) == 21
    async with serving(**options(tmp_path, max_tasks=5)) as served:
        assert sorted(task.uuid for task in held_tasks(served.state)) == [
            *(f"id-{n:03}" for n in range(16, 20)),
            "running",
        ]
        assert len(await ids(served)) == 21
        assert await ids(served, "?limit=5") == [f"id-{n:03}" for n in range(19, 14, -1)]


async def test_a_history_that_is_away_leaves_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(*lives(30))
        assert len(await ids(served)) == 30
        history = served.taskmon.services.history
        assert history is not None
        monkeypatch.setattr(Recorder, "_succeed", lambda self: None)  # a batch that is under way takes nothing back
        history.status.reason = "gone"
        broken = await served.get("/api/tasks")
        assert broken.header("X-Taskmon-History") == "unavailable"
        assert len(broken.json()) == 20
        assert (await served.get("/api/task/info/id-029")).status == 200
        assert (await served.get("/api/task/tree/id-029")).header("X-Taskmon-History") == "unavailable"
        assert (await served.get("/api/task/types")).header("X-Taskmon-History") == "unavailable"
        away = await served.get("/api/task/info/id-001")
        assert away.error["status"] == 503
        assert "The history is unavailable: gone" in away.error["message"]
        history.status.reason = ""

        def fail(*_: Any) -> None:
            raise Away("the connection was lost")

        monkeypatch.setattr(history_module, "read_task", fail)
        assert "the connection was lost" in (await served.get("/api/task/info/id-001")).error["message"]


async def test_a_listing_that_breaks_off_is_seen_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(**options(tmp_path)) as served:
        served.apply(*lives(30))
        calls = iter((None,))

        def fail_later(self: Any) -> list[Task] | None:
            if next(calls, "no more") is None:
                return [served.state.get("id-029")]
            raise Away("the connection was lost")

        monkeypatch.setattr(history_module.Listing, "read", fail_later)
        lines = "GET /api/tasks?sort_by=name HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        lines += "".join(f"{name}: {value}\r\n" for name, value in served.credentials.items())
        raw = await served.send(f"{lines}\r\n".encode())
        assert b"id-029" in raw
        assert not raw.endswith(b"0\r\n\r\n")  # the chunk that would end it is missing
    records = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    told = [record for record in records if "broken off" in record.getMessage()]
    assert len(told) == 1
    assert not any(record.exc_info or record.levelname == "ERROR" for record in records)


async def test_a_start_says_what_it_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon.app")
    async with serving(**options(tmp_path)) as served:
        served.apply(event("task-received", "a", name="tasks.add"))
    async with serving(**options(tmp_path, max_tasks=12_345)):
        pass
    assert re.search(r"Restored 0 tasks from the history in \d+\.\d seconds$", caplog.text, re.M)
    assert re.search(
        r"Restored 1 task from the history in \d+\.\d seconds; the last changed (.+ ago|now)$", caplog.text, re.M
    )
    assert re.search(r"Started in \d+\.\d seconds with 1 task; there is room for 12,345 tasks$", caplog.text, re.M)


async def test_ready_and_metrics_tell_of_the_history(
    tmp_path: Path, memory_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "INTERVAL", PATIENCE)  # a round would say how it really goes
    async with serving(make_app(memory_broker), **options(tmp_path)) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        assert (await served.get("/readyz")).json() == {"status": "ready", "history": "ok"}
        history = served.taskmon.services.history
        assert history is not None
        history.status.writing_since = 1.0
        assert (await served.get("/readyz")).json() == {
            "status": "ready",
            "history": "behind",
            "reason": f"The oldest change that is not written was made {say_roughly(history.status.lag())} ago",
        }
        history.status.reason = "gone"
        assert (await served.get("/readyz")).json() == {
            "status": "ready",
            "history": "unavailable",
            "reason": f"The oldest change that is not written was made {say_roughly(history.status.lag())} ago",
        }
        assert b"\ntaskmon_history_available 0\n" in (await served.get("/metrics")).body
        history.status.reason, history.status.writing_since = "", None
    async with serving(make_app(memory_broker)) as served:
        await eventually(lambda: served.taskmon.monitor.broker.connected)
        assert (await served.get("/readyz")).json() == {"status": "ready"}
        assert b"\ntaskmon_history_available " not in (await served.get("/metrics")).body


@pytest.mark.usefixtures("logging_as_before")
def test_a_history_that_cannot_be_used_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")  # which --broker sets: so it is taken back
    path = tmp_path / "notes.txt"
    path.write_text(json.dumps(["no database"]) * 1000)
    for url, said in (
        (f"sqlite:///{path}", "no database of SQLite"),
        (f"sqlite:///{tmp_path}/missing/history.sqlite3", "there is no directory"),
        ("sqlite://", "must be sqlite:/// and the path of a file"),
        ("mysql://host/name", "must be a URL such as sqlite:///taskmon.sqlite3"),
    ):
        run = CliRunner().invoke(main, ["--history", url, "--port", "0", "--broker", "memory://"])
        assert run.exit_code == 2
        assert said in run.output


async def test_a_journal_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--history-journal must be a directory that taskmon may write to"):
        async with serving(**options(tmp_path, history_journal=tmp_path / "nowhere")):
            pass


async def test_a_journal_may_lie_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "journal"
    place.mkdir()
    async with serving(**options(tmp_path, history_journal=place)) as served:
        served.apply(*lives(1))
        await eventually(lambda: any(file.stat().st_size for file in place.glob("taskmon-*-unwritten-*")))
        assert not list(tmp_path.glob("*-unwritten-*"))
    assert [file.name.rpartition("-")[2] for file in place.iterdir()] == ["lock"]
