"""What reads result backends, before Celery's own: files, memory, and replies over kombu's broker in memory."""

import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.backends import cache
from celery.backends.base import KeyValueStoreBackend
from celery.contrib.abortable import AbortableAsyncResult
from kombu import Connection, Exchange, Queue
from patience import PATIENCE
from serving import AWAY, make_app

from taskmon.cluster import backends
from taskmon.cluster.backends import KeyValueSource, ReplySource, Source, make_source
from taskmon.cluster.connections import BrokerAway
from taskmon.cluster.result_decoding import UNKNOWN, Result
from taskmon.errors import CommandRefused

from .test_stored import Bomb, _loaded


class ByOne(KeyValueStoreBackend):  # type: ignore[misc]
    """A backend that cannot read many keys at one go."""

    stored: dict[bytes, bytes] = {}  # noqa: RUF012

    def get(self, key: bytes) -> bytes | None:
        return self.stored.get(key)


class Elsewhere(ByOne):
    """A backend that stores in a way of its own."""

    def decode(self, payload: Any) -> Any:
        raise AssertionError("nobody may ask me")


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Iterator[None]:
    """Fail a test in which a pickle was loaded."""
    _loaded.clear()
    yield
    assert not _loaded


def source_of(app: Celery) -> Source:
    """Make the source of an app that has one."""
    source, why, queue = make_source(app)
    assert source is not None
    assert why == ""
    assert (queue is not None) == isinstance(source, ReplySource)
    return source


def read_one(source: Source, task_id: str) -> Result:
    """Read what is stored of one task."""
    found = source.read([task_id])
    assert list(found) == [task_id]
    return found[task_id]


@pytest.fixture(params=["file", "cache+memory"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Celery:
    """An app with each of the backends that need no server."""
    cache._DUMMY_CLIENT_CACHE.clear()  # of the whole process
    backend = f"file://{tmp_path}" if request.param == "file" else "cache+memory://"
    return make_app(result_backend=backend, result_serializer="json")


def test_what_celery_stores_is_read(app: Celery) -> None:
    source = source_of(app)
    app.backend.store_result("done", {"x": 1}, "SUCCESS")
    app.backend.store_result("bad", ValueError("no stock"), "FAILURE", traceback="T")
    app.backend.store_result("runs", {"pid": 5}, "STARTED")
    found = source.read(["done", "bad", "runs", "none"])
    assert [abs((found[task_id].finished or 0.0) - time.time()) < 60 for task_id in ("done", "bad")] == [True, True]
    assert {task_id: replace(result, finished=None) for task_id, result in found.items()} == {
        "done": Result("done", "SUCCESS", {"x": 1}),
        "bad": Result("bad", "FAILURE", "ValueError('no stock')", "T"),
        "runs": Result("runs", "STARTED"),
        "none": Result("none"),
    }
    source.close()


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_pickles_are_not_loaded_whatever_the_app_accepts(serializer: str, tmp_path: Path) -> None:
    app = make_app(
        result_backend=f"file://{tmp_path}", result_serializer=serializer, accept_content=["pickle", "json"]
    )
    source = source_of(app)
    payload = pickle.dumps({"status": "FAILURE", "result": Bomb()})
    (tmp_path / "celery-task-meta-bomb").write_bytes(payload)
    result = read_one(source, "bomb")
    assert (result.state, result.value, result.ready) == ("FAILURE", None, True)
    assert "pickle" in (result.reason or "")
    with pytest.raises(CommandRefused):
        source.abort("bomb")
    assert (tmp_path / "celery-task-meta-bomb").read_bytes() == payload


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_abort_is_celerys(serializer: str, tmp_path: Path) -> None:
    app = make_app(
        result_backend=f"file://{tmp_path}", result_serializer=serializer, accept_content=["pickle", "json"]
    )
    source = source_of(app)
    source.abort("some")
    assert AbortableAsyncResult("some", app=app).is_aborted()
    assert read_one(source, "some").state == "ABORTED"
    source.abort("some")


def test_a_task_that_is_finished_is_not_aborted(app: Celery) -> None:
    source = source_of(app)
    for state in ("SUCCESS", "FAILURE", "REVOKED"):
        app.backend.store_result(state, None, state)
        with pytest.raises(CommandRefused, match=f"its state is {state}"):
            source.abort(state)
        assert read_one(source, state).state == state


def test_keys_one_by_one() -> None:
    app = make_app(result_serializer="json")
    ByOne.stored[b"celery-task-meta-a"] = b'{"status": "SUCCESS", "result": 1}'
    source = KeyValueSource(lambda: ByOne(app=app))
    assert source.read(["a", "b"]) == {"a": Result("a", "SUCCESS", 1), "b": Result("b")}
    source.close()


def test_backends_that_are_not_read() -> None:
    for backend, why in (
        (None, "none is configured"),
        ("disabled://", "none is configured"),
        ("nonsense://x", "it cannot be set up"),
        ("nonsense+module://x", "it cannot be set up"),
        (f"{__name__}:Elsewhere", "does not read results from a Elsewhere"),
    ):
        source, reason, queue = make_source(make_app(result_backend=backend))
        assert (source, queue) == (None, None)
        assert why in reason


def test_the_limits_of_redis() -> None:
    for url in ("redis://:secret@127.0.0.1:1/0", "redis://127.0.0.1:1/0?socket_timeout=900"):
        source = source_of(make_app(result_backend=url))
        with pytest.raises(Exception, match="onnect"):
            read_one(source, "a")
        assert isinstance(source, KeyValueSource)
        limits = source._backend.client.connection_pool.connection_kwargs
        assert (limits["socket_timeout"], limits["socket_connect_timeout"]) == (PATIENCE, PATIENCE)
        source.close()
    source = source_of(make_app(result_backend="redis+socket:///nowhere/redis.sock"))
    with pytest.raises(Exception, match="nowhere"):
        read_one(source, "a")


class Workers:
    """Sends replies as workers do."""

    def __init__(self, app: Celery, queue: Queue) -> None:
        self._connection = Connection(app.conf.broker_url)
        self._producer = self._connection.Producer()
        self._queue = queue

    def reply(self, task_id: object, body: Any, **properties: Any) -> None:
        """Send a result, or any bytes."""
        properties = {"serializer": "json"} | properties
        self._producer.publish(body, routing_key=self._queue.name, correlation_id=task_id, **properties)

    def close(self) -> None:
        """Let the connection go."""
        self._connection.release()


@pytest.fixture
def replies(memory_broker: str) -> Iterator[tuple[ReplySource, Workers]]:
    """The source for `rpc://`, and who replies."""
    app = make_app(memory_broker, result_backend="rpc://")
    source, _, queue = make_source(app)
    assert isinstance(source, ReplySource)
    assert queue is not None
    workers = Workers(app, queue)
    read_one(source, "none")
    yield source, workers
    workers.close()
    source.close()


def test_replies_are_read(replies: tuple[ReplySource, Workers]) -> None:
    source, workers = replies
    assert read_one(source, "a") == Result("a")
    workers.reply("a", {"status": "STARTED", "result": None})
    assert read_one(source, "a") == Result("a", "STARTED")
    workers.reply("a", {"status": "SUCCESS", "result": 3})
    workers.reply("b", {"status": "FAILURE", "result": {"exc_type": "E", "exc_message": []}, "traceback": "T"})
    assert source.read(["a", "b", "c"]) == {
        "a": Result("a", "SUCCESS", 3),
        "b": Result("b", "FAILURE", "E()", "T"),
        "c": Result("c"),
    }
    workers.reply("a", {"status": "STARTED", "result": None})
    assert read_one(source, "a") == Result("a", "SUCCESS", 3), "what is finished stays so"


def test_replies_that_are_none(replies: tuple[ReplySource, Workers]) -> None:
    source, workers = replies
    workers.reply(None, {"status": "SUCCESS", "result": 1})
    workers.reply(5, {"status": "SUCCESS", "result": 1})
    workers.reply("a", b"garbage", serializer=None, content_type="application/json", content_encoding="utf-8")
    workers.reply(
        "b",
        pickle.dumps({"status": "SUCCESS", "result": Bomb()}),
        serializer=None,
        content_type="application/x-python-serialize",
        content_encoding="binary",
    )
    workers.reply("c", {"status": "SUCCESS", "result": 1}, compression="gzip")
    found = source.read(["a", "b", "c"])
    assert found["a"].state == UNKNOWN
    assert (found["b"].state, found["b"].value) == ("SUCCESS", None)
    assert found["c"] == Result("c", "SUCCESS", 1)


def test_so_many_replies_are_kept(replies: tuple[ReplySource, Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    source, workers = replies
    monkeypatch.setattr(backends, "MAX_REPLIES", 3)
    for number in range(5):
        workers.reply(f"t{number}", {"status": "SUCCESS", "result": number})
    source.read(["t0"])
    states = {task_id: result.state for task_id, result in source.read([f"t{number}" for number in range(5)]).items()}
    assert [task_id for task_id, state in states.items() if state == "SUCCESS"] == ["t2", "t3", "t4"]
    monkeypatch.setattr(backends, "MAX_REPLY_BYTES", 100)
    workers.reply("long", {"status": "SUCCESS", "result": "x" * 60})
    source.read(["long"])
    assert [read_one(source, task_id).state for task_id in ("t4", "long")] == ["PENDING", "SUCCESS"]


def test_a_reply_cannot_abort(replies: tuple[ReplySource, Workers]) -> None:
    with pytest.raises(CommandRefused, match="rpc://"):
        replies[0].abort("a")


def test_a_lost_connection_is_opened_again(
    replies: tuple[ReplySource, Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, workers = replies
    workers.reply("a", {"status": "SUCCESS", "result": 3})
    lost = source._queue

    def break_off(*args: Any, **kwargs: Any) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(lost, "get", break_off)
    assert read_one(source, "a") == Result("a", "SUCCESS", 3)
    assert source._queue is not lost


def test_replies_while_the_broker_is_away() -> None:
    source = source_of(make_app(AWAY, result_backend="rpc://"))
    with pytest.raises(BrokerAway) as error:
        read_one(source, "a")
    assert "wrong-horse" not in str(error.value)
    source.close()


def test_the_queue_for_replies_lives_as_long_as_results() -> None:
    for expires, seconds in ((None, 86_400), (60, 60)):
        queue = make_source(make_app(result_backend="rpc://", result_expires=expires))[2]
        assert queue is not None
        assert (queue.expires, queue.exchange, queue.durable) == (seconds, Exchange(""), True)
