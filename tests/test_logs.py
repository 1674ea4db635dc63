"""One line a record, whatever is in it, and no password in any of them."""

import io
import json
import logging
import sys
import threading
import time
import warnings
from datetime import datetime

import pytest
from kombu import Connection

from taskmon import signals
from taskmon.logs import LINES_PER_SECOND, RateLimit, TextFormatter, configure_logging
from taskmon.settings import Settings

URL = "amqp://guest:hunter2horse@localhost:5672//"
MASKED = "amqp://guest:***@localhost:5672//"


pytestmark = pytest.mark.usefixtures("logging_as_before")


def configure(**options: object) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(Settings(**options), stream)  # type: ignore[arg-type]
    return stream


def raise_and_log(logger: logging.Logger) -> None:
    try:
        try:
            raise OSError(f"cannot reach {URL}")
        except OSError as exc:
            raise ValueError("outer") from exc
    except ValueError:
        logger.exception("It failed: %s", URL, stack_info=True)


def test_text() -> None:
    stream = configure()
    begun = time.time()
    logging.getLogger("taskmon.x").warning("Connected to %s", URL)
    time_text, rest = stream.getvalue().split(" ", 1)
    assert rest == f"WARNING taskmon.x Connected to {MASKED}\n"
    assert time_text.endswith("Z")
    assert len(time_text) == len("2030-01-31T12:00:00.000Z")
    assert begun - 0.001 <= datetime.fromisoformat(time_text).timestamp() <= time.time()


def test_json() -> None:
    stream = configure(log_format="json")
    logging.getLogger("taskmon.x").info("Connected to %s", URL)
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "info", "logger": "taskmon.x", "message": f"Connected to {MASKED}"}


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "nasty", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\0b", "a\x85b", "a\u2028b\u2029", "a\ud800b", "a\x7fb", "a\tb"]
)
def test_a_record_is_one_line_of_harmless_characters(log_format: str, nasty: str) -> None:
    stream = configure(log_format=log_format)
    logging.getLogger(f"taskmon.{nasty}").warning("Hello %s", nasty)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line.splitlines()) == 1
    line.encode()
    if log_format == "json":
        expected = nasty.encode("utf-8", "backslashreplace").decode()
        assert json.loads(line)["message"] == f"Hello {expected}"


def test_text_keeps_other_alphabets() -> None:
    stream = configure()
    logging.getLogger("taskmon").warning("Grüße, 世界")
    assert "Grüße, 世界\n" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_traceback_and_stack_are_on_the_same_line_and_masked(log_format: str) -> None:
    stream = configure(log_format=log_format)
    raise_and_log(logging.getLogger("kombu.connection"))
    line = stream.getvalue()
    assert len(line.splitlines()) == 1
    assert "hunter2horse" not in line
    assert f"It failed: {MASKED}" in line
    assert f"OSError: cannot reach {MASKED}" in line
    assert "ValueError: outer" in line
    assert "Stack (most recent call last)" in line
    if log_format == "json":
        assert "\n" in json.loads(line)["exception"]


def test_stack_alone() -> None:
    stream = configure(log_format="json")
    logging.getLogger("taskmon").warning("here", stack_info=True)
    assert json.loads(stream.getvalue())["exception"].startswith("Stack (most recent call last)")


@pytest.mark.parametrize("name", ["kombu", "amqp", "celery.worker", "tornado.application", "asyncio"])
def test_records_of_other_libraries_are_masked(name: str) -> None:
    stream = configure()
    logger = logging.getLogger(name)
    logger.error("%s", {"url": URL})
    logger.error("%(url)s", {"url": URL})
    logger.error(ValueError(URL))
    assert "hunter2horse" not in stream.getvalue()
    assert stream.getvalue().count(MASKED) == 3


@pytest.mark.parametrize(("message", "args"), [("%s and %s", (URL,)), ("%d", ("x",)), ("%(a)s", ({"b": 1},))])
def test_arguments_that_do_not_fit_cost_no_line(
    message: str, args: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = configure()
    logging.getLogger("taskmon").warning(message, *args)
    assert f"{message} (its arguments do not fit: " in stream.getvalue()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "level", "access"),
    [
        ({}, logging.INFO, logging.ERROR),
        ({"log_level": "error"}, logging.ERROR, logging.ERROR),
        ({"log_level": "error", "debug": True}, logging.DEBUG, logging.DEBUG),
    ],
)
def test_levels(options: dict[str, object], level: int, access: int) -> None:
    configure(**options)
    assert logging.getLogger().level == level
    assert logging.getLogger("tornado.access").getEffectiveLevel() == access


@pytest.mark.parametrize("level", ["debug", "warning", "error", "critical"])
def test_the_audit_log_has_a_level_of_its_own(level: str) -> None:
    stream = configure(log_level=level)
    logging.getLogger("taskmon.audit").info("who")
    logging.getLogger("taskmon.app").info("what")
    assert "taskmon.audit who" in stream.getvalue()
    assert ("what" in stream.getvalue()) == (level == "debug")


def test_configured_twice_logs_once() -> None:
    configure()
    stream = configure()
    logging.getLogger("taskmon").warning("once")
    assert stream.getvalue().count("once") == 1


def test_standard_error_is_where_lines_go(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())
    logging.getLogger("taskmon").warning("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("WARNING taskmon hello\n")


def test_warnings_and_what_nobody_caught_are_lines_too() -> None:
    stream = configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"old {URL}", stacklevel=1)
    thread = threading.Thread(target=raise_error)
    thread.start()
    thread.join()
    try:
        raise_error("cannot find")
    except OSError as exc:
        sys.excepthook(type(exc), exc, exc.__traceback__)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    threading.excepthook(threading.ExceptHookArgs((OSError, None, None, None)))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "WARNING py.warnings" in lines[0]
    assert all("CRITICAL taskmon Nobody caught OSError" in line for line in lines[1:])
    assert all(MASKED in line and "hunter2horse" not in line for line in lines)


def raise_error(what: str = "cannot reach") -> None:
    raise OSError(f"{what} {URL}")


def test_a_url_without_tls_options_is_warned_about_once() -> None:
    stream = configure()
    for _ in range(3):
        Connection("rediss://127.0.0.1:1/0").as_uri()
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if " kombu.connection " in line]) == 1


def test_other_lines_of_libraries_are_not_held_back() -> None:
    stream = configure()
    for number in range(3):
        logging.getLogger("kombu.transport.redis").warning("away %d", number)
    assert len(stream.getvalue().splitlines()) == 3


def test_a_line_is_logged_once_a_second_however_often_it_is_said() -> None:
    now = 0.0
    limit = RateLimit(lambda: now)

    def passes(
        text: str, *args: object, name: str = "taskmon.app", line: int = 1, level: int = logging.ERROR
    ) -> bool:
        record = logging.LogRecord(name, level, "module.py", line, text, args, None)
        passed.append(record)
        return limit.filter(record)

    passed: list[logging.LogRecord] = []
    assert [passes("no %s", "place") for _ in range(500)] == [True] + 499 * [False]
    assert passes("no place", line=2)  # another place says the same
    assert passes("no place", line=2, name="taskmon.audit")
    assert passes("no place", line=2, level=logging.DEBUG)
    assert all(passes("thread %d", number, line=4, name=signals.log.name) for number in range(200))
    assert sum(passes("request %d", number, line=3) for number in range(500)) == LINES_PER_SECOND
    now = 1.0
    assert passes("no place")
    assert vars(passed[-1])["left_out"] == 499
    assert not passes("no place")
    now = 2.5
    assert passes("no place")
    assert vars(passed[-1])["left_out"] == 1
    assert passes("%d does not fit", "x")


def test_the_log_says_how_many_lines_were_left_out() -> None:
    stream = configure()
    for _ in range(100):
        logging.getLogger("taskmon").error("always the same")
    assert stream.getvalue().count("always the same") < 100
    record = logging.LogRecord("taskmon", logging.ERROR, "module.py", 1, "text", (), None)
    record.left_out = 7
    assert TextFormatter().format(record).endswith("text (lines like this left out before: 7)")
