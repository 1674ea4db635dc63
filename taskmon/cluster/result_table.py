"""The result backend `db+…`: a table of a database, with a row for each task. Used by one thread.

Celery's own class is not made, as it creates and alters tables; nor are its rows loaded, as older ones are pickles.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from celery import Celery
from celery.contrib.abortable import ABORTED
from celery.utils.imports import symbol_by_name
from kombu.serialization import registry
from sqlalchemy.pool import NullPool

from ..errors import CommandRefused, Unavailable
from .connections import ANSWER_TIMEOUT, say_why
from .result_decoding import Result, read_row

_SECONDS: Final = round(ANSWER_TIMEOUT)

#: Characters that Celery's table has for an id.
_ID_LENGTH: Final = 155
_LIBPQ: Final = {
    "connect_timeout": _SECONDS,  # less than two seconds it does not know
    "options": f"-c statement_timeout={1000 * _SECONDS}",
    **{"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 10_000},
}
_MYSQL: Final = {"connect_timeout": _SECONDS, "read_timeout": _SECONDS, "write_timeout": _SECONDS}

#: How drivers are told not to wait for ever.
_LIMITS: Final[dict[str, dict[str, Any]]] = {
    "pysqlite": {"timeout": ANSWER_TIMEOUT},
    **{"psycopg": _LIBPQ, "psycopg2": _LIBPQ},
    **{"mysqldb": _MYSQL, "pymysql": _MYSQL},
}

#: Options of the application that are for a pool; here each call connects anew.
_OF_POOLS: Final = ("pool", "max_overflow", "echo_pool")


class TableSource:
    """The table of results that an application's `result_backend` names."""

    def __init__(self, celery_app: Celery, url: str) -> None:
        conf = celery_app.conf
        self._zone: tzinfo = celery_app.timezone
        self._table = _describe(
            (conf.database_table_names or {}).get("task") or "celery_taskmeta",
            (conf.database_table_schemas or {}).get("task"),
        )
        self._content_type, self._encoding, _ = registry._encoders[conf.result_serializer]
        self._is_there = False
        self._file = _find_file(url)
        self._engine = _make_engine(url, conf.database_engine_options or {}, conf.get("database_engine_callback"))

    def read(self, task_ids: Collection[str]) -> dict[str, Result]:
        """Give what is stored of these tasks; where the table is not there yet, nothing is."""
        with self._connect() as connection:
            rows = self._select(connection, task_ids)
        return {task_id: rows.get(task_id) or Result(task_id) for task_id in task_ids}

    def abort(self, task_id: str) -> None:
        """Store ABORTED as Celery's `AbortableAsyncResult.abort` does, but over no result."""
        table = self._table
        with self._connect() as connection:
            stored = self._select(connection, [task_id]).get(task_id)
            if stored is None and len(task_id) > _ID_LENGTH:
                raise CommandRefused(f"The table of results has room for ids of {_ID_LENGTH} characters")
            if stored is None:
                connection.execute(table.insert().values(task_id=task_id, status=ABORTED))
            elif stored.ready:
                raise CommandRefused(f"The task is finished: its state is {stored.state}")
            else:
                changed = table.update().where(table.c.task_id == task_id).values(status=ABORTED, result=None)
                connection.execute(changed)

    def close(self) -> None:
        """Let the engine go; no connection is kept."""
        self._engine.dispose()

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        """Connect, and commit; raises Unavailable with the words of the driver, without the statement.

        A file that is not there is not made: it would be ours, and not the workers'.
        """
        if self._file is not None and not self._file.exists():
            raise Unavailable("The result backend", f"there is no file {self._file}")
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as exc:
            raise Unavailable("The result backend", " ".join(say_why(exc.orig or exc).split())) from exc

    def _select(self, connection: sa.Connection, task_ids: Collection[str]) -> dict[str, Result]:
        table = self._table
        done: Any = table.c.date_done
        if connection.dialect.name == "postgresql":  # which has made a time of its own zone of what workers gave it
            done = sa.func.timezone(sa.func.current_setting("TimeZone"), done, type_=sa.DateTime(timezone=True))
        columns = (table.c.task_id, table.c.status, table.c.result, done, table.c.traceback)
        self._is_there = self._is_there or sa.inspect(connection).has_table(table.name, schema=table.schema)
        if not self._is_there:
            return {}
        rows = connection.execute(sa.select(*columns).where(table.c.task_id.in_(list(task_ids))))
        return {row[0]: self._read(*row) for row in rows}

    def _read(self, task_id: str, status: Any, payload: Any, done: Any, traceback: Any) -> Result:
        if done is not None and done.tzinfo is None:
            done = done.replace(tzinfo=self._zone)
        meta = {"status": status, "date_done": done, "traceback": traceback}
        return read_row(task_id, meta, payload, self._content_type, self._encoding)


def _describe(name: str, schema: str | None) -> sa.Table:
    """Describe what is read and written, as Celery has it; a result is the bytes that it is stored as."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.Integer, sa.Sequence("task_id_sequence", schema=schema), primary_key=True),
        sa.Column("task_id", sa.String(_ID_LENGTH)),
        sa.Column("status", sa.String(50)),
        sa.Column("result", sa.LargeBinary),
        sa.Column("date_done", sa.DateTime),
        sa.Column("traceback", sa.Text),
        schema=schema,
    )


def _find_file(url: str) -> Path | None:
    """Give the path of a database of SQLite, None for any other, and for a path that is a URI."""
    parts = sa.make_url(url)
    is_path = parts.get_backend_name() == "sqlite" and not (parts.database or "file:").startswith("file:")
    return Path(parts.database or "") if is_path else None


def _make_engine(url: str, options: Mapping[str, Any], callback: Any) -> sa.Engine:
    kept = {name: value for name, value in options.items() if not name.startswith(_OF_POOLS)}
    limits = _LIMITS.get(sa.make_url(url).get_dialect().driver, {})
    kept["connect_args"] = limits | dict(kept.get("connect_args", {}))
    engine = sa.create_engine(url, poolclass=NullPool, **kept)
    if callback is not None:
        symbol_by_name(callback)(engine)
    return engine
