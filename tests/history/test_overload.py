"""More comes than a database takes: its bounds hold, and what is lost is told."""

import asyncio
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from factories import make_life, make_state
from patience import PATIENCE
from stored import read_ids
from waiting import eventually

from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.history import log_throttle, recording, retention
from taskmon.history.batches import Batch, Written
from taskmon.history.driver_errors import Away
from taskmon.history.recording import Recorder
from taskmon.history.retention import Retention
from taskmon.history.sqlite import SqliteDatabase

MAX_TASKS, PER_TRANSACTION = 20, 5


class Counting(SqliteDatabase):
    """A database that remembers how many tasks it had at the most, and fails when it is told to."""

    largest = 0
    away = False

    def write(self, batch: Batch) -> Written:
        if self.away:
            raise Away("the disk is slow")
        written = super().write(batch)
        with self.reading() as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM taskmon_tasks").scalar() or 0
        self.largest = max(self.largest, count)
        return written


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setattr(recording, "TASKS_PER_TRANSACTION", PER_TRANSACTION)
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    made = Counting(tmp_path / "history.sqlite3")
    made.open()
    yield made
    made.close()


@pytest.mark.parametrize("step", [1, 3, 500])
async def test_the_bound_on_tasks_holds_under_load(
    database: Counting, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(retention, "TASKS_PER_DELETE", step)
    monkeypatch.setattr(recording, "TASKS_PER_DELETE", step)
    monkeypatch.setattr(recording, "_MIN_IDLE_SHARE", 0.0)  # no time is spare
    monkeypatch.setattr(recording, "_IDLE_SHARE", 0.0)
    state, lane = make_state(), BlockingPool("The history", threads=1, waiting=16)
    recorder = Recorder(state, database, lane, "here", lambda: "{}", Retention(database, None, MAX_TASKS))
    state.subscribe(recorder.observe)
    recorder.start(True)
    for number in range(200):
        state.apply(make_life(f"id-{number:03}"))
        if number % 20 == 19:
            await recorder.flush()
    assert MAX_TASKS <= database.largest <= MAX_TASKS + PER_TRANSACTION
    assert max(read_ids(database)) == "id-199"
    await recorder.stop(PATIENCE)
    lane.close()


async def test_a_loss_is_told_at_once_and_again(
    database: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state, lane = make_state(max_tasks=10), BlockingPool("The history", threads=1, waiting=16)
    recorder = Recorder(state, database, lane, "here", lambda: "{}", Retention(database, None, None))
    state.subscribe(recorder.observe)
    database.away = True
    recorder.start(True)

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "has lost" in record.getMessage()]

    state.apply([event for number in range(15) for event in make_life(f"id-{number}")])
    assert told() == []
    state.apply(make_life("one-more"))
    [first] = told()
    assert "lost the changes of 6 tasks" in first
    assert "more than 10 wait (--max-tasks)" in first
    state.apply([event for number in range(30) for event in make_life(f"more-{number}")])
    assert len(told()) == 1
    monkeypatch.setattr(log_throttle, "LOG_INTERVAL", 0.0)
    recorder._losses._due = 0.0
    await eventually(lambda: len(told()) == 2)  # nothing else need happen
    assert f"{recorder.status.dropped} are lost since the start" in told()[1]
    database.away = False
    await eventually(lambda: recorder.backlog == 0)
    await asyncio.sleep(0)
    assert len(told()) == 2
    monkeypatch.setattr(log_throttle, "LOG_INTERVAL", 60.0)
    recorder._losses._due = inf
    lost = recorder.status.dropped
    database.away = True
    state.apply([event for number in range(30) for event in make_life(f"late-{number}")])
    assert len(told()) == 2
    database.away = False
    await recorder.stop(PATIENCE)  # no minute comes any more
    assert f"lost the changes of {recorder.status.dropped - lost} tasks" in told()[2]
    lane.close()
