"""What differs between two answers, and which differences docs/flower-differences.md allows.

A difference is a short text, as the page writes it: `200 → 400` of the status, `+key` of what only taskmon says,
`-key` of what only Flower says, `≠key` of what each says otherwise, `order` of tasks, `error` of the bodies of two
errors, `type` of the content type. In a key, `*` stands for an id or a hostname, `[]` for a member of a list. A key
of `/metrics` is the name of a metric; `≠name{}` means that its series are others.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any
from uuid import UUID

from flower_requests import Answer, Request

PAGE = Path(__file__).parents[2] / "docs" / "flower-differences.md"

#: Both tell times as they stand in the events; a number is read from text twice.
_CLOSE = 1e-6
_SPAN = re.compile(r"`(?:(redis|rabbitmq): )?(\*|(?:[a-z*]+ )?(?:GET|POST|HEAD|OPTIONS|DELETE|\*) [^`]*): ([^`:]+)`")


@dataclass(frozen=True)
class Allowed:
    """One difference that a row of the page allows, for all requests that match a pattern with `*` in it.

    `broker` is empty for all brokers.
    """

    broker: str
    pattern: str
    difference: str
    row: str

    def matches(self, request: Request, difference: str) -> bool:
        """Tell whether it allows this difference of this request."""
        return self.difference == difference and _fits(self.pattern, request.line)


def read_allowed(broker: str) -> list[Allowed]:
    """Read what the rows of the page allow on a broker: code of the form `request: difference, difference`.

    A request that has the name of a broker in front, as in `redis: GET /…`, is about that broker.
    """
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [
        Allowed(of, pattern, difference.strip(), row)
        for row in rows
        for of, pattern, differences in _SPAN.findall(row)
        for difference in differences.split(",")
        if of in ("", broker)
    ]


def compare(request: Request, flower: Answer, taskmon: Answer, names: Collection[str]) -> set[str]:
    """Give the differences of two answers; `names` are the ids and hostnames that may be keys."""
    if flower.status != taskmon.status:
        return {f"{flower.status} → {taskmon.status}"}
    if flower.status >= 400:
        return set() if flower.body == taskmon.body else {"error"}
    if "/metrics" in request.line:
        return set(_of_metrics(_read_metrics(flower.body), _read_metrics(taskmon.body)))
    if " /workers?" in request.line:
        flower.body["data"].sort(key=len)  # first the one of which Flower says the least
        _put_in_order(taskmon.body["data"], flower.body["data"], "hostname")
    elif "/api/queues/length" in request.line:
        _put_in_order(taskmon.body["active_queues"], flower.body["active_queues"], "name")
    found = {"type"} if flower.content_type.lower() != taskmon.content_type.lower() else set()
    if "/api/tasks" in request.line and [n for n in flower.body if n in taskmon.body] != [
        n for n in taskmon.body if n in flower.body
    ]:
        found.add("order")
    return found | set(_differences(flower.body, taskmon.body, "", names, request.shape_only))


def _put_in_order(rows: list[dict[str, Any]], others: list[dict[str, Any]], key: str) -> None:
    """Put rows in the order of others, by a key; those without another come last."""
    places = {row[key]: place for place, row in enumerate(others)}
    rows.sort(key=lambda row: places.get(row[key], len(places)))


def is_error(answer: Answer) -> bool:
    """Tell whether an answer is an error in the form that docs/api.md promises for every one."""
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    return isinstance(error, dict) and error.get("status") == answer.status and bool(error.get("message"))


def _differences(flower: Any, taskmon: Any, key: str, names: Collection[str], shape_only: bool) -> Iterator[str]:
    if _kind(flower) != _kind(taskmon):
        yield f"≠{key}"
    elif isinstance(flower, dict):
        yield from _of_objects(flower, taskmon, key, names, shape_only)
    elif isinstance(flower, list) and not shape_only:
        if len(flower) != len(taskmon):
            yield f"≠{key}"
        for one, other in zip(flower, taskmon, strict=False):
            yield from _differences(one, other, f"{key}[]", names, shape_only)
    elif isinstance(flower, list):
        if flower and taskmon:
            yield from _differences(flower[0], taskmon[0], f"{key}[]", names, shape_only)
    elif not shape_only and not _same(flower, taskmon):
        yield f"≠{key}"


def _of_objects(
    flower: dict[str, Any], taskmon: dict[str, Any], key: str, names: Collection[str], shape_only: bool
) -> Iterator[str]:
    def inner(name: str) -> str:
        return f"{key}.{'*' if name in names else name}".lstrip(".")

    for name in flower.keys() - taskmon.keys():
        yield f"-{inner(name)}"
    for name in taskmon.keys() - flower.keys():
        yield f"+{inner(name)}"
    for name in flower.keys() & taskmon.keys():
        yield from _differences(flower[name], taskmon[name], inner(name), names, shape_only)


def _read_metrics(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Read the metrics of workers and tasks, by name and labels; the others are about the two processes."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for name, labels, value in re.findall(r"^(flower_\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        series = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))
        found.setdefault(name, {})[series] = float(value)
    return found


def _of_metrics(flower: dict[str, Any], taskmon: dict[str, Any]) -> Iterator[str]:
    yield from (f"-{name}" for name in flower.keys() - taskmon.keys())
    yield from (f"+{name}" for name in taskmon.keys() - flower.keys())
    for name in flower.keys() & taskmon.keys():
        ours, theirs = taskmon[name], flower[name]
        if ours.keys() != theirs.keys():
            yield f"≠{name}{{}}"
        if any(not isclose(ours[labels], theirs[labels], abs_tol=1e-6) for labels in ours.keys() & theirs.keys()):
            yield f"≠{name}"


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(type(value))
    return "number" if isinstance(value, int | float) else str(type(value))


def _same(flower: Any, taskmon: Any) -> bool:
    if isinstance(flower, float):
        return isclose(flower, taskmon, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(flower == taskmon) or (_is_new_id(flower) and _is_new_id(taskmon))


def _is_new_id(value: Any) -> bool:
    """Tell whether it is an id: each of the two makes ids of its own for what it publishes."""
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def _fits(pattern: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), line) is not None
