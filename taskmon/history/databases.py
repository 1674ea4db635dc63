"""A database to keep the history in: what SQLite and PostgreSQL have in common. No event loop, any thread.

One thread at a time may write. Errors of the driver become Away, which may pass, or HistoryRefused, which does not.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final

from msgspec.structs import replace
from sqlalchemy import Boolean, ColumnElement, Connection, Engine, bindparam, text, true, type_coerce
from sqlalchemy.sql import Select

from ..outcomes import ORPHANED
from .batches import Batch, Row, Written, clean_batch, clean_rows, clean_text, names_of, uuid_of
from .clusters import claim_cluster, find_other_clusters
from .driver_errors import Away, Unfit, first_line, refusing, translated
from .schema import VERSION, migrate, tasks, workers
from .search_sql import Texts
from .task_names import KnownNames, add_names

log = logging.getLogger(__name__)

#: Rows that are read at a time where there may be many.
CHUNK: Final = 5_000


class Database(ABC):
    """One database, by its URL, for the tasks of the cluster `name`, which `others` are earlier names of.

    `cluster` is the key that its rows have there, and `alone` says that no others are there; both from `open` on.
    `migrating` says that `open` changes the tables.
    """

    #: Whether others may write to it at the same time.
    shared: ClassVar[bool]

    #: Bytes that a text may have which is indexed, None where there is no limit.
    max_indexed: ClassVar[int | None] = None

    def __init__(self, name: str, others: Sequence[str] = ()) -> None:
        self.cluster = ""
        self.alone = False
        self.migrating = False
        self._name = name
        self._others = others
        self._names = KnownNames()

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
    def upsert_tasks(self, connection: Connection, cluster: str, rows: list[Row]) -> int:
        """Write rows, each over, or merged with, the row of the same task; return how many tasks are new."""

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

    @property
    def own(self) -> ColumnElement[bool]:
        """The condition that a task is one of the own cluster."""
        return true() if self.alone else tasks.c.cluster == self.cluster

    def prepare(self, connection: Connection) -> bool:
        """Bring the schema up to date and claim the own rows; return whether the database was empty."""
        try:
            created = migrate(connection, self._note_steps)
        finally:
            self.migrating = False
        self.claim(connection)
        return created

    def _note_steps(self, found: int) -> None:
        log.info("The history is brought from version %s to %s, which may take minutes", found, VERSION)
        self.migrating = True

    def claim(self, connection: Connection) -> None:
        """Find the key of the own cluster, and whether there are others."""
        self.cluster = claim_cluster(connection, self._name, self._others)
        others = [] if self.shared else find_other_clusters(connection, self.cluster)
        self.alone = not self.shared and not others
        if others:
            log.warning(
                "The history also holds tasks of %s, which are neither shown nor deleted here; "
                "if that is an earlier name of this cluster, %r, start with --cluster-name=%r",
                ", ".join(map(repr, others[:3])),
                self._name,
                others[0],
            )

    def find_key(self, name: str) -> str:
        """Return the key of any cluster by its name; raises Away."""
        with self.writing() as connection:
            return claim_cluster(connection, name)

    def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction; where the database refuses a row, each that is good all the same."""
        self.check()
        batch = clean_batch(batch)
        try:
            with self.writing() as connection, refusing():
                self._write_rest(connection, batch)
                inserted = self._write_tasks(connection, batch, batch.tasks)
            self._note_names(batch, batch.tasks)
            return Written(inserted)
        except Unfit:
            return self._write_in_parts(batch)

    def _write_in_parts(self, batch: Batch) -> Written:
        """Write what is good of a batch, each part in a transaction of its own."""
        rows, cleaned = clean_rows(batch.tasks, self.max_indexed)
        written = Written(cleaned=cleaned)
        empty = replace(batch, tasks=[], workers=[], gone=[], adopted=[], counters=None)
        parts = [("worker", worker[0], replace(empty, workers=[worker])) for worker in batch.workers]
        parts += [("worker", hostname, replace(empty, gone=[hostname])) for hostname in batch.gone]
        parts.append(("counters of", batch.monitor, replace(empty, counters=batch.counters)))
        for kind, name, part in parts:
            try:
                with self.writing() as connection, refusing():
                    self._write_rest(connection, part)
            except Unfit as exc:
                written.refuse(kind, name, str(exc))
        self._sift(replace(empty, adopted=batch.adopted), rows, written)
        return written

    def _sift(self, batch: Batch, rows: list[Row], written: Written) -> None:
        """Write the rows that the database takes, trying them in halves."""
        try:
            with self.writing() as connection, refusing():
                inserted = self._write_tasks(connection, batch, rows)
            self._note_names(batch, rows)
            written.inserted += inserted
        except Unfit as exc:
            if len(rows) > 1:
                half = len(rows) // 2
                self._sift(batch, rows[:half], written)
                self._sift(batch, rows[half:], written)
            elif rows:
                written.refuse("task", uuid_of(rows[0]), str(exc))

    def _write_tasks(self, connection: Connection, batch: Batch, rows: list[Row]) -> int:
        cluster = self.cluster if batch.cluster is None else batch.cluster
        inserted = 0
        if rows:
            new = self._names.find_new(rows) if batch.cluster is None else names_of(rows)
            add_names(connection, cluster, new)
            inserted = self.upsert_tasks(connection, cluster, rows)
        if batch.adopted:
            connection.execute(_adopt(cluster, batch.adopted))
        return inserted

    def _note_names(self, batch: Batch, rows: list[Row]) -> None:
        if batch.cluster is None:
            self._names.add(rows)

    def _write_rest(self, connection: Connection, batch: Batch) -> None:
        cluster = self.cluster if batch.cluster is None else batch.cluster
        if batch.workers:
            rows: list[Row] = [(cluster, *worker) for worker in batch.workers]
            self.upsert(connection, "taskmon_workers", ("cluster", "hostname", "seen", "document"), 2, rows)
        for hostname in batch.gone:
            connection.execute(_forget(cluster, hostname))
        if batch.counters is not None:
            row = (cluster, batch.monitor, batch.now, batch.counters)
            self.upsert(connection, "taskmon_counters", ("cluster", "monitor", "saved", "document"), 2, [row])

    def forget_names(self) -> None:
        """Have the names of tasks written again: some may be gone."""
        self._names.clear()

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


def literal_condition(sql: str, **values: str) -> ColumnElement[bool]:
    """Make a condition of SQL, in which `:name` stands for a value."""
    parameters: list[Any] = [bindparam(name, clean_text(value), unique=True) for name, value in values.items()]
    condition: ColumnElement[bool] = type_coerce(text(sql).bindparams(*parameters).self_group(), Boolean)
    return condition


def _forget(cluster: str, hostname: str) -> Any:
    return workers.delete().where(workers.c.cluster == cluster, workers.c.hostname == hostname)


def _adopt(cluster: str, task_ids: list[str]) -> Any:
    marked = tasks.c.uuid.in_(task_ids), tasks.c.cluster == cluster, tasks.c.reconciled == ORPHANED
    return tasks.update().where(*marked).values(reconciled=None)
