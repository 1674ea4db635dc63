"""The mailbox: commands reach workers as Celery's own do, replies are read with care, nothing takes too long."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from kombu.serialization import register, unregister
from patience import PATIENCE
from remote import answering, fine, saying
from serving import AWAY, make_app, silent_server
from waiting import eventually, given_time

from taskmon.cluster import mailbox as module
from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.mailbox import Command, Mailbox, Replies
from taskmon.cluster.replies import ReplyPlace
from taskmon.errors import Unavailable

W1, W2 = "celery@w1", "celery@w2"


@pytest.fixture
def app(memory_broker: str) -> Celery:
    return make_app(memory_broker)


@pytest.fixture
def lane() -> Iterator[BlockingPool]:
    made = BlockingPool("The broker", threads=2, waiting=2)
    yield made
    made.close()


def make(app: Celery, lane: BlockingPool, timeout: float = PATIENCE, **limits: int) -> Mailbox:
    return Mailbox(app, lane, timeout, **limits)


async def test_a_worker_replies(app: Celery, lane: BlockingPool) -> None:
    with answering(app, W1, ping=fine("pong")) as remote:
        replies = await make(app, lane).ask([Command("ping", {"a": 1}, (W1,))], [W1])
    assert replies == {W1: {"ping": {"ok": "pong"}}}
    assert remote.heard == [("ping", {"a": 1})]


async def test_several_commands_are_one_call(app: Celery, lane: BlockingPool) -> None:
    with answering(app, W1, one=saying(1), two=saying(2)), answering(app, W2, one=saying(3), two=saying(4)):
        replies = await make(app, lane).ask([Command("one"), Command("two")], [W1, W2])
    assert replies == {W1: {"one": 1, "two": 2}, W2: {"one": 3, "two": 4}}


async def test_others_do_not_hear_a_command_for_one(app: Celery, lane: BlockingPool) -> None:
    with answering(app, W1, one=saying(1)), answering(app, W2, one=saying(2)) as other:
        assert await make(app, lane).ask([Command("one", to=(W1,))], [W1]) == {W1: {"one": 1}}
    assert not other.heard


async def test_a_silent_worker_is_waited_for_as_long_as_allowed(app: Celery, lane: BlockingPool) -> None:
    with answering(app, W1):
        began = time.monotonic()
        assert await make(app, lane, 0.2).ask([Command("ping", to=(W1,))], [W1]) == {}
    assert 0.2 <= time.monotonic() - began < PATIENCE


async def test_of_several_the_silent_one_is_missing(app: Celery, lane: BlockingPool) -> None:
    expected = {W1: {"one": 1, "two": 2}, W2: {"one": 3}}

    async def ask(seconds: float) -> Replies:
        return await make(app, lane, seconds).ask([Command("one"), Command("two")], [W1, W2])

    with answering(app, W1, one=saying(1), two=saying(2)), answering(app, W2, one=saying(3)):
        assert await given_time(ask, lambda replies: replies == expected) == expected


async def test_a_worker_that_nobody_knows_is_heard_too(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {W1: {"one": 1}, W2: {"one": 2}}

    async def ask(seconds: float) -> Replies:
        monkeypatch.setattr(module, "_LINGER", seconds)
        return await make(app, lane).ask([Command("one")], [W1])

    async def ask_all(seconds: float) -> Replies:
        return await make(app, lane, seconds).ask([Command("one")])

    with answering(app, W1, one=saying(1)), answering(app, W2, one=saying(2)):
        assert await given_time(ask, lambda replies: replies == expected) == expected
        assert await given_time(ask_all, lambda replies: replies == expected) == expected


async def test_telling_waits_for_nobody(app: Celery, lane: BlockingPool) -> None:
    with answering(app, W1, one=saying(1)) as remote:
        await make(app, lane).tell(Command("one", reply=False), Command("two", reply=False))
        await eventually(lambda: remote.heard == [("one", {}), ("two", {})])


async def test_a_reply_that_comes_while_the_next_command_is_sent_ends_the_wait(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = module._collect

    def collect_late(arriving: ReplyPlace, errand: Any) -> None:
        while errand.pending:
            with suppress(TimeoutError):
                arriving.receive(0.1)
        collect(arriving, errand)

    monkeypatch.setattr(module, "_collect", collect_late)
    with answering(app, W1, ping=fine("pong")):
        async with asyncio.timeout(PATIENCE):
            assert W1 in await make(app, lane, 100 * PATIENCE).ask([Command("ping", to=(W1,))], [W1])


async def test_a_call_leaves_nothing_behind(app: Celery, lane: BlockingPool) -> None:
    with answering(app, W1, one=saying(1)), app.connection_for_read() as connection:
        await make(app, lane).ask([Command("one", to=(W1,))], [W1])
        bindings = connection.transport.state.queue_index
        await eventually(lambda: not [name for name in bindings if "reply" in name])


# Replies that are not to be trusted


class Liar:
    """A worker that puts whatever it likes into its replies."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.body: bytes | str = b""
        self.properties: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}
        self.headers: dict[str, Any] = {}

    def __enter__(self) -> "Liar":
        self._worker = answering(self.app, W1, lie=fine())
        self._remote = self._worker.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.__exit__(None, None, None)

    def send(self, message: dict[str, Any]) -> None:
        with self.app.connection_for_write() as connection, connection.Producer() as producer:
            producer.publish(
                self.body,
                exchange=message["reply_to"]["exchange"],
                routing_key=message["reply_to"]["routing_key"],
                headers={"ticket": message["ticket"], **self.headers},
                **self.properties,
            )


async def hear(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch, body: bytes | str, **how: Any
) -> dict[str, dict[str, Any]]:
    """Ask for one reply when the first that comes is such a one, and a good one comes after it."""
    liar = Liar(app)
    liar.body = body
    liar.headers = how.pop("headers", {})
    asking = how.pop("mailbox", None) or make(app, lane, max_reply=10_000)
    liar.properties |= how
    publish = Mailbox._send

    def send(self: Mailbox, producer: Any, mailbox: Any, command: Command, ticket: str, to: ReplyPlace) -> None:
        liar.send({"reply_to": {"exchange": to.exchange, "routing_key": to.routing_key}, "ticket": ticket})
        publish(self, producer, mailbox, command, ticket, to)

    monkeypatch.setattr(Mailbox, "_send", send)
    with answering(app, W2, lie=saying("good")):
        found: dict[str, dict[str, Any]] = await asking.ask([Command("lie")], [W2])
        return found


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "5", "[]", "{}", '{"a": 1, "b": 2}', "{", "[" * 9000, '"' + "x" * 20_000 + '"', b"\xff\xfe{}",
    ],
    ids=range(10),
)  # fmt: skip
async def test_a_reply_that_makes_no_sense_is_left_out(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch, body: bytes | str
) -> None:
    assert await hear(app, lane, monkeypatch, body) == {W2: {"lie": "good"}}


async def test_a_pickle_is_not_loaded(app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.accept_content = ["json", "pickle"]
    body = b"cos\nsystem\n(S'exit 1'\ntR."
    asking = make(app, lane)
    how = {"content_type": "application/x-python-serialize", "content_encoding": "binary", "mailbox": asking}
    assert asking.pickled is None
    assert await hear(app, lane, monkeypatch, body, **how) == {W2: {"lie": "good"}}
    assert abs((asking.pickled or 0.0) - time.time()) < 600


async def test_a_compressed_reply_is_left_out(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({W1: "bad"})
    found = await hear(app, lane, monkeypatch, body, headers={"compression": "application/x-gzip"})
    assert found == {W2: {"lie": "good"}}


async def test_a_reply_to_another_question_is_left_out(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await hear(app, lane, monkeypatch, json.dumps({W1: "bad"}), headers={"ticket": "other"})
    assert found == {W2: {"lie": "good"}}
    found = await hear(app, lane, monkeypatch, json.dumps({W1: "bad"}), headers={"ticket": ["other"]})
    assert found == {W2: {"lie": "good"}}


async def test_numbers_that_json_has_not_are_null(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await hear(app, lane, monkeypatch, f'{{"{W1}": [NaN, Infinity, 1]}}')
    assert found == {W1: {"lie": [None, None, 1]}, W2: {"lie": "good"}}


async def test_another_serializer_that_the_app_takes(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("other", json.dumps, json.loads, "application/x-other", "utf-8")
    app.conf.accept_content = ["json", "other"]
    body = json.dumps({W1: "other"})
    found = await hear(app, lane, monkeypatch, body, content_type="application/x-other", content_encoding="utf-8")
    unregister("other")
    assert found == {W1: {"lie": "other"}, W2: {"lie": "good"}}


async def test_another_may_not_answer_for_a_worker(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Liar(app)
    liar.body = json.dumps({W2: "bad"})
    publish = Mailbox._send

    def send(self: Mailbox, producer: Any, mailbox: Any, command: Command, ticket: str, to: ReplyPlace) -> None:
        liar.send({"reply_to": {"exchange": to.exchange, "routing_key": to.routing_key}, "ticket": ticket})
        publish(self, producer, mailbox, command, ticket, to)

    monkeypatch.setattr(Mailbox, "_send", send)
    with answering(app, W1, lie=saying("good")):
        assert await make(app, lane).ask([Command("lie", to=(W1,))], [W1]) == {W1: {"lie": "good"}}


# A broker that is away, or hangs


async def test_a_broker_that_refuses(lane: BlockingPool) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match="The broker is unavailable") as caught:
        await make(make_app(AWAY), lane).ask([Command("ping")])
    assert time.monotonic() - began < PATIENCE
    assert "horse" not in str(caught.value)


async def test_a_broker_url_that_cannot_be_read(lane: BlockingPool) -> None:
    with pytest.raises(Unavailable) as caught:
        await make(make_app("redis://:horse/battery@h:1/0"), lane).ask([Command("ping")])
    assert "horse" not in str(caught.value)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_hangs(lane: BlockingPool, scheme: str) -> None:
    with silent_server() as port:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await make(make_app(f"{scheme}://127.0.0.1:{port}//"), lane, 10 * PATIENCE).ask([Command("ping")])
        assert time.monotonic() - began < PATIENCE


async def test_what_could_not_be_sent_in_time_is_not_sent_later(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_LIMIT", 0.05)
    go = threading.Event()
    connect = module.open_connection

    def connect_slowly(celery_app: Celery) -> Any:
        go.wait(PATIENCE)
        return connect(celery_app)

    monkeypatch.setattr(module, "open_connection", connect_slowly)
    with answering(app, W1) as remote:
        mailbox = make(app, lane, 0.1)
        with pytest.raises(Unavailable, match="no answer within"):
            await mailbox.tell(Command("shutdown", reply=False))
        go.set()
        monkeypatch.setattr(module, "SEND_LIMIT", PATIENCE)
        await mailbox.tell(Command("later", reply=False))
        await eventually(lambda: remote.heard)
        assert remote.heard == [("later", {})]


async def test_a_broker_that_stops_answering(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(module, "_collect", lambda connection, errand: hang.wait(PATIENCE))
    monkeypatch.setattr(module, "_GRACE", 0.1)
    with pytest.raises(Unavailable, match="no answer within"):
        await make(app, lane, 0.1).ask([Command("ping", to=(W1,))], [W1])
    hang.set()


@pytest.mark.parametrize("error", [OSError("broken pipe redis://:horse@h"), OSError()])
async def test_a_connection_that_breaks(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(connection: Any, errand: Any) -> None:
        raise error

    monkeypatch.setattr(module, "_collect", fail)
    with pytest.raises(Unavailable) as caught:
        await make(app, lane).ask([Command("ping", to=(W1,))], [W1])
    assert "horse" not in str(caught.value)


async def test_a_fault_after_the_end_is_nothing(
    app: Celery, lane: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(queue: Any) -> None:
        failed.set()
        raise OSError("gone")

    monkeypatch.setattr(Queue, "delete", fail)
    with answering(app, W1, one=saying(1)):
        assert await make(app, lane).ask([Command("one", to=(W1,))], [W1]) == {W1: {"one": 1}}
        await eventually(failed.is_set)


async def test_replies_are_read_in_the_thread(app: Celery, lane: BlockingPool) -> None:
    threads = []

    def read(name: str, reply: Any) -> Any:
        threads.append(threading.current_thread())
        if reply == 0:
            raise ValueError
        return f"{name} {reply}"

    expected = {W1: {"one": "one 1"}}

    async def ask(seconds: float) -> Replies:
        return await make(app, lane, seconds).ask([Command("one"), Command("zero")], [W1], read)

    with answering(app, W1, one=saying(1), zero=saying(0)):
        assert await given_time(ask, lambda replies: replies == expected) == expected
    assert threading.main_thread() not in threads
