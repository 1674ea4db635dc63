"""Every task that is held lies on a shelf, once, and not many others do, whatever comes and goes."""

from random import Random

import pytest
from factories import flush, held_tasks, make_event, make_state
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.index import store
from taskmon.monitor.state import State


@given(st.integers(0, 2**32), st.sampled_from([1, 4, 40]), st.sampled_from([2, 8]))
def test_shelves_hold_what_is_held(seed: int, max_tasks: int, segment: int) -> None:
    random = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SEGMENT", segment)
        state = State(max_tasks=max_tasks)
        for _ in range(60):
            kind = random.choice(["sent", "succeeded", "progress"])
            state.apply([make_event(kind, f"id{random.randrange(200)}") for _ in range(random.choice([1, 5]))])
            if random.random() < 0.7:
                flush(state)
            in_segments = [id(task) for segment in state._tasks.segments for task in segment]
            in_segments += [id(task) for task in state._indexes.created.values()]
            assert len(in_segments) == len(set(in_segments))
            assert set(in_segments) >= {id(task) for task in held_tasks(state)}
            assert state._tasks._in_segments == sum(map(len, state._tasks.segments))


def test_evicted_tasks_leave_the_shelves() -> None:
    state = State(max_tasks=3000)
    for number in range(20_000):
        state.apply([make_event("succeeded", str(number))])
    segments = state._tasks.segments
    assert sum(map(len, segments)) < 3000 + 3 * store.SEGMENT
    assert len(segments) < 10


def test_few_new_tasks_at_a_time_share_a_shelf() -> None:
    state = make_state()
    for number in range(50):
        state.apply([make_event("sent", str(number))])
        flush(state)
    assert [len(segment) for segment in state._tasks.segments] == [50]
