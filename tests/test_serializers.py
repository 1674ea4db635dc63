"""How a task leaves taskmon."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmon.http.serializers import encode, error_body, task_members, task_types_body
from taskmon.http.serializers import task_body as task_object
from taskmon.records import Task

#: Names on the wire that are not those of Task's fields, and the fields that do not go out.
RENAMED = {"task-id": "uuid", "root": "root_id", "parent": "parent_id"}
INTERNAL = {"seen", "born", "reconciled", "omitted", "reported"}


def task_body(task: Task, children: list[str]) -> dict[str, Any]:
    """Give the task object as it goes out."""
    body: dict[str, Any] = msgspec.to_builtins(task_object(task, children))
    return body


def test_every_field_goes_out_under_its_name() -> None:
    values = {field: f"<{field}>" for field in Task.__struct_fields__} | {"reported": "received=2.5 started=3.0"}
    body = task_body(Task(**values), ["child"])  # type: ignore[arg-type]
    assert body.pop("children") == ["child"]
    assert body.pop("reported_times") == {"received": 2.5, "started": 3.0}
    assert body.pop("incomplete") == ["<omitted>"]
    assert (body.pop("source"), body.pop("orphaned")) == ("events", False)
    assert (body.pop("retried_as"), body.pop("retry_of")) == (None, None)
    assert body.keys() == {*Task.__struct_fields__, *RENAMED} - INTERNAL
    for name, value in body.items():
        assert value == f"<{RENAMED.get(name, name)}>"


def test_a_task_of_which_nothing_is_known() -> None:
    body = task_body(Task("a"), [])
    known = {"task-id": "a", "uuid": "a", "state": "PENDING", "clock": 0, "children": []}
    assert body.pop("incomplete") == ["name", "args", "kwargs"]
    assert (body.pop("source"), body.pop("orphaned")) == ("events", False)
    assert {name: value for name, value in body.items() if value is not None} == known


def test_types() -> None:
    assert msgspec.to_builtins(task_types_body(["a", "b"], 0)) == {"task-types": ["a", "b"]}
    assert msgspec.to_builtins(task_types_body(["a"], 7)) == {"task-types": ["a"], "other": 7}


def test_an_error() -> None:
    told = {"status": 404, "message": "Unknown"}
    assert msgspec.to_builtins(error_body(404, "Unknown")) == {"error": told}
    assert msgspec.to_builtins(error_body(404, "Unknown", reason="x")) == {"error": {**told, "reason": "x"}}
    assert msgspec.to_builtins(error_body(404, "Unknown", task_id="x")) == {"error": {**told, "task-id": "x"}}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null(number: float) -> None:
    assert json.loads(encode({"x": number})) == {"x": None}


TEXTS = st.text(max_size=20)


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=3), st.floats(allow_nan=False, allow_infinity=False))
def test_members_of_a_listing(uuid: str, text: str, children: list[str], time: float) -> None:
    tasks = [Task(uuid, name=text, args=text, timestamp=time), Task(uuid + "2", result=text)]
    members = json.loads(
        b"{" + task_members([(task, children) for task in tasks], lambda task_id: (task_id, None)) + b"}"
    )
    assert list(members.items()) == [
        (task.uuid, task_body(task, children) | {"retried_as": task.uuid}) for task in tasks
    ]
