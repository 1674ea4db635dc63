"""The tree of a task, whatever events say of roots and parents."""

from collections.abc import Iterable
from typing import Any

import pytest
from factories import START, make_event, make_state, small_blocks
from hypothesis import given
from hypothesis import strategies as st

from taskmon.errors import UnknownTask
from taskmon.monitor.state import State
from taskmon.monitor.tree import Tree, gather_tree
from taskmon.records import Event

Kin = tuple[str, str | None, str | None]


def gather(state: State, task_id: str, **bounds: int) -> Tree:
    """Give the tree of a task."""
    *pauses, tree = gather_tree(state, task_id, **bounds)
    assert pauses
    assert set(pauses) == {None}
    assert tree is not None
    return tree


def make_kin(*kin: Kin) -> State:
    """Make a State of tasks: id, root, parent, received in this order."""
    events = [
        make_event("received", task_id, root_id=root, parent_id=parent, timestamp=START + number, name=task_id)
        for number, (task_id, root, parent) in enumerate(kin)
    ]
    state = State()
    state.apply(events)
    return state


def edges(tree: Tree) -> dict[str, tuple[str | None, str]]:
    """Give by id the parent, and the children as one word."""
    return {member.task_id: (member.parent, "".join(member.children)) for member in tree.members}


@pytest.mark.parametrize("asked", ["r", "a", "b", "c"])
def test_a_workflow_is_the_same_whoever_is_asked_for(asked: str) -> None:
    state = make_kin(("r", "r", None), ("b", "r", "r"), ("a", "r", "r"), ("c", "r", "a"), ("x", "x", None))
    tree = gather(state, asked)
    assert (tree.task_id, tree.root, tree.truncated) == (asked, "r", False)
    assert edges(tree) == {"r": (None, "ba"), "b": ("r", ""), "a": ("r", "c"), "c": ("a", "")}
    assert [member.task_id for member in tree.members] == ["r", "b", "a", "c"]
    assert all(member.task is state.get(member.task_id) for member in tree.members)


@pytest.mark.parametrize(
    ("kin", "asked", "root", "expected"),
    [
        pytest.param([("a", "a", None)], "a", "a", {"a": (None, "")}, id="alone"),
        pytest.param([("a", None, None)], "a", "a", {"a": (None, "")}, id="nothing told"),
        pytest.param([("a", "", "")], "a", "a", {"a": (None, "")}, id="empty texts"),
        pytest.param([("a", "r", "r")], "a", "r", {"r": (None, "a"), "a": ("r", "")}, id="root never seen"),
        pytest.param(
            [("a", "r", "r"), ("b", "r", "r")], "r", "r", {"r": (None, "ab"), "a": ("r", ""), "b": ("r", "")},
            id="root never seen and asked for",
        ),
        pytest.param([("a", "r", None)], "r", "r", {"r": (None, ""), "a": (None, "")}, id="no parent told"),
        pytest.param(
            [("a", "r", "p"), ("b", "r", "p")], "a", "r",
            {"p": (None, "ab"), "r": (None, ""), "a": ("p", ""), "b": ("p", "")},
            id="parent never seen",
        ),
        pytest.param(
            [("a", None, None), ("b", None, "a"), ("c", None, "b"), ("d", None, "b")], "c", "a",
            {"a": (None, "b"), "b": ("a", "cd"), "c": ("b", ""), "d": ("b", "")},
            id="no root told",
        ),
        pytest.param(
            [("a", None, "p"), ("b", None, "p")], "a", "p", {"p": (None, "ab"), "a": ("p", ""), "b": ("p", "")},
            id="no root told, parent never seen",
        ),
        pytest.param([("a", "a", "a")], "a", "a", {"a": (None, "")}, id="retried: its own parent"),
        pytest.param(
            [("a", "a", "a"), ("b", "a", "a")], "b", "a", {"a": (None, "b"), "b": ("a", "")},
            id="retried, with a child",
        ),
        pytest.param(
            [("a", None, "b"), ("b", None, "a")], "b", "a", {"a": (None, "b"), "b": ("a", "")}, id="circle of two"
        ),
        pytest.param(
            [("x", None, "c"), ("a", None, "c"), ("b", None, "a"), ("c", None, "b")], "x", "a",
            {"x": ("c", ""), "a": (None, "b"), "b": ("a", "c"), "c": ("b", "x")},
            id="circle of three, and one that hangs on it",
        ),
        pytest.param(
            [("a", "b", None), ("b", "a", None)], "a", "b", {"a": (None, ""), "b": (None, "")},
            id="roots of each other",
        ),
        pytest.param(
            [("a", "r", None), ("b", "s", "a"), ("c", "s", None)], "a", "r",
            {"r": (None, ""), "a": (None, "b"), "b": ("a", "")},
            id="a child of another root",
        ),
        pytest.param(
            [("a", "r", None), ("b", "r", "c"), ("c", "s", None)], "a", "r",
            {"r": (None, ""), "a": (None, ""), "b": ("c", ""), "c": (None, "b")},
            id="a parent of another root",
        ),
    ],
)  # fmt: skip
def test_shapes(kin: list[Kin], asked: str, root: str, expected: dict[str, Any]) -> None:
    tree = gather(make_kin(*kin), asked)
    assert edges(tree) == expected
    assert tree.root == root
    assert not tree.truncated


def test_a_task_that_nothing_is_known_of() -> None:
    with pytest.raises(UnknownTask) as caught:
        gather(make_kin(("a", "r", None)), "x")
    assert caught.value.reason == "never seen"


def test_members_stand_in_the_order_in_which_they_began() -> None:
    common = {"root_id": "r", "parent_id": "r"}
    state = make_state(
        make_event("received", "late", timestamp=30.0, **common),
        make_event("sent", "sent", timestamp=10.0, **common),
        make_event("received", "sent", timestamp=40.0, **common),
        make_event("started", "started", timestamp=20.0, **common),
        make_event("revoked", "revoked", timestamp=15.0, **common),
    )
    assert [member.task_id for member in gather(state, "r").members] == ["r", "sent", "revoked", "started", "late"]


@pytest.mark.parametrize("asked", ["0", "1500", "2999"])
@pytest.mark.parametrize("rooted", [True, False])
def test_a_deep_chain(asked: str, rooted: bool) -> None:
    chain = [(str(n), "0" if rooted else None, str(n - 1) if n else None) for n in range(3000)]
    tree = gather(make_kin(*chain), asked)
    assert len(tree.members) == 3000
    assert tree.root == "0"
    assert not tree.truncated
    assert [member.parent for member in tree.members] == [None, *map(str, range(2999))]


@pytest.mark.parametrize("most", [3, 30, 301])
@pytest.mark.parametrize("rooted", [True, False])
def test_a_wide_tree_is_bounded_and_what_is_near_comes_first(most: int, rooted: bool) -> None:
    root = "r" if rooted else None
    with small_blocks():
        state = make_kin(
            ("r", "r", None),
            *((f"c{n}", root, "r") for n in range(300)),
            ("near", root, "c250"),
            ("leaf", root, "near"),
        )
        tree = gather(state, "near", most=most)
    assert len(tree.members) == most
    assert tree.truncated
    assert tree.root == "r"
    assert {"near", "c250", "r"} <= {member.task_id for member in tree.members}
    assert ("leaf" in edges(tree)) is (most > 3)


def test_a_tree_that_just_fits_is_not_truncated() -> None:
    state = make_kin(("r", "r", None), *((f"c{n}", "r", "r") for n in range(9)))
    assert not gather(state, "r", most=10).truncated
    assert gather(state, "r", most=9).truncated


def test_tasks_without_parents_are_bounded_too() -> None:
    state = make_kin(("r", "r", None), *((f"c{n}", "r", None) for n in range(50)))
    tree = gather(state, "c7", most=20)
    assert tree.truncated
    assert len(tree.members) == 20
    assert {"c7", "r"} <= set(edges(tree))


def test_long_lines_of_parents_are_bounded_too() -> None:
    state = make_kin(*((str(n), "0", str(n - 1) if n else None) for n in range(500)))
    tree = gather(state, "499", most=150)
    assert tree.truncated
    assert set(edges(tree)) == {str(n) for n in range(350, 500)}


def test_tasks_may_come_and_change_while_the_tree_is_gathered() -> None:
    state = make_kin(*((str(n), "0", str(n - 1) if n else None) for n in range(400)))
    gathering = gather_tree(state, "200")
    step = 0
    while (tree := next(gathering)) is None:
        state.apply([make_event("started", str(step % 400)), make_event("received", f"new{step}", root_id="0")])
        step += 1
    check(tree)
    assert {str(n) for n in range(400)} <= set(edges(tree))


IDS = st.sampled_from("abcdefgh")
TOLD = st.lists(st.tuples(IDS, st.none() | IDS, st.none() | IDS, st.sampled_from(["sent", "received", "failed"])))


def to_events(told: Iterable[tuple[str, str | None, str | None, str]]) -> list[Event]:
    return [make_event(kind, task_id, root_id=root, parent_id=parent) for task_id, root, parent, kind in told]


def check(tree: Tree) -> None:
    """Hold a tree against what it promises."""
    members = {member.task_id: member for member in tree.members}
    assert len(members) == len(tree.members)
    assert tree.task_id in members
    for member in tree.members:
        assert all(members[child].parent == member.task_id for child in member.children)
        if member.parent in members:
            assert members[member.parent].children.count(member.task_id) == 1
        else:
            assert member.parent is None or tree.truncated
        seen, above = {member.task_id}, member.parent
        while above in members:
            assert above not in seen
            seen.add(above)
            above = members[above].parent
    assert tree.root in members or tree.truncated


@given(TOLD, IDS, st.integers(1, 10))
def test_whatever_is_told_it_is_a_tree(told: Any, asked: str, most: int) -> None:
    state = make_state(*to_events(told))
    try:
        tree = gather(state, asked, most=most)
    except UnknownTask:
        assert asked not in {task_id for task_id, *_ in told}
        return
    check(tree)
    assert len(tree.members) <= most
    whole = gather(state, asked)
    assert not whole.truncated
    check(whole)
    assert tree.truncated is (len(whole.members) > most)
    assert set(edges(tree)) <= set(edges(whole))
