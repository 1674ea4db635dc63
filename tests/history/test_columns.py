"""Two rows of one task become one, whichever came first: held against State, which saw everything in order."""

from copy import copy
from functools import reduce
from math import inf, nan
from pathlib import Path

import msgspec
import pytest
from factories import make_event, make_state
from hypothesis import given
from hypothesis import strategies as st
from stored import assert_same, lives, open_sqlite, plain, read_all_rows, watched, write

from taskmon.history.batches import clean_row
from taskmon.history.columns import AGES, FIELDS, TIMES, finish, merge_tasks, to_row
from taskmon.history.reading import read_children
from taskmon.history.restoring import read_all
from taskmon.history.schema import tasks
from taskmon.monitor.state import State
from taskmon.records import CUT_MARK, Task, Worker


@given(st.data(), lives())
def test_whoever_saw_what_and_wrote_it_when_the_row_is_right(data: st.DataObject, events: list) -> None:  # type: ignore[type-arg]
    written = data.draw(watched(events))
    assert_same(reduce(merge_tasks, written), events)


@given(st.data(), lives())
def test_sqlite_merges_alike_what_different_memories_wrote(data: st.DataObject, events: list) -> None:  # type: ignore[type-arg]
    written = data.draw(watched(events))
    for number, task in enumerate(written):
        task.born = float(number)  # each time the task came into memory anew
    path = data.draw(st.builds(_fresh))
    database = open_sqlite(path)
    try:
        for task in written:
            write(database, [task])
        assert_same(read_all_rows(database)["a"], events)
    finally:
        database.close()


_STATES = (
    "PENDING",
    "RECEIVED",
    "STARTED",
    "SUCCESS",
    "FAILURE",
    "RETRY",
    "REVOKED",
    "REJECTED",
    "PROGRESS",
    "OTHER",
)
_TIME = st.none() | st.sampled_from([1.0, 2.0, 3.0])
_TEXT = st.none() | st.sampled_from(["a", "b"])


def any_task() -> st.SearchStrategy[Task]:
    """Make a task of any values, whether they agree or not."""
    fields = {field: _TEXT for field in FIELDS if tasks.c[field].type.python_type is str}
    fields |= dict.fromkeys((*TIMES, "runtime"), _TIME)
    fixed = {"uuid": st.just("x"), "state": st.sampled_from(_STATES), "timestamp": st.sampled_from([1.0, 2.0, 3.0])}
    more = {"born": st.floats(1, 3), "seen": st.floats(1, 3), "retries": st.none() | st.integers(0, 2)}
    return st.builds(Task, **{**fields, **fixed, **more, "clock": st.none() | st.integers(0, 2)})  # type: ignore[arg-type]


@given(any_task(), any_task())
def test_the_order_of_two_rows_does_not_matter(first: Task, second: Task) -> None:
    merged = merge_tasks(first, second)
    assert merged == merge_tasks(second, first)
    assert merge_tasks(merged, merged) == merged
    assert plain(merge_tasks(merged, first)) == plain(merged)


@given(any_task(), any_task())
def test_sql_and_python_merge_alike(first: Task, second: Task) -> None:
    second.born = first.born + 1  # else it would be the same task in memory, and written over
    database = open_sqlite(_fresh())
    try:
        write(database, [first])
        write(database, [second])
        assert read_all_rows(database)["x"] == merge_tasks(first, second)
    finally:
        database.close()


def test_every_field_of_a_task_has_a_column() -> None:
    assert set(FIELDS) == set(Task.__struct_fields__)
    assert {"id", "cluster", *FIELDS} == set(tasks.c.keys())
    assert set(AGES) <= set(FIELDS)


def test_a_row_is_a_copy() -> None:
    task = Task("a", name="one")
    row = to_row(task)
    task.name = "two"
    assert Task(*row).name == "one"


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_no_database_holds_is_replaced(text: str) -> None:
    cleaned = Task(*clean_row(to_row(Task(text, args=text, born=2.5, retries=1))))
    assert cleaned.uuid == cleaned.args
    assert (cleaned.uuid[0], cleaned.uuid[-1]) == ("a", "b")
    assert cleaned.uuid not in (text, "ab")
    assert (cleaned.born, cleaned.retries, cleaned.name) == (2.5, 1, None)


def test_numbers_that_no_database_holds_are_unknown() -> None:
    odd = Task("a", born=inf, timestamp=nan, retries=2**63, clock=-(2**63) - 1, runtime=-inf)
    cleaned = Task(*clean_row(to_row(odd)))
    assert cleaned == Task("a", born=0.0, clock=None)
    least = Task("a", retries=2**63 - 1, clock=-(2**63))
    assert Task(*clean_row(to_row(least))) == least


def test_a_text_that_is_too_long_for_an_index_is_cut() -> None:
    long = Task("a", name="ü" * 600, args="ü" * 600)
    cleaned = Task(*clean_row(to_row(long), longest=1000))
    assert cleaned.args == long.args
    assert cleaned.name == "ü" * 500 + CUT_MARK
    assert Task(*clean_row(to_row(long))) == long


_directories: list[Path] = []


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path) -> None:
    _directories[:] = [tmp_path]


def _fresh() -> Path:
    """Make an empty directory for one example."""
    directory = _directories[0] / str(len(list(_directories[0].iterdir())))
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    "types",
    [
        ("received", "started", "rejected"),
        ("received", "started", "rejected", "received"),
        ("received", "started", "rejected", "received", "started"),
        ("received", "started", "rejected", "received", "started", "succeeded"),
        ("sent", "received", "retried", "received", "rejected"),
        ("received", "started", "failed", "rejected"),
        ("received", "started", "failed", "rejected", "received"),
        ("received", "started", "rejected", "failed"),
        ("received", "started", "rejected", "failed", "received", "started"),
        ("received", "started", "rejected", "failed", "received", "started", "failed"),
    ],
)
@pytest.mark.parametrize("requeue", [False, True])
def test_a_rejected_task_has_the_same_state_in_the_history(
    types: tuple[str, ...], requeue: bool, tmp_path: Path
) -> None:
    database = open_sqlite(tmp_path)
    state = make_state()
    try:
        for at, type in enumerate(types):
            if state_of(state) == "FAILURE" and type == "received":
                return  # nobody runs it again
            flag = requeue if type == "rejected" else None
            state.apply([make_event(type, timestamp=1000.0 + at, requeue=flag)])
            task = state.get("a")
            write(database, [task])
            settled = copy(task)
            finish(settled)
            assert (settled.state, read_all_rows(database)["a"].state) == (task.state, task.state)
    finally:
        database.close()


def test_a_rejection_does_not_tell_who_has_the_task(tmp_path: Path) -> None:
    first = make_state(
        make_event("started", timestamp=2.0, hostname="celery@1"),
        make_event("rejected", timestamp=5.0, hostname="celery@2"),  # taken for one that came late
    ).get("a")
    second = make_state(
        make_event("received", timestamp=1.0, hostname="celery@1"),
        make_event("retried", timestamp=3.0, hostname="celery@1"),
        make_event("received", timestamp=4.0, hostname="celery@2"),
    ).get("a")
    second.born = first.born + 1
    assert first.worker == "celery@1"
    assert merge_tasks(first, second).worker == "celery@2"
    database = open_sqlite(tmp_path)
    try:
        write(database, [first])
        write(database, [second])
        assert read_all_rows(database)["a"].worker == "celery@2"
    finally:
        database.close()


def state_of(state: State) -> str | None:
    return state.get("a").state if len(state) else None


def test_what_an_earlier_version_stored_is_put_right(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path)
    try:
        worker = Worker("w", seen=1.0, freq=1e15)
        document = msgspec.json.encode(worker).decode()
        write(database, [Task("a", timestamp=1.0, parent_id="a")], workers=[("w", 1.0, document)])
        assert read_children(database, ["a"]) == {}
        restored = read_all(database, 10, "here")
        assert [task.parent_id for task in restored.tasks] == [None]
        assert [worker.freq for worker in restored.workers] == [2.0]
    finally:
        database.close()
