"""The history in a file of SQLite, which one taskmon has to itself.

Every transaction is in the write-ahead log before it is answered for: a process that is killed loses nothing of it.
The search index is written later, in steps; until then `taskmon_unsearched` names the tasks to look at besides.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..errors import HistoryRefused
from ..private_files import open_private, tighten
from .batches import Row
from .columns import FIELDS, merge_sql
from .databases import Database, literal_condition
from .driver_errors import Away, first_line
from .schema import SEARCHED, SEPARATOR
from .search_sql import Texts

#: Rows in one statement, a millisecond's worth: each costs the driver and SQLite some upkeep.
_ROWS_PER_STATEMENT: Final = 50

#: Lets those have the processor who wait for it, after each statement: the scheduler may let them wait for some.
_give_way: Final[Callable[[], None]] = getattr(os, "sched_yield", lambda: None)

#: Seconds to wait for a lock that another process holds.
_LOCK_TIMEOUT: Final = 1.0

#: In memory, and not in a file, is kept what it takes to undo a statement: a few hundred pages.
_WRITER_PRAGMAS: Final = ("synchronous = NORMAL", "cache_size = -65536", "temp_store = MEMORY")

#: Seconds to wait for the process that a taskmon which was killed has left, and which ends with it.
_PREDECESSOR_TIMEOUT: Final = 5.0

#: The first SQLite that searches by trigrams.
_OLDEST: Final = (3, 34, 0)

_STATE: Final = FIELDS.index("state")

_DAMAGED: Final = ("SQLITE_NOTADB", "SQLITE_CORRUPT")

Inode = tuple[int, int]


class SqliteDatabase(Database):
    """A file; nobody but this taskmon may write to it, which a lock beside it sees to."""

    shared = False

    def __init__(self, path: Path, name: str = "", others: Sequence[str] = ()) -> None:
        super().__init__(name, others)
        self._path = path
        self._lock: IO[bytes] | None = None
        self._inode: Inode | None = None
        self._ahead: Inode | None = None
        self._replaced = False
        self._writer = self._make_engine("BEGIN IMMEDIATE", *_WRITER_PRAGMAS)
        self._reader = self._make_engine("BEGIN", "query_only = 1", "cache_size = -16384")

    @property
    def writer(self) -> Engine:
        return self._writer

    @property
    def reader(self) -> Engine:
        return self._reader

    def open(self) -> bool:
        _require_fts5()
        try:
            self._check_place()
        except OSError as exc:
            raise HistoryRefused(f"{self._path} cannot be reached: {exc.strerror}") from exc
        self._take_lock()
        self._dispose()  # of a file that may be gone
        try:
            if not self._path.exists():
                open_private(self._path, "ab").close()
        except OSError as exc:
            raise HistoryRefused(f"{self._path} cannot be written: {exc.strerror}") from exc
        try:
            with self._writer.connect() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
            self._write_ahead()
            with self._writer.begin() as connection:
                created = self.prepare(connection)
        except SQLAlchemyError as exc:
            raise self.explain(exc) from exc
        for ending in ("", "-wal", "-shm"):
            tighten(self._beside(ending))
        self.expect(_find_inode(self._path), _find_inode(self._beside("-wal")))
        created, self._replaced = created or self._replaced, False
        return created

    def expect(self, inode: Inode | None, ahead: Inode | None) -> None:
        """Take note of which file is open, and of its log; another process may have opened it."""
        self._inode, self._ahead = inode, ahead

    def close(self) -> None:
        self._dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check(self) -> None:
        if _find_inode(self._path) != self._inode:
            raise Away("its file is gone")
        if self._has_lost_log():
            raise Away("its -wal is gone")

    def cut(self) -> None:
        """A file has no connection that could hang."""

    def explain(self, exc: BaseException) -> Exception:
        cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
        if getattr(cause, "sqlite_errorname", "").startswith(_DAMAGED):
            return HistoryRefused(f"{self._path} is no database of SQLite, or damaged ({first_line(cause)})")
        return Away(first_line(cause))

    def upsert_tasks(self, connection: Connection, cluster: str, rows: list[Row]) -> int:
        """Write rows, those of a state together, without the columns that none of them has.

        The driver takes five times as long over a None as over a value. A new task gets the next id.
        """
        before = _read_last_id(connection)
        rows = sorted(rows, key=itemgetter(_STATE))
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            some = rows[start : start + _ROWS_PER_STATEMENT]
            columns = zip(FIELDS, zip(*some, strict=True), strict=True)
            known = {field: values for field, values in columns if values.count(None) < len(some)}
            statement = _upsert_tasks(tuple(known), len(some))
            values = chain.from_iterable(zip([cluster] * len(some), *known.values(), strict=True))
            connection.exec_driver_sql(statement, tuple(values))
            _give_way()
        return _read_last_id(connection) - before

    def upsert(self, connection: Connection, table: str, columns: Sequence[str], keys: int, rows: list[Row]) -> None:
        statement = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({_marks(len(columns))})"
        connection.exec_driver_sql(statement, rows)

    def index_some(self, most: int) -> bool:
        """Index tasks, in few statements."""
        with self.writing() as connection:
            document: Any = connection.exec_driver_sql(_READ_TEXTS, (most,)).scalar()
            rows: list[list[Any]] = msgspec.json.decode(document)
            if not rows:
                return False
            connection.exec_driver_sql(_FORGET_TEXTS, (most,))
            for start in range(0, len(rows), _ROWS_PER_STATEMENT):
                some = rows[start : start + _ROWS_PER_STATEMENT]
                values = [value for row in some for value in (row[0], fold(row[1:]))]
                connection.exec_driver_sql(_insert_texts(len(some)), tuple(values))
                _give_way()
            connection.exec_driver_sql("DELETE FROM taskmon_unsearched WHERE id <= ?", (rows[-1][0],))
        return len(rows) == most

    def match(self, texts: Texts) -> ColumnElement[bool]:
        """Ask the trigram index; what it does not know yet may match too."""
        condition = (
            "taskmon_tasks.id IN (SELECT rowid FROM taskmon_search WHERE taskmon_search MATCH :terms"
            " UNION ALL SELECT id FROM taskmon_unsearched)"
        )
        return literal_condition(condition, terms=_write_match(texts))

    def open_cursor(self, connection: Connection) -> Any:
        return connection.connection.cursor()

    def _make_engine(self, begin: str, *pragmas: str) -> Engine:
        engine = create_engine(
            f"sqlite+pysqlite:///{self._path}",
            connect_args={"timeout": _LOCK_TIMEOUT, "check_same_thread": False, "cached_statements": 32},
            pool_size=2,
        )

        def on_connect(connection: sqlite3.Connection, record: object) -> None:
            if self._inode is not None:
                self.check()
            connection.isolation_level = None  # else the module begins transactions of its own
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")

        event.listen(engine, "connect", on_connect)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def _check_place(self) -> None:
        directory = self._path.absolute().parent
        if not directory.is_dir():
            raise HistoryRefused(f"there is no directory {directory}")
        if self._path.is_dir():
            raise HistoryRefused(f"{self._path} is a directory")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise HistoryRefused(f"taskmon may not write to the directory {directory}")
        if self._path.exists() and not os.access(self._path, os.R_OK | os.W_OK):
            raise HistoryRefused(f"taskmon may not write to {self._path}")

    def _beside(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)

    def _has_lost_log(self) -> bool:
        """Tell whether the log was deleted in use: what is written to it then ends with the process."""
        return self._ahead is not None and _find_inode(self._beside("-wal")) != self._ahead

    def _dispose(self) -> None:
        """Let the connections go, and what a file that is gone has left beside another that took its place.

        SQLite would write the old one's log into the new one.
        """
        self._replaced |= self._has_lost_log()
        self._writer.dispose()
        self._reader.dispose()
        if self._inode is not None and _find_inode(self._path) != self._inode:
            self._replaced = True
            ahead = self._beside("-wal")
            if _find_inode(ahead) == self._ahead:
                ahead.unlink(missing_ok=True)
                self._beside("-shm").unlink(missing_ok=True)
        self._inode = self._ahead = None

    def _take_lock(self) -> None:
        """Take the lock that keeps other taskmons away; the end of the process lets it go, however it ends."""
        place = self._beside("-lock")
        if self._lock is not None:
            if _find_inode(place) == _inode_of(os.fstat(self._lock.fileno())):
                return
            self._lock.close()
            self._lock = None
        try:
            lock = open_private(place, "ab")
        except OSError as exc:
            raise HistoryRefused(f"{self._path}-lock cannot be written: {exc.strerror}") from exc
        if not _lock(lock):
            lock.close()
            raise HistoryRefused(f"another taskmon writes to {self._path}; several can share PostgreSQL")
        self._lock = lock

    def _write_ahead(self) -> None:
        """Have transactions written ahead, which no transaction may surround."""
        connection = self._writer.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as exc:
            raise Away(first_line(exc)) from exc
        finally:
            connection.close()


def _read_last_id(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM taskmon_tasks").scalar() or 0)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file that others may be about to let go; tell whether that went well."""
    deadline = time.monotonic() + _PREDECESSOR_TIMEOUT
    while True:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def _find_inode(path: Path) -> Inode | None:
    """Tell which file is at a path, None for none."""
    try:
        return _inode_of(path.stat())
    except OSError:
        return None


def _inode_of(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _require_fts5() -> None:
    with sqlite3.connect(":memory:") as connection:
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
    connection.close()
    if sqlite3.sqlite_version_info < _OLDEST or "ENABLE_FTS5" not in options:
        raise HistoryRefused(f"it takes SQLite 3.34 with FTS5, and this is {sqlite3.sqlite_version}")


_READ_TEXTS: Final = (
    f"SELECT json_group_array(json_array(id, {', '.join(SEARCHED)})) FROM"
    f" (SELECT tasks.id, {', '.join(f'tasks.{field}' for field in SEARCHED)} FROM taskmon_unsearched AS new"
    " CROSS JOIN taskmon_tasks AS tasks USING (id) ORDER BY new.id LIMIT ?)"
)
_FORGET_TEXTS: Final = (
    "DELETE FROM taskmon_search WHERE rowid IN (SELECT id FROM taskmon_unsearched ORDER BY id LIMIT ?)"
)


def fold(texts: Sequence[str | None]) -> str:
    """Make one text of all that a search looks into, folded as a search folds it."""
    return SEPARATOR.join(value or "" for value in texts).casefold()


def _write_match(texts: Texts) -> str:
    """Write what the index is asked for: of each text all trigrams."""
    members = [_write_match(one) if isinstance(one, Texts) else _trigrams(one) for one in texts.members]
    return f"({(' AND ' if texts.every else ' OR ').join(members)})"


def _trigrams(folded: str) -> str:
    parts = sorted({folded[at : at + 3] for at in range(len(folded) - 2)})
    return "({})".format(" AND ".join('"' + part.replace('"', '""') + '"' for part in parts))


def _marks(count: int) -> str:
    return ", ".join("?" * count)


@lru_cache(maxsize=256)
def _upsert_tasks(fields: tuple[str, ...], count: int) -> str:
    """Write the statement for so many rows of these fields; the others are NULL. Each row begins with its cluster."""
    row = f"({_marks(1 + len(fields))})"  # not `?1`: Python 3.14 takes no list of values for numbered marks
    return (
        f"INSERT INTO taskmon_tasks (cluster, {', '.join(fields)}) VALUES {', '.join([row] * count)}"
        f" ON CONFLICT (uuid, cluster) DO UPDATE SET {_CHANGES}"
    )


def _write_changes() -> str:
    """Write what becomes of a row that is there.

    A row of the same `born` was written of the same task in memory, which knows it all: it is written over. With
    another, the task had left the memory, and has come back knowing little.
    """
    merged = merge_sql("taskmon_tasks", "excluded", "max")
    return ", ".join(
        f"{field} = CASE WHEN excluded.born = taskmon_tasks.born THEN excluded.{field} ELSE {expression} END"
        for field, expression in merged.items()
    )


_CHANGES: Final = _write_changes()


@lru_cache(maxsize=64)
def _insert_texts(count: int) -> str:
    return f"INSERT INTO taskmon_search (rowid, text) VALUES {', '.join(['(?, ?)'] * count)}"
