"""Ended sessions in a PostgreSQL that several taskmons share. Nothing here runs on the event loop."""

import time
from collections.abc import Mapping

from .databases import Database
from .driver_errors import translated

#: Seconds after which a row says nothing about any session.
RETENTION_SECONDS = 8 * 3600.0
_CREATE = (
    "CREATE TABLE IF NOT EXISTS taskmon_ended_sessions"
    ' (what text COLLATE "C" PRIMARY KEY, at double precision NOT NULL)'
)
_ADD = (
    "INSERT INTO taskmon_ended_sessions (what, at) VALUES (%s, %s)"
    " ON CONFLICT (what) DO UPDATE SET at = greatest(taskmon_ended_sessions.at, excluded.at)"
)


def read_ended_sessions(database: Database) -> dict[str, float]:
    """Return what was ended, and when; raises Away."""
    with translated(), database.reader.begin() as connection:
        if connection.exec_driver_sql("SELECT to_regclass('taskmon_ended_sessions')").scalar() is None:
            return {}
        rows = connection.exec_driver_sql(
            "SELECT what, at FROM taskmon_ended_sessions WHERE at >= %s", (time.time() - RETENTION_SECONDS,)
        )
        return dict(tuple(row) for row in rows)


def write_ended_sessions(database: Database, rows: Mapping[str, float]) -> None:
    """Add what was ended, and delete what is older than any session; raises Away."""
    with translated(), database.reader.begin() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.exec_driver_sql(_CREATE)
        connection.exec_driver_sql(_ADD, sorted(rows.items()))
        connection.exec_driver_sql(
            "DELETE FROM taskmon_ended_sessions WHERE at < %s", (time.time() - RETENTION_SECONDS,)
        )


#: Two programs do not create the table at the same time.
_LOCK = 0x7A5C_6D08
