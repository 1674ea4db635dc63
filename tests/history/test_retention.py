"""What is too old or too many goes, in small steps."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stored import open_sqlite, read_ids, write

from taskmon.history import retention
from taskmon.history.databases import Database
from taskmon.history.retention import Retention
from taskmon.records import Task


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = open_sqlite(tmp_path)
    yield made
    made.close()


def fill(database: Database, ages: list[float]) -> None:
    now = time.time()
    write(database, [Task(f"id-{number:03}", timestamp=now - age) for number, age in enumerate(ages)])


def run(kept: Retention) -> int:
    """Step until there is nothing more to do; give the number of steps."""
    for steps in range(1, 100):
        if not kept.step():
            return steps
    raise AssertionError("it never ends")


def test_without_bounds_nothing_goes(database: Database) -> None:
    fill(database, [1e9, 1.0])
    run(Retention(database, None, None))
    assert len(read_ids(database)) == 2


def test_what_is_too_old_goes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "TASKS_PER_DELETE", 3)
    fill(database, [1000.0] * 7 + [10.0, 100.0])
    kept = Retention(database, 500.0, None)
    assert run(kept) == 3
    assert kept.deleted == 7
    assert read_ids(database) == ["id-007", "id-008"]


def test_what_is_too_many_goes_to_the_last_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "TASKS_PER_DELETE", 2)
    fill(database, [5.0] * 9)  # all of one time: by id
    kept = Retention(database, None, 4)
    run(kept)
    assert sorted(read_ids(database)) == ["id-005", "id-006", "id-007", "id-008"]
    assert kept.deleted == 5


def test_both_bounds_and_the_next_look(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, [1000.0, 10.0, 9.0, 8.0])
    kept = Retention(database, 500.0, 2)
    run(kept)
    assert read_ids(database) == ["id-003", "id-002"]
    write(database, [Task("new", timestamp=time.time())])
    assert not kept.step()
    assert len(read_ids(database)) == 3  # the next look is not due
    monkeypatch.setattr(kept, "_look_at", 0.0)
    run(kept)
    assert read_ids(database) == ["new", "id-003"]


def test_what_gone_taskmons_counted_goes(database: Database) -> None:
    write(database, [], counters="old", now=time.time() - 100 * 86_400, monitor="there")
    write(database, [], counters="new", now=time.time(), workers=[("one", 1.0, "{}")])
    run(Retention(database, 60.0, None))
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT document FROM taskmon_counters").scalars().all() == ["new"]
        assert connection.exec_driver_sql("SELECT count(*) FROM taskmon_workers").scalar() == 0
