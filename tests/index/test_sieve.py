"""A sieve lets through every task that matches, and few others; a search finds what a look at every task finds."""

import sys
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from factories import find_tasks, held_tasks, make_event, make_state, small_blocks
from hypothesis import given
from hypothesis import strategies as st

from taskmon.auth import Role
from taskmon.errors import InvalidSearch
from taskmon.http.masker import Masker
from taskmon.http.redaction import Showing
from taskmon.monitor.index import batch_filter, finder
from taskmon.monitor.index.batch_filter import BatchFilter
from taskmon.monitor.index.prefilter import MAX_VALUES, Prefilter, let_all, let_none, make_prefilter
from taskmon.monitor.index.store import PLAIN
from taskmon.monitor.query import TaskQuery
from taskmon.monitor.search import only_wanted, parse_search
from taskmon.monitor.state import State
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.records import Event, Task
from taskmon.settings import Settings

#: What texts and terms are made of: letters that fold to others, the words of fields, what separates texts.
PIECES = [
    *(
        "abc",
        "ABC",
        "order-1",
        "order-12",
        "ß",
        "ss",
        "SS",
        "\N{LATIN SMALL LETTER LONG S}t",
        "\N{KELVIN SIGN}",
        "k",
        "İ",
        "ä",
        "Ä",
        "日本語",
        "ﬁ",
    ),
    *("\0", "\0\n\0", "\n", "None", "none", "'", '"', "\\", "x" * 40, "", " "),
]
NAMES = ["tasks.add", "tasks.Straße", "other.ABC", None]
HOSTNAMES = ["celery@one", "celery@ABC", "celery@Ää"]
STATES = ["SUCCESS", "FAILURE", "abc", "STARTED", "Straße"]
KWARGS = [
    "{'user_id': 42, 'mode': 'fast'}",
    "{'user_id': 4, 'mode': \"ABC's\"}",
    "{}",
    "{'ä': 'İßa'}",
    '{"user_id":42}',
    "",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)


def build_tasks(ids: st.SearchStrategy[str]) -> st.SearchStrategy[Task]:
    """Make tasks with such ids, and hostile texts."""
    return st.builds(
        Task,
        uuid=ids,
        name=st.sampled_from(NAMES),
        state=st.sampled_from(STATES),
        worker=st.sampled_from([*HOSTNAMES, None]),
        queue=st.sampled_from(["celery", "abc", None]),
        args=TEXTS | st.none(),
        kwargs=TEXTS | st.sampled_from(KWARGS) | st.none(),
        result=TEXTS | st.none(),
        exception=TEXTS | st.none(),
        root_id=st.sampled_from(["abc", "r1", None]),
        parent_id=st.sampled_from(["abc", "p1", None]),
    )


PLAIN_TASKS = build_tasks(st.sampled_from(["abc-123", "12-abc-e", "def0"]))
TASKS = build_tasks(st.integers(0, 10**9).map(str) | TEXTS)


def quote(text: str) -> str:
    """Write a text as a term."""
    escaped = text.replace("\0", "").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


PREFIXES = ["", "", "", "name:", "worker:", "queue:", "args:", "kwargs:", "result:", "exception:"]
LITERALS = TEXTS.map(lambda text: text if len(text.replace("\0", "").strip()) >= 3 else "abc")
TERMS = st.one_of(
    st.tuples(st.sampled_from(PREFIXES), LITERALS.map(quote)).map("".join),
    st.sampled_from(["state:success", "state:strasse", "state:nope", "root:r1", "parent:p1", "root:nope"]),
    st.sampled_from(
        ["kwargs:user_id=42", "kwargs:mode=fast", 'kwargs:mode="abc\'s"', "kwargs:ä=i̇ssa", 'kwargs:"a b=c"']
    ),
    st.sampled_from(["tasks", "celery", "abc", "none", "order-1", "nope"]),
)


def has_depth(search: str) -> bool:
    """Tell whether a search keeps to the grammar: only its depth may break it."""
    try:
        parse_search(search)
    except InvalidSearch:
        return False
    return True


SEARCHES = st.recursive(
    st.tuples(st.sampled_from(["", "", "-"]), TERMS).map("".join),
    lambda inner: st.tuples(st.lists(inner, min_size=1, max_size=3), st.sampled_from([" ", " OR "])).map(
        lambda drawn: f"({drawn[1].join(drawn[0])})"
    ),
    max_leaves=5,
).filter(has_depth)


def sieve_of(search: str, tasks: list[Task], plain_ids: bool = False, wanted: bool = False) -> Prefilter | None:
    """Make the sieve of a search over these tasks."""

    def values(field: str) -> set[Any]:
        found = {getattr(task, field) for task in tasks}
        return found - {None} if field == "queue" else found

    asked = parse_search(search)
    return make_prefilter(replace(asked, terms=only_wanted(asked.terms)) if wanted else asked, values, plain_ids)


@given(SEARCHES, st.lists(TASKS, max_size=12) | st.lists(PLAIN_TASKS, max_size=12))
def test_what_matches_goes_through(search: str, tasks: list[Task]) -> None:
    plain_ids = all(set(task.uuid) <= set(PLAIN) for task in tasks)
    prefilter = sieve_of(search, tasks, plain_ids)
    assert prefilter is not None
    let = prefilter.select(tasks)
    matches = parse_search(search).matches
    assert [task for task in let if matches(task)] == [task for task in tasks if matches(task)]
    places = {id(task): place for place, task in enumerate(tasks)}
    order = [places[id(task)] for task in let]
    assert order == sorted(set(order))
    less = sieve_of(search, tasks, plain_ids, wanted=True)
    assert less is None or set(map(id, less.select(tasks))) >= {id(task) for task in tasks if matches(task)}
    for field, value in prefilter.groups:
        assert all(getattr(task, field) == value for task in tasks if matches(task))


# A search that sees less than there is


def change(task: Task) -> Task:
    """Show a task otherwise than it is, as a function of --format-task may."""
    task.args, task.kwargs = "order-12 abc", task.args
    task.name = None
    return task


SECRETS = [
    "{'password': 'abc', 'mode': 'order-1'}",
    "{'user_id': 42, 'api_key': [1, 'order-12', 2]}",
    "token=abc, abc",
    "to\N{KELVIN SIGN}en=abc",
    '{"dbPassword":"ss"}',
    "the secret order-1",
    "***",
]
GUARDS = {
    "masked": Showing(Masker(Settings().mask_keys), Role.VIEWER),
    "everything masked": Showing(Masker(["*"]), Role.VIEWER),
    "hidden": Showing(Masker([]), None),
    "changed": Showing(Masker(Settings().mask_keys), Role.VIEWER, change),
    "changed and hidden": Showing(Masker([]), None, change),
}


@st.composite
def veiled_tasks(draw: st.DrawFn) -> list[Task]:
    """Draw tasks of which some have something to mask in their texts."""
    tasks = draw(st.lists(TASKS | PLAIN_TASKS, max_size=12))
    for task in tasks:
        for field in draw(st.sets(st.sampled_from(["args", "kwargs", "result", "exception"]))):
            setattr(task, field, draw(st.sampled_from(SECRETS)))
    return tasks


@pytest.mark.parametrize("guard", GUARDS)
@given(search=SEARCHES, tasks=veiled_tasks())
def test_what_matches_as_it_is_shown_goes_through(guard: str, search: str, tasks: list[Task]) -> None:
    asked = GUARDS[guard].restrict(parse_search(search), Role.VIEWER)
    plain_ids = all(set(task.uuid) <= set(PLAIN) for task in tasks)
    values = {field: {getattr(task, field) for task in tasks} for field in ("name", "state", "worker", "queue")}
    values["queue"] -= {None}
    prefilter = make_prefilter(asked, values.__getitem__, plain_ids)
    let = tasks if prefilter is None else prefilter.select(tasks)
    assert [task for task in let if asked.matches(task)] == [task for task in tasks if asked.matches(task)]


@pytest.mark.parametrize(
    ("guard", "search", "let"),
    [
        ("masked", "-abc", [1, 2]),  # the first one's is masked, for all that the sieve knows
        ("masked", "-args:abc", [0, 1, 2]),
        ("masked", "-kwargs:abc", [1, 2]),
        ("masked", "-abc OR nope", [1, 2]),
        ("hidden", "abc", []),
        ("hidden", "-abc", [0, 1, 2, 3]),
        ("hidden", "kwargs:password=abc", []),
        ("hidden", "exception:abc", []),
        ("hidden", "12345", [1]),
    ],
)
def test_a_sieve_knows_what_is_veiled(guard: str, search: str, let: list[int]) -> None:
    tasks = [
        Task("0", kwargs="{'mode': 'abc'}", exception="abc"),
        Task("123456", kwargs="{'password': 'abc'}"),
        Task("2", kwargs="{'password': 'xyz'}"),
        Task("3", args="('abc',)", kwargs="{'mode': 'abc'}"),
    ]
    asked = GUARDS[guard].restrict(parse_search(search), Role.VIEWER)
    prefilter = make_prefilter(asked, lambda field: {None} if field != "state" else {"PENDING"}, True)
    assert prefilter is not None
    assert [tasks.index(task) for task in prefilter.select(tasks)] == let


def test_many_needles_are_looked_for_as_few_are() -> None:
    tasks = [Task(str(number), args=f"order-{number} customer") for number in range(100, 140)]
    numbers = [f"order-{number}" for number in (101, 7, 120, 300, 139, 8, 9)]
    for search, found in {
        " OR ".join(numbers): ["101", "120", "139"],
        f"customer {' '.join(f'-{number}' for number in numbers)}": [
            task.uuid for task in tasks if task.uuid not in ("101", "120", "139")
        ],
        f"customer order-1 order- order 101 {numbers[0]}": ["101"],
        f"{numbers[0]} customer order-1 order- order 102": [],
    }.items():
        prefilter = sieve_of(search, tasks)
        assert prefilter is not None
        for _ in range(3):  # each time in another order perhaps
            assert [task.uuid for task in prefilter.select(list(tasks))] == found


def test_no_hint_is_missed_where_texts_are_folded() -> None:
    """A text has something masked where a hint is in its small letters; a sieve looks for it in the folded ones."""
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789")
    letters = [chr(code) for code in range(sys.maxunicode + 1)]
    lowered = [letter for letter in letters if plain & set(letter.lower())]
    assert "\N{KELVIN SIGN}" in lowered
    assert [letter for letter in lowered if letter.casefold() != letter.lower()] == []


# A search, put to State


def apply_task(state: State, task: Task) -> None:
    """Let a task happen."""
    kinds = {"SUCCESS": "succeeded", "FAILURE": "failed", "STARTED": "started"}
    fields = {field: getattr(task, field) for field in ("name", "queue", "args", "kwargs", "result", "exception")}
    kin = {"root_id": task.root_id, "parent_id": task.parent_id}
    hostname = task.worker or HOSTNAMES[0]
    state.apply([make_event(kinds.get(task.state, task.state), task.uuid or "x", hostname=hostname, **fields, **kin)])


@given(
    SEARCHES,
    st.lists(TASKS, max_size=25) | st.lists(PLAIN_TASKS, max_size=9),
    st.integers(0, 2**32),
    st.sampled_from([0, 4, 1000]),
)
def test_a_search_finds_what_a_look_at_every_task_finds(
    search: str, tasks: list[Task], seed: int, tried: int
) -> None:
    random = Random(seed)
    with small_blocks(4, flush_at=random.choice([2, 100])), pytest.MonkeyPatch.context() as patch:
        patch.setattr(finder, "_TRIED", tried)
        patch.setattr(batch_filter, "_MIN_BATCH", random.choice([1, 3, 256]))
        state = State(max_tasks=random.choice([5, 100]))
        for task in tasks:
            apply_task(state, task)
        asked = parse_search(search)
        order = {"sort_by": random.choice([None, *SORT_KEYS]), "descending": random.random() < 0.5}
        state_filter = random.choice([None, None, "SUCCESS"])
        expected = [task for task in held_tasks(state) if asked.matches(task) and state_filter in (None, task.state)]
        found = find_tasks(state, search=asked, state=state_filter, **order)
        assert sorted(task.uuid for task in found) == sorted(task.uuid for task in expected)
        assert found == [task for task in find_tasks(state, **order) if any(task is one for one in expected)]
        limit, offset = random.choice([1, 2, 5, 50]), random.choice([0, 1, 4])
        page = find_tasks(state, search=asked, state=state_filter, **order, limit=limit, offset=offset)
        assert page == found[offset:][:limit]


@given(st.integers(0, 2**32), st.sampled_from([None, "name", "received"]), st.sampled_from([None, 20]))
def test_a_search_finds_each_task_once_while_tasks_change(seed: int, sort_by: str | None, limit: int | None) -> None:
    """What matches all the time, that is, and is never evicted."""
    random = Random(seed)
    ids = [f"id{number}" for number in range(14)]

    def draw() -> Event:
        kind = random.choice(["sent", "received", "started", "succeeded", "failed", "progress"])
        return make_event(kind, random.choice(ids), name=random.choice(["tasks.add", "tasks.mul"]), args="'wanted'")

    with small_blocks(2, flush_at=2, sortable=random.choice([3, 1000])), pytest.MonkeyPatch.context() as patch:
        patch.setattr(finder, "_TRIED", random.choice([0, 4, 1000]))
        patch.setattr(batch_filter, "_MIN_BATCH", 1)
        patch.setattr(batch_filter, "_MAX_BATCH", 1)
        state = make_state(*[draw() for _ in range(40)])
        there, found = {task.uuid for task in held_tasks(state)}, []
        for task in state.find(TaskQuery(search=parse_search("wanted"), sort_by=sort_by, limit=limit)):
            found += [task.uuid] if task is not None else []
            if random.random() < 0.5:
                state.apply([draw(), draw()])
            if random.random() < 0.2:
                state.maintain()
        assert len(found) == len(set(found))
        if sort_by is None:
            assert there <= set(found)


# Cases worth a name


def test_a_text_with_the_separator_in_it_is_looked_at_itself() -> None:
    tasks = [Task("a", args="x\0\n\0wanted"), Task("b", args="wanted"), Task("c")]
    prefilter = sieve_of("wanted", tasks)
    assert prefilter is not None
    assert prefilter.select(tasks) == tasks


def test_values_decide_before_texts_are_read() -> None:
    tasks = [Task(str(number), name="shop.add", state="SUCCESS", worker="celery@one") for number in range(3)]
    selectors = {
        search: prefilter.select
        for search in ("shop", "-shop", "name:nope", "state:FAILURE", "-state:success", "nope")
        if (prefilter := sieve_of(search, tasks))
    }
    assert selectors.pop("nope")(tasks) == []
    assert {search: select in (let_all,) for search, select in selectors.items()} == {
        search: search == "shop" for search in selectors
    }
    assert all(select is let_none for search, select in selectors.items() if search != "shop")


def test_too_many_values_go_without_a_sieve() -> None:
    names = [f"name-{number}" for number in range(MAX_VALUES)]
    assert make_prefilter(parse_search("name-1"), lambda field: names, False) is None
    assert make_prefilter(parse_search(""), lambda field: [], False) is None


def test_what_cannot_match_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(make_event("sent", "a", name="shop"))
    monkeypatch.setattr(BatchFilter, "through", lambda *_: pytest.fail("a task was looked at"))
    assert find_tasks(state, search=parse_search("name:nope")) == []


def test_long_texts_are_looked_at_fewer_at_a_time() -> None:
    short = [Task(str(number), args="short") for number in range(2000)]
    long = [Task(str(number), args="x" * 60_000) for number in range(100)]
    sizes: list[int] = []
    prefilter = sieve_of("nope", short)
    assert prefilter is not None

    def select(tasks: list[Task]) -> list[Task]:
        let = prefilter.select(tasks)
        sizes.append(len(tasks))
        return let

    looking = BatchFilter(lambda task: True, prefilter._replace(select=select), is_slow=True)
    assert [task for tasks in looking.through([*short, *long, *short]) for task in tasks] == []
    assert sum(sizes) == 4100
    assert min(sizes) <= 8


def test_a_slow_match_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(batch_filter, "perf_counter", lambda: next(ticks))
    tasks = [Task(str(number)) for number in range(5)]
    looking = BatchFilter(lambda task: task.uuid != "2", None, is_slow=True)
    steps = [[task.uuid for task in found] for found in looking.through(tasks)]
    assert steps == [["0"], ["1"], [], ["3"], ["4"], []]
    quick = BatchFilter(lambda task: task.uuid != "2", None, is_slow=False)
    assert [[task.uuid for task in found] for found in quick.through(tasks)] == [["0", "1", "3", "4"]]


def test_only_one_letter_of_latin_1_folds_to_ascii() -> None:
    folding = [chr(code) for code in range(128, 256) if any(map(str.isascii, chr(code).casefold()))]
    assert folding == ["ß"]


def test_letters_beyond_ascii_keep_to_themselves() -> None:
    tasks = [Task("a", args="Größe XYZ"), Task("b", args="grün XYZ"), Task("c", args="日本 XYZ")]
    found = {
        search: [task.uuid for task in prefilter.select(tasks)]
        for search in ("xyz", "grösse", "GRÜN", "日本 x", "nope")
        if (prefilter := sieve_of(search if " " not in search else f'"{search}"', tasks))
    }
    assert found == {"xyz": ["a", "b", "c"], "grösse": ["a"], "GRÜN": ["b"], "日本 x": ["c"], "nope": []}
