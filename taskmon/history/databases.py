"""A database to keep the history in: what SQLite and PostgreSQL have in common. No event loop, any thread.

One thread at a time may write. Errors of the driver become Away, which may pass, or HistoryRefused, which does not.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final

from msgspec import Struct
from sqlalchemy import Boolean, ColumnElement, Connection, Engine, bindparam, text, type_coerce
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql import Select

from ..masking import mask_passwords
from ..outcomes import ORPHANED
from .columns import clean_row
from .schema import tasks, workers
from .terms import Texts

Row = tuple[Any, ...]

#: Rows that are read at a time where there may be many.
CHUNK: Final = 5_000


class Away(Exception):
    """The database does not answer, or cannot take what it is given; that may pass."""


class Batch(Struct):
    """What is written in one transaction: rows of tasks, documents of workers with their `seen`, and counters.

    `counters` belong to `monitor`, and `now` is the time, in epoch seconds. `adopted` are the ids of those tasks that
    were marked as orphaned and are no longer: without a newer event, merging would keep the mark.
    """

    tasks: list[Row]
    workers: list[tuple[str, float, str]]
    gone: list[str]
    counters: str | None
    monitor: str
    now: float
    adopted: list[str] = []


class Database(ABC):
    """One database, by its URL; `cluster` names the broker whose tasks are written."""

    #: Whether others may write to it at the same time.
    shared: ClassVar[bool]

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster

    @property
    @abstractmethod
    def writer(self) -> Engine:
        """The engine that writes."""

    @property
    @abstractmethod
    def reader(self) -> Engine:
        """The engine that reads."""

    @abstractmethod
    def open(self) -> bool:
        """Connect, or connect again, and bring the schema up to date; tell whether what was written is gone.

        Raises Away and HistoryRefused.
        """

    @abstractmethod
    def close(self) -> None:
        """Let all connections go."""

    @abstractmethod
    def check(self) -> None:
        """Raise Away if the database that is open is no longer the one that the URL means."""

    @abstractmethod
    def cut(self) -> None:
        """Cut the connections off, so that nobody waits for an answer any more; in any thread."""

    @abstractmethod
    def explain(self, exc: BaseException) -> Exception:
        """Tell what an error of the driver means for a start: Away, or HistoryRefused where it would not pass."""

    @abstractmethod
    def upsert_tasks(self, connection: Connection, rows: list[Row]) -> None:
        """Write rows, each over, or merged with, the row of the same task."""

    @abstractmethod
    def upsert(self, connection: Connection, table: str, columns: Sequence[str], keys: int, rows: list[Row]) -> None:
        """Write rows over those with the same first `keys` columns."""

    @abstractmethod
    def index_some(self, most: int) -> bool:
        """Let searches find up to so many tasks sooner that were written since; tell whether more are left."""

    @abstractmethod
    def match(self, texts: Texts) -> ColumnElement[bool]:
        """Write the condition that holds wherever these texts may be found."""

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection within a transaction; raises Away."""
        with translated(), self.writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection to read with; raises Away."""
        with translated(), self.reader.connect() as connection:
            yield connection

    def write(self, batch: Batch) -> int:
        """Write a batch in one transaction; rows that the database cannot hold are left out and counted."""
        self.check()
        try:
            self._write(batch, batch.tasks)
            return 0
        except _Unfit:
            pass
        good = self._sift([clean_row(row) for row in batch.tasks])
        self._write(batch, good)
        return len(batch.tasks) - len(good)

    def _write(self, batch: Batch, rows: list[Row]) -> None:
        with self.writing() as connection, refusing():
            if rows:
                self.upsert_tasks(connection, rows)
            if batch.adopted:
                connection.execute(_adopt(batch.adopted))
            self._write_rest(connection, batch)

    def _sift(self, rows: list[Row]) -> list[Row]:
        """Keep the rows that the database takes, trying them in halves."""
        try:
            with self.writing() as connection, refusing():
                self.upsert_tasks(connection, rows)
            return rows
        except _Unfit:
            if len(rows) == 1:
                return []
        half = len(rows) // 2
        return self._sift(rows[:half]) + self._sift(rows[half:])

    def _write_rest(self, connection: Connection, batch: Batch) -> None:
        cluster = self.cluster
        if batch.workers:
            rows: list[Row] = [(cluster, *worker) for worker in batch.workers]
            self.upsert(connection, "taskmon_workers", ("cluster", "hostname", "seen", "document"), 2, rows)
        for hostname in batch.gone:
            connection.execute(_forget(cluster, hostname))
        if batch.counters is not None:
            row = (cluster, batch.monitor, batch.now, batch.counters)
            self.upsert(connection, "taskmon_counters", ("cluster", "monitor", "saved", "document"), 2, [row])

    def read_rows(self, query: "Select[Any]") -> Iterator[list[Row]]:
        """Yield all rows of a query, many at a time, by the driver's own cursor: there may be a million."""
        statement = str(query.compile(self.reader, compile_kwargs={"literal_binds": True}))
        lost = self.reader.dialect.loaded_dbapi.Error
        with self.reading() as connection:
            cursor = self.open_cursor(connection)
            try:
                cursor.execute(statement)
                while rows := cursor.fetchmany(CHUNK):
                    yield rows
            except lost as exc:
                connection.invalidate()
                raise Away(first_line(exc)) from exc
            finally:
                with suppress(lost):
                    cursor.close()

    @abstractmethod
    def open_cursor(self, connection: Connection) -> Any:
        """Give a cursor of the driver that does not read everything at once."""


class _Unfit(Exception):
    """A value cannot be stored."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the driver says of a value that it cannot store into _Unfit."""
    try:
        yield
    except (UnicodeError, OverflowError, ValueError, TypeError) as exc:
        raise _Unfit from exc
    except DBAPIError as exc:
        state = getattr(exc.orig, "sqlstate", None) or ""
        if state.startswith("22") or isinstance(exc.orig, UnicodeError | OverflowError):
            raise _Unfit from exc
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the driver into Away."""
    try:
        yield
    except DBAPIError as exc:
        raise Away(first_line(exc.orig or exc)) from exc
    except SQLAlchemyError as exc:
        raise Away(first_line(exc)) from exc


def first_line(exc: BaseException) -> str:
    """Give the first line of what an error says, without passwords."""
    lines = mask_passwords(str(exc)).strip().splitlines()
    return lines[0][:200] if lines else type(exc).__name__


def literal_condition(sql: str, **values: str) -> ColumnElement[bool]:
    """Make a condition of SQL, in which `:name` stands for a value."""
    parameters: list[Any] = [bindparam(name, value, unique=True) for name, value in values.items()]
    condition: ColumnElement[bool] = type_coerce(text(sql).bindparams(*parameters).self_group(), Boolean)
    return condition


def _forget(cluster: str, hostname: str) -> Any:
    return workers.delete().where(workers.c.cluster == cluster, workers.c.hostname == hostname)


def _adopt(task_ids: list[str]) -> Any:
    marked = tasks.c.uuid.in_(task_ids), tasks.c.reconciled == ORPHANED
    return tasks.update().where(*marked).values(reconciled=None)
