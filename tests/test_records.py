"""What a task and a worker become by an event; how events merge is held against Celery in test_merging_oracle.py."""

from typing import Any

import msgspec
import pytest
from factories import START, decode_events, make_event, make_worker_event

from taskmon.monitor.completeness import find_gaps
from taskmon.records import (
    READY_STATES,
    TASK_EVENTS,
    TEXT_FIELDS,
    Event,
    PartialEvent,
    Task,
    Worker,
    merge,
    merge_worker,
)


@pytest.mark.parametrize("type", sorted(TASK_EVENTS))
def test_every_kind_of_event_sets_its_state_and_its_time(type: str) -> None:
    state, _, field = TASK_EVENTS[type]
    task = Task("a")
    merge(task, make_event(type, timestamp=START))
    assert (task.state, getattr(task, field), task.timestamp) == (state, START, START)


def test_ready_states() -> None:
    assert {"SUCCESS", "FAILURE", "REVOKED"} == READY_STATES


def test_what_an_event_tells_again_is_kept_as_it_was() -> None:
    task = Task("a")
    telling = {"uuid": "a", "root_id": "a", "hostname": "celery@one", "name": "tasks.add", "queue": "mail"}
    telling |= {"args": "(3, 4, 5, 6, 7, 8, 9)", "kwargs": "{}"}
    kept: list[list[int]] = []
    for event in decode_events([{"type": f"task-{kind}", **telling} for kind in ("received", "started")]):
        merge(task, event)
        texts = (task.worker, task.name, task.args, task.kwargs, task.root_id, task.queue)
        kept.append([id(text) for text in texts])
    assert kept[0] == kept[1]
    assert task.root_id is task.uuid


def test_an_event_that_does_not_know_erases_nothing() -> None:
    task = Task("a")
    full = {field: f"the {field}" for field in TEXT_FIELDS if field in Task.__struct_fields__}
    full |= {"retries": 1, "clock": 9, "runtime": 1.5}
    merge(task, make_event("succeeded", hostname="celery@one", **full))
    for type in ("sent", "received", "started", "progress", "retried", "failed", "succeeded", "rejected", "revoked"):
        merge(task, make_event(type, hostname=None, **dict.fromkeys(full)))
        assert {field: getattr(task, field) for field in full} == full
        assert task.worker == "celery@one"


def test_a_later_run_has_its_own_eta_or_none() -> None:
    task = Task("a")
    merge(task, make_event("received", retries=0, eta="2026-01-31T13:30:00", expires="2026-02-01T00:00:00"))
    merge(task, make_event("started", retries=0))
    assert (task.eta, task.expires) == ("2026-01-31T13:30:00", "2026-02-01T00:00:00")
    merge(task, make_event("received", retries=1, eta="2026-01-31T14:00:00"))
    assert (task.eta, task.expires) == ("2026-01-31T14:00:00", None)
    merge(task, make_event("received", retries=2))
    assert task.eta is None


def test_no_task_is_its_own_parent() -> None:
    task = Task("a")
    merge(task, make_event("received", parent_id="p"))
    merge(task, make_event("sent", parent_id="a", retries=1))
    assert task.parent_id == "p"


@pytest.mark.parametrize(("requeue", "state"), [(False, "REJECTED"), (None, "REJECTED"), (True, "PENDING")])
@pytest.mark.parametrize("before", [(), ("received",), ("received", "started"), ("received", "started", "progress")])
def test_a_rejected_task(before: tuple[str, ...], requeue: bool | None, state: str) -> None:
    task = Task("a")
    for type in (*before, "rejected"):
        merge(task, make_event(type, requeue=requeue if type == "rejected" else None))
    assert (task.state, task.rejected) == (state, task.timestamp)
    merge(task, make_event("received"))
    assert task.state == "RECEIVED"
    merge(task, make_event("started"))
    merge(task, make_event("succeeded"))
    assert task.state == "SUCCESS"


def test_a_rejection_that_comes_once_another_worker_has_the_task() -> None:
    task = Task("a")
    for type in ("received", "started"):
        merge(task, make_event(type, hostname="celery@two"))
    merge(task, make_event("rejected", hostname="celery@one", requeue=True))
    assert (task.state, task.worker) == ("STARTED", "celery@two")


@pytest.mark.parametrize(
    ("end", "requeue", "state"),
    [
        ("succeeded", True, "SUCCESS"),
        ("revoked", True, "REVOKED"),
        ("failed", False, "FAILURE"),  # as Celery 5.7 sends for `raise Reject`
        ("failed", True, "PENDING"),  # a time limit, with acks_on_timeout=False
    ],
)
def test_a_rejection_after_the_end(end: str, requeue: bool, state: str) -> None:
    task = Task("a")
    for event in (make_event("started"), make_event(end), make_event("rejected", requeue=requeue)):
        merge(task, event)
    assert task.state == state


def test_a_failure_that_comes_once_the_message_is_back_in_its_queue() -> None:
    task = Task("a")
    run = ("received", "started")
    for type in run:
        merge(task, make_event(type, hostname="celery@one"))
    merge(task, make_event("rejected", hostname="celery@one", requeue=True))
    merge(task, make_event("failed", hostname="celery@one", exception="TimeLimitExceeded(1)"))
    assert (task.state, task.exception) == ("PENDING", "TimeLimitExceeded(1)")
    for type in run:
        merge(task, make_event(type, hostname="celery@two"))
    assert (task.state, task.worker) == ("STARTED", "celery@two")
    merge(task, make_event("failed", hostname="celery@two"))
    assert (task.state, task.worker) == ("FAILURE", "celery@two")


def test_a_failure_that_comes_once_another_worker_has_what_was_put_back() -> None:
    task = Task("a")
    for type, worker in (("started", "one"), ("received", "two"), ("rejected", "one"), ("failed", "one")):
        merge(task, make_event(type, hostname=f"celery@{worker}", requeue=True if type == "rejected" else None))
    assert (task.state, task.worker) == ("STARTED", "celery@two")


def make_partial(type: str, *omitted: str, **fields: Any) -> PartialEvent:
    return PartialEvent(f"task-{type}", uuid="a", timestamp=START, omitted=omitted, **fields)


def test_what_could_not_be_read_is_listed_until_it_is_said() -> None:
    task = Task("a")
    merge(task, make_partial("received", "name", "retries", "pid", "timestamp", "hostname"))
    assert task.omitted == "name retries timestamp worker"
    assert find_gaps(task) == ["name", "args", "kwargs", "retries", "timestamp", "worker"]
    merge(task, make_event("started", retries=0))
    assert task.omitted == "name timestamp"
    merge(task, make_partial("started", "retries"))
    assert task.omitted == "name retries timestamp"


def test_a_rejection_that_could_not_be_read_leaves_the_state_in_doubt() -> None:
    task = Task("a")
    merge(task, make_partial("rejected", "requeue"))
    assert (task.state, task.omitted) == ("REJECTED", "state")
    task = Task("a")
    merge(task, make_partial("received", "requeue"))  # says nothing there
    assert task.omitted is None
    merge(task, make_event("received"))
    assert task.omitted is None


def test_a_client_is_no_worker() -> None:
    task = Task("a")
    merge(task, make_event("sent", hostname="gen1@client"))
    merge(task, make_event("received", hostname="celery@one"))
    assert (task.client, task.worker) == ("gen1@client", "celery@one")


def test_a_late_beginning_adds_only_what_it_knows_best() -> None:
    task = Task("a")
    merge(task, make_event("succeeded", timestamp=START + 2, result="7", queue="fast"))
    merge(task, make_event("received", timestamp=START, name="tasks.add", args="(3, 4)", result="?", queue="slow"))
    assert (task.state, task.timestamp, task.received) == ("SUCCESS", START + 2, START)
    assert (task.name, task.args, task.result, task.queue) == ("tasks.add", "(3, 4)", "7", "fast")


def test_a_task_that_is_tried_again_after_its_end_may_end_otherwise() -> None:
    task = Task("a")
    for type in ("failed", "retried", "received", "started"):
        merge(task, make_event(type))
        assert task.state == "FAILURE"
    merge(task, make_event("succeeded"))
    assert task.state == "SUCCESS"


@pytest.mark.parametrize(
    ("type", "state"), [("progress", "PROGRESS"), ("two-words", "TWO-WORDS"), ("größe", "GRÖSSE"), ("", "")]
)
def test_a_custom_type_is_a_custom_state(type: str, state: str) -> None:
    task = Task("a")
    merge(task, make_event("started"))
    merge(task, make_event(f"task-{type}"))
    assert task.state == state
    merge(task, make_event("received"))
    assert task.state == state
    merge(task, make_event("succeeded"))
    merge(task, make_event(f"task-{type}"))
    assert task.state == "SUCCESS"


def test_a_custom_type_named_like_a_state_ranks_like_it() -> None:
    task = Task("a")
    merge(task, make_event("progress"))
    merge(task, make_event("task-pending"))
    assert task.state == "PROGRESS"
    merge(task, make_event("task-success"))
    merge(task, make_event("failed"))
    assert task.state == "SUCCESS"


def test_a_worker_keeps_what_it_says() -> None:
    worker = Worker("celery@one")
    fields = {"pid": 7, "clock": 3, "active": 2, "processed": 9, "loadavg": [1.0, 0.5, 0.25]}
    texts = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}
    merge_worker(worker, make_worker_event("heartbeat", timestamp=START, freq=5.0, **fields, **texts))
    merge_worker(worker, make_worker_event("heartbeat", timestamp=START + 5, freq=None))
    assert {field: getattr(worker, field) for field in (*fields, *texts)} == {**fields, **texts}
    assert (worker.timestamp, worker.freq) == (START + 5, 5.0)


def test_a_worker_is_alive_while_its_heartbeats_come() -> None:
    worker = Worker("celery@one", seen=START)
    merge_worker(worker, make_worker_event("online", freq=2.0))
    assert worker.alive(START + 3.9)
    assert worker.status(START + 3.9) == "online"
    assert not worker.alive(START + 4)
    assert worker.status(START + 4) == worker.status(START + 59.9) == "stale"
    assert worker.status(START + 60) == "offline"
    assert [worker.status(START - seconds) for seconds in (3.9, 4, 60)] == ["online", "stale", "offline"]
    merge_worker(worker, make_worker_event("offline"))
    assert not worker.alive(START)
    assert worker.status(START) == "offline"
    merge_worker(worker, make_worker_event("heartbeat"))
    assert worker.alive(START)


@pytest.mark.parametrize("struct", [Event, Task, Worker])
def test_the_garbage_collector_never_walks_them(struct: type[msgspec.Struct]) -> None:
    assert struct.__struct_config__.gc is False


def test_text_fields_are_all_that_hold_free_text() -> None:
    hints = {field.name: field.type for field in msgspec.structs.fields(Event)}
    free = {name for name, hint in hints.items() if str in getattr(hint, "__args__", ())}
    free -= {"type"}  # whose length is bounded
    assert free == set(TEXT_FIELDS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"type": 7},
        {"type": None},
        {"uuid": ""},
        {"uuid": "x" * 1025},
        {"uuid": 7},
        {"timestamp": -1},
        {"timestamp": 1e300},
        {"timestamp": "now"},
        {"clock": 2**63},
        {"clock": 1.5},
        {"retries": "1"},
        {"runtime": 1e300},
        {"name": 7},
        {"args": [1, 2]},
        {"loadavg": 1.0},
        {"loadavg": ["x"]},
    ],
    ids=str,
)
def test_wrong_types_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_events([{"type": "task-sent", "uuid": "a"} | wrong])
