"""What comes back at the start: the newest tasks, the workers and the counters. In a thread, not on the event loop.

An unfinished task is worth more than a finished one, as in `index/store.py`. Texts that many tasks have are shared.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from sys import intern
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Select, select

from ..monitor.query import TaskQuery
from ..records import DEFAULT_FREQ, FREQ_BOUNDS, READY_STATES, Task, Worker
from .batches import Row
from .columns import FIELDS
from .databases import Database
from .driver_errors import Away
from .reading import Listing
from .schema import counters, tasks, workers

log = logging.getLogger(__name__)

#: Longer texts are seldom the same in two tasks.
_INTERN_MAX_LENGTH: Final = 16


class Restored(Struct):
    """What was read; `tasks` in the order of their last events, `horizon` the latest time of a task that was not."""

    tasks: list[Task]
    workers: list[Worker]
    counters: str | None
    horizon: float


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away: a million rows are none, and it would look through them again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_all(database: Database, most: int, monitor: str) -> Restored:
    """Read what was there at the last end, no more than `most` tasks; raises Away and HistoryRefused."""
    try:
        return _read_all(database, most, monitor)
    except Away as exc:
        raise database.explain(exc.__cause__ or exc) from exc


def _read_all(database: Database, most: int, monitor: str) -> Restored:
    found: list[Task] = []
    horizon = -inf
    for finished in (False, True):
        for state in _states(database, finished):
            horizon = max(horizon, _read_some(database, _newest(database.cluster, state, most + 1), most, found))
    if len(found) > most:
        horizon = max(horizon, _leave_out(found, most))
    found.sort(key=lambda task: (task.seen, task.timestamp or 0.0))
    return Restored(found, _read_workers(database), _read_counters(database, monitor), horizon)


def _states(database: Database, finished: bool) -> list[tuple[str, ...]]:
    """List the states to read together: each unfinished one by itself, as few tasks are in those."""
    found = [str(state) for state in Listing(database, TaskQuery()).values("state", False)]
    if finished:
        ready = tuple(state for state in found if state in READY_STATES)
        return [ready] if ready else []
    return [(state,) for state in found if state not in READY_STATES]


def _newest(cluster: str, states: tuple[str, ...], most: int) -> "Select[Any]":
    at = tasks.c
    within = at.state == states[0] if len(states) == 1 else at.state.in_(states)
    query = select(*(at[field] for field in FIELDS)).where(within, at.cluster == cluster)
    return query.order_by(at.timestamp.desc(), at.uuid.desc()).limit(most)


def _read_some(database: Database, query: "Select[Any]", most: int, found: list[Task]) -> float:
    """Read tasks, and give the time of the first one that is too many."""
    before = len(found)
    for rows in database.read_rows(query):
        found += _to_tasks(rows)
    if len(found) - before <= most:
        return -inf
    return found.pop().timestamp or 0.0


def _leave_out(found: list[Task], most: int) -> float:
    """Leave out the oldest ones, finished ones first; give the time of the latest that is left out."""
    found.sort(key=lambda task: (task.state not in READY_STATES, task.timestamp or 0.0), reverse=True)
    horizon = max(task.timestamp or 0.0 for task in found[most:])
    del found[most:]
    return horizon


#: Fields whose texts many tasks have, and those whose texts may be short.
_REPEATED: Final = ("name", "worker", "client", "queue", "exchange", "routing_key")
_SOMETIMES: Final = ("args", "kwargs")


def _to_tasks(rows: list[Row]) -> list[Task]:
    """Make tasks that share their texts, as those made by events do."""
    made = [Task(*row) for row in rows]
    for task in made:
        task.state = intern(task.state)
        if task.parent_id == task.uuid:  # as earlier versions stored one that was retried
            task.parent_id = None
        if task.root_id == task.uuid:
            task.root_id = task.uuid
        for field in _REPEATED:
            text = getattr(task, field)
            if text is not None:
                setattr(task, field, intern(text))
        for field in _SOMETIMES:
            text = getattr(task, field)
            if text is not None and len(text) <= _INTERN_MAX_LENGTH:
                setattr(task, field, intern(text))
    return made


def _read_workers(database: Database) -> list[Worker]:
    with database.reading() as connection:
        query = select(workers.c.document).where(workers.c.cluster == database.cluster)
        documents = connection.execute(query).scalars().all()
    found: list[Worker] = []
    for document in documents:
        try:
            found.append(msgspec.json.decode(document, type=Worker))
        except msgspec.MsgspecError as exc:
            log.warning("A worker in the history cannot be read, and is left out: %s", exc)
    for worker in found:  # an earlier version took any frequency of heartbeats
        if not FREQ_BOUNDS[0] <= worker.freq <= FREQ_BOUNDS[1]:
            worker.freq = DEFAULT_FREQ
    return found


def _read_counters(database: Database, monitor: str) -> str | None:
    """Read what this taskmon has counted, or another one that watched the same broker and was there last."""
    at = counters.c
    with database.reading() as connection:
        query = select(at.document).where(at.cluster == database.cluster)
        query = query.order_by((at.monitor == monitor).desc(), at.saved.desc()).limit(1)
        document: str | None = connection.execute(query).scalar()
    return document
