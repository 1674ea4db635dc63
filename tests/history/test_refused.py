"""A row that a database refuses holds up no other: it is cleaned, or left out, counted and named."""

from pathlib import Path

import pytest
from factories import START, make_event, make_state, make_worker_event
from stored import open_sqlite, read_all_rows, read_ids, write

from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.history import log_throttle
from taskmon.history.batches import Batch, Written
from taskmon.history.columns import to_row
from taskmon.history.databases import Database
from taskmon.history.driver_errors import Away
from taskmon.history.journal import Journal
from taskmon.history.journal_replay import write_leftovers
from taskmon.history.log_throttle import Reminder
from taskmon.history.recording import Recorder
from taskmon.history.restoring import read_all
from taskmon.history.retention import Retention
from taskmon.history.sqlite import SqliteDatabase
from taskmon.records import Task

_WORKER = '{"hostname":"celery@one"}'


def refused_row(name: str) -> Task:
    """Make a task that SQLite takes only where a text may be missing."""
    task = Task(name, timestamp=START)
    task.state = None  # type: ignore[assignment]
    return task


def check_others(database: Database) -> None:
    """Write rows of which some cannot be stored, and insist on the others."""
    tasks = [Task(f"id-{number:03}", timestamp=START + number, name="plain") for number in range(100)]
    odd = {7: "nul\0", 31: "lone\ud800", 64: "plain"}
    for number, name in odd.items():
        tasks[number].name = name
        tasks[number].queue = name
    tasks[64].clock = 2**70
    tasks[99].state = None  # type: ignore[assignment]
    workers = [
        ("celery@\0", 1.0, '{"hostname":"celery@\\u0000"}'),
        ("celery@\ud800", 1.0, _WORKER),
        ("fine", 1.0, _WORKER),
    ]
    written = write(database, tasks, workers=workers, gone=["a\0", "b"], adopted=["id-\0"], counters='{"a":"\0"}')
    assert (written.inserted, written.cleaned, written.refused) == (99, 3, 1)
    assert "id-099" in written.examples[0]
    rows = read_all_rows(database)
    assert len(rows) == 99
    assert (rows["id-007"].name, rows["id-007"].queue) == ("nul\ufffd", "nul\ufffd")
    assert rows["id-064"].clock is None
    restored = read_all(database, 10, "here")
    assert len(restored.workers) == 3
    assert restored.counters == '{"a":"\ufffd"}'
    assert read_ids(database, name="nul\0") == ["id-007"]


def test_the_good_rows_of_a_batch_are_written(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path)
    check_others(database)
    database.close()


def test_what_a_journal_holds_is_written_but_for_what_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_sqlite(tmp_path)
    journal = Journal(tmp_path / "history.sqlite3")
    journal.begin()
    rows = [to_row(Task("a\0", timestamp=START)), to_row(refused_row("b")), to_row(Task("c", clock=2**63))]
    journal.note(Batch(rows, [("celery@\0", 1.0, "no JSON")], [], "{}", "here", START))
    journal.close()
    journal = Journal(tmp_path / "history.sqlite3")
    write_leftovers(database, journal, created=False)
    assert journal.begun
    assert len(read_all_rows(database)) == 2
    assert "refuses 1 rows of the journal: task 'b'" in caplog.text
    assert read_all(database, 10, "here").workers == []
    assert "A worker in the history cannot be read" in caplog.text
    journal.close()
    database.close()


async def test_what_is_refused_is_counted_and_named_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state()
    database, lane = SqliteDatabase(tmp_path / "history.sqlite3"), BlockingPool("The history", threads=1, waiting=16)
    database.open()
    recorder = Recorder(state, database, lane, "here", lambda: "{}", Retention(database, None, None))
    state.subscribe(recorder.observe)
    recorder.start(True)
    for number in range(4):
        state.apply([make_event("received", f"bad-{number}"), make_event("received", f"good-{number}")])
        state.apply([make_worker_event("heartbeat", "celery@\ud800")])
        state.get(f"bad-{number}").state = None  # type: ignore[assignment]
        await recorder.flush()
    assert recorder.status.available
    assert (recorder.status.unfit, recorder.status.failures) == (4, 0)
    assert recorder.status.written == 4
    told = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert len(told) == 1
    assert "refuses 1 rows" in told[0]
    assert "task 'bad-0'" in told[0]
    await recorder.stop(60.0)
    lane.close()


def test_a_database_that_is_away_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_sqlite(tmp_path)

    def fail(*_: object) -> int:
        raise Away("locked")

    monkeypatch.setattr(database, "upsert_tasks", fail)
    with pytest.raises(Away):
        write(database, [Task("a", timestamp=START)])
    database.close()


def test_a_reminder_speaks_at_once_and_then_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(log_throttle.time, "monotonic", lambda: now)
    said: list[tuple[int, list[str]]] = []
    reminder = Reminder(lambda count, examples: said.append((count, examples)))
    reminder.check()
    reminder.add(2, ["a", "b"])
    reminder.add(3, [str(number) for number in range(9)])
    now += 59
    reminder.add(1)
    assert said == [(2, ["a", "b"])]
    now += 2
    reminder.check()
    assert said[1:] == [(4, ["0", "1", "2", "3", "4"])]
    now += 100
    reminder.check()
    assert len(said) == 2


def test_what_came_of_batches_adds_up() -> None:
    written = Written(inserted=1, cleaned=2)
    for number in range(9):
        other = Written(inserted=1)
        other.refuse("task", f"id\n{number}" + "x" * 200, "why " * 100)
        written.add(other)
    assert (written.inserted, written.cleaned, written.refused) == (10, 2, 9)
    assert len(written.examples) == 5
    assert all(len(example) < 220 and "\n" not in example for example in written.examples)
