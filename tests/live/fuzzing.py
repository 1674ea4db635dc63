"""What schemathesis is told of the cluster behind the API, by SCHEMATHESIS_HOOKS: `test_fuzzing.py` runs it.

Every other request goes to the worker, FUZZED_WORKER, and the task that there are. Nobody waits long for a result,
and the worker is never shut down.
"""

import os
from collections import Counter
from typing import Any

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation

_WAIT = 0.2
_calls: Counter[str] = Counter()


@schemathesis.hook
def filter_case(context: HookContext, case: Case) -> bool:
    """Repeat no argument: the last one counts, and no schema can say so."""
    return not any(isinstance(value, list) for value in (case.query or {}).values())


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Change a request before it goes out."""
    _calls[case.path] += 1
    if _calls[case.path] % 2:
        _name_what_there_is(case)
    if case.path.startswith("/api/worker/") and isinstance(case.body, dict) and isinstance(_worker(case), str):
        case.body["workername"] = case.path_parameters["hostname"]  # no schema can say that both are one
    for given in (case.query, case.body):
        if isinstance(given, dict) and "timeout" in given and _is_long(given["timeout"]):
            given["timeout"] = _WAIT
    if case.path.startswith("/api/task/apply/") and isinstance(case.body, dict):
        case.body.setdefault("timeout", _WAIT)
    elif case.path.startswith("/api/task/apply/") and case.body is NOT_SET:
        case.body, case.media_type = {"timeout": _WAIT}, "application/json"


def _name_what_there_is(case: Case) -> None:
    part = case.meta.components.get(ParameterLocation.PATH) if case.meta is not None else None
    if part is None or not part.mode.is_positive or "/shutdown/" in case.path:
        return
    if "hostname" in case.path_parameters:
        case.path_parameters["hostname"] = os.environ["FUZZED_WORKER"]
    elif "task_name" in case.path_parameters:
        case.path_parameters["task_name"] = "project.add"
        body = case.meta.components.get(ParameterLocation.BODY) if case.meta is not None else None
        if "apply" in case.path and body is not None and body.mode.is_positive and isinstance(case.body, dict):
            case.body |= {"args": [1, 2], "kwargs": {}}  # any others do not suit the task


def _worker(case: Case) -> object:
    body = case.meta.components.get(ParameterLocation.BODY) if case.meta is not None else None
    return case.body.get("workername") if body is not None and body.mode.is_positive else None


def _is_long(timeout: object) -> bool:
    if timeout is None or timeout == "":
        return True
    try:
        return _WAIT < float(timeout) <= 60  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
