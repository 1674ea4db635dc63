"""The log: one line a record, in UTC, with the password of every URL masked, as text or as JSON.

`configure_logging` is called by the command line alone, at its start and once the options are known; other modules
only ask `logging` for their logger.
"""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from .audit_log import AUDIT_LOGGER, configure_audit_log, reopen_audit_log
from .errors import InvalidSetting
from .masking import mask_passwords
from .request_ids import current
from .settings import Settings

# What would end a line or steer a terminal: C0, DEL, C1, and the separators of lines and paragraphs.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    **{ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"},
    **{0x2028: "\\u2028", 0x2029: "\\u2029"},
}


#: The logger of kombu that says the same of a URL with each connection.
ONCE_LOGGER: Final = "kombu.connection"
MAX_TEXTS_LOGGED_ONCE: Final = 1000

#: Loggers of which every line is asked for: that of changing requests, and that of what SIGUSR1 dumps.
UNLIMITED_LOGGERS: Final = frozenset({AUDIT_LOGGER, "taskmon.signals"})

#: Lines a second that one place in the code may log.
LINES_PER_SECOND: Final = 20


def _utc(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


class _LineFormatter(logging.Formatter):
    """Masks after formatting, so that messages, their arguments and tracebacks are all covered."""

    def _parts(self, record: logging.LogRecord) -> tuple[str, str]:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError) as exc:
            # A record whose arguments do not fit must not be printed raw by logging itself.
            message = f"{record.msg} (its arguments do not fit: {type(exc).__name__})"
        if left_out := getattr(record, "left_out", 0):
            message = f"{message} (lines like this left out before: {left_out})"
        details = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        if record.stack_info:
            details = f"{details}\n{record.stack_info}".strip()
        return mask_passwords(message), mask_passwords(details)


class TextFormatter(_LineFormatter):
    """`2030-01-31T12:00:00.000Z INFO taskmon.app message`, a traceback behind it on the same line."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        message, details = self._parts(record)
        whole = f"{message}\n{details}" if details else message
        if (request_id := current.get()) and record.name != AUDIT_LOGGER:
            whole = f"{whole} (request {request_id})"
        return f"{_utc(record.created)} {record.levelname} {_one_line(record.name)} {_one_line(whole)}"


class JsonFormatter(_LineFormatter):
    """One object a line: time, level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        message, details = self._parts(record)
        entry = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if details:
            entry["exception"] = details
        if request_id := current.get():
            entry["request_id"] = request_id
        whole = {key: text.encode("utf-8", "backslashreplace").decode() for key, text in entry.items()}
        return json.dumps(whole)


class _LogFile(WatchedFileHandler):
    """The file to log to, opened anew once it has been moved away; what it does not take goes to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record: a directory that is gone must not become an error of whoever logs."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Write a record to standard error."""
        with suppress(Exception):
            sys.stderr.write(self.format(record) + "\n")


def _open_file(path: Path) -> logging.Handler:
    try:
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise InvalidSetting("log_file", f"must be a file that can be written ({exc.strerror})", str(path)) from exc


def reopen_log_file() -> None:
    """Open the log file, and that of the audit log, anew where they have been moved away."""
    reopen_audit_log()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, WatchedFileHandler):
            with suppress(OSError):
                handler.reopenIfNeeded()


class Occasionally:
    """Whether the same thing may be logged again: once in `seconds`, whoever causes it."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._logged = -math.inf

    def due(self) -> bool:
        """Whether enough time has passed; the time counts from now on."""
        now = time.monotonic()
        if now - self._logged < self._seconds:
            return False
        self._logged = now
        return True


class _Once(logging.Filter):
    """Passes each text once: kombu warns of what a URL lacks whenever a connection is made."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the text is new."""
        text = str(record.msg)
        if text in self._texts:
            return False
        if len(self._texts) < MAX_TEXTS_LOGGED_ONCE:
            self._texts.add(text)
        return True


class RateLimit(logging.Filter):
    """Passes the same line once a second, and few lines a second of one place in the code; counts what it leaves out.

    The next line of that place that passes says how many were left out. Lines of the audit log, of what
    SIGUSR1 dumps and of level debug all pass: each of them is asked for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._second = -math.inf
        self._lines: set[tuple[str, int, str]] = set()
        self._places: dict[tuple[str, int], int] = {}
        self._left_out: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        if record.levelno <= logging.DEBUG or record.name in UNLIMITED_LOGGERS:
            return True
        place = record.pathname, record.lineno
        line = *place, _text_of(record)
        with self._lock:
            self._begin_second()
            count = self._places[place] = self._places.get(place, 0) + 1
            if line in self._lines or count > LINES_PER_SECOND:
                self._left_out[place] = self._left_out.get(place, 0) + 1
                return False
            self._lines.add(line)
            record.left_out = self._left_out.pop(place, 0)
        return True

    def _begin_second(self) -> None:
        now = self._clock()
        if now - self._second >= 1:
            self._second = now
            self._lines.clear()
            self._places.clear()


def _text_of(record: logging.LogRecord) -> str:
    """Return what makes two lines of one place the same: the message and the error, without its traceback."""
    error = record.exc_info[1] if record.exc_info else None
    try:
        return f"{record.getMessage()} {type(error).__name__} {error}"
    except Exception:  # arguments that do not fit, or an error without a text
        return str(record.msg)


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every record to standard error (or `stream`) or to --log-file, and what nobody caught as well.

    Raises InvalidSetting for a file that cannot be written.
    """
    handler = logging.StreamHandler(stream) if settings.log_file is None else _open_file(settings.log_file)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    level = logging.DEBUG if settings.debug else logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Without debug a request that was answered with 4xx is the client's affair, not the log's.
    # So are connections that speak no TLS, or no HTTP: any stranger can make as many as he likes.
    for name in ("tornado.access", "tornado.general"):
        logging.getLogger(name).setLevel(logging.NOTSET if settings.debug else logging.ERROR)
    once = logging.getLogger(ONCE_LOGGER)
    once.filters = [each for each in once.filters if not isinstance(each, _Once)] + [_Once()]
    configure_audit_log(settings.audit_log)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("taskmon").critical("Nobody caught %s", kind.__name__, exc_info=(kind, exc, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
