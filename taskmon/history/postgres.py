"""The history in PostgreSQL, which several taskmons may share: what two of them know of a task is merged there."""

import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, and_, create_engine, event, or_
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..errors import HistoryRefused
from ..records import Task
from .batches import Row
from .columns import FIELDS, finish, merge_sql
from .databases import Database, literal_condition
from .driver_errors import Away, first_line
from .schema import SEARCHED_SQL
from .search_sql import Texts

#: Seconds that connecting, a statement and a silent network may take.
_CONNECT_TIMEOUT: Final = 5
_STATEMENT_TIMEOUT: Final = 30
_OPTIONS: Final = {
    "connect_timeout": _CONNECT_TIMEOUT,
    "application_name": "taskmon",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": f"-c statement_timeout={_STATEMENT_TIMEOUT}s -c idle_in_transaction_session_timeout=60s",
}

#: What a server says in words, in whatever version, of what will not pass by itself.
_LASTING: Final = (
    *("password authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied"),
    *("invalid connection option", "invalid sslmode value"),
)
_LASTING_STATES: Final = ("28", "3D", "42501", "0A000", "58P01", "3F")

#: One of all programs that take this lock may change the schema.
_MIGRATING: Final = 0x7A5C_6D07

_COLUMNS: Final = ", ".join(FIELDS)
_CHANGES: Final = ", ".join(
    f"{field} = {expression}" for field, expression in merge_sql("taskmon_tasks", "excluded", "greatest").items()
)

#: Rows are locked in the order of their ids: two taskmons that write the same ones do not wait for each other. A row
#: that no transaction has replaced is new.
_UPSERT_TASKS: Final = (
    f"WITH written AS (INSERT INTO taskmon_tasks (cluster, {_COLUMNS}) SELECT %s, {_COLUMNS}"
    " FROM json_populate_recordset(NULL::taskmon_tasks, %s::json) ORDER BY uuid"
    f" ON CONFLICT (uuid, cluster) DO UPDATE SET {_CHANGES} RETURNING xmax = 0 AS is_new)"
    " SELECT count(*) FROM written WHERE is_new"
)

#: A NUL character in JSON, and no backslash before the same letters.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

#: What Python folds ß, İ, ǰ and the like to. Ligatures such as ﬁ are left out: too many words have their letters.
_EXPANDED: Final = re.compile("ss|i\u0307|j\u030c|h\u0331|t\u0308|[wy]\u030a|a\u02be|\u02bcn")

_encode: Final = msgspec.json.Encoder().encode


class PostgresDatabase(Database):
    """A database of a PostgreSQL server."""

    shared = True
    max_indexed = 1_000  # two such texts fit the 2,704 bytes of an entry

    def __init__(self, url: str, name: str = "", others: Sequence[str] = ()) -> None:
        super().__init__(name, others)
        self._url = _with_driver(url)
        self._connections: WeakSet[Any] = WeakSet()
        self._writer = self._make_engine(1)
        self._reader = self._make_engine(2)

    @property
    def writer(self) -> Engine:
        return self._writer

    @property
    def reader(self) -> Engine:
        return self._reader

    def open(self) -> bool:
        try:
            with self._writer.begin() as connection:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a step may take minutes
                return self.prepare(connection)
        except SQLAlchemyError as exc:
            raise self.explain(exc) from exc

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()

    def check(self) -> None:
        """A connection that is lost says so by itself."""

    def cut(self) -> None:
        for connection in list(self._connections):
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as other:
                other.shutdown(socket.SHUT_RDWR)

    def explain(self, exc: BaseException) -> Exception:
        cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
        state = getattr(cause, "sqlstate", None) or ""
        said = str(cause)
        lasting = state.startswith(_LASTING_STATES) if state else any(words in said for words in _LASTING)
        return HistoryRefused(first_line(cause)) if lasting else Away(first_line(cause))

    def upsert_tasks(self, connection: Connection, cluster: str, rows: list[Row]) -> int:
        tasks = [Task(*row) for row in rows]
        for task in tasks:
            finish(task)
        document = _encode(tasks)
        if _NUL.search(document):
            raise ValueError("a text has a NUL character")
        return int(connection.exec_driver_sql(_UPSERT_TASKS, (cluster, document.decode())).scalar() or 0)

    def upsert(self, connection: Connection, table: str, columns: Sequence[str], keys: int, rows: list[Row]) -> None:
        """Write rows over those with the same keys, but for those that others have written later."""
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        later = columns[keys]
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns[keys:])
        connection.exec_driver_sql(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({', '.join(columns[:keys])})"
            f" DO UPDATE SET {changes} WHERE excluded.{later} >= {table}.{later}",
            sorted(rows),
        )

    def index_some(self, most: int) -> bool:
        """Nothing is left to do: the server keeps its index itself."""
        return False

    def match(self, texts: Texts) -> ColumnElement[bool]:
        """Ask the trigram index, which is one of an expression."""
        members = [self.match(one) if isinstance(one, Texts) else _contains(one) for one in texts.members]
        return and_(*members) if texts.every else or_(*members)

    def open_cursor(self, connection: Connection) -> Any:
        driver: Any = connection.connection.driver_connection
        return driver.cursor("taskmon_restoring")

    def _make_engine(self, size: int) -> Engine:
        try:
            engine = create_engine(
                self._url, connect_args=_options(self._url), pool_size=size, max_overflow=0, pool_pre_ping=True
            )
        except ImportError:
            raise HistoryRefused("PostgreSQL takes psycopg: pip install 'celery-taskmon[postgres]'") from None
        event.listen(engine, "connect", lambda connection, _: self._connections.add(connection))
        return engine


def _with_driver(url: str) -> URL:
    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except (SQLAlchemyError, ValueError):
        raise HistoryRefused("its URL cannot be read") from None


def _options(url: URL) -> dict[str, Any]:
    """Give what we ask of a connection, but for what the URL asks otherwise."""
    return {name: value for name, value in _OPTIONS.items() if name not in url.query}


def _contains(folded: str) -> ColumnElement[bool]:
    """Write that a folded text may be in a row.

    The server folds letters outside ASCII by its own rules, and leaves an ß that Python folds to ss. So these may be
    anything here: what is found is looked at again.
    """
    pattern = "%".join(map(_escape, _EXPANDED.split(folded)))
    return literal_condition(f"{SEARCHED_SQL} LIKE :pattern", pattern=f"%{pattern}%")


def _escape(text: str) -> str:
    return "".join("\\" + letter if letter in "%_\\" else letter if letter.isascii() else "%" for letter in text)
