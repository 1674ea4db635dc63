"""Where the lines of the audit log go: with the log, to a file of their own, or to syslog.

A line is never left out and never depends on --log-level. One with more ids than a line may have becomes several.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import SysLogHandler, WatchedFileHandler
from pathlib import Path
from typing import Any, Final

from .errors import InvalidSetting

#: The logger of changing requests, of which no line is left out.
AUDIT_LOGGER: Final = "taskmon.audit"

SYSLOG: Final = "syslog"

#: Characters of all the ids that one line names: as many as 10,000 ids of Celery's have.
MAX_ID_CHARACTERS: Final = 400_000

#: The same for syslog, whose daemons cut lines at 8 KiB.
MAX_ID_CHARACTERS_OF_SYSLOG: Final = 4_000

_SYSLOG_SOCKETS: Final = ("/dev/log", "/var/run/syslog")
_IDS: Final = "task_ids"

log = logging.getLogger(AUDIT_LOGGER)


def write(entry: dict[str, Any]) -> None:
    """Write an entry, in as many lines as its ids need."""
    for part in split(entry, MAX_ID_CHARACTERS):
        log.info("%s", json.dumps(part), extra={"entry": part})


def split(entry: dict[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Yield an entry, or several with a part of its ids each, which say which part of how many they are."""
    ids = entry.get(_IDS, ())
    if _length(ids) <= most:
        yield entry
        return
    parts: list[list[str]] = [[]]
    left = most
    for task_id in ids:
        length = _length([task_id])
        if length > left and parts[-1]:
            parts.append([])
            left = most
        left -= length
        parts[-1].append(task_id)
    for number, some in enumerate(parts, 1):
        yield entry | {_IDS: some, "part": number, "parts": len(parts)}


def _length(ids: Iterable[str]) -> int:
    """Return how many characters ids have in a line, where one outside ASCII takes 6 or 12."""
    return sum(len(task_id) if task_id.isascii() else len(json.dumps(task_id)) - 2 for task_id in ids)


class _AuditFile(WatchedFileHandler):
    """A file for its owner alone, opened anew once it has been moved away; what it does not take goes to stderr."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record: a directory that is gone must not become an error of the request."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Write a record to standard error."""
        with suppress(Exception):
            sys.stderr.write(self.format(record) + "\n")


class _AuditSyslog(SysLogHandler):
    """The syslog of this machine; a long entry is sent in parts, and what it does not take goes to stderr."""

    append_nul = False
    ident = "taskmon: "

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        entry = getattr(record, "entry", None) or {}
        if _length(entry.get(_IDS, ())) <= MAX_ID_CHARACTERS_OF_SYSLOG:
            super().emit(record)
            return
        for part in split(entry, MAX_ID_CHARACTERS_OF_SYSLOG):
            made = logging.makeLogRecord(record.__dict__ | {"msg": json.dumps(part), "args": ()})
            super().emit(made)

    def handleError(self, record: logging.LogRecord) -> None:
        """Write a record to standard error."""
        with suppress(Exception):
            sys.stderr.write(self.format(record) + "\n")


def configure_audit_log(where: str | None) -> None:
    """Send the lines of the audit log where --audit-log says; raises InvalidSetting for a place that takes none."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.INFO)  # who changed what is no matter of how much taskmon says of itself
    log.propagate = where is None
    if where is None:
        return
    try:
        handler = _open_syslog() if where == SYSLOG else _AuditFile(Path(where).expanduser(), encoding="utf-8")
    except OSError as exc:
        rule = f"must be a file that can be written, or {SYSLOG} where there is one ({exc.strerror or exc})"
        raise InvalidSetting("audit_log", rule, where) from exc
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)


def reopen_audit_log() -> None:
    """Open the file anew where it has been moved away."""
    for handler in log.handlers:
        if isinstance(handler, WatchedFileHandler):
            with suppress(OSError):
                handler.reopenIfNeeded()


def _open_syslog() -> logging.Handler:
    address = next((path for path in _SYSLOG_SOCKETS if Path(path).exists()), _SYSLOG_SOCKETS[0])
    return _AuditSyslog(address, SysLogHandler.LOG_AUTH)
