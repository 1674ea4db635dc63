"""The table of results of a database: read as Celery wrote it, and nothing of it loaded."""

import pickle
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.backends.database.models import Task
from celery.contrib.abortable import AbortableAsyncResult
from serving import make_app
from sqlalchemy import PickleType

from taskmon.cluster.backends import make_source
from taskmon.cluster.result_decoding import UNKNOWN, Result
from taskmon.cluster.result_table import TableSource
from taskmon.errors import CommandRefused, Unavailable

from .test_stored import Bomb, _loaded

#: Before 5.7 Celery pickles what it stores in a table, and taskmon never loads a pickle.
storing = pytest.mark.skipif(
    isinstance(Task.__table__.c.result.type, PickleType), reason="this Celery pickles results"
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.sqlite3"


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Iterator[None]:
    """Fail a test in which a pickle was loaded."""
    _loaded.clear()
    yield
    assert not _loaded


def app_of(url: str, **conf: Any) -> Celery:
    return make_app(result_backend=f"db+{url}", result_serializer="json", **conf)


def source_of(app: Celery) -> TableSource:
    source, why, queue = make_source(app)
    assert isinstance(source, TableSource)
    assert (why, queue) == ("", None)
    return source


def write_row(url: str, *row: Any) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, ?, ?)", row)
    connection.close()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@storing
def test_what_celery_stores_is_read(zone: str, url: str) -> None:
    app = app_of(url, timezone=zone)
    app.backend.store_result("done", {"x": [1, "é"]}, "SUCCESS")
    app.backend.store_result("bad", ValueError("no stock"), "FAILURE", traceback="T")
    app.backend.store_result("runs", {"pid": 5}, "STARTED")
    found = source_of(app).read(["done", "bad", "runs", "none"])
    for task_id in ("done", "bad"):
        assert abs((found[task_id].finished or 0.0) - time.time()) < 60
    told = [(one.state, one.value, one.traceback, one.reason) for one in found.values()]
    assert told == [
        ("SUCCESS", {"x": [1, "é"]}, None, None),
        ("FAILURE", "ValueError('no stock')", "T", None),
        ("STARTED", None, None, None),
        ("PENDING", None, None, None),
    ]


@storing
def test_a_database_without_the_table(url: str) -> None:
    app = app_of(url)
    source = source_of(app)
    file = Path(url.removeprefix("sqlite:///"))
    for ask in (lambda: source.read(["a"]), lambda: source.abort("a")):
        with pytest.raises(Unavailable, match="there is no file"):
            ask()
    assert not file.exists()
    file.touch()
    assert source.read(["a"]) == {"a": Result("a")}
    app.backend.store_result("a", 5, "SUCCESS")
    assert source.read(["a"])["a"].value == 5
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("DROP TABLE celery_taskmeta")
    connection.close()
    with pytest.raises(Unavailable, match="no such table"):
        source.read(["a"])


@storing
def test_a_table_of_another_name(url: str) -> None:
    app = app_of(url, database_table_names={"task": "outcomes"})
    try:
        app.backend.store_result("a", 5, "SUCCESS")
        assert source_of(app).read(["a"])["a"].value == 5
    finally:
        app.backend.task_cls.configure()  # the class is one for all apps


@storing
def test_pickles_are_not_loaded(url: str) -> None:
    app = app_of(url, accept_content=["pickle", "json"])
    app.backend.store_result("a", 5, "SUCCESS")
    for state in ("SUCCESS", "FAILURE", "STARTED"):
        write_row(url, state, state, pickle.dumps(Bomb()))
    write_row(url, "old", "SUCCESS", pickle.dumps(Bomb(), 0))
    found = source_of(app).read(["SUCCESS", "FAILURE", "STARTED", "old"])
    for state in ("SUCCESS", "FAILURE"):
        assert found[state] == Result(state, state, reason="it is stored as a pickle, which taskmon never loads")
    assert found["STARTED"] == Result("STARTED", "STARTED")
    assert (found["old"].state, found["old"].reason) == ("SUCCESS", "it is no application/json")


@pytest.mark.parametrize("status", [None, "", 5, b"\xff"])
@storing
def test_what_is_no_state(status: Any, url: str) -> None:
    app = app_of(url)
    app.backend.store_result("a", 5, "SUCCESS")
    write_row(url, "b", status, b"1")
    found = source_of(app).read(["b"])["b"]
    assert (found.state, found.value) in [(UNKNOWN, None), ("5", None)]


@storing
def test_abort_is_celerys(url: str) -> None:
    app = app_of(url)
    source = source_of(app)
    app.backend.store_result("runs", {"pid": 5}, "STARTED")
    app.backend.store_result("done", 5, "SUCCESS")
    for task_id in ("runs", "unknown", "unknown"):
        source.abort(task_id)
        assert AbortableAsyncResult(task_id, app=app).is_aborted()
        assert source.read([task_id])[task_id].state == "ABORTED"
    with pytest.raises(CommandRefused, match="its state is SUCCESS"):
        source.abort("done")
    assert source.read(["done"])["done"].value == 5
    source.close()


def test_what_is_wrong_is_told_in_the_words_of_the_driver(tmp_path: Path) -> None:
    (tmp_path / "no").write_bytes(b"no database" * 100)
    source = source_of(app_of(f"sqlite:///{tmp_path}/no"))
    with pytest.raises(Unavailable) as caught:
        source.read(["a"])
    assert str(caught.value) == "The result backend is unavailable: file is not a database"


def test_a_driver_that_is_not_there() -> None:
    source, why, _ = make_source(make_app(result_backend="db+nonsense://x:secret@y/z"))
    assert source is None
    assert "it cannot be set up" in why
    assert "secret" not in why


def test_options_of_the_application(url: str) -> None:
    app = app_of(
        url,
        database_engine_options={"pool_pre_ping": True, "max_overflow": 3, "echo": False},
        database_engine_callback=lambda engine: engine.dialect.__setattr__("seen", True),
    )
    source = source_of(app)
    Path(url.removeprefix("sqlite:///")).touch()
    assert source.read(["a"]) == {"a": Result("a")}
    assert source._engine.dialect.seen  # type: ignore[attr-defined]


@storing
def test_a_time_without_a_zone_is_in_that_of_the_application(url: str) -> None:
    app = app_of(url, timezone="Asia/Kolkata")
    app.backend.store_result("a", 5, "SUCCESS")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE celery_taskmeta SET date_done = '2026-01-01 05:30:00.000000'")
    connection.close()
    assert source_of(app).read(["a"])["a"].finished == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
