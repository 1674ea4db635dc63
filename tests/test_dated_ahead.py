"""Events dated ahead of receipt: the time of receipt orders and keeps their tasks, their own is shown."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from factories import find_ids, make_event, make_life, make_state
from serving import event, serving
from stored import open_sqlite, read_all_rows, write

from taskmon.monitor.dated_ahead import MAX_AHEAD, parse_reported
from taskmon.monitor.diagnostics.event_dates import RECENT, examine_dates
from taskmon.monitor.state import State
from taskmon.records import Task

FUTURE = 4_000_000_000.0


def test_receipt_orders_what_is_dated_ahead() -> None:
    state = make_state(*make_life("forged", timestamp=FUTURE, hostname="evil"))
    before = time.time()
    state.apply(make_life("honest", timestamp=before))
    assert find_ids(state, sort_by="timestamp") == ["forged", "honest"]
    for field in ("received", "started", "succeeded"):
        assert find_ids(state, sort_by=field) == ["forged", "honest"]
    task = state.get("forged")
    assert task.timestamp is not None
    assert task.timestamp <= time.time() + 1.0
    assert parse_reported(task.reported) == dict.fromkeys(("received", "started", "succeeded"), FUTURE)
    assert state.get("honest").reported is None


def test_events_of_one_batch_keep_their_order() -> None:
    state = State()
    state.apply([make_event(kind, "a", timestamp=FUTURE) for kind in ("received", "started", "retried", "started")])
    task = state.get("a")
    assert task.received is not None
    assert task.retried is not None
    assert task.started is not None
    assert task.received < task.retried < task.started
    assert task.timestamp == task.started


def test_a_clock_that_is_a_little_ahead_counts() -> None:
    at = time.time() + MAX_AHEAD / 2
    state = make_state(make_event("received", "a", timestamp=at))
    assert (state.get("a").timestamp, state.get("a").reported) == (at, None)
    assert not state.dated_ahead.senders


def test_a_later_event_with_a_right_time_takes_its_own_place() -> None:
    state = make_state(make_event("received", "a", timestamp=FUTURE), make_event("progress", "a", timestamp=FUTURE))
    assert parse_reported(state.get("a").reported) == {"received": FUTURE, "timestamp": FUTURE}
    state.apply([make_event(kind, "a", timestamp=time.time()) for kind in ("received", "progress")])
    assert state.get("a").reported is None


def test_what_is_evicted_says_nothing_of_the_future() -> None:
    state = State(max_tasks=1)
    state.apply(make_life("forged", timestamp=FUTURE))
    state.apply(make_life("honest", timestamp=time.time()))
    assert state.horizon <= time.time() + 1.0


def test_a_finding_names_the_sender() -> None:
    state = make_state(*make_life("a", timestamp=FUTURE, hostname="evil"), *make_life("b", hostname="good"))
    now = time.time()
    (finding,) = examine_dates(state.dated_ahead, now)
    assert (finding.code, finding.count, finding.workers) == ("events-dated-ahead", 1, ("evil",))
    assert abs(finding.seconds["evil"] - (FUTURE - now)) < 60.0
    assert "evil" in finding.message
    assert not list(examine_dates(state.dated_ahead, now + RECENT + 1.0))


def test_senders_are_bounded() -> None:
    state = make_state()
    state.apply([make_event("received", f"id{n}", timestamp=FUTURE, hostname=f"w{n}") for n in range(3_000)])
    assert len(state.dated_ahead.senders) == 1_000
    (finding,) = examine_dates(state.dated_ahead, time.time())
    assert len(finding.workers) == 100


async def test_the_history_keeps_what_came_last(tmp_path: Path) -> None:
    async with serving(history=f"sqlite:///{tmp_path}/history.sqlite3") as served:
        served.apply(*[event("task-received", f"forged{n}", at=FUTURE, hostname="evil") for n in range(5)])
        now = time.time()
        served.apply(*[event("task-received", f"honest{n}", at=now) for n in range(5)])
        body = (await served.get("/api/task/info/forged0")).json()
        assert body["reported_times"] == {"received": FUTURE}
        assert abs(body["timestamp"] - now) < 60.0
        assert "reported_times" not in (await served.get("/api/task/info/honest0")).json()
        found = (await served.get("/api/diagnostics")).json()["findings"]
        assert ["evil"] in [finding.get("workers") for finding in found if finding["code"] == "events-dated-ahead"]
    with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as connection:
        rows = connection.execute("SELECT uuid, timestamp, reported FROM taskmon_tasks").fetchall()
    assert len(rows) == 10
    assert all(timestamp < now + 60.0 for _, timestamp, _ in rows)
    assert {reported for uuid, _, reported in rows if uuid.startswith("forged")} == {f"received={FUTURE!r}"}
    in_order = sorted(rows, key=lambda row: row[1])  # as retention deletes them
    assert {uuid[:6] for uuid, _, _ in in_order[:5]} == {"forged"}


def test_a_history_that_was_written_before_is_mended(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path)
    forged = Task("forged", born=100.0, seen=200.0, received=150.0, succeeded=FUTURE, timestamp=FUTURE)
    write(database, [forged, Task("honest", born=300.0, seen=301.0, received=300.5, timestamp=300.5)])
    database.close()
    with closing(sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)) as connection:
        connection.execute("ALTER TABLE taskmon_tasks DROP COLUMN reported")
        connection.execute("UPDATE taskmon_schema SET version = 3")
    database = open_sqlite(tmp_path)
    rows = read_all_rows(database)
    database.close()
    task = rows["forged"]
    assert (task.received, task.succeeded, task.timestamp) == (150.0, 200.0, 200.0)
    assert parse_reported(task.reported) == {"timestamp": FUTURE}
    assert (rows["honest"].timestamp, rows["honest"].reported) == (300.5, None)
