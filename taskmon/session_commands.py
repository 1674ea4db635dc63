"""What `taskmon session revoke` does; returns what is to be printed."""

import time
from pathlib import Path

from .credentials.ended_sessions import SessionFile, find_session_file, row_of_person
from .errors import InvalidArgument, InvalidSetting, Unavailable
from .settings import Settings


def revoke_all(settings: Settings, file: Path | None, user: str) -> str:
    """End all sessions of a user; raise InvalidArgument, InvalidSetting, or Unavailable if the history is away."""
    if not user.strip() or len(user) > 256 or not user.isprintable():
        raise InvalidArgument("USER", "must be a name, an e-mail address or a subject of 1 to 256 characters", user)
    rows = {row_of_person(user): time.time()}
    path = file or find_session_file(settings)
    if path is not None:
        SessionFile(path).add(rows)
    elif settings.history is not None:
        _write_shared(settings.history, rows)
    else:
        raise InvalidSetting(
            "session_file",
            "must be given, or --history, as in the taskmon that runs: it learns from there what ended",
        )
    return f"All sessions of {user.strip()} that have begun until now are ended"


def _write_shared(url: str, rows: dict[str, float]) -> None:
    from .history.driver_errors import Away
    from .history.ended_sessions import write_ended_sessions
    from .history.postgres import PostgresDatabase

    database = PostgresDatabase(url)
    try:
        write_ended_sessions(database, rows)
    except Away as exc:
        raise Unavailable("The history", str(exc)) from exc
    finally:
        database.close()
