"""Journals in a directory: each taskmon has its own, and what one that is gone has left is written by another."""

from pathlib import Path
from typing import Any

import pytest
from factories import START
from serving import make_app
from stored import open_sqlite, read_all_rows

from taskmon.app import _name
from taskmon.history.batches import Batch
from taskmon.history.columns import to_row
from taskmon.history.databases import Database
from taskmon.history.history import Names, _make_journal, _name_family
from taskmon.history.journal import Journal
from taskmon.history.journal_replay import write_leftovers
from taskmon.records import Task
from taskmon.settings import Settings

URL = "postgresql://user:secret@db.example.com:5432/history"


def make_journal(directory: Path, broker: str = "redis://", url: str = URL, **options: Any) -> tuple[Journal, str]:
    """Make the journal that a taskmon would have, and give how the names of its family begin."""
    names = Names(*_name(Settings(history_journal=directory, **options), make_app(broker)))
    family = _name_family(url, names.cluster)
    return _make_journal(directory, family, names), family


def note(journal: Journal, *task_ids: str) -> None:
    rows = [to_row(Task(task_id, timestamp=START, seen=1.0)) for task_id in task_ids]
    journal.note(Batch(rows, [], [], None, "here", START))


@pytest.fixture
def database(tmp_path: Path) -> Any:
    (tmp_path / "database").mkdir()
    made = open_sqlite(tmp_path / "database")
    yield made
    made.close()


def test_a_name_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(hostname: str, broker: str = "redis://", url: str = URL, **options: Any) -> str:
        monkeypatch.setattr("taskmon.app.socket.gethostname", lambda: hostname)
        return make_journal(tmp_path, broker, url, **options)[0].path.name

    first = name("pod-1")
    assert name("pod-2") == first
    assert name("pod-1", "redis://user:other@localhost:6379/0") == first
    assert name("pod-1", url=URL.replace("user:secret", "new:rotated")) == first
    others = {
        name("pod-1", port=5556),
        name("pod-1", "redis://localhost/7"),
        name("pod-1", url=URL + "2"),
        name("pod-1", listen="127.0.0.1:7001"),
        name("pod-1", listen="127.0.0.1:7002"),
        name("pod-1", monitor_name="shop"),
    }
    assert len(others | {first}) == 7
    assert name("pod-1", monitor_name="shop", port=1) == name("pod-2", monitor_name="shop", port=2)


def test_two_on_one_machine_have_two_names() -> None:
    places = ({"listen": "127.0.0.1:7001"}, {"listen": "127.0.0.1:7002"}, {"unix_socket": "/run/a.sock"}, {})
    monitors = {_name(Settings(**place), make_app())[2] for place in places}
    assert len(monitors) == 4


def leave(directory: Path, *task_ids: str, **options: Any) -> None:
    """Leave a journal behind, as a taskmon that is killed does."""
    journal, _ = make_journal(directory, **options)
    journal.claim()
    journal.begin()
    note(journal, *task_ids)
    journal.close()


def test_what_those_that_are_gone_have_left_is_written(tmp_path: Path, database: Database) -> None:
    living, family = make_journal(tmp_path, port=1)
    living.claim()
    living.begin()
    note(living, "of the living")
    leave(tmp_path, "own", port=2)
    leave(tmp_path, "orphaned", port=3)
    leave(tmp_path, "elsewhere", broker="redis://localhost/9", port=4)
    leave(tmp_path, "elsewhere", url=URL + "2", port=5)
    journal, _ = make_journal(tmp_path, port=2)
    write_leftovers(database, journal, created=False, family=family)
    assert read_all_rows(database).keys() == {"own", "orphaned"}
    assert not [path for path in tmp_path.iterdir() if make_journal(tmp_path, port=3)[0].path.name in path.name]
    [left] = [batch.tasks for batch in Journal(living.path).read()]
    assert left[0][0] == "of the living"
    living.close()
    journal.close()


def test_two_of_one_name_have_two_journals(tmp_path: Path, database: Database) -> None:
    first, family = make_journal(tmp_path, monitor_name="shop")
    second, _ = make_journal(tmp_path, monitor_name="shop")
    for journal, task_id in ((first, "a"), (second, "b")):
        write_leftovers(database, journal, created=False, family=family)
        assert journal.begun
        note(journal, task_id)
    assert first.path != second.path
    first.close()
    second.close()
    third, _ = make_journal(tmp_path, monitor_name="shop")
    write_leftovers(database, third, created=False, family=family)
    assert read_all_rows(database).keys() == {"a", "b"}
    third.close()


def test_a_database_that_fails_keeps_the_orphan(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, "orphaned", port=3)
    journal, family = make_journal(tmp_path, port=2)

    def fail(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", fail)
        write_leftovers(database, journal, created=False, family=family)
    assert not journal.begun
    write_leftovers(database, journal, created=False, family=family)
    assert read_all_rows(database).keys() == {"orphaned"}
    journal.close()
