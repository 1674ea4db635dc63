"""Inspection: who is asked when, how often, what is kept of the answers, and that no password shows."""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE
from remote import ANSWERS, answering, inspectable, saying
from serving import make_app
from waiting import eventually, given_time

from taskmon.cluster import inspection as module
from taskmon.cluster import mailbox
from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.inspection import GENERAL, OF_TASKS, Inspection, Inspector, read_answer
from taskmon.cluster.mailbox import Command, Mailbox, Replies
from taskmon.errors import Unavailable, WorkerTimeout
from taskmon.nesting import MAX_DEPTH
from taskmon.records import Event, Task, Worker

W1, W2 = "celery@w1", "celery@w2"


@pytest.fixture
def app(memory_broker: str) -> Celery:
    return make_app(memory_broker)


@pytest.fixture
def make(app: Celery) -> Iterator[Callable[..., Inspector]]:
    lane = BlockingPool("The broker", threads=2, waiting=2)
    yield lambda timeout=PATIENCE, **more: Inspector(Mailbox(app, lane, timeout), **more)
    lane.close()


def read(inspection: Inspection, method: str) -> Any:
    """Give an answer as it goes out."""
    return json.loads(bytes(inspection.answers[method]))


# Against a worker


async def test_a_worker_that_is_named_tells_all(app: Celery, make: Callable[..., Inspector]) -> None:
    heard: list[str] = []
    inspector = make(on_answer=heard.append)
    with answering(app, W1, **inspectable()) as remote:
        await inspector.refresh(W1)
    assert {name for name, _ in remote.heard} == {*GENERAL, *OF_TASKS}
    assert dict(remote.heard)["active"] == {"safe": True}
    found = inspector.inspections[W1]
    assert list(found.answers) == [*GENERAL, *OF_TASKS] or set(found.answers) == {*GENERAL, *OF_TASKS}
    assert read(found, "registered") == ANSWERS["registered"]
    assert read(found, "active_queues") == ANSWERS["active_queues"]
    assert read(found, "active") == [{"id": "a", "time_start": "2026-01-01T00:00:00"}]
    assert (found.pool_size, found.queues) == (4, ("orders", "mail"))
    assert inspector.queues() == ["mail", "orders"]
    assert heard == [W1]
    answers, at = found.part(["stats", "nothing"])
    assert list(answers) == ["stats"]
    assert at is not None
    assert abs(time.time() - at) < PATIENCE
    assert Inspection().part(GENERAL) == ({}, None)


async def test_all_tell_what_is_asked_of_all(
    app: Celery, make: Callable[..., Inspector], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(seconds: float) -> Inspector:
        monkeypatch.setattr(mailbox, "_LINGER", seconds)  # for the one that nobody knows
        inspector = make()
        await inspector.refresh(None, [W1])
        return inspector

    with answering(app, W1, **inspectable()) as one, answering(app, W2, **inspectable()):
        inspector = await given_time(ask, lambda inspector: W2 in inspector.inspections)
    assert {name for name, _ in one.heard} == {*GENERAL, "active"}
    assert inspector.inspections.keys() == {W1, W2}
    inspector.forget(W1)
    assert inspector.inspections.keys() == {W2}


async def test_a_silent_worker(app: Celery, make: Callable[..., Inspector]) -> None:
    inspector = make(0.1)
    with answering(app, W1), pytest.raises(WorkerTimeout, match=r"celery@w1 did not answer within 0\.1 s"):
        await inspector.refresh(W1)
    await inspector.refresh(None, [W1])
    assert inspector.inspections == {}


async def test_what_is_not_answered_keeps_its_time(app: Celery, make: Callable[..., Inspector]) -> None:
    inspector = make()
    with answering(app, W1, **inspectable()):
        await inspector.refresh(W1)
    inspector.inspections[W1].times = dict.fromkeys(inspector.inspections[W1].times, 1000.0)

    async def ask(seconds: float) -> Inspection:
        inspector._refreshes.clear()
        inspector._mailbox.timeout = seconds
        await inspector.refresh(None, [W1])
        return inspector.inspections[W1]

    with answering(app, W1, stats=saying({"total": {}}), conf=saying({"error": "no"}), registered=saying({})):
        found = await given_time(ask, lambda found: found.part(["stats"])[1] != 1000.0)
    assert read(found, "stats") == {"total": {}}
    assert read(found, "conf")["timezone"] == "UTC"
    assert found.part(["stats"])[1] != 1000.0
    assert found.part(GENERAL)[1] == 1000.0
    assert found.pool_size is None


# How often


class FakeMailbox:
    """Notes who is asked what, and answers once `go` is set, for those that are `there`."""

    timeout = 1.0

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.missed: set[str] = set()
        self.asked: list[tuple[tuple[str, ...] | None, tuple[str, ...]]] = []
        self.running: list[set[str]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def ask(
        self, commands: Sequence[Command], awaited: Collection[str] = (), read: Any = lambda name, reply: reply
    ) -> Replies:
        to = commands[0].to
        self.asked.append((to, tuple(command.name for command in commands)))
        names = set(awaited if to is None else to)
        assert not any(names & other for other in self.running), "two inspects of one worker at a time"
        self.running.append(names)
        await self.go.wait()
        await asyncio.sleep(0)
        self.running.remove(names)
        if self.error is not None:
            raise self.error
        return {
            name: {
                command.name: read(command.name, ANSWERS.get(command.name, {"ok": "pong"}))
                for command in commands
                if command.name not in self.missed
            }
            for name in self.there
            if to is None or name in to
        }


def fake(*there: str) -> tuple[Inspector, FakeMailbox]:
    mailbox = FakeMailbox(*there)
    return Inspector(mailbox), mailbox  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as `inspection` sees it; a test may change it."""
    now = [100.0]

    class Time:
        time = staticmethod(lambda: now[0] + 1e9)
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(module, "time", Time)
    return now


async def test_however_many_ask_one_asks_the_worker(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    mailbox.go.clear()
    waiting = [asyncio.create_task(inspector.refresh(W1)) for _ in range(50)]
    await eventually(lambda: mailbox.asked)
    waiting[0].cancel()
    mailbox.go.set()
    await asyncio.gather(*waiting[1:])
    clock[0] += module.HOLD - 0.1
    await inspector.refresh(W1)
    assert len(mailbox.asked) == 1
    clock[0] += 0.2
    await inspector.refresh(W1)
    assert len(mailbox.asked) == 2


async def test_a_ping_notes_who_answers_and_for_how_long(clock: list[float]) -> None:
    inspector, mailbox = fake(W1, W2)
    await inspector.ping()
    assert inspector.answered == dict.fromkeys((W1, W2), clock[0] + 1e9)
    assert inspector.inspections == {}
    clock[0] += module._ANSWERED_KEPT
    mailbox.there = {W1}
    await inspector.ping()
    assert inspector.answered == {W1: clock[0] + 1e9}
    await inspector.ask([W1])
    assert inspector.inspections.keys() == {W1}


async def test_silence_is_shared_too(clock: list[float]) -> None:
    inspector, mailbox = fake()
    for _ in range(3):
        with pytest.raises(WorkerTimeout):
            await inspector.refresh(W1)
    assert len(mailbox.asked) == 1


async def test_a_broker_that_was_away_is_asked_again_sooner(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    mailbox.error = Unavailable("The broker", "away")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await inspector.refresh(W1)
    assert len(mailbox.asked) == 1
    mailbox.error = None
    clock[0] += 1.1
    await inspector.refresh(W1)
    assert len(mailbox.asked) == 2


async def test_one_inspect_at_a_time_per_worker(clock: list[float]) -> None:
    inspector, mailbox = fake(W1, W2)
    mailbox.go.clear()
    waiting = [
        asyncio.create_task(inspector.refresh(None, [W1, W2])),
        asyncio.create_task(inspector.refresh(W1)),
        asyncio.create_task(inspector.refresh("celery@w3")),
    ]
    await eventually(lambda: len(mailbox.asked) == 2)
    assert {asked[0] for asked in mailbox.asked} == {None, ("celery@w3",)}
    mailbox.go.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(mailbox.asked) == 3
    assert inspector._busy == {}


async def test_who_waits_for_another_inspect_is_not_kept_by_a_broker_that_is_away_twice(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    mailbox.error = Unavailable("The broker", "away")
    mailbox.go.clear()
    waiting = [asyncio.create_task(inspector.refresh(target, [W1])) for target in (None, W1)]
    await eventually(lambda: mailbox.asked)
    mailbox.go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["The broker is unavailable: away"] * 2
    assert len(mailbox.asked) == 1


# Workers that come and go


def observe(inspector: Inspector, kind: str, hostname: str = W1) -> None:
    inspector.observe([(Event(f"worker-{kind}", hostname=hostname), Worker(hostname, online=kind != "offline"))])


async def test_a_worker_that_comes_is_asked_once(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    observe(inspector, "heartbeat")
    await eventually(lambda: W1 in inspector.inspections)
    observe(inspector, "heartbeat")
    inspector.observe([(Event("task-sent", uuid="a"), Task("a")), (Event("x"), None)])
    await asyncio.sleep(0)
    assert mailbox.asked == [((W1,), GENERAL)]
    observe(inspector, "online")
    await eventually(lambda: len(mailbox.asked) == 2)
    observe(inspector, "offline")
    observe(inspector, "heartbeat")
    await eventually(lambda: len(mailbox.asked) == 3)
    await eventually(lambda: inspector._busy == {})


async def test_many_that_come_are_asked_together(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORKERS_PER_CALL", 3)
    names = [f"celery@{number}" for number in range(7)]
    inspector, mailbox = fake(*names)
    for name in names:
        observe(inspector, "heartbeat", name)
    await eventually(lambda: len(inspector.inspections) == 7)
    assert [len(to or ()) for to, _ in mailbox.asked] == [3, 3, 1]


async def test_one_that_does_not_answer_is_asked_again_ever_more_seldom(clock: list[float]) -> None:
    inspector, mailbox = fake()
    delays = []
    for _ in range(12):
        asked, began = len(mailbox.asked), clock[0]
        while len(mailbox.asked) == asked:
            observe(inspector, "heartbeat")
            await eventually(lambda: inspector._asking._task is None or inspector._asking._task.done())
            clock[0] += 1
        delays.append(clock[0] - began)
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    mailbox.there.add(W1)
    clock[0] += 300
    observe(inspector, "heartbeat")
    await eventually(lambda: W1 in inspector.inspections)
    assert inspector._asking._delays == {}


async def test_one_that_answers_a_part_is_asked_again(clock: list[float]) -> None:
    """It listens a moment after it said that it is online: what was asked before that, it has not heard."""
    inspector, mailbox = fake(W1)
    mailbox.missed = {"stats"}
    observe(inspector, "online")
    await eventually(lambda: inspector._asking._task is not None and inspector._asking._task.done())
    assert "stats" not in inspector.inspections[W1].answers
    mailbox.missed = set()
    observe(inspector, "heartbeat")
    assert len(mailbox.asked) == 1
    clock[0] += 2
    observe(inspector, "heartbeat")
    await eventually(lambda: "stats" in inspector.inspections[W1].answers)
    await eventually(lambda: inspector._asking._delays == {})


async def test_one_that_goes_meanwhile_is_forgotten(clock: list[float]) -> None:
    inspector, mailbox = fake()
    mailbox.go.clear()
    observe(inspector, "online")
    await eventually(lambda: mailbox.asked)
    inspector.forget(W1)
    mailbox.go.set()
    await eventually(lambda: inspector._asking._task is not None and inspector._asking._task.done())
    assert inspector._asking._due == {}


async def test_a_broker_that_is_away_is_no_end(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    mailbox.error = Unavailable("The broker", "away")
    observe(inspector, "heartbeat")
    await eventually(lambda: inspector._asking._task is not None and inspector._asking._task.done())
    mailbox.error = None
    clock[0] += 10
    observe(inspector, "heartbeat")
    await eventually(lambda: W1 in inspector.inspections)


async def test_a_worker_that_was_told_to_change_is_asked_again(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    observe(inspector, "heartbeat")
    await eventually(lambda: W1 in inspector.inspections)
    inspector.ask_again(W1, 5.5)
    observe(inspector, "heartbeat")
    assert len(mailbox.asked) == 1, "it needs a moment"
    clock[0] += 5.5
    observe(inspector, "heartbeat")
    await eventually(lambda: len(mailbox.asked) == 2)
    await eventually(lambda: inspector._busy == {})


async def test_closing(clock: list[float]) -> None:
    inspector, mailbox = fake(W1)
    inspector.close()
    mailbox.go.clear()
    observe(inspector, "online", W2)
    refresh = asyncio.create_task(inspector.refresh(W1))
    await eventually(lambda: len(mailbox.asked) == 2)
    inspector.close()
    with pytest.raises(asyncio.CancelledError):
        await refresh
    inspector._refreshes[W1] = 100.0, inspector._refreshes[W1][1]
    mailbox.go.set()
    mailbox.running.clear()
    await inspector.refresh(W1)


# What is kept


def shown(method: str, reply: Any) -> Any:
    return json.loads(bytes(read_answer(method, reply)[0]))


def test_no_password_shows() -> None:
    for method, answer in ANSWERS.items():
        assert "horse" not in json.dumps(shown(method, answer))
    conf = shown("conf", ANSWERS["conf"])
    assert conf["broker_url"] == "redis://:***@h/0"
    assert conf["result_backend"] == "db+postgresql://u:***@h/db?password=***"
    assert conf["task_default_routing_key"] == "orders"
    assert conf["redis_password"] == ["***", None, True, "***"]
    stats = shown("stats", ANSWERS["stats"])
    assert stats["total"] == {"app.rotate_keys": 3}
    assert stats["broker"]["alternates"] == ["redis://:***@other/0"]
    assert stats["broker"]["transport_options"] == {"sentinel_kwargs": {"password": "***"}, "global_keyprefix": "p"}


SECRETS = [
    *(
        "broker_password",
        "redis_backend_password",
        "secret_access_key",
        "api_key",
        "apikey",
        "security_key",
        "PASSWD",
    ),
    *("token", "sasl_password", "passphrase", "credentials", "ssl_keyfile", "secret_key_base", "aws_session_token"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name: str) -> None:
    assert shown("conf", {name: "horse"}) == {name: "***"}
    assert shown("conf", {"options": [{name: {"deep": ["horse", 5]}}]}) == {
        "options": [{name: {"deep": ["***"] * 2}}]
    }


@pytest.mark.parametrize(
    "name", ["routing_key", "task_default_routing_key", "global_keyprefix", "timezone", "userid"]
)
def test_names_of_what_is_no_secret(name: str) -> None:
    assert shown("conf", {name: "plain"}) == {name: "plain"}


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("stats", []),
        ("stats", None),
        ("stats", {"error": "x"}),
        ("conf", "x"),
        ("active", {}),
        ("registered", {"a": 1}),
    ],
)
def test_what_is_no_answer(method: str, reply: Any) -> None:
    with pytest.raises(ValueError, match="no answer"):
        read_answer(method, reply)


def test_odd_values() -> None:
    odd = {
        "a\ud800": "b\udfff",
        "big": 1 << 70,
        "set": (1, 2),
        "float": 1.5,
        "kind": {"__type__": "uuid", "__value__": "u"},
    }
    assert shown("stats", odd) == {
        "a?": "b?", "big": str(1 << 70), "set": [1, 2], "float": 1.5, "kind": "u",
    }  # fmt: skip


def test_what_lies_too_deep_is_left_out() -> None:
    deep: Any = [1]
    for _ in range(MAX_DEPTH):
        deep = [deep]
    answer = json.dumps(shown("reserved", [{"id": "a", "args": deep, "kwargs": {}}]))
    assert '"a"' in answer
    assert "[" * 98 + '"..."' in answer
    assert "1" not in answer


@pytest.mark.parametrize("pool", [None, [], {}, {"max-concurrency": "4"}, {"max-concurrency": -1}])
def test_a_pool_without_a_size(pool: Any) -> None:
    assert read_answer("stats", {"pool": pool})[1] is None


def test_queues_without_a_name() -> None:
    assert read_answer("active_queues", [{}, None, {"name": 5}, {"name": ""}, {"name": "x" * 300}, {"name": "q"}])[
        1
    ] == ("q",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=20), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.sampled_from([*GENERAL, *OF_TASKS]), JSON)
def test_whatever_a_worker_answers(method: str, reply: Any) -> None:
    try:
        answer, _ = read_answer(method, reply)
    except ValueError:
        return
    msgspec.json.decode(answer)
    bytes(answer).decode()
