"""Tasks settled from a result backend, or orphaned: what that changes, and what an event takes back."""

from typing import Any

import pytest
from factories import (
    START,
    count_prefetched,
    find_ids,
    held_tasks,
    make_event,
    make_state,
    make_worker_event,
    small_blocks,
    tidy_up,
)
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import to_builtins

from taskmon.http.serializers import task_body
from taskmon.monitor.state import RECONCILED, Change, State
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.outcomes import FINISHED, ORPHANED, Outcome
from taskmon.records import READY_STATES, Event

DONE = Outcome("SUCCESS", START + 50, result="7")


def begun(**bounds: int) -> State:
    """Make a State with one task that has begun to run."""
    return make_state(
        make_worker_event("online"),
        make_event("received", timestamp=START, name="tasks.add"),
        make_event("started", timestamp=START + 1),
        **bounds,
    )


def body(state: State) -> dict[str, Any]:
    told: dict[str, Any] = to_builtins(task_body(state.get("a"), []))
    return told


# Settling


def test_a_task_is_finished_as_the_result_backend_says() -> None:
    state = begun()
    assert (body(state)["source"], body(state)["orphaned"]) == ("events", False)
    state.reconciled.resolve("a", DONE)
    told = body(state)
    assert (told["state"], told["result"], told["succeeded"], told["timestamp"]) == (
        "SUCCESS",
        "7",
        *[START + 50] * 2,
    )
    assert (told["source"], told["orphaned"], told["worker"]) == ("result backend", False, "celery@one")
    assert find_ids(state, state="SUCCESS", sort_by="succeeded") == ["a"]
    assert find_ids(state, state="STARTED") == []
    assert state.states() == {"SUCCESS"}


@pytest.mark.parametrize("finished", [None, START + 50])
@pytest.mark.parametrize("end", ["FAILURE", "REVOKED"])
def test_how_else_a_task_ends(end: str, finished: float | None) -> None:
    state = begun()
    state.reconciled.resolve("a", Outcome(end, finished, exception="E()", traceback="at"))
    told = body(state)
    assert (told["state"], told["exception"], told["traceback"], told["result"]) == (end, "E()", "at", None)
    assert told[FINISHED[end]] == finished
    assert told["timestamp"] == (finished or START + 1)


def test_what_waited_at_a_worker_waits_no_longer() -> None:
    for reconcile in (lambda state: state.reconciled.resolve("a", DONE), lambda state: state.reconciled.orphan("a")):
        state = make_state(make_worker_event("online"), make_event("received", name="tasks.add"))
        assert state.prefetched == {("celery@one", "tasks.add"): 1}
        reconcile(state)
        assert state.prefetched == {}


# What events take back


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (make_event("succeeded", timestamp=START + 49, result="8", runtime=3.0), ("SUCCESS", "events", "8")),
        (make_event("failed", timestamp=START + 49, exception="E()"), ("FAILURE", "events", None)),
        (make_event("revoked", timestamp=START + 49), ("REVOKED", "events", None)),
        (make_event("started", timestamp=START + 60), ("STARTED", "events", None)),
        (make_event("retried", timestamp=START + 60), ("SUCCESS", "result backend", "7")),
        (make_event("progress", timestamp=START + 60), ("PROGRESS", "events", None)),
        (make_event("success", timestamp=START + 2), ("SUCCESS", "events", None)),
        (make_event("started", timestamp=START + 2), ("SUCCESS", "result backend", "7")),
        (make_event("received", timestamp=START + 2), ("SUCCESS", "result backend", "7")),
        (make_event("retried", timestamp=START + 2), ("SUCCESS", "result backend", "7")),
        (make_event("progress", timestamp=START + 2), ("SUCCESS", "result backend", "7")),
        (make_event("sent", timestamp=START + 4000), ("SUCCESS", "result backend", "7")),
    ],
)
def test_a_late_event_wins_unless_it_only_tells_of_earlier(event: Event, expected: tuple[str, str, str]) -> None:
    state = begun()
    state.reconciled.resolve("a", DONE)
    state.apply([event])
    told = body(state)
    assert (told["state"], told["source"], told["result"]) == expected
    assert told["succeeded"] == (
        (event.timestamp if event.type == "task-succeeded" else None)
        or (None if told["source"] == "events" else START + 50)
    )
    assert find_ids(state, state=told["state"]) == ["a"]
    assert find_ids(state, sort_by="succeeded") == ["a"]
    assert state.failed_total == 0


@pytest.mark.parametrize("finished", [None, START + 50])
def test_what_would_take_back_the_state_is_no_longer_from_the_result_backend(finished: float | None) -> None:
    state = begun()
    state.reconciled.resolve("a", Outcome("REVOKED", finished))
    state.apply([make_event("progress", timestamp=START)])
    assert (body(state)["state"], body(state)["source"]) == ("PROGRESS", "events")
    state.reconciled.resolve("a", Outcome("FAILURE"))
    state.apply([make_event("retried", timestamp=START)])
    state.apply([make_event("received", timestamp=START + 99)])
    assert (body(state)["state"], body(state)["source"]) == ("FAILURE", "result backend")


def test_any_event_ends_being_orphaned() -> None:
    state = begun()
    state.reconciled.orphan("a")
    state.reconciled.orphan("a")
    told = body(state)
    assert (told["state"], told["orphaned"], told["source"]) == ("STARTED", True, "events")
    assert state.reconciled.orphaned == 1
    state.apply([make_event("sent", timestamp=START)])
    assert body(state)["orphaned"] is False
    assert state.reconciled.orphaned == 0


def test_a_task_that_somebody_has_is_orphaned_no_longer() -> None:
    state = begun()
    state.reconciled.adopt("a")
    state.reconciled.orphan("a")
    state.reconciled.adopt("a")
    assert (body(state)["orphaned"], state.reconciled.orphaned) == (False, 0)
    state.reconciled.orphan("a")
    state.reconciled.resolve("a", DONE)
    assert (body(state)["orphaned"], body(state)["source"], state.reconciled.orphaned) == (False, "result backend", 0)


def test_an_orphaned_task_that_is_evicted_is_counted_no_longer() -> None:
    state = make_state(make_worker_event("online"), make_event("received"), max_tasks=1)
    state.reconciled.orphan("a")
    state.apply([make_event("sent", "b")])
    assert (state.reconciled.orphaned, state.prefetched) == (0, {})
    assert find_ids(state, orphaned=True) == []


# Finding and telling


def test_orphaned_tasks_are_found_among_many() -> None:
    with small_blocks():
        state = make_state(*(make_event("started", f"t{number}", timestamp=START + number) for number in range(99)))
        for number in (70, 5, 30, 8):
            state.reconciled.orphan(f"t{number}")
        assert find_ids(state, orphaned=True) == ["t70", "t30", "t8", "t5"]
        assert find_ids(state, orphaned=True, sort_by="timestamp", limit=2, offset=1) == ["t8", "t30"]
        assert len(find_ids(state, orphaned=True, sort_by="received", worker="celery@one")) == 4
        assert len(find_ids(state, orphaned=False)) == 95
        state.apply([make_event("succeeded", "t30", timestamp=START + 30)])
        tidy_up(state)
        assert find_ids(state, orphaned=True) == ["t70", "t8", "t5"]
        assert len(state._indexes.orphaned) == 3


def test_subscribers_are_told_and_those_of_events_are_not() -> None:
    state = begun()
    told: list[Change] = []
    of_events: list[Change] = []
    state.subscribe(told.extend)
    stop = state.subscribe(of_events.extend, events_only=True)
    state.reconciled.orphan("a")
    state.reconciled.adopt("a")
    state.reconciled.resolve("a", DONE)
    assert [(event.type, event.uuid, task) for event, task in told] == [(RECONCILED, "a", state.get("a"))] * 3
    assert of_events == []
    state.apply([make_event("started")])
    assert len(of_events) == 1
    stop()
    state.apply([make_event("started")])
    assert len(of_events) == 1


# Whatever happens in whatever order

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "odd"])
        | st.sampled_from(["SETTLE", "ORPHAN", "ADOPT"]),
        st.sampled_from("abc"),
        st.sampled_from([START, START + 10, START + 60]),
        st.sampled_from(["SUCCESS", "FAILURE", "REVOKED"]),
        st.sampled_from([None, START + 5, START + 50]),
    ),
    max_size=25,
)


@given(STEPS)
@example(
    [("sent", "a", START, "SUCCESS", None), ("SETTLE", "a", START, "REVOKED", None), ("odd", "a", START, "", None)]
)
def test_indexes_and_counts_stay_right(steps: list[tuple[str, str, float, str, float | None]]) -> None:
    with small_blocks():
        state = make_state(make_worker_event("online"), max_tasks=2)
        for step, uuid, at, end, finished in steps:
            if step.islower():
                state.apply([make_event(step, uuid, timestamp=at)])
            elif uuid in state._tasks.unfinished:
                if step == "SETTLE":
                    state.reconciled.resolve(uuid, Outcome(end, finished))
                else:
                    (state.reconciled.orphan if step == "ORPHAN" else state.reconciled.adopt)(uuid)
            check(state)
        tidy_up(state)
        check(state)


def check(state: State) -> None:
    assert state.failed_total == 0
    tasks = {task.uuid: task for task in held_tasks(state)}
    orphaned = {uuid for uuid, task in tasks.items() if task.reconciled == ORPHANED}
    assert state.reconciled.orphaned == len(orphaned)
    assert set(find_ids(state, orphaned=True)) == orphaned
    for uuid, task in tasks.items():
        assert (uuid in state._tasks.finished) == (task.state in READY_STATES)
        assert not (task.state in READY_STATES and task.reconciled == ORPHANED)
        assert not (task.state not in READY_STATES and task.reconciled == "result backend")
        assert uuid in find_ids(state, state=task.state)
    for key in SORT_KEYS:
        assert sorted(find_ids(state, sort_by=key)) == sorted(tasks), key
    waiting = count_prefetched(state)
    for uuid in orphaned:
        task = tasks[uuid]
        if task.state == "RECEIVED" and task.worker in state.workers:
            waiting[task.worker, task.name or ""] -= 1
    assert state.prefetched == {key: count for key, count in waiting.items() if count}
