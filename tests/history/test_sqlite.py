"""The file: what is refused, what may pass, and what a value that cannot be stored costs."""

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import START
from stored import make_tasks, open_sqlite, read_all_rows, read_ids, write

from taskmon.errors import HistoryRefused
from taskmon.history import sqlite
from taskmon.history.databases import Away
from taskmon.history.restoring import read_all
from taskmon.history.schema import VERSION
from taskmon.history.sqlite import SqliteDatabase
from taskmon.monitor.search import parse_search
from taskmon.records import Task


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = open_sqlite(tmp_path)
    yield made
    made.close()


def refuse(path: Path) -> str:
    """Open a file that is to be refused, and give the sentence."""
    database = SqliteDatabase(path)
    with pytest.raises(HistoryRefused, match="--history cannot be used: ") as refused:
        database.open()
    database.close()
    return str(refused.value)


def test_what_is_there_is_kept(database: SqliteDatabase, tmp_path: Path) -> None:
    assert not database.open()
    write(database, [Task("a", timestamp=START)])
    database.close()
    again = SqliteDatabase(tmp_path / "history.sqlite3")
    assert not again.open()
    assert list(read_all_rows(again)) == ["a"]
    again.close()


def test_a_newer_version_is_refused(database: SqliteDatabase, tmp_path: Path) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE taskmon_schema SET version = {VERSION + 1}")
    database.close()
    assert f"version is {VERSION + 1}, this one knows {VERSION}" in refuse(tmp_path / "history.sqlite3")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database, " * 1000)
    assert "no database of SQLite" in refuse(path)
    assert path.read_text() == "no database, " * 1000


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name)")
    connection.close()
    assert "another program" in refuse(path)


def test_no_directory_and_no_file(tmp_path: Path) -> None:
    assert "there is no directory" in refuse(tmp_path / "missing" / "history.sqlite3")
    assert "is a directory" in refuse(tmp_path)


def test_two_taskmons_do_not_share_a_file(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PREDECESSOR_TIMEOUT", 0.0)
    assert "another taskmon writes to" in refuse(tmp_path / "history.sqlite3")
    database.close()
    again = open_sqlite(tmp_path)
    again.close()


_AS_NOBODY = """
import os, sys
from pathlib import Path
from taskmon.history.sqlite import SqliteDatabase
from taskmon.errors import HistoryRefused
os.setgid(65534), os.setuid(65534)
try:
    SqliteDatabase(Path(sys.argv[1])).open()
except HistoryRefused as exc:
    print(exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
@pytest.mark.parametrize("name", ["history.sqlite3", "mine.sqlite3", "shut/history.sqlite3"])
def test_without_permission_to_write(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmon-") as directory:  # pytest's own are for its user alone
        Path(directory, "shut").mkdir(mode=0o700)
        Path(directory, "mine.sqlite3").touch(mode=0o600)
        Path(directory).chmod(0o755 if name == "history.sqlite3" else 0o777)
        command = [sys.executable, "-c", _AS_NOBODY, str(Path(directory, name))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ("cannot be reached: Permission denied" if "shut" in name else "taskmon may not write to") in said


def test_a_lock_of_another_process_may_pass(database: SqliteDatabase, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Away, match="locked"):
        write(database, [Task("a", timestamp=START)])
    assert read_ids(database) == []
    other.execute("ROLLBACK")
    other.close()
    write(database, [Task("a", timestamp=START)])
    assert read_ids(database) == ["a"]


def test_a_full_disk_may_pass_and_costs_nothing(database: SqliteDatabase) -> None:
    write(database, [Task("a", timestamp=START)])
    with database.writer.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    many = [Task(f"b{number}", timestamp=START, args="x" * 5000) for number in range(100)]
    with pytest.raises(Away, match="full"):
        write(database, many)
    assert read_ids(database) == ["a"]
    with database.writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    write(database, many)
    assert len(read_ids(database)) == 101


def test_a_file_that_is_gone_is_made_anew(database: SqliteDatabase, tmp_path: Path) -> None:
    write(database, [Task("a", timestamp=START)])
    (tmp_path / "history.sqlite3").unlink()
    with pytest.raises(Away, match="gone"):
        write(database, [Task("b", timestamp=START)])
    assert database.open()
    write(database, [Task("b", timestamp=START)])
    assert read_ids(database) == ["b"]


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_that_is_replaced_is_left_sound(database: SqliteDatabase, tmp_path: Path, closed: bool) -> None:
    (tmp_path / "other").mkdir()
    other = open_sqlite(tmp_path / "other")
    write(other, [Task(f"other-{n}", timestamp=START, args="x" * 300) for n in range(3000)])
    other.close()
    for part in range(6):  # some of it is in the file, and some in the log ahead of it
        write(database, [Task(f"id-{part}-{n}", timestamp=START, args="y" * 500) for n in range(1000)])
    path = tmp_path / "history.sqlite3"
    (tmp_path / "other" / path.name).rename(path)
    with pytest.raises(Away, match="gone"):
        read_ids(database)
    with pytest.raises(Away, match="gone"):
        write(database, [Task("b", timestamp=START)])
    if closed:
        database.close()
        database = open_sqlite(tmp_path)
    else:
        assert database.open()
        assert not database.open()
    assert len(read_ids(database)) == 3000
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
    database.close()


def test_a_damage_that_shows_while_tasks_come_back(database: SqliteDatabase, tmp_path: Path) -> None:
    write(database, [Task(f"id-{n}", timestamp=START + n, args="x" * 500) for n in range(3000)])
    database.close()
    path = tmp_path / "history.sqlite3"
    sound = path.read_bytes()
    path.write_bytes(sound[:500_000] + b"\xff" * 400_000 + sound[900_000:])
    database.open()
    with pytest.raises(HistoryRefused, match="damaged"):
        read_all(database, 10_000, "here")


def test_a_lock_that_was_deleted_is_taken_anew(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    assert database.open()
    monkeypatch.setattr(sqlite, "_PREDECESSOR_TIMEOUT", 0.0)
    with pytest.raises(HistoryRefused, match="another taskmon"):
        open_sqlite(tmp_path)


def test_texts_that_no_database_holds(database: SqliteDatabase) -> None:
    lone = Task("lone", timestamp=START, args="a\ud800b")
    assert write(database, [lone, Task("plain", timestamp=START)]).cleaned == 1
    rows = read_all_rows(database)
    assert rows["plain"]
    assert rows["lone"].args == "a?b"


def test_a_number_beyond_the_database_costs_only_itself(database: SqliteDatabase) -> None:
    tasks = [Task(f"id-{number}", timestamp=START, clock=number) for number in range(9)]
    tasks[4].clock = 2**70
    written = write(database, tasks)
    assert (written.inserted, written.cleaned, written.refused) == (9, 1, 0)
    assert read_all_rows(database)["id-4"].clock is None


def test_workers_and_counters_are_written_over(database: SqliteDatabase) -> None:
    write(database, [], workers=[("one", 1.0, "{}"), ("two", 1.0, "{}")], counters="first")
    write(database, [], workers=[("one", 2.0, "[]")], gone=["two"], counters="second")
    with database.reading() as connection:
        workers = connection.exec_driver_sql("SELECT hostname, seen, document FROM taskmon_workers").all()
        counters = connection.exec_driver_sql("SELECT document FROM taskmon_counters").all()
    assert [tuple(row) for row in workers] == [("one", 2.0, "[]")]
    assert [tuple(row) for row in counters] == [("second",)]


def test_the_search_index_follows_what_changes(database: SqliteDatabase) -> None:
    state = make_tasks(20)
    tasks = [task for task in map(state.get, [f"id-{n:03}" for n in range(20)]) if task]
    write(database, tasks)
    while database.index_some(7):
        pass
    assert _unsearched(database) == 0
    tasks[3].args = "('quite-another',)"
    write(database, tasks[3:5])
    assert _unsearched(database) == 1
    assert not database.index_some(7)
    assert _unsearched(database) == 0
    assert read_ids(database, search=parse_search("quite-another")) == ["id-003"]
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM taskmon_tasks")
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM taskmon_search").scalar() == 0


def _unsearched(database: SqliteDatabase) -> int:
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM taskmon_unsearched").scalar() or 0)


def test_a_task_that_came_back_into_memory_keeps_its_beginning(database: SqliteDatabase) -> None:
    known = {"name": "tasks.add", "args": "()", "received": START, "worker": "celery@one"}
    write(database, [Task("a", born=1.0, state="STARTED", timestamp=START + 1, started=START + 1, **known)])
    write(database, [Task("a", born=2.0, state="SUCCESS", timestamp=START + 2, succeeded=START + 2)])
    row = read_all_rows(database)["a"]
    assert (row.name, row.args, row.worker, row.received) == ("tasks.add", "()", "celery@one", START)
    assert (row.state, row.started, row.succeeded, row.born) == ("SUCCESS", START + 1, START + 2, 1.0)


def test_the_same_task_in_memory_is_written_over(database: SqliteDatabase) -> None:
    write(database, [Task("a", born=1.0, state="SUCCESS", timestamp=START + 5, result="1", name="one")])
    write(database, [Task("a", born=1.0, state="RETRY", timestamp=START + 1)])
    assert read_all_rows(database)["a"] == Task("a", born=1.0, state="RETRY", timestamp=START + 1)


def test_no_statement_has_numbered_marks() -> None:
    """Python 3.12 warns where they come with a list of values, and 3.14 refuses."""
    source = Path(sqlite.__file__).read_text(encoding="utf-8")
    assert not re.search(r"[^`]\?\d", source)
