"""Which tasks were retried as which, within a bound."""

import pytest

from taskmon.errors import CommandRefused
from taskmon.monitor.retries import Retries


def retry(retries: Retries, task_id: str, new_id: str, again: bool = False) -> None:
    with retries.begin(task_id, again):
        retries.note(task_id, new_id)


def test_the_latest_are_remembered() -> None:
    retries = Retries(most=2)
    assert retries.links("a") == (None, None)
    retry(retries, "a", "b")
    retry(retries, "b", "c")
    assert [retries.links(one) for one in "abc"] == [("b", None), ("c", "a"), (None, "b")]
    retry(retries, "c", "d")
    assert [retries.links(one) for one in "abcd"] == [(None, None), ("c", None), ("d", "b"), (None, "c")]


def test_one_retried_twice_names_the_latest() -> None:
    retries = Retries(most=2)
    retry(retries, "a", "b")
    with pytest.raises(CommandRefused, match="retried already, as b"):
        retry(retries, "a", "c")
    retry(retries, "a", "c", again=True)
    retry(retries, "x", "y")
    assert (retries.links("a"), retries.links("b"), retries.links("c")) == (("c", None), (None, None), (None, "a"))


@pytest.mark.parametrize("again", [False, True])
def test_only_one_at_a_time(again: bool) -> None:
    retries = Retries()
    with (
        retries.begin("a", again),
        pytest.raises(CommandRefused, match="by another request"),
        retries.begin("a", again),
    ):
        raise AssertionError("two at once")
    with pytest.raises(ZeroDivisionError), retries.begin("a", again):
        raise ZeroDivisionError
    retry(retries, "a", "b")
