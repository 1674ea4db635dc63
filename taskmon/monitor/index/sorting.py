"""Sorting: tasks in the order of a query, in steps, since to sort twenty thousand at once takes too long. Pure."""

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from ...records import Task
from ..query import TaskQuery
from ..task_fields import ORDERED

#: Tasks that are sorted in one step, and as many as are merged in one.
_RUN: Final = 1000
_MERGED: Final = 250


def in_order(tasks: list[Task], query: TaskQuery) -> Iterator[list[Task]]:
    """Yield tasks as a scan would find them, so that pages fit together whichever way each of them is found.

    Equal ones stand newest first, but by id where the order is by a number, and those without it by `born`. A step on
    which nothing is ready yet yields none.
    """
    field, descending = query.sort_by or "timestamp", query.descending
    get: Callable[[Task], Any] = attrgetter(field)
    if field == "timestamp":
        yield from _merge(tasks, _age, descending or query.sort_by is None)
    elif field in ORDERED:
        yield from _merge(tasks, lambda task: _number(get(task), task), descending)
    else:
        groups: dict[Any, list[Task]] = {}
        for task in tasks:
            groups.setdefault(get(task), []).append(task)
        for value in sorted(groups, key=nulls_first, reverse=descending):
            yield from _merge(groups[value], _age, True)


def _merge(tasks: list[Task], key: Callable[[Task], Any], reverse: bool) -> Iterator[list[Task]]:
    runs = []
    for start in range(0, len(tasks), _RUN):
        runs.append(sorted(tasks[start : start + _RUN], key=key, reverse=reverse))
        yield []
    if len(runs) == 1:
        yield runs[0]
        return
    merged = merge(*runs, key=key, reverse=reverse)
    while some := list(islice(merged, _MERGED)):
        yield some


def _age(task: Task) -> tuple[float, str]:
    return task.timestamp or 0.0, task.uuid


def _number(value: float | None, task: Task) -> tuple[bool, float, str]:
    return value is not None, task.born if value is None else value, task.uuid


def nulls_first(value: Any) -> tuple[bool, Any]:
    """Make the key by which None comes before every value."""
    return value is not None, value
