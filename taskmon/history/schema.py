"""The tables, their indexes, and the steps from each version of the schema to the next.

One schema for SQLite and PostgreSQL; what searches a text is each one's own. A step is never changed once it has been
released: a new one is added.
"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    column,
    inspect,
    select,
    text,
)

from ..errors import HistoryRefused
from ..monitor.dated_ahead import MAX_AHEAD
from ..monitor.task_fields import GROUPED, ORDERED, SPARSE
from .columns import FIELDS, INTEGERS, NUMBERS, TIMES

metadata: Final = MetaData()

#: Times are exact, texts compare by code point, as in Python.
_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
_ID: Final = BigInteger().with_variant(Integer(), "sqlite")


def _column(field: str) -> Column[Any]:
    kind: Any = Double() if field in NUMBERS else BigInteger() if field in INTEGERS else _TEXT
    return Column(field, kind, nullable=field not in ("uuid", "born", "seen", "state"))


#: `id` is what the search index of SQLite refers to; `cluster` tells which cluster a task was seen on.
tasks: Final = Table(
    "taskmon_tasks",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("cluster", _TEXT, nullable=False),
    *(_column(field) for field in FIELDS),
)

workers: Final = Table(
    "taskmon_workers",
    metadata,
    Column("cluster", _TEXT, primary_key=True),
    Column("hostname", _TEXT, primary_key=True),
    Column("seen", Double(), nullable=False),
    Column("document", _TEXT, nullable=False),
)

#: `monitor` is who counted; `saved` is when it last did, in epoch seconds.
counters: Final = Table(
    "taskmon_counters",
    metadata,
    Column("cluster", _TEXT, primary_key=True),
    Column("monitor", _TEXT, primary_key=True),
    Column("saved", Double(), nullable=False),
    Column("document", _TEXT, nullable=False),
)

#: What each cluster is called, which may be several names, and the key under which its rows are.
clusters: Final = Table(
    "taskmon_clusters",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("cluster", _TEXT, nullable=False),
)

#: The names of tasks, some of which no task has any more.
names: Final = Table(
    "taskmon_names",
    metadata,
    Column("cluster", _TEXT, primary_key=True),
    Column("name", _TEXT, primary_key=True),
)

#: The tasks that the search index of SQLite does not know yet, or no longer as they are.
unsearched: Final = Table(
    "taskmon_unsearched", metadata, Column("id", _ID, primary_key=True), info={"dialect": "sqlite"}
)

version: Final = Table("taskmon_schema", metadata, Column("version", Integer, nullable=False))

#: The condition of the index by each field that tasks are found by, in the order of time; None for all tasks.
_INDEXED: Final = {**{field: SPARSE.get(field) for field in GROUPED}, "reconciled": "reconciled IS NOT NULL"}


def _make_indexes() -> None:
    at = tasks.c
    Index("taskmon_tasks_key", at.uuid, at.cluster, unique=True)
    Index("taskmon_tasks_timestamp", at.timestamp, at.uuid)
    for field, condition in _INDEXED.items():
        where = None if condition is None else text(condition)
        only: dict[str, Any] = {} if where is None else {"sqlite_where": where, "postgresql_where": where}
        Index(f"taskmon_tasks_{field}", at[field], at.timestamp, at.uuid, **only)
    for field in ORDERED:
        known, missing = text(f"{field} IS NOT NULL"), text(f"{field} IS NULL")
        Index(f"taskmon_tasks_{field}", at[field], at.uuid, sqlite_where=known, postgresql_where=known)
        Index(f"taskmon_tasks_no_{field}", at.born, at.uuid, sqlite_where=missing, postgresql_where=missing)


_make_indexes()

#: What a search looks into, all of it; no term has the separator.
SEARCHED: Final = ("uuid", "name", "state", "worker", "queue", "args", "kwargs", "result", "exception")
SEPARATOR: Final = "\x1f"

#: PostgreSQL's own way to the same text, which its index is made for.
SEARCHED_SQL: Final = "lower({})".format(" || E'\\x1f' || ".join(f"coalesce({field}, '')" for field in SEARCHED))

_CHANGED: Final = " OR ".join(f"old.{field} IS NOT new.{field}" for field in SEARCHED)
#: Not INSERT OR IGNORE: within an upsert, SQLite would not ignore.
_NOTE: Final = (
    "INSERT INTO taskmon_unsearched (id)"
    " SELECT new.id WHERE NOT EXISTS (SELECT 1 FROM taskmon_unsearched WHERE id = new.id);"
)
_SEARCH: Final = {
    "sqlite": (
        "CREATE VIRTUAL TABLE taskmon_search USING fts5(text, tokenize = 'trigram case_sensitive 1', detail = none)",
        f"CREATE TRIGGER taskmon_tasks_added AFTER INSERT ON taskmon_tasks BEGIN {_NOTE} END",
        f"CREATE TRIGGER taskmon_tasks_changed AFTER UPDATE ON taskmon_tasks WHEN {_CHANGED} BEGIN {_NOTE} END",
        "CREATE TRIGGER taskmon_tasks_deleted AFTER DELETE ON taskmon_tasks"
        " BEGIN DELETE FROM taskmon_search WHERE rowid = old.id;"
        " DELETE FROM taskmon_unsearched WHERE id = old.id; END",
    ),
    "postgresql": (
        "CREATE EXTENSION IF NOT EXISTS pg_trgm",
        f"CREATE INDEX taskmon_tasks_search ON taskmon_tasks USING gin (({SEARCHED_SQL}) gin_trgm_ops)",
    ),
}


def _create(connection: Connection) -> None:
    """Make everything, in a database that has nothing of ours."""
    dialect = connection.dialect.name
    made = [table for table in metadata.sorted_tables if table.info.get("dialect", dialect) == dialect]
    metadata.create_all(connection, made, checkfirst=False)
    for statement in _SEARCH[dialect]:
        connection.exec_driver_sql(statement)
    connection.execute(version.insert().values(version=VERSION))


def _add_omitted(connection: Connection) -> None:
    """Step from version 1: what a task omits has a column."""
    collation = ' COLLATE "C"' if connection.dialect.name == "postgresql" else ""
    connection.exec_driver_sql(f"ALTER TABLE {tasks.name} ADD COLUMN omitted TEXT{collation}")


def _add_reported(connection: Connection) -> None:
    """Step from version 3: the times of a task's events that were dated ahead have a column, and order nothing."""
    collation = ' COLLATE "C"' if connection.dialect.name == "postgresql" else ""
    connection.exec_driver_sql(f"ALTER TABLE {tasks.name} ADD COLUMN reported TEXT{collation}")
    ahead = f"timestamp > seen + {MAX_AHEAD}"
    times = ", ".join(f"{time} = CASE WHEN {time} > seen THEN seen ELSE {time} END" for time in ("timestamp", *TIMES))
    connection.exec_driver_sql(
        f"UPDATE {tasks.name} SET reported = 'timestamp=' || CAST(timestamp AS TEXT), {times} WHERE {ahead}"
    )


def _separate_clusters(connection: Connection) -> None:
    """Step from version 2: a task belongs to a cluster, and the names of tasks have a table."""
    for statement in (
        "CREATE UNIQUE INDEX taskmon_tasks_key ON taskmon_tasks (uuid, cluster)",
        "DROP INDEX taskmon_tasks_uuid",
    ):
        connection.exec_driver_sql(statement)
    metadata.create_all(connection, [clusters, names], checkfirst=False)
    for statement in (
        # Until a cluster claims it, the key of an earlier version is its own name.
        "INSERT INTO taskmon_clusters (name, cluster)"
        " SELECT cluster, cluster FROM taskmon_tasks UNION SELECT cluster, cluster FROM taskmon_workers"
        " UNION SELECT cluster, cluster FROM taskmon_counters",
        "INSERT INTO taskmon_names (cluster, name)"
        " SELECT DISTINCT cluster, name FROM taskmon_tasks WHERE name IS NOT NULL",
    ):
        connection.exec_driver_sql(statement)


#: The step at place n leads from version n + 1 of the schema to the next.
STEPS: Final[tuple[Callable[[Connection], None], ...]] = (_add_omitted, _separate_clusters, _add_reported)
VERSION: Final = len(STEPS) + 1


def read_version(connection: Connection) -> int:
    """Return the version of the schema, 0 for none; raise HistoryRefused for a newer one and another program's."""
    found_tables = set(inspect(connection).get_table_names())
    if version.name not in found_tables:
        if found_tables and connection.dialect.name == "sqlite":
            raise HistoryRefused("is a database of another program")
        return 0
    found = connection.execute(select(column("version")).select_from(version)).scalar()
    if found is None or not 0 < found <= VERSION:
        raise HistoryRefused(f"was written by a newer taskmon: its version is {found}, this one knows {VERSION}")
    return int(found)


def migrate(connection: Connection, on_steps: Callable[[int], None]) -> bool:
    """Bring the schema up to date, inside the transaction that is open; return whether there was none.

    `on_steps` is called with an older version that was found, before what may take minutes.
    """
    found = read_version(connection)
    if not found:
        _create(connection)
        return True
    if found < VERSION:
        on_steps(found)
    for step in STEPS[found - 1 :]:
        step(connection)
    if found < VERSION:
        connection.execute(version.update().values(version=VERSION))
    return False
