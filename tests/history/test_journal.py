"""The journal: what is noted in it comes back after a kill, and never in the place of something newer."""

import asyncio
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from random import Random

import pytest
from factories import START, make_event, make_state
from patience import PATIENCE
from stored import read_all_rows, write
from waiting import eventually

from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.history import journal as journal_module
from taskmon.history import journal_writer, recording
from taskmon.history.columns import FIELDS, to_row
from taskmon.history.databases import Away, Batch
from taskmon.history.journal import Full, Journal
from taskmon.history.journal_replay import write_leftovers
from taskmon.history.recording import Recorder
from taskmon.history.retention import Retention
from taskmon.history.sqlite import SqliteDatabase
from taskmon.records import Task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


def make_batch(*names: str, seen: float = 1.0, **more: object) -> Batch:
    batch = Batch([to_row(Task(name, timestamp=START, seen=seen)) for name in names], [], [], None, "here", START)
    for name, value in more.items():
        setattr(batch, name, value)
    return batch


def read_noted(path: Path) -> list[list[str]]:
    """Read the ids that another process would find, by batch."""
    uuid = FIELDS.index("uuid")
    return [[row[uuid] for row in batch.tasks] for batch in Journal(path).read()]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Have the system refuse to let any file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The files


def test_what_is_noted_is_read_in_order_until_it_is_written(path: Path) -> None:
    journal = Journal(path)
    journal.note(make_batch("too early"))
    journal.begin()
    journal.note(make_batch("a", "b", workers=[("celery@one", 1.0, "{}")], counters="{}"))
    journal.turn()
    journal.note(make_batch("c"))
    assert read_noted(path) == [["a", "b"], ["c"]]
    [first, _] = Journal(path).read()
    assert first == make_batch("a", "b", workers=[("celery@one", 1.0, "{}")], counters="{}")
    journal.forget()
    journal.note(make_batch("d"))
    assert read_noted(path) == [["c"], ["d"]]
    journal.turn()
    journal.note(make_batch("e"))
    journal.turn()  # what was noted before the last time is not written yet
    journal.note(make_batch("f"))
    assert read_noted(path) == [["c"], ["d"], ["e"], ["f"]]
    journal.forget()
    assert read_noted(path) == [["e"], ["f"]]
    journal.close()
    assert read_noted(path) == [["e"], ["f"]]
    journal.clear()  # it has not begun: who knows what is in there
    assert read_noted(path) == [["e"], ["f"]]
    journal.begin()
    journal.clear()
    assert list(path.parent.iterdir()) == []


def test_many_rows_and_texts_that_no_message_holds(path: Path) -> None:
    journal = Journal(path)
    journal.begin()
    journal.note(make_batch(*(f"id-{number}" for number in range(1201))))
    journal.note(make_batch("lone\ud800", "plain"))
    journal.note(Batch([to_row(Task("big", clock=2**70)), to_row(Task("plain"))], [], [], None, "here", START))
    assert [len(batch) for batch in read_noted(path)] == [1201, 2, 2]
    journal.close()


def test_a_file_that_was_not_written_to_its_end_is_read_as_far_as_it_is_good(path: Path) -> None:
    journal = Journal(path)
    journal.begin()
    whole = [["a", "b"], ["c"], ["d"]]
    for names in whole:
        journal.note(make_batch(*names))
    journal.close()
    [file] = [file for file in path.parent.iterdir() if file.stat().st_size]
    content = file.read_bytes()
    counts = []
    for size in range(len(content)):
        file.write_bytes(content[:size])
        found = read_noted(path)
        assert found == whole[: len(found)]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[-1] == 2
    start = content.index(b"\n") + 1
    for place in range(start, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        found = read_noted(path)
        assert found == whole[: len(found)]
        assert len(found) < 3


def test_a_journal_of_another_version_has_its_fields_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)
    journal.begin()
    fields = ("seen", "uuid", "unheard_of", "state", "born")
    monkeypatch.setattr(journal_module, "Head", lambda number, cluster: {"number": number, "fields": fields})
    batch = Batch([(7.0, "a", "what", "SUCCESS", 6.0)], [], [], None, "here", START)
    journal.note(batch)
    monkeypatch.undo()
    [read] = Journal(path).read()
    assert Task(*read.tasks[0]) == Task("a", state="SUCCESS", born=6.0, seen=7.0, retries=None, clock=None)
    journal.close()


def test_a_disk_that_is_full_costs_what_comes_then_and_no_more(path: Path) -> None:
    journal = Journal(path)
    journal.begin()
    journal.note(make_batch("a"))
    with files_no_larger_than(2000), pytest.raises(OSError, match="too large"):
        journal.note(make_batch(*(f"id-{number}" for number in range(100))))
    assert read_noted(path) == [["a"]]
    journal.note(make_batch("b"))
    assert read_noted(path) == [["a"], ["b"]]
    journal.close()


def test_it_has_a_largest_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LARGEST", 1200)
    journal = Journal(path)
    journal.begin()
    journal.note(make_batch("a"))
    journal.turn()
    with pytest.raises(Full):
        journal.note(make_batch(*(f"id-{number}" for number in range(100))))
    journal.forget()
    journal.note(make_batch("b"))
    assert read_noted(path) == [["b"]]
    journal.close()


def test_it_belongs_to_one_taskmon(path: Path) -> None:
    first, second = Journal(path, alone=False), Journal(path, alone=False)
    first.claim()
    second.claim()  # the next one
    assert first.path != second.path
    second.close()
    second = Journal(path, alone=False)
    first.claim()
    first.begin()
    first.note(make_batch("a"))
    first.close()
    second.claim()
    assert read_noted(path) == [["a"]]
    second.close()


async def test_what_is_at_risk_while_there_is_no_journal_yet(path: Path) -> None:
    database, journal, lane = Shaky(path), Journal(path), BlockingPool("The history", threads=1, waiting=16)
    state = make_state()
    recorder = Recorder(state, database, lane, "here", lambda: "{}", Retention(database, None, None), journal)
    state.subscribe(recorder.observe)
    state.apply([make_event("received", "a")])
    recorder._changes.forget_fresh()  # as they are too many
    assert recorder.at_risk() > 0
    database.close()


# What comes of it


def test_what_is_left_is_written_where_it_is_newer(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    journal, database = Journal(path), SqliteDatabase(path)
    assert database.open()
    journal.begin()
    journal.note(make_batch("older", "same", "newer", "unknown", seen=2.0, counters='{"old": 1}'))
    journal.note(make_batch("gone", workers=[("celery@one", 1.0, "{}")]))
    journal.note(make_batch("unknown", seen=3.0, gone=["celery@one"], counters='{"new": 1}'))
    journal.close()
    for name, seen in (("older", 1.0), ("same", 2.0), ("newer", 3.0)):
        write(database, [Task(name, timestamp=START, seen=seen, args=f"stored at {seen}")])
    again = Journal(path)
    write_leftovers(database, again, created=False)
    rows = read_all_rows(database)
    assert {name: (row.seen, row.args) for name, row in rows.items()} == {
        "older": (2.0, None),
        "same": (2.0, "stored at 2.0"),
        "newer": (3.0, "stored at 3.0"),
        "unknown": (3.0, None),
        "gone": (1.0, None),
    }
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM taskmon_workers").scalar() == 0
        assert connection.exec_driver_sql("SELECT document FROM taskmon_counters").scalar() == '{"new": 1}'
    assert "6 changes of tasks come from its journal" in caplog.text
    again.note(make_batch("next"))
    write_leftovers(database, again, created=False)  # it has begun: there is nothing to be read
    assert read_noted(path) == [["next"]]
    again.close()
    fresh = Journal(path)
    write_leftovers(database, fresh, created=True)
    assert read_noted(path) == []
    fresh.close()
    assert read_all_rows(database).keys() == rows.keys()
    database.close()


def test_a_database_that_is_locked_is_given_what_is_left_later(path: Path) -> None:
    journal, database = Journal(path), SqliteDatabase(path)
    database.open()
    journal.begin()
    journal.note(make_batch("a"))
    journal.close()
    journal, other = Journal(path), SqliteDatabase(path)
    with other.writing():
        with pytest.raises(Away, match="locked"):
            write_leftovers(database, journal, created=False)
        assert not journal.begun
    assert read_noted(path) == [["a"]]
    write_leftovers(database, journal, created=False)
    assert read_all_rows(database).keys() == {"a"}
    assert journal.begun
    for one in (database, other, journal):
        one.close()


def test_a_journal_that_cannot_be_read_or_written_holds_nothing_up(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = SqliteDatabase(path)
    database.open()
    place = path.with_name(path.name + "-unwritten-1")
    place.mkdir()
    journal = Journal(path)
    write_leftovers(database, journal, created=False)
    assert not journal.begun
    assert "cannot be used" in caplog.text
    place.rmdir()
    place.write_bytes(b'{"number": 1}\nno messages')
    write_leftovers(database, journal, created=False)
    assert journal.begun
    journal.close()
    database.close()


# A taskmon that is killed at any moment


class Shaky(SqliteDatabase):
    """A database that can be told to be away, and to let a write wait."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.away = False
        self.flows = threading.Event()
        self.flows.set()
        self.waits = False

    def write(self, batch: Batch) -> int:
        self.waits = True
        self.flows.wait()
        self.waits = False
        if self.away:
            raise Away("told to be")
        return super().write(batch)


def read_after_kill(path: Path, folder: Path) -> dict[str, Task]:
    """Read what a taskmon finds that starts now with what is on the disk."""
    folder.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder)
    database = SqliteDatabase(folder / path.name)
    journal = Journal(folder / path.name)
    write_leftovers(database, journal, created=database.open())
    found = read_all_rows(database)
    journal.close()
    database.close()
    shutil.rmtree(folder)
    return found


class Life:
    """A taskmon whose tasks change, are noted and are written whenever it is told, and what a kill must leave."""

    def __init__(self, path: Path, random: Random) -> None:
        self.database, self.journal = Shaky(path), Journal(path)
        self._random = random
        self._state = make_state(max_tasks=6)
        self._lane = BlockingPool("The history", threads=1, waiting=16)
        upkeep = Retention(self.database, None, None)
        self._recorder = Recorder(self._state, self.database, self._lane, "here", lambda: "{}", upkeep, self.journal)
        self._state.subscribe(self._recorder.observe)
        self._writing: asyncio.Task[float] | None = None
        self.versions: dict[str, list[Task]] = {}
        self.safe: dict[str, int] = {}  # the place among the versions of a task of that which is safe

    def start(self) -> None:
        write_leftovers(self.database, self.journal, created=self.database.open())
        self._recorder.start(opened=True)

    async def change(self, step: int) -> None:
        """Let some tasks see an event."""
        for name in self._random.sample([f"id-{number}" for number in range(10)], self._random.randint(1, 3)):
            kind = self._random.choice(["received", "started", "succeeded", "failed", "retried"])
            self._state.apply([make_event(kind, name, timestamp=START + step, clock=step)])
            changed = self._recorder.pending(name)
            assert changed is not None
            self.versions.setdefault(name, []).append(copy(self._recorder.recall(changed)))

    async def note(self, step: int) -> None:
        assert self._recorder._keeper is not None
        now = self._newest()
        if await self._recorder._keeper._note(True):
            self.safe = now

    async def write(self, step: int) -> None:
        """Begin to write, or end it."""
        if self._writing is None:
            self.database.flows.clear()
            self._begun_at = self._newest()
            self._writing = asyncio.create_task(self._recorder._write_and_tidy())
            await eventually(lambda: self.database.waits or (self._writing is not None and self._writing.done()))
        else:
            self.database.flows.set()
            await self._writing
            self._writing = None
            if self._recorder.status.available:
                self.safe = {name: max(at, self.safe.get(name, 0)) for name, at in self._begun_at.items()}

    async def stop(self) -> None:
        self.database.away = False
        self.database.flows.set()
        if self._writing is not None:
            await self._writing
        await self._recorder.stop(PATIENCE)
        self._lane.close()

    def _newest(self) -> dict[str, int]:
        return {name: len(known) - 1 for name, known in self.versions.items()}


@pytest.mark.parametrize("seed", range(5))
async def test_a_kill_loses_no_more_than_what_was_not_noted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Let things happen in any order, and look after each at what would be found."""
    for module in (journal_writer, recording):
        monkeypatch.setattr(module, "INTERVAL", 3600.0)  # the test tells when
    monkeypatch.setattr(journal_writer, "_CHANGES_PER_SLICE", 2)
    monkeypatch.setattr(recording, "TASKS_PER_TRANSACTION", 5)
    random = Random(seed)
    life = Life(path, random)
    life.start()
    for step in range(100):
        what = random.choices(["change", "note", "write", "away", "full"], [5, 3, 3, 1, 1])[0]
        if what == "away":
            life.database.away = not life.database.away
        elif what == "full":
            monkeypatch.setattr(journal_module, "LARGEST", 0 if journal_module.LARGEST else 1 << 20)
        else:
            await getattr(life, what)(step)
        found = read_after_kill(path, tmp_path / "copy")
        for name, least in life.safe.items():
            assert _knows(found[name], life.versions[name][least]), (step, found[name], life.versions[name])
    await life.stop()
    assert not list(tmp_path.glob("*-unwritten-*"))


def _knows(found: Task, least: Task) -> bool:
    """Tell whether a task that was found has seen all that another has."""
    kinds = ("received", "started", "succeeded", "failed", "retried")
    return found.seen >= least.seen and all(
        (getattr(found, kind) or 0.0) >= (getattr(least, kind) or 0.0) for kind in kinds
    )
