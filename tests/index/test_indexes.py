"""Upkeep: what is stale goes, what is empty goes, and what is kept is bounded by what is held."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from factories import (
    START,
    find_ids,
    held_tasks,
    list_entries,
    list_orderings,
    make_event,
    make_life,
    make_state,
    small_blocks,
    tidy_up,
)
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.index.blocks import BLOCK
from taskmon.monitor.index.indexes import FLUSH_AT, LINGER
from taskmon.monitor.index.ordering import _SAMPLED, Ordering
from taskmon.monitor.index.orders import Known
from taskmon.monitor.query import TaskQuery
from taskmon.monitor.state import State
from taskmon.monitor.task_fields import GROUPED, ORDERED
from taskmon.records import Event

#: A task has one entry by time, one by each facet, and one by each other order, known or missing.
ENTRIES_PER_TASK = 1 + len(GROUPED) + len(ORDERED)

TYPES = ["sent", "received", "started", "succeeded", "failed", "retried", "progress"]


def count_entries(state: State) -> int:
    return sum(map(len, list_orderings(state)))


def count_stale(state: State) -> int:
    """Count the entries that are stale."""
    return sum(len(ordering) - len(ordering.fresh(list_entries(ordering))) for ordering in list_orderings(state))


def count_repeated(ordering: Ordering) -> int:
    """Count the entries that are there more than once."""
    entries = list_entries(ordering)
    return len(entries) - len(set(entries))


def draw_events(random: Random, tasks: int, count: int) -> list[Event]:
    return [
        make_event(
            random.choice(TYPES),
            f"id{random.randrange(tasks)}",
            timestamp=START + random.randrange(50),
            hostname=f"worker{random.randrange(4)}",
            name=f"name{random.randrange(30)}",
            root_id=f"id{random.randrange(tasks)}",
            parent_id=random.choice([None, f"id{random.randrange(tasks)}"]),
            retries=random.randrange(3),
            queue=random.choice([None, "celery"]),
        )
        for _ in range(count)
    ]


@given(st.integers(0, 2**32), st.sampled_from([5, 40, 1000]), st.sampled_from([2, 16]))
def test_tidying_leaves_nothing_stale_and_no_empty_group(seed: int, max_tasks: int, block: int) -> None:
    random = Random(seed)
    with small_blocks(block, flush_at=block, sampled=1):  # every entry is in the sample
        state = State(max_tasks=max_tasks)
        for _ in range(8):
            state.apply(draw_events(random, tasks=60, count=25))
        tidy_up(state)
        assert count_stale(state) == 0
        assert all(count_repeated(kept) <= len(kept.blocks) for kept in list_orderings(state))
        assert all(group for facet in state._indexes.facets.values() for group in facet.groups.values())
        check_groups(state)
        assert all(block.zone_map is not None for block in state._indexes.by_time.blocks)
        assert not state.maintain()


def check_groups(state: State) -> None:
    """Compare the groups of every facet with a count of all tasks."""
    tasks = held_tasks(state)
    for field in GROUPED:
        counted = Counter(getattr(task, field) for task in tasks)
        groups = {
            value: len(set(list_entries(group))) for value, group in state._indexes.facets[field].groups.items()
        }
        if field in ("queue", "root_id", "parent_id"):
            counted.pop(None, None)
        if field == "root_id":  # a task that is its own and nobody else's root may do without
            own = {task.uuid for task in tasks if task.root_id == task.uuid}
            counted = Counter({v: n for v, n in counted.items() if n > 1 or v not in own or v in groups})
        assert groups == counted, field
    assert state.task_names() == {task.name for task in tasks if task.name}


def test_sampling_leaves_a_few_stale_entries_at_most() -> None:
    random = Random(1)
    state = State(max_tasks=5_000)
    for _ in range(60):
        state.apply(draw_events(random, tasks=8_000, count=300))
    tidy_up(state)
    assert count_stale(state) < count_entries(state) * 5 / _SAMPLED


@pytest.mark.parametrize("max_tasks", [100, 2_000])
@pytest.mark.parametrize("at_a_time", [1, 3_000])
def test_memory_is_bounded_however_many_tasks_pass_through(max_tasks: int, at_a_time: int) -> None:
    """No idle moment ever comes in which somebody would call `tidy`."""
    state, most = State(max_tasks=max_tasks), 0
    tasks = [
        make_life(
            f"id{number}", name=f"name{number % 7}", root_id=f"id{number - number % 3}", parent_id=f"id{number}"
        )
        for number in range(9_000)
    ]
    for first in range(0, len(tasks), at_a_time):
        batch = [event for events in zip(*tasks[first : first + at_a_time], strict=True) for event in events]
        for start in range(0, len(batch), 24):
            state.apply(batch[start : start + 24])
        most = max(most, count_entries(state) if first % 500 == 0 else 0)
    assert len(state) == max_tasks
    # A sweep is due when all is twice over.
    assert most < 3 * ENTRIES_PER_TASK * (max_tasks + 1_000)
    assert len(state._indexes.created) <= max_tasks
    tidy_up(state)
    assert count_entries(state) <= 1.2 * ENTRIES_PER_TASK * max_tasks
    assert len(state._indexes.facets["root_id"].groups) <= max_tasks
    assert len(state._indexes.facets["parent_id"].groups) <= max_tasks


def test_tasks_side_by_side_are_indexed_once_each() -> None:
    lives = [make_life(f"id{number}", timestamp=START + number) for number in range(5_000)]
    state = State()
    for events in zip(*lives, strict=True):  # all sent, then all received, and so on
        for start in range(0, len(events), 24):
            state.apply(events[start : start + 24])
    tasks = held_tasks(state)
    assert len(state._indexes.by_time) + len(state._indexes.ended) == len(tasks)
    assert state._indexes.changed.keys() <= state._indexes.ended.keys()
    assert count_entries(state) < (ENTRIES_PER_TASK + 1) * len(tasks)


def test_nobody_looks_for_stale_entries_where_none_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Ordering] = []
    sweep = Ordering.sweep
    monkeypatch.setattr(Ordering, "sweep", lambda self: (swept.append(self), sweep(self))[1])
    state = State(max_tasks=6_000)
    for number in range(6_000):
        state.apply(make_life(f"id{number}", name=f"name{number % 3}", timestamp=START + number))
    assert all(isinstance(ordering, Known) for ordering in swept)
    for number in range(6_000, 12_000):  # each evicts another
        state.apply(make_life(f"id{number}", name=f"name{number % 3}", timestamp=START + number))
    assert any(ordering is state._indexes.by_time for ordering in swept)


def test_unfinished_tasks_wait_until_there_are_many_or_somebody_asks() -> None:
    state = State()
    for number in range(LINGER - 1):
        state.apply([make_event("received", f"id{number}", timestamp=START + number)])
    assert not state._indexes.by_time
    state.apply([make_event("received", "last", timestamp=START)])
    assert len(state._indexes.by_time) == FLUSH_AT
    steps = list(state.find(TaskQuery(sort_by="timestamp", limit=2)))
    assert steps.count(None) > (LINGER - FLUSH_AT) // FLUSH_AT - 2  # others may run in between
    assert [task.uuid for task in steps if task is not None] == ["id0", "last"]
    assert len(state._indexes.by_time) == LINGER
    assert not state._indexes.changed
    assert not state._indexes.created


def test_orderings_that_get_full_together_are_settled_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[Ordering] = []
    sort_recent = Ordering.sort_recent
    monkeypatch.setattr(Ordering, "sort_recent", lambda self: (settled.append(self), sort_recent(self)))
    with small_blocks(8, flush_at=40):
        state = State()
        for number in range(40):
            events = [make_event("succeeded", f"{number}-{name}", name=f"name{name}") for name in range(40)]
            before = len(settled)
            state.apply(events)
            assert len(settled) - before <= 2 + len(state._indexes._due)
        groups = state._indexes.facets["name"].groups.values()
        assert all(group.blocks for group in groups)
        assert max(len(group.recent_ids) for group in groups) < 40


def test_what_a_question_indexes_is_not_paid_for_all_at_once() -> None:
    state = State(max_tasks=2_000)
    looked = 0

    def count(steps: Iterator[int]) -> Iterator[int]:
        nonlocal looked
        for cost in steps:
            looked += cost
            yield cost

    for number in range(4 * LINGER):
        state.apply([make_event("received", f"id{number}", timestamp=START + number)])
    indexes = state._indexes
    while indexes.flush_some():
        pass
    indexes.debt = 100 * BLOCK
    while indexes._full:
        indexes.maintain()
    assert indexes._due
    indexes._sweeping = count(indexes._sweeping)
    debt = indexes.debt
    indexes.maintain()
    assert 0 < looked < 6 * BLOCK  # the last step may be a block that is nearly to be split
    assert indexes.debt < debt
    while indexes.due:
        indexes.maintain()
    assert not indexes._due


def test_an_event_that_comes_again_and_again_takes_no_memory() -> None:
    """It leaves everything as it was, so that no entry of it is ever stale."""
    with small_blocks(8, flush_at=1, sampled=4):
        state = make_state(*[make_event("sent", f"id{number}", timestamp=START) for number in range(20)])
        for _ in range(500):
            state.apply([make_event("sent", "id7", timestamp=START, parent_id="p", runtime=1.0)])
        tidy_up(state)
        assert all(count_repeated(ordering) <= 2 * 8 for ordering in list_orderings(state))


def test_a_flush_of_nothing_but_evicted_tasks() -> None:
    state = State(max_tasks=0)
    state.apply([make_event("sent", "a")])
    assert find_ids(state) == []
    assert state._indexes.created == {}
    assert count_entries(state) == 0


def test_a_group_that_grows_again_while_it_is_swept_is_kept() -> None:
    with small_blocks(4, flush_at=1):
        state = make_state(make_event("sent", "a", name="first"), make_event("sent", "a", name="second"))
        while "first" in state._indexes.facets["name"].groups:
            assert state.maintain() or "first" not in state._indexes.facets["name"].groups
        state.apply([make_event("progress", "a", name="first")])
        assert find_ids(state, name="first") == ["a"]
        assert find_ids(state, name="second") == []


def test_its_own_only_root_needs_no_group() -> None:
    state = make_state(*[make_event("sent", f"id{number}", root_id=f"id{number}") for number in range(5)])
    assert find_ids(state, root_id="id3") == ["id3"]
    assert state._indexes.facets["root_id"].groups == {}


def test_under_load_the_zones_of_older_blocks_are_made_and_nothing_else_is_done() -> None:
    with small_blocks(4, flush_at=4):
        state = State()
        state.apply(
            [make_event("task-received", f"id{number:03}", timestamp=START + number) for number in range(400)]
        )
        blocks = state._indexes.by_time.blocks
        assert len(blocks) > 50
        for _ in blocks:
            state.maintain_under_load()
        assert [block.zone_map is not None for block in blocks] == [True] * (len(blocks) - 16) + [False] * 16
