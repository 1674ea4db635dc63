"""Every question has the answer that a look at all tasks would give, at the cost of the page."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from random import Random
from typing import Any

import pytest
from factories import (
    START,
    find_ids,
    flush,
    held_tasks,
    make_event,
    make_life,
    make_state,
    small_blocks,
    tidy_up,
)
from histories import (
    HOSTNAMES,
    IDS,
    STATES,
    check,
    draw_event,
    draw_filters_and_order,
    draw_question,
    live,
    reconcile,
)
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.index.blocks import BLOCK, Entry
from taskmon.monitor.index.sources import Source
from taskmon.monitor.query import TaskQuery, make_filter
from taskmon.monitor.state import State
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.records import Event, Task


@given(
    st.randoms(use_true_random=False),
    st.sampled_from([3, 8, 100]),
    st.integers(1, 12),
    st.sampled_from([2, 4, 1000]),
)
def test_any_question_at_any_time(random: Random, max_tasks: int, steps: int, block: int) -> None:
    with small_blocks(block, flush_at=block):
        live(random, State(max_tasks=max_tasks), IDS, steps, questions=2)


@pytest.mark.parametrize("seed", range(30))
def test_long_histories(seed: int) -> None:
    random = Random(seed)
    ids = [f"id{number}" for number in range(random.choice([10, 60]))]
    bound, block = random.choice([8, 40, 1000]), random.choice([2, 4, 16])
    with small_blocks(block, flush_at=random.choice([1, 4, 50]), sortable=random.choice([1, 8, 1000])):
        live(random, State(max_tasks=bound), ids, steps=400, questions=30)


@given(st.integers(0, 2**32), st.sampled_from([8, 20, 100]), st.sampled_from([2, 4, 8]))
def test_filters_with_the_order_of_another_field(seed: int, max_tasks: int, block: int) -> None:
    ids = [f"id{number}" for number in range(40)]
    with small_blocks(block, flush_at=block):
        live(Random(seed), State(max_tasks=max_tasks), ids, steps=100, questions=10, draw=draw_filters_and_order)


@given(st.integers(0, 2**32), st.sampled_from([20, 100]))
def test_filters_with_the_order_of_another_field_while_tasks_change(seed: int, max_tasks: int) -> None:
    """Who matches all the time is found, if it has a value or lacks it all the time; who never does, is not."""
    random = Random(seed)
    ids = [f"id{number}" for number in range(40)]
    with small_blocks(2, flush_at=2):
        state = make_state(*[draw_event(random, ids) for _ in range(120)], max_tasks=max_tasks)
        for _ in range(15):
            question = {**draw_filters_and_order(random), "limit": None, "offset": 0}
            query = TaskQuery(**question)
            check(state, **question)  # which makes zones, and indexes everything

            def look(query: TaskQuery = query) -> set[tuple[str, bool]]:
                tasks = filter(make_filter(query), held_tasks(state))
                return {(task.uuid, getattr(task, str(query.sort_by)) is None) for task in tasks}

            always, ever = look(), look()
            found = []
            for task in state.find(query):
                found += [task.uuid] if task is not None else []
                if random.random() < 0.1:
                    reconcile(random, state)
                if random.random() < 0.3:
                    state.apply([draw_event(random, ids)])
                always, ever = always & look(), ever | look()
            assert len(found) == len(set(found))
            assert {uuid for uuid, _ in always} <= set(found) <= {uuid for uuid, _ in ever}


@given(st.integers(0, 2**32), st.booleans())
def test_changes_during_an_answer_never_raise(seed: int, tiny: bool) -> None:
    random = Random(seed)
    with small_blocks(2, flush_at=2) if tiny else nullcontext():
        state = State(max_tasks=12)
        state.apply([draw_event(random, IDS) for _ in range(40)])
        answers = [state.find(TaskQuery(**draw_question(random))) for _ in range(3)]
        while answers:
            answer = random.choice(answers)
            task = next(answer, answers)
            if task is answers:
                answers.remove(answer)
            assert task is None or task is answers or isinstance(task, Task)
            state.apply([draw_event(random, IDS) for _ in range(3)])
            if random.random() < 0.3:
                state.maintain()
        check(state, **draw_question(random))


@given(
    st.integers(0, 2**32),
    st.sampled_from([None, *SORT_KEYS]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([9, 100]),
)
def test_each_task_comes_once_while_tasks_change(
    seed: int, sort_by: str | None, descending: bool, later: bool, max_tasks: int
) -> None:
    """They move to another place, are evicted and made anew while the answer is under way."""
    random = Random(seed)

    def draw() -> Event:
        event = draw_event(random, IDS)
        if later:
            event.timestamp = make_event("sent").timestamp  # which is later than any before
        return event

    with small_blocks(2, flush_at=2):
        state = make_state(*[draw() for _ in range(40)], max_tasks=max_tasks)
        flush(state)  # or the walk would begin later
        there, found = {task.uuid for task in held_tasks(state)}, []
        for task in state.find(TaskQuery(sort_by=sort_by, descending=descending)):
            found += [task.uuid] if task is not None else []
            if random.random() < 0.5:
                state.apply([draw(), draw()])
            if random.random() < 0.2:
                state.maintain()
        assert len(found) == len(set(found))
        if sort_by in (None, "timestamp") and not state.evicted_total:
            assert set(found) == there
        assert not state._indexes.scans


def test_what_a_walk_remembers_goes_with_it() -> None:
    state = make_state(*[make_event("sent", uuid) for uuid in "abc"])
    with small_blocks(2, flush_at=2):
        walk = state.find(TaskQuery())
        assert next(filter(None, walk)).uuid == "c"
        state.apply([make_event("received", "b"), make_event("received", "b"), make_event("sent", "d")])
        ((before),) = state._indexes.scans.values()
        assert {uuid: was and was.state for uuid, was in before.items()} == {"b": "PENDING", "d": None}
        del walk
        assert not state._indexes.scans


# Cases worth a name


def test_without_an_order_the_newest_come_first() -> None:
    state = make_state(make_event("sent", "old"), make_event("sent", "new"))
    assert find_ids(state) == ["new", "old"]
    assert find_ids(state, descending=True) == ["new", "old"]
    assert find_ids(state, sort_by="timestamp") == ["old", "new"]


def test_equal_tasks_are_newest_first_either_way() -> None:
    state = make_state(*[make_event("sent", uuid, name="same") for uuid in "abc"])
    assert find_ids(state, sort_by="name") == ["c", "b", "a"]
    assert find_ids(state, sort_by="name", descending=True) == ["c", "b", "a"]


@pytest.mark.parametrize("field", ["received", "started", "succeeded", "failed", "runtime"])
def test_a_task_that_was_evicted_and_comes_back_is_found_once(field: str) -> None:
    state = State(max_tasks=1)
    for uuid in "abab":
        state.apply([make_event("progress", uuid)])
        find_ids(state)  # which indexes it
    assert find_ids(state, sort_by=field) == ["b"]
    assert find_ids(state, sort_by=field, descending=True) == ["b"]


def test_a_runtime_that_is_taken_back_twice_is_found_once() -> None:
    state = State()
    for runtime in (1.0, None, 2.0, None):
        state.apply([make_event("progress", "a", runtime=runtime)])
        find_ids(state)
    assert find_ids(state, sort_by="runtime") == ["a"]


@pytest.mark.parametrize("field", ["received", "started", "succeeded", "failed", "runtime"])
def test_tasks_without_a_value_stand_in_one_order_on_every_page(field: str) -> None:
    """Whether an order is walked or a filter's tasks are sorted must not show."""
    with small_blocks():
        state = State()
        for number, uuid in enumerate(["c", "a", "d", "b"] * 10):
            state.apply([make_event("progress", f"{uuid}{number}", hostname=HOSTNAMES[number % 2])])
        for descending in (False, True):
            check_pages(state, sort_by=field, descending=descending, worker=HOSTNAMES[0])
            check_pages(state, sort_by=field, descending=descending)


def check_pages(state: State, /, **arguments: Any) -> None:
    """Page through an answer by every size of page."""
    whole = find_ids(state, **arguments)
    for size in (1, 3, 7, 20):
        pages = [find_ids(state, **arguments, limit=size, offset=at) for at in range(0, len(whole), size)]
        assert [uuid for page in pages for uuid in page] == whole


def test_repeated_events_across_blocks_are_found_once() -> None:
    """The same entry many times over fills more than one block."""
    with small_blocks(2, flush_at=1):
        state = State()
        for _ in range(9):
            for uuid in "abc":
                state.apply([make_event("progress", uuid, timestamp=START, parent_id="p", runtime=1.0)])
        for field in SORT_KEYS:
            assert sorted(find_ids(state, sort_by=field)) == ["a", "b", "c"]
            assert sorted(find_ids(state, sort_by=field, descending=True)) == ["a", "b", "c"]
        assert state.children("p") == ["a", "b", "c"]


def test_a_late_beginning_moves_a_task_into_a_span_of_time() -> None:
    """A late task-received changes `received` and leaves `timestamp`, under which the task is indexed."""
    with small_blocks(2, flush_at=1):
        state = make_state(*[make_event("started", uuid, timestamp=START + 5) for uuid in "abcdef"])
        tidy_up(state)
        check(state, received_end=START + 9)
        state.apply([make_event("received", "c", timestamp=START)])
        check(state, received_end=START + 9, limit=1)
        assert find_ids(state, received_end=START + 9) == ["c"]
        assert find_ids(state, received_start=START, worker="celery@one") == ["c"]


def test_the_root_is_among_its_tasks_whenever_they_arrive() -> None:
    root, child = make_event("sent", "r", root_id="r"), make_event("sent", "c", root_id="r")
    for events in ([root, child], [child, root], [root], [child]):
        state = make_state(*events)
        check(state, root_id="r")
        assert len(find_ids(state, root_id="r")) == len(events)
    state = State()
    state.apply([make_event("progress", "r"), child])  # that it is its own root is not known yet
    check(state, root_id="r")
    state.apply([root])
    check(state, root_id="r")
    assert len(find_ids(state, root_id="r")) == 2


def test_asking_for_nothing() -> None:
    state = make_state(*make_life("a"))
    assert find_ids(state, limit=0) == []
    assert find_ids(state, offset=1) == []
    assert find_ids(state, worker="nobody") == []
    assert find_ids(State()) == []


# What an answer costs: how many entries are looked at, which no machine makes faster or slower

#: So many that a look at half of them is more than BOUND.
MANY = 13_000
PAGE = 100

#: A page and the blocks that it may begin and end in, which are twice as large as full ones at the most.
BOUND = PAGE + 6 * BLOCK


def _far(number: int, **more: Any) -> dict[str, Any]:
    """Give the fields of one of many tasks."""
    spread = {"name": f"name{number % 7}", "hostname": f"worker{number % 5}", "queue": f"queue{number % 3}"}
    kin = {"root_id": f"root{number % 50}", "parent_id": f"root{number % 50}", "retries": number % 3}
    return spread | kin | more


def _rare(number: int) -> dict[str, Any]:
    """Let the oldest tasks have everything to themselves."""
    kind = "old" if number < MANY // 10 else "new"
    fields = dict.fromkeys(("name", "hostname", "queue", "root_id", "parent_id"), kind)
    return fields | {"retries": len(kind) if number < MANY // 10 else 0}


def _times(received: float | None, started: float | None, **last: float) -> dict[str, float | None]:
    """Give the times of a task's events, in seconds after START, those that are None left out."""
    return {"received": received, "started": started, **last}


_SHUFFLED = Random(7).sample(range(MANY), MANY)

#: By name: number of the task -> when its events happen, and what they say.
Layouts = dict[str, Callable[[int], tuple[dict[str, float | None], dict[str, Any]]]]

LAYOUTS: Layouts = {
    "a steady stream": lambda n: (
        _times(n, n + 0.2, **{"failed" if n % 2 else "succeeded": n + 0.5}),
        _far(n),
    ),
    "all that is rare is old": lambda n: (
        _times(n, n + 0.2, **({} if n < MANY // 10 else {"succeeded": n + 0.5})),
        _rare(n),
    ),
    "all at one moment": lambda n: (_times(0, 0, succeeded=0), _far(n)),
    "received at one moment": lambda n: (_times(0, 0, succeeded=n), _far(n)),
    "received in any order": lambda n: (_times(_SHUFFLED[n], _SHUFFLED[n], succeeded=2 * MANY + n), _far(n)),
    "last received, first done": lambda n: (_times(MANY - n, MANY - n, succeeded=2 * MANY + n), _far(n)),
    "hardly any started": lambda n: (_times(n, n if n < 200 else None, progress=n + 0.5), _far(n)),
    "never received": lambda n: (_times(None, None, progress=n), _far(n)),
    # Tasks that waited or ran for long stand among new ones: the span of a block by `timestamp` then says little.
    "one in 1,000 took long": lambda n: (
        _times(*2 * [n if n % 1000 else n / 10_000], succeeded=n + 0.5),
        _far(n),
    ),
    "new blocks span all times": lambda n: (
        _times(*2 * [MANY + n if n < MANY // 2 else (n if n % 2 else 3 * MANY + n)], succeeded=5 * MANY + n),
        _far(n),
    ),
}

SINGLE_FILTERS: list[dict[str, Any]] = [
    *({"worker": value} for value in ("worker0", "worker4", "old", "new")),
    *({"name": value} for value in ("name0", "name6", "old", "new")),
    *({"queue": value} for value in ("queue0", "queue2", "old", "new")),
    *({field: value} for field in ("root_id", "parent_id") for value in ("root0", "root49", "old", "new")),
    *({"state": value} for value in STATES),
    *(
        {f"{field}_{bound}": START + part * MANY}
        for field in ("received", "started")
        for bound in ("start", "end")
        for part in (0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0)
    ),
    *(
        {f"{field}_start": START + low * MANY, f"{field}_end": START + high * MANY}
        for field in ("received", "started")
        for low, high in ((0.0, 0.5), (0.1, 0.9), (0.4, 0.6), (0.495, 0.505))
    ),
]
SINGLE_ORDERS: list[dict[str, Any]] = [
    {},
    *({"sort_by": key, "descending": descending} for key in SORT_KEYS for descending in (False, True)),
]


def _fill(layout: str) -> State:
    state = State(max_tasks=2 * MANY)
    for number in range(MANY):
        times, fields = LAYOUTS[layout](number)
        runtime = number * 7919 % 1000 / 10
        events = [
            make_event(type, f"id{number:05}", timestamp=START + at, **fields)
            for type, at in times.items()
            if at is not None
        ]
        events[-1].runtime = runtime
        state.apply(events)
    tidy_up(state)
    return state


@pytest.fixture(name="looked_at")
def _looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note for each stretch that a finder goes through how many entries it has."""
    looked: list[int] = []
    chunks = Source.chunks

    def count(source: Source, *arguments: Any) -> Iterator[list[Entry]]:
        for entries in chunks(source, *arguments):
            looked.append(1 + len(entries))
            yield entries

    monkeypatch.setattr(Source, "chunks", count)
    return looked


def _cost(state: State, looked_at: list[int], question: dict[str, Any]) -> int:
    looked_at.clear()
    find_ids(state, **question, limit=PAGE)
    return sum(looked_at)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_page_by_one_filter_or_one_order_scans_no_more_than_some_blocks(layout: str, looked_at: list[int]) -> None:
    state = _fill(layout)
    costs = {str(question): _cost(state, looked_at, question) for question in SINGLE_ORDERS + SINGLE_FILTERS}
    assert len(state) == MANY
    assert {question: cost for question, cost in costs.items() if cost > BOUND} == {}
