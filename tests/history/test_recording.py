"""What changes is written: once for all that changed meanwhile, later if it cannot be now, and within bounds."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import START, make_event, make_life, make_state, make_worker_event
from patience import PATIENCE
from stored import read_all_rows
from waiting import eventually

from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.errors import Unavailable
from taskmon.history import changes, recording
from taskmon.history.databases import Away, Batch
from taskmon.history.recording import Recorder
from taskmon.history.retention import Retention
from taskmon.history.sqlite import SqliteDatabase
from taskmon.monitor.state import State


class Watched(SqliteDatabase):
    """A database that counts what it is given, and fails when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batches: list[Batch] = []
        self.error: Exception | None = None
        self.flows = threading.Event()
        self.flows.set()
        self.cuts = 0

    def write(self, batch: Batch) -> int:
        self.flows.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(batch)
        return super().write(batch)

    def cut(self) -> None:
        self.cuts += 1
        self.error = Away("the connection was cut")
        self.flows.set()


@asynccontextmanager
async def recording_to(
    path: Path, state: State, counters: Callable[[], str] = lambda: "{}", opened: bool = True
) -> AsyncIterator[tuple[Recorder, Watched]]:
    """Record what changes in a State."""
    database, lane = Watched(path), BlockingPool("The history", threads=1, waiting=16)
    recorder = Recorder(state, database, lane, "here", counters, Retention(database, None, None))
    unsubscribe = state.subscribe(recorder.observe)
    state.on_worker_gone(recorder.forget)
    if opened:
        database.open()
    recorder.start(opened)
    try:
        yield recorder, database
    finally:
        unsubscribe()
        await recorder.stop(PATIENCE)
        lane.close()
        database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


async def test_a_task_that_changed_four_times_is_written_once(path: Path) -> None:
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        state.apply(make_life("a", "sent", "received", "started", "succeeded"))
        state.apply(make_life("b"))
        assert recorder.backlog == 2
        await recorder.flush()
        assert recorder.backlog == 0
        assert sum(len(batch.tasks) for batch in database.batches) == 2
        assert read_all_rows(database) == {"a": state.get("a"), "b": state.get("b")}
        assert recorder.status.written == 2
        await recorder.flush()  # nothing to wait for


async def test_what_changes_while_it_is_written_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "TASKS_PER_TRANSACTION", 3)
    monkeypatch.setattr(changes, "TASKS_PER_SLICE", 1)
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        for number in range(10):
            state.apply(make_life(f"id-{number}", "received"))
        flushing = asyncio.create_task(recorder.flush())
        while not flushing.done():
            for number in range(10):
                state.apply([make_event("started", f"id-{number}")])
            await asyncio.sleep(0)
        await flushing
        await recorder.flush()
        rows = read_all_rows(database)
        assert {uuid: row.timestamp for uuid, row in rows.items()} == {
            uuid: state.get(uuid).timestamp for uuid in rows
        }
        assert len(rows) == 10


async def test_workers_and_counters_come_along(path: Path) -> None:
    state, counted = make_state(), iter(range(100))
    async with recording_to(path, state, lambda: str(next(counted))) as (recorder, database):
        state.apply([make_worker_event("heartbeat", "celery@one"), make_event("started", "a", hostname="celery@two")])
        await recorder.flush()
        written = [name for batch in database.batches for name, _, _ in batch.workers]
        assert sorted(written) == ["celery@one", "celery@two"]
        assert database.batches[0].counters == "0"
        state.purge_workers(float("inf"))
        await eventually(lambda: any(batch.gone for batch in database.batches))
        await eventually(lambda: any(batch.counters == "1" for batch in database.batches))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM taskmon_workers").fetchone() == (0,)
    connection.close()


async def test_a_database_that_fails_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    caplog.set_level("INFO", recording.__name__)
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        database.error = Away("the disk is full")
        state.apply(make_life("a"))
        with pytest.raises(Unavailable, match="the disk is full"):
            await recorder.flush()
        await eventually(lambda: recorder.status.failures > 2)
        assert recorder.status.word() == "unavailable"
        with pytest.raises(Unavailable, match="the disk is full"):
            await recorder.flush()
        state.apply(make_life("b"))
        assert recorder.backlog == 2
        assert recorder.status.lag() > 0
        database.error = None
        await eventually(lambda: recorder.status.available)
        await recorder.flush()
        assert read_all_rows(database) == {"a": state.get("a"), "b": state.get("b")}
        assert recorder.status.word() == "ok"
    said = [record.message for record in caplog.records if record.name == recording.__name__]
    assert len([line for line in said if "the disk is full" in line]) == 1
    assert said[-1] == "The history is written again"


async def test_an_error_that_nobody_expects_does_not_end_the_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        database.error = RuntimeError("what is this")
        state.apply(make_life("a"))
        await eventually(lambda: recorder.status.failures > 1)
        database.error = None
        await eventually(lambda: recorder.backlog == 0)
    assert any(record.exc_info for record in caplog.records)


async def test_what_waits_is_bounded_and_the_memory_is_written_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    monkeypatch.setattr(recording, "TASKS_PER_TRANSACTION", 5)
    state = make_state(max_tasks=10)
    async with recording_to(path, state) as (recorder, database):
        database.error = Away("gone")
        for number in range(100):
            state.apply(make_life(f"id-{number:03}"))
        assert recorder.backlog <= 15
        assert recorder.status.dropped >= 85
        database.error = None
        await eventually(lambda: recorder.status.available and recorder.backlog == 0)
        await recorder.flush()
        held = {f"id-{number:03}" for number in range(90, 100)}
        assert held <= set(read_all_rows(database))


async def test_a_database_that_comes_late_gets_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state()
    path = path.parent / "later" / path.name
    async with recording_to(path, state, opened=False) as (recorder, database):
        state.apply(make_life("a"))
        assert recorder.status.word() == "unavailable"
        await eventually(lambda: recorder.status.failures > 0)
        assert "there is no directory" in recorder.status.reason
        path.parent.mkdir()
        await eventually(lambda: recorder.status.available)
        assert list(read_all_rows(database)) == ["a"]


async def test_a_file_that_is_gone_is_filled_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        state.apply(make_life("a"))
        await recorder.flush()
        for left in path.parent.glob("history.sqlite3*"):
            if not left.name.endswith("-lock"):
                left.unlink()
        state.apply(make_life("b"))
        await eventually(lambda: recorder.status.failures > 0)
        await eventually(lambda: recorder.status.available)
        assert set(read_all_rows(database)) == {"a", "b"}


async def test_a_log_that_is_gone_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        state.apply(make_life("a"))
        await recorder.flush()
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink()
        state.apply(make_life("b"))
        await eventually(lambda: recorder.status.failures > 0)
        await eventually(lambda: recorder.status.available)
        await recorder.flush()
        assert set(read_all_rows(database)) == {"a", "b"}
        with sqlite3.connect(path) as other:  # as one that starts after a kill
            assert other.execute("SELECT count(*) FROM taskmon_tasks").fetchone() == (2,)
        other.close()


async def test_the_end_writes_what_is_left(path: Path) -> None:
    state = make_state()
    async with recording_to(path, state) as (recorder, _):
        state.apply(make_life("a"))
        await recorder.stop(PATIENCE)
        await recorder.stop(PATIENCE)
    again = SqliteDatabase(path)
    again.open()
    assert read_all_rows(again) == {"a": state.get("a")}
    again.close()


async def test_an_end_without_a_database_says_what_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        database.error = Away("gone")
        state.apply(make_life("a"))
        await recorder.stop(PATIENCE)
        database.error = None
    assert "without the last changes of 1 tasks (gone)" in caplog.text


async def test_a_task_without_a_name_moves_the_horizon(path: Path) -> None:
    state = make_state()
    async with recording_to(path, state) as (recorder, _):
        state.apply([make_event("received", "a", name="tasks.add", timestamp=START + 9)])
        await recorder.flush()
        assert recorder.horizon == float("-inf")
        state.apply([make_event("succeeded", "b", timestamp=START + 5)])
        await recorder.flush()
        assert recorder.horizon == START + 5


async def test_a_task_that_left_and_came_back_before_it_was_written_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state(max_tasks=1)
    async with recording_to(path, state) as (recorder, database):
        database.error = Away("gone")
        state.apply([make_event("received", "a", name="tasks.add", timestamp=START)])
        await eventually(lambda: recorder.status.failures > 0)
        state.apply([make_event("received", "b"), make_event("received", "c")])
        state.apply([make_event("started", "a", timestamp=START + 1), make_event("received", "d")])
        state.apply([make_event("succeeded", "a", timestamp=START + 2, result="3")])
        await eventually(lambda: recorder.status.failures > 2)
        database.error = None
        await eventually(lambda: recorder.status.available and recorder.backlog == 0)
        row = read_all_rows(database)["a"]
        assert (row.name, row.state, row.received, row.started) == ("tasks.add", "SUCCESS", START, START + 1)
        assert (row.succeeded, row.result) == (START + 2, "3")


async def test_a_mark_that_was_taken_away_is_said_until_it_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state(max_tasks=10)
    async with recording_to(path, state) as (recorder, database):
        state.apply([make_event("started", name) for name in ("a", "b", "c")])
        for name in ("a", "b"):
            state.reconciled.orphan(name)
        await recorder.flush()
        database.error = Away("gone")
        for name in ("a", "b"):
            state.reconciled.adopt(name)
        state.reconciled.orphan("b")  # again
        failures = recorder.status.failures
        await eventually(lambda: recorder.status.failures > failures)
        database.error = None
        await eventually(lambda: recorder.status.available and recorder.backlog == 0)
        state.apply([make_event("started", name) for name in ("a", "b", "c")])
        await recorder.flush()
        assert [batch.adopted for batch in database.batches if batch.adopted] == [["a"]]


async def test_upkeep_is_done_while_writing_takes_all_the_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "INTERVAL", 0.01)
    state = make_state()
    async with recording_to(path, state) as (_, database):
        write = database.write

        def write_slowly(batch: Batch) -> int:
            time.sleep(0.05)
            return write(batch)

        indexed: list[int] = []
        monkeypatch.setattr(database, "write", write_slowly)
        monkeypatch.setattr(database, "index_some", indexed.append)  # which tells that no more are left
        while len(indexed) < 2 and len(database.batches) < 20:
            state.apply(make_life(str(time.monotonic())))
            await asyncio.sleep(0.001)
        assert len(indexed) >= 2
        assert all(batch.tasks for batch in database.batches)


@pytest.mark.parametrize("error", [Away("busy"), ValueError("odd")])
async def test_an_upkeep_that_fails_waits_for_the_next_round(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> bool:
        raise error

    state = make_state()
    async with recording_to(path, state) as (recorder, database):
        monkeypatch.setattr(database, "index_some", fail)
        state.apply(make_life("a"))
        await recorder.flush()
        state.apply(make_life("b"))
        await recorder.flush()
        assert recorder.status.available
