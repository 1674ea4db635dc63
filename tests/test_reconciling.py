"""Reconciling: which tasks are asked about, whom is asked, and what is concluded from which answers."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from factories import START, make_event, make_state, make_worker_event
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE
from waiting import eventually

from taskmon.cluster.inspection import Inspection
from taskmon.cluster.mailbox import Command, Replies
from taskmon.cluster.queues import QueueLength
from taskmon.cluster.result_decoding import UNKNOWN, Result
from taskmon.cluster.worker_tasks import Holding, ask_for_holdings, read_holding
from taskmon.errors import InvalidArgument, Unavailable
from taskmon.http.serializers import task_body
from taskmon.monitor import reconciler as module
from taskmon.monitor.reconciler import Reconciler, write_result
from taskmon.monitor.state import State
from taskmon.records import Event

AFTER = 600.0
W1, W2 = "celery@one", "celery@two"


class Scene:
    """A Reconciler, and all that it asks: what is stored, what workers have, what waits in queues."""

    def __init__(self, *events: Event, after: float = AFTER, max_text: int = 100) -> None:
        self.available = True
        self.timeout = 1.0
        self.stored: dict[str, Result] = {}
        self.read: list[str] = []
        self.has: dict[str, dict[str, Any]] = {}
        self.asked: list[Collection[str]] = []
        self.away: Exception | None = None
        self.meanwhile: Callable[[], object] = lambda: None
        self.broker = SimpleNamespace(connected=True)
        self.queues = self
        self.latest: dict[str, QueueLength] = {}
        self.now_waiting: dict[str, int | None] = {}
        self.inspector = SimpleNamespace(inspections={})
        self.state = make_state(*events)
        fakes: Any = (self.state, self.broker, self, self, self.inspector, self.queues)
        self.reconciler = Reconciler(*fakes, orphan_after=after, max_text=max_text)
        self.reconciler._connected_at = time.monotonic() - 1000

    async def get(self, task_id: str) -> Result:
        """Stand for Results."""
        self.read.append(task_id)
        if "/" in task_id:
            raise InvalidArgument("task_id", "must be better")
        if self.away is not None:
            raise self.away
        return self.stored.get(task_id, Result(task_id))

    async def ask(self, commands: Sequence[Command], awaited: Collection[str], read: Any) -> Replies:
        """Stand for Mailbox."""
        self.asked.append(awaited)
        self.meanwhile()
        return {
            hostname: {command.name: read(command.name, has.get(command.name, [])) for command in commands}
            for hostname, has in self.has.items()
        }

    async def lengths(self, names: Collection[str]) -> list[QueueLength]:
        """Stand for Queues."""
        assert names
        return [QueueLength(name, self.now_waiting[name]) for name in names if name in self.now_waiting]

    def age(self, seconds: float, *task_ids: str) -> None:
        """Let the tasks, and the workers not named, be unheard of for so long."""
        for task_id in task_ids:
            self.state.get(task_id).seen = time.time() - seconds

    def kill(self, hostname: str) -> None:
        self.state.workers[hostname].seen = 0.0

    def let_have(self, hostname: str, *task_ids: str, **more: Any) -> None:
        self.has[hostname] = {"active": [{"id": task_id} for task_id in task_ids], **more}

    def let_wait(self, **messages: int | None) -> None:
        self.latest = {name: QueueLength(name, count) for name, count in messages.items()}
        self.now_waiting = messages

    async def run(self) -> None:
        """Go once through all tasks, as if nobody had been asked before."""
        self.reconciler._asked_at = None
        while await self.reconciler.reconcile():
            pass

    def told(self, task_id: str = "a") -> tuple[str, str, bool]:
        body = task_body(self.state.get(task_id), [])
        return body.state, body.source, body.orphaned


def started(*uuids: str, hostname: str = W1) -> list[Event]:
    return [
        make_worker_event("online", hostname),
        *(make_event("started", uuid, hostname=hostname, timestamp=START) for uuid in uuids or "a"),
    ]


def done(task_id: str = "a", state: str = "SUCCESS", value: Any = 7, **more: Any) -> Result:
    return Result(task_id, state, value, **{"finished": START + 5, **more})


async def test_a_task_heard_of_lately_is_not_asked_about() -> None:
    scene = Scene(*started())
    await scene.run()
    scene.age(AFTER - 5, "a")
    await scene.run()
    assert scene.read == []


@pytest.mark.parametrize("kind", ["succeeded", "failed", "revoked", "rejected"])
async def test_a_task_that_has_ended_is_not_asked_about(kind: str) -> None:
    scene = Scene(make_event(kind))
    scene.age(AFTER + 5, "a")
    await scene.run()
    assert scene.read == []


async def test_a_clock_that_is_put_back_hides_no_orphan_and_makes_none() -> None:
    scene = Scene(*started())
    scene.age(-2 * AFTER, "a")
    scene.state.workers[W1].seen += 2 * AFTER
    await scene.run()
    assert scene.read == []
    assert scene.state.get("a").seen <= time.time()
    scene.age(AFTER + 5, "a")
    await scene.run()
    assert scene.told() == ("STARTED", "events", True)


async def test_what_the_result_backend_knows_is_taken() -> None:
    scene = Scene(*started("a", "b", "c", "d"))
    scene.age(AFTER + 5, *"abcd")
    scene.stored = {
        "a": done(value=[1, "x" * 2000]),
        "b": done("b", "FAILURE", "ValueError('no')", traceback="y" * 200),
        "c": done("c", reason="it is stored as a pickle", value=None, finished=None),
        "d": done("d", "REVOKED", "TaskRevokedError('terminated')"),
    }
    await scene.run()
    assert [scene.told(task_id) for task_id in "abcd"] == [
        (state, "result backend", False) for state in ("SUCCESS", "FAILURE", "SUCCESS", "REVOKED")
    ]
    a, b, c, d = (scene.state.get(task_id) for task_id in "abcd")
    assert a.result is not None
    assert a.result.startswith("[1, 'xxx")
    assert len(a.result) < 1100
    assert (a.succeeded, c.succeeded, c.result) == (START + 5, None, None)
    assert (b.exception, b.traceback) == ("ValueError('no')", "y" * 94 + "…[cut]")
    assert d.exception == "TaskRevokedError('terminated')"
    assert scene.asked == []


async def test_a_task_that_its_worker_has_is_left_alone() -> None:
    for place in ("active", "reserved", "scheduled"):
        scene = Scene(*started())
        scene.age(AFTER + 5, "a")
        item = {"request": {"id": "a"}} if place == "scheduled" else {"id": "a"}
        scene.let_have(W1, **{place: [item]})
        await scene.run()
        assert scene.told() == ("STARTED", "events", False)


@pytest.mark.parametrize("stored", [Result("a"), Result("a", "STARTED"), Result("a", "PROGRESS")])
async def test_a_task_that_nobody_knows_is_orphaned(stored: Result) -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.stored["a"] = stored
    scene.let_have(W1)
    await scene.run()
    await scene.run()
    assert scene.told() == ("STARTED", "events", True)
    assert (scene.state.reconciled.orphaned, scene.state.reconciled.orphaned_total) == (1, 1)
    scene.stored["a"] = done()
    await scene.run()
    assert scene.told() == ("SUCCESS", "result backend", False)
    assert scene.state.reconciled.settled_total == 1


async def test_a_worker_that_is_gone_has_nothing() -> None:
    for leave in (
        lambda scene: scene.kill(W1),
        lambda scene: scene.state.apply([make_worker_event("offline", W1)]),
        lambda scene: scene.state.purge_workers(time.time() + 1),
    ):
        scene = Scene(*started())
        leave(scene)
        scene.age(AFTER + 5, "a")
        await scene.run()
        assert scene.told() == ("STARTED", "events", True)


async def test_a_worker_that_lives_and_does_not_answer_may_have_it() -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    await scene.run()
    assert scene.told() == ("STARTED", "events", False)
    assert scene.asked == [[W1]]


async def test_another_worker_may_have_it() -> None:
    scene = Scene(*started(), make_worker_event("online", W2))
    scene.kill(W1)
    scene.age(AFTER + 5, "a")
    await scene.run()
    assert scene.told()[2] is True
    scene.let_have(W2, "a")
    await scene.run()
    assert scene.told() == ("STARTED", "events", False)


async def test_a_rate_limit_hides_tasks_that_have_not_begun() -> None:
    scene = Scene(*started("a"), make_event("received", "b", name="slow"), make_event("received", "c", name="quick"))
    scene.age(AFTER + 5, *"abc")
    scene.let_have(W1, registered=["slow [rate_limit=10/m]", "quick", 7])
    scene.let_wait(mail=0)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abc"] == [True, False, True]


async def test_a_task_may_be_back_in_its_queue() -> None:
    scene = Scene(*started("a"), make_event("received", "b", hostname=W1), make_event("retried", "c", hostname=W1))
    scene.kill(W1)
    scene.inspector.inspections[W1] = Inspection(queues=("mail",))
    scene.age(AFTER + 5, *"abc")
    scene.let_wait(mail=2)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abc"] == [True, False, False]
    scene.let_wait(mail=0)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abc"] == [True, True, True]


@pytest.mark.parametrize("lengths", [{"mail": None}, {"mail": 0, "more": None}, {}])
async def test_a_task_is_not_lost_while_a_length_is_not_known(lengths: dict[str, int | None]) -> None:
    sent = make_event("sent", "d", queue="mail", hostname="gen1@web")
    events = (make_event("received", "b", hostname=W1), make_event("retried", "c", hostname=W2), sent)
    scene = Scene(*started("a"), make_worker_event("online", W2), *events)
    scene.kill(W1)
    scene.let_have(W2)
    for hostname in (W1, W2):
        scene.inspector.inspections[hostname] = Inspection(queues=("mail", "more"))
    scene.age(AFTER + 5, *"abcd")
    scene.let_wait(**lengths)
    await scene.run()
    of_mail = lengths.get("mail")
    assert [scene.told(task_id)[2] for task_id in "abcd"] == [True, False, False, of_mail == 0]
    scene.let_wait(mail=0, more=0)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abcd"] == [True, True, True, True]


async def test_a_retry_waits_behind_others_while_its_worker_is_well() -> None:
    events = (make_event("received", "b", hostname=W1), make_event("retried", "c", hostname=W1))
    scene = Scene(*started("a"), *events)
    scene.let_have(W1, "other")
    scene.inspector.inspections[W1] = Inspection(queues=("mail",))
    scene.age(AFTER + 5, *"abc")
    scene.let_wait(mail=2)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abc"] == [True, False, False]
    scene.let_wait(mail=0)
    await scene.run()
    scene.let_wait(mail=2)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abc"] == [True, True, True]


async def test_a_task_may_be_in_any_queue_where_nobody_knows_those_of_its_worker() -> None:
    scene = Scene(make_event("received", "a", hostname=W1), make_event("sent", "b", hostname="gen1@web"))
    scene.kill(W1)
    scene.age(AFTER + 5, *"ab")
    scene.let_wait(mail=2, other=0)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "ab"] == [False, False]
    scene.let_wait(mail=0, other=0)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "ab"] == [True, False]


@pytest.mark.parametrize(
    ("eta", "orphaned"),
    [
        (datetime.now(UTC) + timedelta(hours=1), False),
        (datetime.now() + timedelta(days=2), False),
        (datetime.now(UTC) - timedelta(hours=1), True),
        ("whenever", True),
    ],
)
async def test_a_task_that_is_not_to_run_yet(eta: Any, orphaned: bool) -> None:
    told = {"queue": "mail", "hostname": "gen1@web", "eta": str(eta)}
    scene = Scene(make_worker_event("online"), make_event("sent", **told), make_event("received", "b", **told))
    scene.kill("gen1@web")
    scene.age(AFTER + 5, *"ab")
    scene.let_wait(mail=0)
    scene.let_have(W1)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "ab"] == [orphaned, True]


@pytest.mark.parametrize(
    ("before", "now", "answers", "orphaned"),
    [
        ({"mail": 1}, {"mail": 0}, True, False),
        ({"mail": 0}, {"mail": 1}, True, False),
        ({"mail": 0}, {}, True, False),
        ({}, {"mail": 0}, True, False),
        ({"mail": 0}, {"mail": 0}, False, False),
        ({"mail": 0}, {"mail": 0}, True, True),
    ],
)
async def test_a_task_that_was_only_sent(
    before: dict[str, int], now: dict[str, int], answers: bool, orphaned: bool
) -> None:
    scene = Scene(make_worker_event("online"), make_event("sent", queue="mail", hostname="gen1@web"))
    scene.age(AFTER + 5, "a")
    scene.let_wait(**before)
    scene.now_waiting = now
    if answers:
        scene.let_have(W1)
    await scene.run()
    assert scene.told() == ("PENDING", "events", orphaned)
    scene.now_waiting = {"mail": 1}
    await scene.run()
    assert scene.told() == ("PENDING", "events", False)


async def test_a_result_of_an_earlier_run_counts_only_when_nobody_has_the_task() -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.stored["a"] = done(finished=START - 60)
    scene.let_have(W1, "a")
    await scene.run()
    assert scene.told() == ("STARTED", "events", False)
    scene.let_have(W1)
    await scene.run()
    assert scene.told() == ("SUCCESS", "result backend", False)


async def test_what_is_stored_and_cannot_be_read_is_no_orphan() -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.let_have(W1)
    scene.stored["a"] = Result("a", UNKNOWN, reason="it is too large")
    await scene.run()
    assert scene.told() == ("STARTED", "events", False)


@pytest.mark.parametrize("kind", ["started", "succeeded"])
async def test_an_event_in_between_wins(kind: str) -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.let_have(W1)
    scene.meanwhile = lambda: scene.state.apply([make_event(kind)])
    await scene.run()
    assert scene.told()[1:] == ("events", False)
    assert scene.state.reconciled.orphaned_total == 0


async def test_a_worker_whose_heart_stops_while_it_is_asked_is_asked_once_more() -> None:
    """As when the machine stands still: neither its answer nor its heartbeats have come when it goes on."""
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.meanwhile = lambda: scene.kill(W1)
    await scene.run()
    assert scene.told() == ("STARTED", "events", False)
    await scene.run()
    assert scene.told() == ("STARTED", "events", True)


async def test_a_task_that_finishes_while_workers_are_asked_is_finished() -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.let_have(W1)
    scene.meanwhile = lambda: scene.stored.update(a=done())
    await scene.run()
    assert scene.told() == ("SUCCESS", "result backend", False)


async def test_a_task_that_is_evicted_meanwhile_is_nothing() -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.state.max_tasks = 1
    scene.meanwhile = lambda: scene.state.apply([make_event("sent", "b")])
    scene.let_have(W1)
    await scene.run()
    assert scene.state.reconciled.orphaned_total == 0


async def test_an_id_that_no_result_can_have_and_a_backend_that_is_away() -> None:
    scene = Scene(*started("a/b", "c"))
    scene.age(AFTER + 5, "a/b", "c")
    scene.let_have(W1)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in ("a/b", "c")] == [False, True]
    scene.age(AFTER + 5, "c")
    scene.away = Unavailable("The result backend", "no answer")
    await scene.run()
    scene.away = ValueError("odd")
    with pytest.raises(ValueError, match="odd"):
        await scene.run()


async def test_many_tasks_take_several_passes_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(module, "READ_TOGETHER", 3)
    monkeypatch.setattr(module, "_SLICE", 0.0)
    ids = [f"t{number}" for number in range(10)]
    scene = Scene(*started(*ids))
    scene.age(AFTER + 5, *ids)
    scene.let_have(W1, *ids)
    assert [await scene.reconciler.reconcile() for _ in range(3)] == [True, True, False]
    assert sorted(scene.read) == sorted(ids)
    assert len(scene.asked) == 1  # what they said is good for a while


async def test_a_round_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUND", 20)
    ids = [f"t{number}" for number in range(200)]
    scene = Scene(*started(*ids))
    scene.age(AFTER + 5, *ids)
    scene.let_have(W1, *ids)
    await scene.run()
    assert len(scene.read) < 100
    for _ in range(1000):
        await scene.run()
        if set(scene.read) == set(ids):
            return
    raise AssertionError("some never have their turn")


async def test_nothing_is_judged_while_the_broker_is_away_or_has_just_come() -> None:
    scene = Scene(*started())
    scene.age(AFTER + 5, "a")
    scene.broker.connected = False
    await scene.run()
    scene.broker.connected = True
    await scene.run()
    assert scene.read == []
    assert scene.reconciler._connected_at is not None
    scene.reconciler._connected_at -= 10
    await scene.run()
    assert scene.read == ["a"]


async def test_it_runs_in_the_background(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "PASS_EVERY", 0.001)
    monkeypatch.setattr(module, "ROUND_BOUNDS", (0.001, 0.002))
    scene = Scene(*started(), after=0.01)
    failures = [RuntimeError("odd"), None]

    async def reconcile() -> bool:
        failure = failures.pop(0) if failures else None
        if failure is not None:
            raise failure
        return await Reconciler.reconcile(scene.reconciler)

    monkeypatch.setattr(scene.reconciler, "reconcile", reconcile)
    scene.let_have(W1)
    scene.age(5, "a")
    with caplog.at_level("INFO"):
        task = asyncio.create_task(scene.reconciler.run())
        await eventually(lambda: scene.told()[2])
        task.cancel()
    assert "could not be reconciled" in caplog.text
    assert "0 had finished, by the result backend, and 1 are orphaned" in caplog.text


async def test_without_a_result_backend_the_workers_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_EVENTS", 0.0)
    received = make_event("received", "c", hostname=W1)
    sent = make_event("sent", "d", queue="mail", hostname="gen1@web")
    scene = Scene(*started("a", "b"), received, sent, make_worker_event("online", W2))
    scene.available = False
    scene.inspector.inspections[W1] = Inspection(queues=("mail",))
    scene.let_have(W1, "b")
    scene.let_have(W2)
    scene.age(AFTER + 5, *"abcd")
    scene.let_wait(mail=1)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abcd"] == [True, False, False, False]
    scene.kill(W1)
    del scene.has[W1]
    scene.let_wait(mail=0)
    await scene.run()
    assert [scene.told(task_id)[2] for task_id in "abcd"] == [True, True, True, False]
    assert scene.read == []


async def test_without_a_result_backend_an_event_in_between_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker says that it has the task no more before the event of its end comes."""
    monkeypatch.setattr(module, "LATE_EVENTS", 0.0)
    scene = Scene(*started())
    scene.available = False
    scene.age(AFTER + 5, "a")
    scene.let_have(W1)
    end = [make_event("succeeded")]
    scene.meanwhile = lambda: asyncio.get_running_loop().call_soon(scene.state.apply, end)
    await scene.run()
    assert scene.told() == ("SUCCESS", "events", False)
    assert scene.state.reconciled.orphaned_total == 0


async def test_it_is_off() -> None:
    scene = Scene(*started(), after=0.0)
    await asyncio.wait_for(scene.reconciler.run(), PATIENCE)


RESULTS = st.recursive(
    st.none() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=60) | st.dictionaries(st.text(max_size=3), inner, max_size=40),
    max_leaves=200,
)


@given(RESULTS, st.sampled_from([1, 7, 500]))
def test_a_result_is_written_as_in_events(value: Any, times: int) -> None:
    for result in (value, [value] * times, {str(number): value for number in range(times)}):
        assert write_result(result) == saferepr(result, maxlen=1024)


def test_of_a_large_result_only_the_beginning_is_written() -> None:
    large: Any = list(range(1_000_000))
    began = time.process_time()
    for result in (large, [large], {"a": large}, dict.fromkeys(large)):
        assert len(write_result(result)) < 1100
    assert time.process_time() - began < 5  # thousands of times as long as it takes


# What workers say they have


async def test_only_who_tells_all_is_heard() -> None:
    class Mailbox:
        async def ask(self, commands: Sequence[Command], awaited: Collection[str], read: Any) -> Replies:
            assert [command.to for command in commands] == [None] * 4
            told = {command.name: read(command.name, []) for command in commands}
            return {W1: told, W2: {"active": told["active"]}}

    mailbox: Any = Mailbox()
    assert await ask_for_holdings(mailbox, [W1, W2]) == {W1: Holding()}


def test_replies_are_read() -> None:
    assert read_holding("active", [{"id": "a"}, {"id": 5}, {}, "x"]) == {"a"}
    assert read_holding("scheduled", [{"request": {"id": "b"}}, {"request": 5}, {}]) == {"b"}
    with pytest.raises(ValueError, match="no answer to reserved"):
        read_holding("reserved", {"error": "no"})


ANYTHING = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["id", "request"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "request", "x"]), inner),
    max_leaves=10,
)


@given(st.sampled_from(["active", "reserved", "scheduled", "registered"]), st.lists(ANYTHING) | ANYTHING)
def test_hostile_replies_raise_nothing_else(method: str, reply: Any) -> None:
    try:
        read = read_holding(method, reply)
    except ValueError:
        return
    assert all(isinstance(item, str) for item in read)


def test_states_are_listed() -> None:
    assert State().states() == set()
    assert make_state(make_event("started"), make_event("sent", "b")).states() == {"PENDING", "STARTED"}
