"""A file that a process of its own writes: as if written here, whatever becomes of that process."""

import fcntl
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from factories import START
from stored import read_all_rows, read_ids, write
from waiting import wait_until

from taskmon.history import sqlite_subprocess
from taskmon.history.databases import Away
from taskmon.history.messages import Answer, Index, Rows, Tidy, pack, receive
from taskmon.history.retention import Retention
from taskmon.history.sqlite import SqliteDatabase
from taskmon.history.sqlite_subprocess import SqliteApart
from taskmon.history.writer_process import Plan, Scribe
from taskmon.monitor.search import parse_search
from taskmon.records import Task


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteApart]:
    made = SqliteApart(tmp_path / "history.sqlite3", None, 3)
    made.open()
    yield made
    made.close()


def find_process(database: SqliteApart) -> int:
    """Give the id of the process that writes."""
    assert database._process is not None
    return database._process.pid


def test_what_it_writes_is_read_here(database: SqliteApart) -> None:
    tasks = [Task(f"id-{n:04}", timestamp=START + n / 3, args=f"('order-{n}',)", clock=n) for n in range(1200)]
    assert write(database, tasks, workers=[("one", 1.0, "{}")], counters="{}").refused == 0
    rows = read_all_rows(database)
    assert [rows[task.uuid] for task in tasks] == tasks
    assert database.index_some(700)
    assert not database.index_some(700)
    assert read_ids(database, search=parse_search("order-1100")) == ["id-1100"]
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM taskmon_unsearched").scalar() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM taskmon_workers").scalar() == 1


def test_it_deletes_what_is_too_many_and_counts_that_once(database: SqliteApart) -> None:
    write(database, [Task(f"id-{n}", timestamp=START + n) for n in range(10)])
    while database.step():
        pass
    assert database.deleted == 7
    assert sorted(read_ids(database)) == ["id-7", "id-8", "id-9"]
    assert not database.step()
    database.open()
    write(database, [Task("id-a", timestamp=START + 10)])
    while database.step():
        pass
    assert database.deleted == 8


def test_texts_and_numbers_that_no_message_holds(database: SqliteApart) -> None:
    tasks = [Task("lone", timestamp=START, args="a\ud800b"), Task("big", timestamp=START, clock=2**70), Task("plain")]
    assert write(database, tasks, gone=["\ud800"], adopted=["\ud800"]).cleaned == 2
    rows = read_all_rows(database)
    assert rows.keys() == {"lone", "big", "plain"}
    assert rows["lone"].args == "a?b"
    assert write(database, [Task("larger", clock=2**63), Task("nul", args="a\0b")]).cleaned == 2
    assert read_all_rows(database).keys() == {"lone", "big", "plain", "larger", "nul"}


def test_a_process_that_is_killed_is_started_again(database: SqliteApart) -> None:
    write(database, [Task("a", timestamp=START)])
    before = find_process(database)
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)  # else it might only have been slow
    with pytest.raises(Away, match="has ended"):
        write(database, [Task("b", timestamp=START)] * 5000)
    with pytest.raises(Away, match="nobody"):
        database.step()
    assert not database.open()
    write(database, [Task("b", timestamp=START)])
    assert find_process(database) != before
    assert sorted(read_ids(database)) == ["a", "b"]


def test_it_ends_with_the_taskmon_that_is_killed(tmp_path: Path) -> None:
    """However little it gets done: here it is stopped."""
    program = (
        "import sys; from pathlib import Path; from taskmon.history.sqlite_subprocess import SqliteApart\n"
        "database = SqliteApart(Path(sys.argv[1]), None, None); database.open(); database.index_some(1)\n"
        "print(database._process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "history.sqlite3")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        os.kill(process, signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{process}/exe").exists())
    database = SqliteApart(tmp_path / "history.sqlite3", None, None)
    assert not database.open()
    database.close()


def test_what_is_to_end_taskmon_does_not_end_it(database: SqliteApart) -> None:
    write(database, [Task("a", timestamp=START)])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(find_process(database), number)
    write(database, [Task("b", timestamp=START)])
    assert sorted(read_ids(database)) == ["a", "b"]


@pytest.mark.parametrize("count", [1, 2_000], ids=["what fits into the pipe", "what does not"])
def test_a_process_that_gets_no_processor_time_makes_way_for_one_that_does(
    database: SqliteApart, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(sqlite_subprocess, "_IDLE_PRIORITY_TIMEOUT", 0.1)
    write(database, [Task("a", timestamp=START)])
    before = find_process(database)
    if database._idle:  # else even this machine was too busy for it
        assert os.sched_getscheduler(before) == os.SCHED_IDLE
        os.kill(before, signal.SIGSTOP)
        os.waitid(os.P_PID, before, os.WSTOPPED | os.WNOWAIT)
    write(database, [Task(f"b{n:04}", timestamp=START, args="x" * 100) for n in range(count)])
    assert not database._idle
    assert os.sched_getscheduler(find_process(database)) == os.SCHED_OTHER
    assert sorted(read_ids(database)) == ["a", *(f"b{n:04}" for n in range(count))]


def test_a_file_that_is_gone_or_locked_may_pass(database: SqliteApart, tmp_path: Path) -> None:
    write(database, [Task("a", timestamp=START)])
    other = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Away, match="locked"):
        write(database, [Task("b", timestamp=START)])
    other.execute("ROLLBACK")
    other.close()
    write(database, [Task("b", timestamp=START)])
    (tmp_path / "history.sqlite3").unlink()
    with pytest.raises(Away, match="gone"):
        write(database, [Task("c", timestamp=START)])
    assert database.open()
    write(database, [Task("c", timestamp=START)])
    assert read_ids(database) == ["c"]


def test_what_nobody_expects_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(retention: Retention) -> bool:
        raise ZeroDivisionError("what was that")

    database = SqliteDatabase(tmp_path / "history.sqlite3")
    database.open()
    database.close()
    monkeypatch.setattr(Retention, "step", fail)
    scribe = Scribe(Plan(str(tmp_path / "history.sqlite3"), "", True, None, None, None, None, False))
    requests, answers = io.BytesIO(pack(Tidy()) + pack(Rows([])) + pack(Index(5)) + b"\0" * 7), io.BytesIO()
    scribe.serve(requests, answers)
    answers.seek(0)
    told = [msgspec.msgpack.decode(body, type=Answer) for body in iter(lambda: receive(answers), None)]
    assert [answer.failed for answer in told] == ["ZeroDivisionError: what was that", None]
    assert told[1] == Answer()
    assert receive(io.BytesIO(pack(Tidy())[:-1])) is None


def test_it_ends_where_nobody_hears_its_answers(database: SqliteApart, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as answers:
        scribe = Scribe(
            Plan(str(tmp_path / "history.sqlite3"), "", True, database._inode, database._ahead, None, None, False)
        )
        scribe.serve(io.BytesIO(pack(Tidy()) + pack(Index(5))), answers)


def test_a_lock_that_is_about_to_be_let_go_is_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "history.sqlite3-lock"
    database = SqliteApart(tmp_path / "history.sqlite3", None, None)
    with place.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        later = threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN))
        later.start()
        assert database.open()
        later.join()
    write(database, [Task("a", timestamp=START)])
    database.close()
    with place.open("ab") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)
