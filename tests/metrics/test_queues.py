"""Queues: their lengths, as others found them, and the task that waits longest in each."""

from collections.abc import Callable

import pytest
from factories import make_event
from hypothesis import given
from hypothesis import strategies as st
from scene import NOW, FakeState, Scene, task

from taskmon.metrics import Metrics, oldest_waiting
from taskmon.metrics.oldest_waiting import Waiting
from taskmon.metrics.readings import MAX_AGE
from taskmon.monitor.state import State
from taskmon.receiving.intake import IntakeCounts
from taskmon.records import Task

OLDEST = "taskmon_queue_oldest_waiting_seconds"


def test_lengths_and_consumers_are_those_that_were_found_last(scene: Scene) -> None:
    scene.find_queues({"mail": (7, 2), "web": (0, 0), "slow": (3, None)})
    assert scene.family("taskmon_queue_length") == {
        frozenset({"mail"}): 7,
        frozenset({"web"}): 0,
        frozenset({"slow"}): 3,
    }
    assert scene.family("taskmon_queue_consumers") == {frozenset({"mail"}): 2, frozenset({"web"}): 0}


@pytest.mark.parametrize(("age", "told"), [(None, False), (0.0, True), (MAX_AGE, True), (MAX_AGE + 0.1, False)])
def test_lengths_that_are_old_are_not_told(scene: Scene, age: float | None, told: bool) -> None:
    scene.find_queues({"mail": (7, 2)}, age)
    for name in ("taskmon_queue_length", "taskmon_queue_consumers"):
        assert (scene.get(name, queue="mail") is not None) is told


def test_queues_whose_names_look_alike_are_added_up(scene: Scene) -> None:
    scene.find_queues({"a\x00": (1, 1), "a\x01": (2, 1)})
    assert scene.get("taskmon_queue_length", queue="a\ufffd") == 3
    assert scene.get("taskmon_queue_consumers", queue="a\ufffd") == 2


def receive(task: Task) -> None:
    task.state = "RECEIVED"


def send_again(task: Task) -> None:
    task.sent = NOW - 1


@pytest.mark.parametrize(
    ("happens", "age"),
    [(receive, 20.0), (send_again, 20.0), (lambda task: None, 30.0)],
    ids=["received", "again", "-"],
)
def test_the_oldest_task_that_waits(scene: Scene, happens: Callable[[Task], None], age: float) -> None:
    first = scene.send("a", age=30)
    scene.send("b", age=20)
    scene.send("c", age=10)
    scene.send("d", "web", age=5)
    happens(first)
    assert scene.family(OLDEST) == {frozenset({"mail"}): age, frozenset({"web"}): 5}
    scene.now += 1
    assert scene.get(OLDEST, queue="mail") == age + 1


def test_none_waits_and_none_has_waited(scene: Scene) -> None:
    scene.see("task-received", task(queue="web", sent=NOW, state="RECEIVED"))
    scene.send("a", None)
    assert scene.family(OLDEST) == {}
    waiting_task = scene.send("b", age=5)
    assert scene.get(OLDEST, queue="mail") == 5
    waiting_task.state = "STARTED"
    assert scene.get(OLDEST, queue="mail") == 0


def test_a_clock_that_is_ahead_makes_no_age_below_zero(scene: Scene) -> None:
    scene.send("a", age=-30)
    assert scene.get(OLDEST, queue="mail") == 0


def test_a_task_that_was_evicted_waits_no_more(scene: Scene) -> None:
    scene.send("a", age=30)
    scene.send("b", age=20)
    del scene.state["a"]
    assert scene.get(OLDEST, queue="mail") == 20
    scene.state["b"] = task(uuid="b", sent=NOW, state="PENDING")
    assert scene.get(OLDEST, queue="mail") == 0


@pytest.mark.parametrize(
    ("age", "messages", "oldest"), [(1.0, 0, 0.0), (1.0, 3, 30.0), (2 * MAX_AGE, 0, 30.0), (None, 0, 30.0)]
)
def test_none_waits_in_a_queue_that_is_empty(scene: Scene, age: float | None, messages: int, oldest: float) -> None:
    scene.send("a", age=30)
    scene.find_queues({"mail": (messages, 1)}, age)
    assert scene.get(OLDEST, queue="mail") == oldest


def test_with_the_state_itself() -> None:
    state = State(max_tasks=2)
    metrics = Metrics("taskmon", (1.0,), state, Scene().broker, IntakeCounts(), clock=lambda: NOW)
    state.subscribe(metrics.observe)
    sent = [
        make_event("sent", uuid, queue="mail", timestamp=NOW - age) for uuid, age in (("a", 9), ("b", 8), ("c", 7))
    ]
    state.apply(sent)  # evicts the first of them
    assert f'{OLDEST}{{queue="mail"}} 8.0' in metrics.render().decode()
    state.apply([make_event("received", "b")])
    assert f'{OLDEST}{{queue="mail"}} 7.0' in metrics.render().decode()
    state.apply([make_event("retried", "b"), make_event("sent", "b", queue="mail", timestamp=NOW - 5)])
    state.apply([make_event("succeeded", "c")])
    assert f'{OLDEST}{{queue="mail"}} 5.0' in metrics.render().decode()


def test_queues_beyond_the_bound_share_a_line_until_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oldest_waiting, "MAX_LINES", 2)
    tasks = [scene.send(str(number), f"q{number}", age=9 - number) for number in range(4)]
    scene.send("long", "q" * 300, age=1)
    assert {frozenset({"q0"}): 9, frozenset({"q1"}): 8, frozenset({"other"}): 7} == scene.family(OLDEST)
    for waiting_task in tasks:
        waiting_task.state = "RECEIVED"
    assert scene.get(OLDEST, queue="q0") == 0
    scene.send("next", "q9", age=2)
    assert scene.family(OLDEST) == {frozenset({"q9"}): 2, frozenset({"other"}): 1}


def test_no_more_is_kept_than_what_waits_and_as_much_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.metrics.event_counters.SORT_AT", 10)
    scene = Scene()
    kept = scene.metrics._counts.waiting
    scene.send("stuck", age=100)
    tasks: list[Task] = []
    for number in range(2_000):
        tasks.append(scene.send(str(number)))
        if number >= 50:
            tasks[number - 50].state = "RECEIVED"
        assert len(kept.fresh) < 10
    assert len(kept._lines["mail"]) < 3 * 51 + 30
    assert scene.get(OLDEST, queue="mail") == 100


@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "receive", "retry", "evict", "look"]), st.integers(0, 5)), max_size=60
    )
)
def test_the_oldest_is_what_looking_at_every_task_gives(steps: list[tuple[str, int]]) -> None:
    state = FakeState()
    kept = Waiting(state)
    for clock, (step, number) in enumerate(steps):
        uuid, queue = str(number), f"q{number % 2}"
        held = state.get(uuid)
        if step == "send" and (held is None or held.state != "PENDING"):
            held = state.setdefault(uuid, task(uuid=uuid))
            held.sent, held.state, held.queue = float(clock), "PENDING", queue
            kept.note(held)
        elif step == "receive" and held is not None:
            held.state = "RECEIVED"
        elif step == "retry" and held is not None:
            held.state = "RETRY"
        elif step == "evict":
            oldest = min(state.values(), key=lambda task: task.sent or 0.0, default=None)
            if oldest is not None:
                del state[oldest.uuid]
        elif step == "look":
            kept.settle()
        found = {queue: sent for queue, sent in kept.oldest() if sent is not None} if clock % 3 == 0 else None
        if found is not None:
            expected: dict[str, float] = {}
            for held in state.values():
                if held.state == "PENDING" and held.queue is not None and held.sent is not None:
                    expected[held.queue] = min(expected.get(held.queue, held.sent), held.sent)
            assert found == expected
