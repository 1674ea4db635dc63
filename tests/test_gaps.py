"""What a task lacks, and what counts as cut: held against the texts that Celery itself writes."""

from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.completeness import find_gaps, is_shortened
from taskmon.records import CUT_MARK, Task

SENT = {"name": "add", "args": "(1,)", "kwargs": "{}", "sent": 1.0}
RECEIVED = SENT | {"received": 2.0, "state": "RECEIVED", "sent": None}
STARTED = RECEIVED | {"started": 3.0, "state": "STARTED"}
DONE = STARTED | {"succeeded": 4.0, "state": "SUCCESS", "result": "2"}
FAILED = STARTED | {"failed": 4.0, "state": "FAILURE", "exception": "E()", "traceback": "T"}
LATE = {"received": None, "name": None, "args": None, "kwargs": None}


@pytest.mark.parametrize(
    ("known", "gaps"),
    [
        (SENT, []),
        (RECEIVED, []),
        (STARTED, []),
        (DONE, []),
        (FAILED, []),
        (STARTED | LATE, ["name", "received", "args", "kwargs"]),
        (DONE | LATE | {"started": None}, ["name", "received", "started", "args", "kwargs"]),
        (DONE | {"started": None}, ["started"]),
        (DONE | {"received": None}, ["received"]),
        (DONE | {"result": None}, ["result"]),
        (FAILED | {"started": None}, ["started"]),
        (RECEIVED | {"retried": 4.0, "state": "RETRY"}, ["started"]),
        (RECEIVED | {"rejected": 4.0, "state": "REJECTED"}, ["started"]),
        (SENT | {"revoked": 4.0, "state": "REVOKED"}, []),
        (RECEIVED | {"revoked": 4.0, "state": "REVOKED"}, []),
        (SENT | {"failed": 4.0, "state": "FAILURE", "exception": "NotRegistered('add')"}, []),
        (FAILED | {"started": None, "exception": None}, ["started"]),
        (SENT | {"state": "PROGRESS"}, []),
        (RECEIVED | {"args": "", "kwargs": ""}, ["args", "kwargs"]),
        (DONE | {"args": "x" + CUT_MARK}, ["args"]),
        (DONE | {"kwargs": "x" + CUT_MARK, "result": "y" + CUT_MARK}, ["kwargs", "result"]),
        (FAILED | {"exception": "x" + CUT_MARK, "traceback": "y" + CUT_MARK}, ["exception", "traceback"]),
        (
            DONE | {"args": "([[[...]]],)", "kwargs": "{'a': 1, ...}", "result": "[1, ...]"},
            ["args", "kwargs", "result"],
        ),
        (DONE | {"args": "('Loading...',)", "kwargs": "{'a...': 1}", "result": "'done...'"}, []),
    ],
)
def test_gaps(known: dict[str, Any], gaps: list[str]) -> None:
    assert find_gaps(Task("a", **known)) == gaps


LONG = "x" * 3000


@pytest.mark.parametrize(
    "value",
    [
        (LONG,), (1, LONG, 2), {"a": LONG}, {"a": LONG, "b": 1}, {LONG: 1}, [{"a": [LONG]}], LONG, LONG.encode(),
        tuple(range(3000)), list(range(3000)), 10**3000, {"a": {"b": {"c": {"d": 1}}}}, [[[[1]]]], (LONG + "'", 1),
        ("\"'" + LONG,),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_celery_shortens_is_found(value: object) -> None:
    text = saferepr(value, 1024)
    assert text != repr(value)
    assert is_shortened(text)


@pytest.mark.parametrize(
    "value", [(), {}, ("Please wait...",), {"a...": "b..."}, ["..", "."], "...", b"...", "a ... b"]
)
def test_dots_of_a_short_text_are_its_own(value: object) -> None:
    assert not is_shortened(saferepr(value, 1024))


VALUES = st.recursive(
    st.integers() | st.text("ab'\" .", max_size=600) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text("ab", max_size=9), inner, max_size=9),
    max_leaves=30,
)


@given(VALUES)
def test_a_text_without_dots_was_not_shortened(value: object) -> None:
    text = saferepr(value, 1024)
    if "..." not in text:
        assert not is_shortened(text)
    elif "..." not in repr(value):
        assert is_shortened(text)
