"""What a zone picks out of a block: all that may match, in order, and little else."""

from random import Random
from typing import Any

import pytest
from factories import START, find_ids, make_event, make_life, small_blocks, tidy_up
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.index.blocks import Block
from taskmon.monitor.index.bucket_columns import TimeBuckets
from taskmon.monitor.index.store import TaskStore
from taskmon.monitor.index.zone_maps import Asked, Ranges, Values, ZoneMaps
from taskmon.monitor.state import State
from taskmon.monitor.task_fields import ZONE_MAPPED_VALUES
from taskmon.records import Task

BOUND = st.none() | st.integers(-1, 6).map(float)
RANGES = st.dictionaries(st.sampled_from(["received", "started"]), st.tuples(BOUND, BOUND))
VALUES = st.lists(
    st.tuples(st.sampled_from(ZONE_MAPPED_VALUES), st.sampled_from(["a", "b", "none has this"])), max_size=4
)


def make(random: Random, count: int, **fields: Any) -> tuple[Block, TaskStore]:
    """Make a block of tasks, some of them gone, and the store that holds the others."""
    store = TaskStore()
    for number in range(count):
        if random.random() < 0.1:
            continue
        task = store.unfinished[f"t{number:04}"] = Task(f"t{number:04}", timestamp=float(number))
        task.received, task.started = random.choice([None, 1.0, 2.0, 4.0]), random.choice([None, 3.0, 5.0])
        task.state, task.name = random.choice("ab"), random.choice(["a", "b", None])
        task.worker, task.queue = random.choice(["a", None]), random.choice(["b", None])
        for field, value in fields.items():
            setattr(task, field, value(number))
    return Block([float(number) for number in range(count)], [f"t{number:04}" for number in range(count)]), store


def matches(task: Task | None, ranges: Ranges, values: Values) -> bool:
    """Tell what a filter would, without any zone."""
    if task is None:
        return False
    for field, (low, high) in ranges.items():
        time = getattr(task, field)
        if time is None or (low is not None and time < low) or (high is not None and time > high):
            return False
    return all(getattr(task, field) == value for field, value in values)


def ask(ranges: Ranges, values: Values) -> Asked:
    """Ask of tasks what a query with these filters does."""
    return Asked(ranges, values, lambda task: matches(task, ranges, values))


@given(st.integers(0, 2**32), st.integers(1, 60), RANGES, VALUES, st.booleans())
def test_all_that_matches_is_picked_and_nothing_else(
    seed: int, count: int, ranges: Ranges, values: Values, lasting: bool
) -> None:
    random = Random(seed)
    block, store = make(random, count)
    for task_id in random.sample(sorted(store.unfinished), len(store.unfinished) // 2):
        store.finished[task_id] = store.unfinished.pop(task_id)
    zone_maps = ZoneMaps(store)
    picked = zone_maps.within(block, ask(ranges, values), lasting)
    if ranges or values:
        assert picked == [e for e in block.cut() if matches(store.get(e[1]), ranges, values)]
    else:
        assert picked == block.cut()
    assert zone_maps.within(block, ask(ranges, values), lasting) == picked


@given(st.lists(st.none() | st.floats(0, 1e11), min_size=1), BOUND, BOUND)
def test_no_time_within_the_bounds_is_left_out(
    times: list[float | None], low: float | None, high: float | None
) -> None:
    bounds = [*(time for time in times if time is not None), low, high]
    tasks = [Task("", received=time) for time in times]
    for start in bounds:
        for end in bounds:
            bits = TimeBuckets(tasks, "received").select(start, end)
            selected = (bits % 256 ** len(tasks)).to_bytes(len(tasks))
            for task, is_selected in zip(tasks, selected, strict=True):
                assert is_selected or not matches(task, {"received": (start, end)}, [])


def test_a_field_is_looked_at_when_it_is_first_asked_for() -> None:
    block, store = make(Random(1), 50)
    zone_maps = ZoneMaps(store)
    zone_maps.within(block, ask({}, [("state", "a")]))
    assert zone_maps.spent() == 50
    zone_maps.within(block, ask({}, [("state", "b")]))
    assert zone_maps.spent() == 0
    zone_maps.within(block, ask({"started": (1.0, None)}, [("name", "a")]))
    assert zone_maps.spent() == 50
    assert not block.zone_map.complete
    zone_maps.complete(block)
    assert block.zone_map.complete


def test_two_filters_and_a_large_group_go_by_the_zones_of_all_tasks() -> None:
    """They are there as a rule, and those of a group are not."""
    with small_blocks(4, flush_at=4):
        state = State()
        for number in range(200):
            state.apply([make_event("received", f"t{number:03}", timestamp=START + number, name="a")])
        tidy_up(state)
        found = find_ids(state, name="a", received_end=START + 20, limit=3)
        assert found == ["t020", "t019", "t018"]
        assert all(block.zone_map is None for block in state._indexes.facets["name"].groups["a"].blocks)


@pytest.mark.parametrize("bound", ["received_end", "started_end"])
def test_how_late_tasks_end_tells_where_to_begin_before_any_zone_is_made(bound: str) -> None:
    with small_blocks(4, flush_at=4):
        state = State()
        for number in range(400):
            state.apply(make_life(f"t{number:03}", "received", "started", "succeeded", timestamp=START + number))
        assert find_ids(state, **{bound: START + 200}, limit=3) == ["t200", "t199", "t198"]
        assert find_ids(state, started_start=START + 200, sort_by="received", limit=1) == ["t200"]
        assert find_ids(state, received_end=START + 200, sort_by="started", descending=True, limit=1) == ["t200"]
        assert state._indexes.zone_maps.spent() <= 12 * 4
        state.apply(
            make_life("t100", "succeeded", timestamp=START + 1000)
        )  # it took long, and stands far from others
        assert find_ids(state, **{bound: START + 200}, limit=3) == ["t100", "t200", "t199"]


def test_a_zone_is_made_anew_once_many_of_its_tasks_have_finished() -> None:
    block, store = make(Random(1), 1000)
    zone_maps, asked = ZoneMaps(store), ask({}, [("state", "a")])
    zone_maps.within(block, asked, lasting=True)
    assert len(block.zone_map.open) == len(store.unfinished)
    for task_id in list(store.unfinished):
        task = store.unfinished[task_id]
        task.state = "SUCCESS"
        store.place(task, was_finished=False, is_finished=True)
    for _ in range(8):
        assert zone_maps.within(block, asked, lasting=True) == []
    assert block.zone_map.open == []


@pytest.mark.parametrize("names", [254, 255])
def test_of_a_facet_with_very_many_values_nothing_is_remembered(names: int) -> None:
    """Then all entries are picked, and whoever asked looks at the tasks."""
    block, store = make(Random(1), 2000, name=lambda number: f"name{number % names}")
    wanted: Values = [("name", "name7"), ("state", "a")]
    picked = ZoneMaps(store).within(block, ask({}, wanted))
    matching = [e for e in block.cut() if matches(store.get(e[1]), {}, wanted)]
    assert set(matching) <= set(picked)
    values = {task.name for task in store.unfinished.values()} | {None}  # of those that are gone
    assert (block.zone_map.buckets["name"].table is None) == (len(values) > 255)
