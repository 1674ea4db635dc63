"""Random histories of tasks and random questions, with the answers that a look at every task gives."""

from collections.abc import Callable
from random import Random
from typing import Any

from factories import START, find_ids, find_tasks, flush, held_tasks, make_event, tidy_up

from taskmon.monitor.query import TaskQuery, make_filter
from taskmon.monitor.search import parse_search
from taskmon.monitor.state import State
from taskmon.monitor.task_fields import ORDERED, SORT_KEYS
from taskmon.outcomes import Outcome
from taskmon.records import Event, Task

IDS = [f"id{number}" for number in range(14)]
HOSTNAMES = ["celery@one", "celery@two", "celery@three"]
NAMES = ["tasks.add", "tasks.mul", "other"]
QUEUES = ["celery", "slow"]
TYPES = ["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "progress"]
STATES = ["PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "RETRY", "PROGRESS", "NOWHERE"]
TIMES = [START + step for step in range(8)]
SEARCHES = ["add", "two", "state:SUCCESS", "-name:other", "id1", "worker:one OR queue:slow"]

#: What an event may say, weighted towards saying nothing.
FIELDS: dict[str, list[Any]] = {
    "name": NAMES,
    "root_id": [*IDS[:3], None],
    "parent_id": [*IDS[:3], None],
    "retries": [0, 1, None],
    "queue": [*QUEUES, None],
    "runtime": [0.5, 0.5, 2.0, None],
    "eta": ["2026-01-01T00:00:00", None],
}


# The oracle: look at every task


def sort_key(query: TaskQuery) -> Callable[[Task], tuple[bool, Any]]:
    field = query.sort_by or "timestamp"

    def key(task: Task) -> tuple[bool, Any]:
        value = getattr(task, field)
        return (value is not None, value)

    return key


def check(state: State, /, **arguments: Any) -> None:
    """Compare an answer with one from a look at all tasks; the pages with slices of the whole."""
    limit, offset = arguments.pop("limit", None), arguments.pop("offset", 0)
    query = TaskQuery(**arguments)
    found = find_tasks(state, **arguments)
    expected = {task.uuid for task in held_tasks(state) if make_filter(query)(task)}
    ids = [task.uuid for task in found]
    assert len(ids) == len(set(ids)), "an answer has a task twice"
    assert set(ids) == expected
    keys = [sort_key(query)(task) for task in found]
    assert keys == sorted(keys, reverse=query.descending or query.sort_by is None)
    page = find_ids(state, **arguments, limit=limit, offset=offset)
    assert page == ids[offset:][:limit], (limit, offset)


# Random histories, random questions


def draw_event(random: Random, ids: list[str]) -> Event:
    fields = {field: random.choice(values) for field, values in FIELDS.items() if random.random() < 0.3}
    return make_event(
        random.choice(TYPES),
        random.choice(ids),
        timestamp=random.choice(TIMES),
        hostname=random.choice(HOSTNAMES),
        **fields,
    )


def draw_question(random: Random) -> dict[str, Any]:
    filters: dict[str, list[Any]] = {
        "worker": HOSTNAMES,
        "name": NAMES,
        "state": STATES,
        "root_id": IDS[:4],
        "parent_id": IDS[:4],
        "queue": QUEUES,
        "client": HOSTNAMES,
        "received_start": TIMES,
        "received_end": TIMES,
        "started_start": TIMES,
        "started_end": TIMES,
        "search": [parse_search(text) for text in SEARCHES],
    }
    chosen = random.sample(sorted(filters), random.choice([0, 0, 1, 1, 2, 3]))
    return {
        **{field: random.choice(filters[field]) for field in chosen},
        "sort_by": random.choice([None, *SORT_KEYS]),
        "descending": random.random() < 0.5,
        "limit": random.choice([None, 0, 1, 2, 5, 50]),
        "offset": random.choice([0, 0, 1, 3, 20]),
    }


def draw_filters_and_order(random: Random) -> dict[str, Any]:
    """Draw a question with filters that zones know of, in the order of a time or of the runtime."""
    filters = {
        "worker": HOSTNAMES,
        "name": NAMES,
        "state": STATES,
        "queue": QUEUES,
        "client": HOSTNAMES,
        "received_start": TIMES,
        "received_end": TIMES,
        "started_start": TIMES,
        "started_end": TIMES,
    }
    return {
        **{
            field: random.choice(filters[field]) for field in random.sample(sorted(filters), random.choice([1, 1, 2]))
        },
        "sort_by": random.choice(ORDERED),
        "descending": random.random() < 0.5,
        "limit": random.choice([None, 1, 2, 5, 50]),
        "offset": random.choice([0, 0, 1, 3]),
    }


def reconcile(random: Random, state: State) -> None:
    """Find something out about a task that has not finished, if there is any."""
    unfinished = sorted(state._tasks.unfinished)
    if not unfinished:
        return
    task_id, step = random.choice(unfinished), random.random()
    if step < 0.6:
        finished = random.choice([None, *TIMES])
        state.reconciled.resolve(task_id, Outcome(random.choice(["SUCCESS", "FAILURE", "REVOKED"]), finished))
    elif step < 0.8:
        state.reconciled.orphan(task_id)
    else:
        state.reconciled.adopt(task_id)


Draw = Callable[[Random], dict[str, Any]]


def live(
    random: Random, state: State, ids: list[str], steps: int, questions: int, draw: Draw = draw_question
) -> None:
    """Let random things happen to a State, and ask it in between."""
    for _ in range(steps):
        step = random.random()
        if step < 0.5:
            state.apply([draw_event(random, ids) for _ in range(random.choice([1, 1, 3, 9]))])
        elif step < 0.6:
            reconcile(random, state)
        elif step < 0.7:
            state.maintain()
        elif step < 0.75:
            tidy_up(state)
        elif step < 0.8:
            flush(state)
        else:
            check(state, **draw(random))
    for _ in range(questions):
        check(state, **draw(random))
