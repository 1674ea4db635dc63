"""The columns of a stored task, and how two rows of one task become one, whichever came first. Pure.

Two taskmons may write what each knows of a task, in any order. So the merge must not depend on the order: each value
goes with the times of the events that set it, and the later time wins. What is equally old, the greater value wins;
what one of them does not know, the other one's is kept. The state follows from the times of the events, by the same
rules as in `records.merge`: an end counts, else what came after the last retry; of that what Celery ranks highest.
"""

from collections.abc import Callable
from typing import Any, Final

from celery import states
from msgspec.structs import astuple

from ..records import READY_STATES, TASK_EVENTS, Task

#: The fields of a task, in their order; each is a column of that name.
FIELDS: Final[tuple[str, ...]] = Task.__struct_fields__

#: The times of a task's events.
TIMES: Final = tuple(field for _, _, field in TASK_EVENTS.values())

NUMBERS: Final = ("born", "seen", "timestamp", "runtime", *TIMES)
INTEGERS: Final = ("retries", "clock")

#: The times that tell how new the value of a field is. A rejection does not tell who has the task: the worker that
#: rejects it has told of it when it received it, and a late rejection leaves the task to another worker.
_ANNOUNCED: Final = ("sent", "received")
AGES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("client", "queue", "exchange", "routing_key"), ("sent",)),
    **dict.fromkeys(("name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires"), _ANNOUNCED),
    **dict.fromkeys(("result", "runtime"), ("succeeded",)),
    **dict.fromkeys(("exception", "traceback"), ("failed", "retried")),
    "worker": tuple(field for field in TIMES if field not in ("sent", "rejected")),
}
_OTHERWISE: Final = ("timestamp",)

#: What a later event takes back by not saying it.
_TAKEN_BACK: Final = ("reconciled",)

#: Where a task can be after its last retry, the state that Celery ranks highest first, with the time that tells.
BY_RANK: Final = tuple((state, field) for state, _, field in sorted(TASK_EVENTS.values(), key=lambda kind: kind[1]))
_TIME_OF: Final = dict(BY_RANK)

#: States of these ranks come before a custom one.
ABOVE_CUSTOM: Final = (states.SUCCESS, states.FAILURE)

#: States that a later rejection ends, as a later retry does.
UNDER_WAY: Final = (states.STARTED, states.RECEIVED)

#: What tells that a worker has the message of a task again, where it is later than a failure or a rejection.
_AGAIN: Final = ("received", "started", "retried", "revoked")

_NEVER: Final = -1.0


def ages_of(field: str) -> tuple[str, ...]:
    """List the times that tell how new the value of a field is."""
    return AGES.get(field, _OTHERWISE)


def finish(task: Task) -> None:
    """Give a task the state and the `timestamp` that follow from its events, whatever order they came in."""
    times = {field: getattr(task, field) for field in TIMES}
    task.state = _find_state(times, _put_back(task), *_untimed(task, times))
    task.timestamp = max((time for time in (task.timestamp, *times.values()) if time is not None), default=None)


def merge_tasks(first: Task, second: Task) -> Task:
    """Make one task of what two taskmons know of it; neither is changed, and the order does not matter."""
    times = {field: _greatest(getattr(first, field), getattr(second, field)) for field in (*TIMES, "timestamp")}
    merged = {field: _newer(field, first, second) for field in FIELDS if field not in times and field not in _SPECIAL}
    return Task(
        **merged,
        **times,
        uuid=first.uuid,
        born=min(first.born, second.born),
        seen=max(first.seen, second.seen),
        state=_find_state(times, _put_back(first, second), *max(_untimed(task, times) for task in (first, second))),
    )


_SPECIAL: Final = frozenset(("uuid", "born", "seen", "state"))


def _untimed(task: Task, times: dict[str, float | None]) -> tuple[float, str]:
    """Give the state of a task that none of the times explains, after the time that it holds from.

    It is a custom one, or one that the result backend told.
    """
    field = _TIME_OF.get(task.state)
    if field is not None and (task.state not in READY_STATES or times[field] is not None):
        return _NEVER, ""
    return _age(task.timestamp), task.state


def _put_back(*tasks: Task) -> bool:
    """Tell whether the message of a task was put back at its last rejection."""
    last = max(_age(task.rejected) for task in tasks)
    return any(task.state == states.PENDING and _age(task.rejected) == last > _NEVER for task in tasks)


def _find_state(times: dict[str, float | None], put_back: bool, untimed_at: float, untimed: str) -> str:
    retried, rejected = _age(times["retried"]), _age(times["rejected"])
    again = max(untimed_at, *(_age(times[field]) for field in _AGAIN))
    waits = put_back and times["revoked"] is None and again <= rejected
    for state, field in BY_RANK:
        if waits and state != states.SUCCESS:
            return str(states.PENDING)
        if untimed and state not in ABOVE_CUSTOM and untimed_at >= retried:
            return untimed
        since = _NEVER if state in READY_STATES else max(retried, rejected) if state in UNDER_WAY else retried
        if state == states.RETRY or _age(times[field]) <= since:
            continue
        if state == states.FAILURE and rejected > _NEVER and again > _age(times[field]):  # the message was put back
            continue
        return state
    return str(states.PENDING if times["retried"] is None else states.RETRY)


def _newer(field: str, first: Task, second: Task) -> Any:
    ages = ages_of(field)
    ours, theirs = getattr(first, field), getattr(second, field)
    mine = max(_age(getattr(first, age)) for age in ages)
    other = max(_age(getattr(second, age)) for age in ages)
    if mine != other and field in _TAKEN_BACK:
        return ours if mine > other else theirs
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    if mine == other:
        return max(ours, theirs)
    return ours if mine > other else theirs


def _greatest(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return max(first, second)


def _age(time: float | None) -> float:
    return _NEVER if time is None else time


def to_row(task: Task) -> tuple[Any, ...]:
    """Copy a task to a row, in the order of FIELDS: the task itself goes on changing."""
    return astuple(task)


# The same merge in SQL


def merge_sql(old: str, new: str, greatest: str) -> dict[str, str]:
    """Write the merge of two rows as SQL expressions, by field; `greatest` is the name of that function."""

    def both(field: str) -> str:
        return _both(f"{old}.{field}", f"{new}.{field}", greatest)

    expressions = {field: both(field) for field in (*TIMES, "timestamp", "seen")}
    expressions["born"] = f"CASE WHEN {new}.born < {old}.born THEN {new}.born ELSE {old}.born END"
    for field in FIELDS:
        if field in expressions or field in _SPECIAL:
            continue
        mine, other = (_age_sql([f"{side}.{age}" for age in ages_of(field)], greatest) for side in (old, new))
        ours, theirs = f"{old}.{field}", f"{new}.{field}"
        if field not in _TAKEN_BACK:
            ours, theirs = f"coalesce({ours}, {theirs})", f"coalesce({theirs}, {ours})"
        expressions[field] = (
            f"CASE WHEN {mine} > {other} THEN {ours} WHEN {mine} < {other} THEN {theirs} ELSE {both(field)} END"
        )
    expressions["state"] = _state_sql(old, new, greatest)
    return expressions


def _both(one: str, other: str, greatest: str) -> str:
    """Write the greater of two values, or the one that is not null: with a null, SQLite's `max` would be null."""
    return f"{greatest}(coalesce({one}, {other}), coalesce({other}, {one}))"


def _age_sql(times: list[str], greatest: str) -> str:
    known = [f"coalesce({time}, {_NEVER})" for time in times]
    return known[0] if len(known) == 1 else f"{greatest}({', '.join(known)})"


def _state_sql(old: str, new: str, greatest: str) -> str:
    def age(field: str) -> str:
        return _age_sql([f"{old}.{field}", f"{new}.{field}"], greatest)

    times = [_untimed_sql(side, age) for side in (old, new)]
    latest = f"{greatest}({', '.join(times)})"
    names = [
        f"(CASE WHEN {time} = {latest} THEN {side}.state END)" for side, time in zip((old, new), times, strict=True)
    ]
    again = f"{greatest}({', '.join([latest, *map(age, _AGAIN)])})"
    put_back = _put_back_sql(old, new, age("rejected"))
    waits = f"{put_back} AND {age('revoked')} = {_NEVER} AND {again} <= {age('rejected')}"
    whens = []
    for state, field in BY_RANK:
        if state == states.RETRY:
            continue
        since = [str(_NEVER)] if state in READY_STATES else [age("retried")]
        since += [age("rejected")] if state in UNDER_WAY else []
        known = [f"{age(field)} > {time}" for time in since]
        if state == states.FAILURE:
            known.append(f"NOT ({age('rejected')} > {_NEVER} AND {again} > {age(field)})")
        whens.append(f"WHEN {' AND '.join(known)} THEN '{state}'")
    custom = f"WHEN {latest} > {_NEVER} AND {latest} >= {age('retried')} THEN {_both(names[0], names[1], greatest)}"
    whens.insert(len(ABOVE_CUSTOM), custom)
    whens.insert(1, f"WHEN {waits} THEN '{states.PENDING}'")  # behind SUCCESS alone
    otherwise = f"CASE WHEN {age('retried')} = {_NEVER} THEN '{states.PENDING}' ELSE '{states.RETRY}' END"
    return f"CASE {' '.join(whens)} ELSE {otherwise} END"


def _put_back_sql(old: str, new: str, last: str) -> str:
    """Write whether the message of a task was put back at its last rejection."""
    waits = [
        f"({side}.state = '{states.PENDING}' AND coalesce({side}.rejected = {last}, false))" for side in (old, new)
    ]
    return f"({last} > {_NEVER} AND ({' OR '.join(waits)}))"


def _untimed_sql(side: str, age: Callable[[str], str]) -> str:
    """Write the time from which a state holds that no time explains; `age` writes the greater one of each time."""
    known = ", ".join(f"'{state}'" for state, _ in BY_RANK if state not in READY_STATES)
    whens = " ".join(f"WHEN '{state}' THEN {age(field)}" for state, field in BY_RANK if state in READY_STATES)
    explained = f"{side}.state IN ({known}) OR coalesce(CASE {side}.state {whens} END, {_NEVER}) > {_NEVER}"
    return f"(CASE WHEN {explained} THEN {_NEVER} ELSE coalesce({side}.timestamp, {_NEVER}) END)"
