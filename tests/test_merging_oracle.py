"""The same events, in any order, make the same task in taskmon as in `celery.events.state`.

What is left out here, and nothing else, is described in docs/flower-differences.md.
"""

import logging
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from celery import states
from celery.events.state import TASK_EVENT_TO_STATE
from celery.events.state import State as CeleryState
from celery.events.state import Task as CeleryTask
from celery.events.state import Worker as CeleryWorker
from factories import START, decode_events
from hypothesis import example, given
from hypothesis import strategies as st

from taskmon.http.serializers import task_body
from taskmon.monitor.state import State

IDS = ["a", "b", "c", "d"]
HOSTNAMES = ["celery@one", "celery@two", "gen1@client"]
LIFE = ["task-sent", "task-received", "task-started", "task-succeeded"]
TYPES = [
    *LIFE,
    *("task-failed", "task-retried", "task-revoked", "task-rejected"),
    *("task-progress", "task-progress", "task-two-words", "task-größe"),
    *("task-success", "task-failure", "task-retry", "task-pending", "task-RECEIVED", "task-Started", "task-"),
    *("worker-online", "worker-heartbeat", "worker-offline", "worker-custom", "custom", "custom-event"),
]

#: Times repeat, so that events tie.
TIMES = st.sampled_from([START, START + 1, START + 1.5, START + 2, START + 3, START + 1000])
TEXTS = st.sampled_from(["()", "{}", "", "some text", "ünïcödé", "x" * 40])

#: Every field of an Event that Celery keeps: any of them may come on any event, also as null.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["tasks.add", "tasks.mul", ""]),
    "args": TEXTS,
    "kwargs": TEXTS,
    "retries": st.integers(0, 3),
    "eta": st.sampled_from(["2026-01-31T13:30:00+00:00", "2026-02-01T00:00:00"]),
    "expires": st.sampled_from(["2026-01-31T13:30:00+00:00"]),
    "queue": st.sampled_from(["celery", "slow"]),
    "exchange": TEXTS,
    "routing_key": TEXTS,
    "result": TEXTS,
    "runtime": st.sampled_from([0.0, 0.25, 1e-9, 12345.678]),
    "exception": TEXTS,
    "traceback": TEXTS,
    "pid": st.integers(1, 3),
    "freq": st.sampled_from([1.0, 2.0]),
    "active": st.integers(0, 3),
    "processed": st.integers(0, 3),
    "loadavg": st.sampled_from([[0.5, 0.25, 0.125]]),
    "sw_ident": TEXTS,
    "sw_ver": TEXTS,
    "sw_sys": TEXTS,
    "requeue": st.booleans(),
    "something_new": TEXTS,
}
PARENTS = {"root_id": st.sampled_from([*IDS, "elsewhere"]), "parent_id": st.sampled_from([*IDS, "elsewhere"])}


def make_dict(type: str, uuid: str = "a", at: float = START, **fields: Any) -> dict[str, Any]:
    """Make an event with all that Celery's dispatcher and receiver put into every one."""
    event = {"type": type, "uuid": uuid, "timestamp": at, "local_received": at + 0.1, "hostname": HOSTNAMES[0]}
    return event | {"utcoffset": -1, "pid": 7, "clock": 1} | fields


def _optional(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={key: st.none() | values for key, values in fields.items()})


def _any_dict(
    type: str, uuid: str, at: float, hostname: str, clock: int | None, more: dict[str, Any]
) -> dict[str, Any]:
    return make_dict(type, uuid, at, hostname=hostname, clock=clock, **more)


def _events(fields: dict[str, st.SearchStrategy[Any]], types: list[str] = TYPES) -> st.SearchStrategy[dict[str, Any]]:
    """Make any event of a few tasks and workers."""
    return st.builds(
        _any_dict,
        st.sampled_from(types),
        st.sampled_from(IDS),
        TIMES,
        st.sampled_from(HOSTNAMES),
        st.none() | st.integers(0, 5),
        _optional(fields),
    )


@st.composite
def shuffled(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]]) -> list[list[dict[str, Any]]]:
    """Draw events, shuffle and repeat them, and cut them into batches."""
    events = draw(st.lists(_events(fields), min_size=1, max_size=10))
    if draw(st.booleans()):  # beginnings that are seen, in the order of a healthy task
        events += [draw(_events(fields, [type])) | {"uuid": "a"} for type in LIFE]
    again = draw(st.lists(st.integers(0, len(events) - 1), max_size=8))
    order = draw(st.permutations([*range(len(events)), *again]))
    events = [events[index] for index in (order if draw(st.booleans()) else sorted(order))]
    cuts = sorted(draw(st.sets(st.integers(0, len(events)), max_size=4)) | {0, len(events)})
    return [events[start:end] for start, end in pairwise(cuts)]


def _celery_body(task: CeleryTask) -> dict[str, Any]:
    """Give what Celery knows of a task, in the shape of taskmon's task object."""
    body = task.as_dict()
    body["worker"] = body["worker"] and body["worker"].hostname
    # Celery goes on calling a task the child of every parent it ever named: only the present one counts here.
    body["children"] = {child.uuid for child in task.children if child.parent_id == task.uuid}
    return body | {"task-id": task.uuid, "queue": vars(task).get("queue")}


def _taskmon_body(state: State, task_id: str) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(task_body(state.get(task_id), state.children(task_id)))
    assert len(set(body["children"])) == len(body["children"])
    for field in ("incomplete", "orphaned", "retried_as", "retry_of", "source"):  # taskmon's own
        del body[field]
    return body | {"children": set(body["children"])}


def _tell_celery(celery: CeleryState, event: dict[str, Any]) -> None:
    """Put an event to Celery, but for what taskmon takes otherwise.

    What is null is as if it had not come, and so is a parent that is the task itself. A later run has an `eta` and
    `expires` of its own, or none. A retry of a finished task is as if it told of a beginning, not of a retry.
    Whatever comes late leaves a finished task to the worker that finished it. A task that its worker rejects is
    rejected, and does not fail once its message is put back.
    """
    event = {key: value for key, value in event.items() if value is not None or key == "hostname"}
    if event.get("parent_id") == event["uuid"]:
        del event["parent_id"]
    if not event["type"].startswith("task-"):
        celery.event(event)
        return
    task = celery.tasks.data.get(event["uuid"])
    known = task and vars(task).get("retries")
    if known is not None and event.get("retries", 0) > known and event["type"] in ("task-sent", "task-received"):
        event = {"eta": None, "expires": None} | event
    event.setdefault("clock", 0 if task is None else task.clock)
    before, worker = (task.state, task.worker) if task is not None else (None, None)
    if task is None:
        celery.event(event)
    else:
        _tell_of_known_task(celery, task, event)
    if event["type"] == "task-rejected":
        _reject(celery.tasks.data[event["uuid"]], event, before, worker)
    elif event["type"] == "task-failed" and task is not None and task.rejected is not None:
        _fail(task, event, before, worker)


def _tell_of_known_task(celery: CeleryState, task: CeleryTask, event: dict[str, Any]) -> None:
    kind = event["type"].removeprefix("task-")
    state = TASK_EVENT_TO_STATE.get(kind, kind.upper())
    late = task.state in states.READY_STATES and states.precedence(state) > states.precedence(task.state)
    worker = task.worker
    if late and state == states.RETRY:
        received = task.received
        celery.event(event | {"type": "task-received"})
        task.received = received
        if event["type"] == "task-retried":
            task.retried = event["timestamp"]
    else:
        celery.event(event)
    if late:
        task.worker = worker


def _reject(task: CeleryTask, event: dict[str, Any], before: str | None, worker: CeleryWorker | None) -> None:
    """Reject a task that was under way at that worker, or reached a time limit there; with `requeue` it waits."""
    is_behind = states.precedence(states.REJECTED) > states.precedence(states.PENDING if before is None else before)
    if is_behind and before != states.RETRY:
        if worker is not None and event["hostname"] != worker.hostname:
            task.worker = worker
        elif before not in states.READY_STATES or (before == states.FAILURE and event.get("requeue")):
            task.state = states.REJECTED
    if event.get("requeue") and task.state == states.REJECTED:
        task.state = states.PENDING


def _fail(task: CeleryTask, event: dict[str, Any], before: str | None, worker: CeleryWorker | None) -> None:
    """Leave a task its state where its message has been put back before."""
    former = None if worker is None else worker.hostname
    if before == states.PENDING and event["hostname"] == former:
        task.state = before
    elif before in (states.RECEIVED, states.STARTED) and worker is not None and event["hostname"] != former:
        task.state, task.worker = before, worker


def compare(batches: list[list[dict[str, Any]]]) -> tuple[State, CeleryState]:
    """Put the same events to both and compare all tasks after every batch."""
    celery, taskmon = CeleryState(), State()
    for batch in batches:
        for event in batch:
            _tell_celery(celery, dict(event))  # Celery writes into it
        taskmon.apply(decode_events(batch))
        assert taskmon.failed_total == 0
        assert len(taskmon) == len(celery.tasks)
        for task_id, task in celery.tasks.data.items():  # reading anything but `data` changes it
            assert _taskmon_body(taskmon, task_id) == _celery_body(task)
    return taskmon, celery


@pytest.fixture(autouse=True)
def _no_drift_warnings() -> Any:
    """Celery logs that clocks drift apart; they do."""
    logger = logging.getLogger("celery.events.state")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@given(shuffled(FIELDS | PARENTS))
@example([[make_dict("task-started"), make_dict("task-received", args="()", queue="q", result="late")]])
@example([[make_dict("task-progress"), make_dict("task-success")]])  # custom, but with a state that Celery ranks
@example([[make_dict("task-succeeded"), make_dict("task-retried"), make_dict("task-received", clock=9)]])
@example([[make_dict("task-failed", at=START + 2), make_dict("task-retried", exception="first", result="late")]])
@example([[make_dict("task-revoked", at=START + 2), make_dict("task-retry", args="()"), make_dict("task-sent")]])
def test_all_fields(batches: list[list[dict[str, Any]]]) -> None:
    compare(batches)


@given(shuffled(FIELDS), st.fixed_dictionaries(dict.fromkeys(IDS, PARENTS["parent_id"])))
def test_children_of_parents_that_never_change(batches: list[list[dict[str, Any]]], parents: dict[str, str]) -> None:
    for batch in batches:
        for event in batch:
            event["parent_id"] = parents[event["uuid"]]
            if event["parent_id"] == event["uuid"]:
                del event["parent_id"]
    taskmon, celery = compare(batches)
    for task_id, task in celery.tasks.data.items():
        assert set(taskmon.children(task_id)) == {child.uuid for child in task.children}


@given(st.permutations([make_dict(type, at=START + at, clock=at) for at, type in enumerate(LIFE)]))
def test_any_order_of_a_life_ends_in_success(events: list[dict[str, Any]]) -> None:
    taskmon, _ = compare([events])
    task = taskmon.get("a")
    assert task.state == "SUCCESS"
    assert (task.sent, task.received, task.started, task.succeeded) == tuple(START + at for at in range(4))


@given(shuffled(FIELDS).filter(lambda batches: all(e["type"] != "worker-offline" for b in batches for e in b)))
def test_workers(batches: list[list[dict[str, Any]]]) -> None:
    taskmon, celery = compare(batches)
    assert set(taskmon.workers) == set(celery.workers)
    for hostname, theirs in celery.workers.data.items():
        ours = taskmon.workers[hostname]
        for field in ("hostname", "pid", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"):
            assert getattr(ours, field) == getattr(theirs, field), field


# Where taskmon differs on purpose


@pytest.mark.parametrize("late", ["task-received", "task-started", "task-retried", "task-progress", "task-revoked"])
def test_a_finished_task_stays_with_the_worker_that_finished_it(late: str) -> None:
    end = make_dict("task-succeeded", at=START + 2, hostname=HOSTNAMES[0])
    taskmon, _ = compare([[end, make_dict(late, hostname=HOSTNAMES[1])]])
    assert taskmon.get("a").worker == HOSTNAMES[0]
    compare([[end, make_dict(late, at=START + 3, hostname=HOSTNAMES[1])]])


@pytest.mark.parametrize("retried", [START - 3600, START + 1, START + 3, START + 3600])
def test_a_retry_leaves_a_finished_task_finished(retried: float) -> None:
    late = [make_dict("task-retried", at=retried, exception="ValueError()"), make_dict("task-sent", at=START)]
    celery, taskmon = CeleryState(), State()
    for event in [make_dict("task-succeeded", at=START + 2, result="7"), *late]:
        celery.event(dict(event))
        taskmon.apply(decode_events([event]))
    assert celery.tasks.data["a"].state == "PENDING"
    task = taskmon.get("a")
    assert (task.state, task.timestamp, task.result, task.exception) == ("SUCCESS", START, "7", None)
    assert (task.retried, task.sent) == (retried, START)


def test_a_child_that_changes_its_parent_leaves_the_old_one() -> None:
    parents = [make_dict("task-sent", "b"), make_dict("task-sent", "c")]
    moves = [make_dict("task-sent", "a", parent_id="b"), make_dict("task-sent", "a", parent_id="c")]
    taskmon, celery = compare([parents, moves])
    assert [child.uuid for child in celery.tasks.data["b"].children] == ["a"]
    assert taskmon.children("b") == []
    assert taskmon.children("c") == ["a"]


def test_only_fields_of_events_are_taken() -> None:
    event = make_dict("task-progress", received=1.0, client="me")
    celery, taskmon = CeleryState(), State()
    celery.event(dict(event))
    taskmon.apply(decode_events([event]))
    theirs, ours = celery.tasks.data["a"], taskmon.get("a")
    assert (theirs.received, theirs.client) == (1.0, "me")
    assert (ours.received, ours.client) == (None, None)


def test_an_event_without_a_time_gets_the_present_one() -> None:
    event = make_dict("task-received", at=START)
    taskmon = State()
    del event["timestamp"]
    with pytest.raises(KeyError):
        CeleryState().event(dict(event))
    taskmon.apply(decode_events([event, make_dict("task-started") | {"timestamp": None}]))
    task = taskmon.get("a")
    assert task.received is not None
    assert task.received > START
    assert task.started is not None
    assert task.timestamp == task.started


def test_an_event_without_a_hostname_names_no_worker() -> None:
    event = make_dict("task-received", hostname=None)
    celery, taskmon = CeleryState(), State()
    celery.event(dict(event))
    taskmon.apply(decode_events([event]))
    assert list(celery.workers) == [None]
    assert taskmon.workers == {}
    assert taskmon.get("a").worker is None


def test_a_type_without_a_hyphen_is_no_task_event() -> None:
    celery, taskmon = CeleryState(), State()
    celery.event(make_dict("task"))
    taskmon.apply(decode_events([make_dict("task")]))
    assert celery.tasks.data["a"].state == ""
    assert len(taskmon) == 0
