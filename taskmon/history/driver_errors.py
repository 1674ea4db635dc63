"""Errors of a database's driver: what passes, what a row is refused for, and how they read."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..masking import mask_passwords


class Away(Exception):
    """The database does not answer, or cannot take what it is given; that may pass."""


class Unfit(Exception):
    """The database refuses a row for what is in it; the text is the reason."""


#: What PostgreSQL says of a row, by its state: an odd value, a constraint, a text that is too long for an index, two
#: rows of one task.
_UNFIT_STATES: Final = ("22", "23", "54000", "21000")

#: What SQLite says of one.
_UNFIT_NAMES: Final = ("SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "SQLITE_MISMATCH")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the driver says of a value that it cannot store into Unfit."""
    try:
        yield
    except (UnicodeError, OverflowError, ValueError, TypeError) as exc:
        raise Unfit(first_line(exc)) from exc
    except DBAPIError as exc:
        state = getattr(exc.orig, "sqlstate", None) or ""
        name = getattr(exc.orig, "sqlite_errorname", None) or ""
        refused = isinstance(exc.orig, UnicodeError | OverflowError | sqlite3.InterfaceError)
        if refused or state.startswith(_UNFIT_STATES) or name.startswith(_UNFIT_NAMES):
            raise Unfit(first_line(exc.orig or exc)) from exc
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
