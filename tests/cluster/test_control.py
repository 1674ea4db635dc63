"""Control: what each command tells the workers, and what becomes of what they reply."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from destinations import anywhere
from patience import PATIENCE
from remote import answering, fine, refusing, saying
from serving import make_app
from waiting import eventually

from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.control import Control
from taskmon.cluster.mailbox import Mailbox
from taskmon.errors import CommandRefused, UnknownTaskName, WorkerTimeout

W1, W2 = "celery@w1", "celery@w2"


@pytest.fixture
def app(memory_broker: str) -> Celery:
    return make_app(memory_broker)


@pytest.fixture
def make(app: Celery) -> Iterator[Callable[..., Control]]:
    lane = BlockingPool("The broker", threads=2, waiting=2)
    yield lambda timeout=PATIENCE: Control(Mailbox(app, lane, timeout), anywhere(app, "q"))
    lane.close()


ORDERS: dict[str, tuple[Callable[[Control], Awaitable[Any]], dict[str, Any]]] = {
    "pool_restart": (lambda control: control.pool_restart(W1), {"reload": False}),
    "pool_grow": (lambda control: control.pool_grow(W1, 2), {"n": 2}),
    "pool_shrink": (lambda control: control.pool_shrink(W1, 3), {"n": 3}),
    "autoscale": (lambda control: control.autoscale(W1, 1, 5), {"min": 1, "max": 5}),
    "add_consumer": (lambda control: control.add_consumer(W1, "q"), {"queue": "q"}),
    "cancel_consumer": (lambda control: control.cancel_consumer(W1, "q"), {"queue": "q"}),
    "time_limit": (
        lambda control: control.time_limit("t", 1.5, 0, W1),
        {"soft": 1.5, "hard": None, "task_name": "t"},
    ),
    "rate_limit": (lambda control: control.rate_limit("t", "10/m", W1), {"rate_limit": "10/m", "task_name": "t"}),
}
EVERY = pytest.mark.parametrize("name", ORDERS)


@EVERY
async def test_an_order_reaches_its_worker(app: Celery, make: Callable[..., Control], name: str) -> None:
    order, arguments = ORDERS[name]
    with answering(app, W1, **{name: fine("as you say")}) as remote, answering(app, W2, **{name: fine()}) as other:
        assert await order(make()) == "as you say"
    assert remote.heard == [(name, arguments)]
    assert not other.heard


@EVERY
async def test_a_refusal_says_why(app: Celery, make: Callable[..., Control], name: str) -> None:
    with answering(app, W1, **{name: refusing("ValueError('not enabled')")}), pytest.raises(CommandRefused) as caught:
        await ORDERS[name][0](make())
    assert str(caught.value) == "celery@w1 refused: ValueError('not enabled')"


@EVERY
async def test_silence(app: Celery, make: Callable[..., Control], name: str) -> None:
    with answering(app, W1), pytest.raises(WorkerTimeout, match=r"celery@w1 did not answer within 0\.1 s"):
        await ORDERS[name][0](make(0.1))


@pytest.mark.parametrize("reply", [None, "ok", [], {}, {"ok": 5}, {"error": None}, {"ok": None, "error": ""}])
async def test_a_reply_that_makes_no_sense_is_no_yes(app: Celery, make: Callable[..., Control], reply: Any) -> None:
    with answering(app, W1, pool_grow=saying(reply)), pytest.raises(CommandRefused, match="makes no sense"):
        await make().pool_grow(W1, 1)


async def test_what_a_worker_says_is_cut_and_masked(app: Celery, make: Callable[..., Control]) -> None:
    error = "redis://:horse@h/0 \ud800" + "x" * 10_000
    with answering(app, W1, pool_grow=refusing(error)), pytest.raises(CommandRefused) as caught:
        await make().pool_grow(W1, 1)
    assert "horse" not in str(caught.value)
    assert len(str(caught.value)) < 600
    str(caught.value).encode()


async def test_revoking_tells_everybody_and_waits_for_nobody(app: Celery, make: Callable[..., Control]) -> None:
    with answering(app, W1) as one, answering(app, W2) as two:
        await make(20.0).revoke(["a", "b"], terminate=True, signal="SIGKILL")
        told = [("revoke", {"task_id": ["a", "b"], "terminate": True, "signal": "SIGKILL"})]
        await eventually(lambda: one.heard == told and two.heard == told)


async def test_many_ids_go_in_several_messages(app: Celery, make: Callable[..., Control]) -> None:
    ids = [str(number) for number in range(2500)]
    with answering(app, W1) as remote:
        await make().revoke(ids)
        await eventually(lambda: len(remote.heard) == 3)
        assert [task_id for _, arguments in remote.heard for task_id in arguments["task_id"]] == ids


async def test_revoking_what_a_worker_has_hears_whether_it_is_there(
    app: Celery, make: Callable[..., Control]
) -> None:
    with answering(app, W1, ping=fine("pong")) as one, answering(app, W2, ping=fine("pong")) as two:
        await make().revoke(["a"], holders=[W1])
        await eventually(lambda: one.count("revoke") == two.count("revoke") == 1)
        assert (one.count("ping"), two.count("ping")) == (1, 0)
    with answering(app, W1) as one:
        with pytest.raises(WorkerTimeout, match="may still happen"):
            await make(0.1).revoke(["a"], holders=[W1])
        await eventually(lambda: one.count("revoke") == 1)


async def test_shutting_down(app: Celery, make: Callable[..., Control]) -> None:
    with answering(app, W1, ping=fine("pong")) as one, answering(app, W2) as two:
        await make().shutdown(W1)
        await eventually(lambda: [name for name, _ in one.heard] == ["ping", "shutdown"])
        assert not two.heard
    with answering(app, W1) as one:
        with pytest.raises(WorkerTimeout):
            await make(0.1).shutdown(W1)
        await eventually(lambda: one.count("shutdown") == 1)


async def test_an_order_to_all(app: Celery, make: Callable[..., Control]) -> None:
    with answering(app, W1, rate_limit=fine("set")) as one, answering(app, W2, rate_limit=fine("set")) as two:
        assert await make().rate_limit("t", "5", awaited=[W1, W2]) == "set"
    assert one.count("rate_limit") == two.count("rate_limit") == 1


async def test_those_that_have_no_such_task_do_not_count(app: Celery, make: Callable[..., Control]) -> None:
    with answering(app, W1, rate_limit=refusing("unknown task")), answering(app, W2, rate_limit=fine("set")):
        assert await make().rate_limit("t", "5", awaited=[W1, W2]) == "set"


async def test_a_task_that_no_worker_has(app: Celery, make: Callable[..., Control]) -> None:
    with (
        answering(app, W1, time_limit=refusing("unknown task")),
        answering(app, W2, time_limit=refusing("unknown task")),
    ):
        with pytest.raises(UnknownTaskName, match="Unknown task name 't'"):
            await make().time_limit("t", 1, 2, awaited=[W1, W2])
        with pytest.raises(UnknownTaskName):
            await make().time_limit("t", 1, 2, W1)


async def test_one_refuses(app: Celery, make: Callable[..., Control]) -> None:
    with (
        answering(app, W1, rate_limit=refusing("no")),
        answering(app, W2, rate_limit=fine("set")),
        pytest.raises(CommandRefused, match="celery@w1 refused: no"),
    ):
        await make().rate_limit("t", "5", awaited=[W1, W2])


async def test_one_is_silent(app: Celery, make: Callable[..., Control]) -> None:
    for other in (fine("set"), refusing("unknown task")):
        with (
            answering(app, W1, rate_limit=other),
            answering(app, W2),
            pytest.raises(WorkerTimeout, match="celery@w2 did not answer"),
        ):
            await make(0.2).rate_limit("t", "5", awaited=[W1, W2])


async def test_nobody_is_there(app: Celery, make: Callable[..., Control]) -> None:
    with pytest.raises(WorkerTimeout, match=r"No worker answered within 0\.1 s"):
        await make(0.1).rate_limit("t", "5")
    names = [f"celery@{number:02}" for number in range(13)]
    with pytest.raises(WorkerTimeout, match="celery@09 and 3 more did not answer"):
        await make(0.1).rate_limit("t", "5", awaited=names)
