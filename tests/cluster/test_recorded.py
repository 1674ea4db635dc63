"""Arguments that events have recorded are read as what they were, or refused."""

import ast
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from taskmon.cluster.republish import find_destination, read_recorded
from taskmon.errors import CommandRefused
from taskmon.records import CUT_MARK, Task

#: How Celery records arguments.
MOST = 1024


def record(value: Any) -> str:
    """Write a value as Celery does in its events."""
    text: str = saferepr(value, MOST)
    return text


@pytest.mark.parametrize(
    "value",
    [
        (),
        (1,),
        (1, 2.5, None, True, "é"),
        ("it's",),
        ("C:\\temp\\new",),
        ("a\\\\b", "\\d", ""),
        ("two\nlines\r\n",),
        ("wait... for it",),
        ({"a": [1, 2]}, ["x"]),
        ("\u2028\x0c\t",),
    ],
)
def test_arguments_come_back(value: tuple[Any, ...]) -> None:
    assert read_recorded("args", record(value)) == value


def test_keyword_arguments_come_back() -> None:
    assert read_recorded("kwargs", record({"order": 1001, "note": "it's\\n"})) == {"order": 1001, "note": "it's\\n"}
    assert read_recorded("kwargs", "{}") == {}


def test_what_python_itself_wrote_is_read_too() -> None:
    assert read_recorded("args", '("it\'s", 1)') == ("it's", 1)
    assert read_recorded("args", "[1, 2]") == (1, 2)


@pytest.mark.parametrize(
    "value",
    [
        ("x" * 3000,),
        (1, "y" * 3000, 2),
        (list(range(1000)),),
        ([[[1]]],),
        ({"a": {"b": {"c": 1}}},),
        (b"x" * 3000,),
        ("not cut, but it looks so...",),
    ],
)
def test_what_is_cut_is_refused(value: tuple[Any, ...]) -> None:
    with pytest.raises(CommandRefused, match=r"^The args of the task are cut: Celery"):
        read_recorded("args", record(value))


def test_what_taskmon_has_cut_is_refused() -> None:
    with pytest.raises(CommandRefused, match="--max-text"):
        read_recorded("args", "('xxx" + CUT_MARK)


def test_a_dictionary_that_is_cut_is_refused() -> None:
    with pytest.raises(CommandRefused, match=r"^The kwargs of the task are cut"):
        read_recorded("kwargs", record({f"key{number}": "x" * 100 for number in range(50)}))
    with pytest.raises(CommandRefused, match=r"^The kwargs of the task are cut"):
        read_recorded("kwargs", record({"k" * 2000: 1}))


@pytest.mark.parametrize(
    "text",
    [
        "<object>",
        "(Decimal('1'),)",
        "__import__('os').system('false')",
        "(print(1),)",
        "(x for x in ())",
        "(1 + 1,)",
        "5",
        "'text'",
        "None",
        "",
        "(",
        "('a\\'",
        "(1,) + (2,)",
        "((((",
        "(nan,)",
        "('\\x41',) ",
        "(" * 5000,
        "-" * 60_000 + "1",
        "1" + "+1" * 30_000,
        "[" * 150 + "]" * 150 + ",",
        "a" + ".b" * 30_000,
        "\0",
    ],
)
def test_what_is_no_literal_is_refused(text: str) -> None:
    with pytest.raises(CommandRefused, match=r"^The args of the task are"):
        read_recorded("args", text)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(CommandRefused, match="not known"):
        read_recorded("args", None)
    with pytest.raises(CommandRefused, match="no literals"):
        read_recorded("kwargs", "(1,)")
    with pytest.raises(CommandRefused, match="names that are no texts"):
        read_recorded("kwargs", "{1: 2}")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(plain, max_size=4).map(tuple))
def test_never_read_as_something_else(value: tuple[Any, ...]) -> None:
    try:
        read = read_recorded("args", record(value))
    except CommandRefused:
        return
    assert repr(read) == repr(value)


@given(st.text(alphabet="()[]{}'\"\\,:.…ab1-+ \n", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = read_recorded("args", text)
    except CommandRefused:
        return
    assert isinstance(value, tuple)
    assert isinstance(ast.literal_eval(repr(value)), tuple)


def test_where_it_went() -> None:
    done = {"state": "SUCCESS", "name": "shop.charge"}
    assert find_destination(Task("a", **done)) == ("shop.charge", {})
    assert find_destination(Task("a", queue="q", routing_key="r", exchange="", **done))[1] == {"queue": "q"}
    assert find_destination(Task("a", routing_key="r", **done))[1] == {"queue": "r"}
    assert find_destination(Task("a", routing_key="r", exchange="e", **done))[1] == {
        "exchange": "e",
        "routing_key": "r",
    }


@pytest.mark.parametrize("state", ["PENDING", "RECEIVED", "STARTED", "RETRY", "PROGRESS", "REJECTED"])
def test_a_task_that_is_not_finished(state: str) -> None:
    with pytest.raises(CommandRefused, match=f"not finished: its state is {state}"):
        find_destination(Task("a", state=state, name="shop.charge"))


def test_what_cannot_be_repeated() -> None:
    with pytest.raises(CommandRefused, match="name of the task is not known"):
        find_destination(Task("a", state="FAILURE"))
    with pytest.raises(CommandRefused, match="cannot be repeated: queue must"):
        find_destination(Task("a", state="FAILURE", name="x", queue="a b"))
    with pytest.raises(CommandRefused, match="cannot be repeated: name must"):
        find_destination(Task("a", state="FAILURE", name="x\ny"))
