"""Events as Celery 5.7 sends them: 36-character ids, repr of the arguments, 50 task names, 10 workers."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

#: Events in one message: Celery's own limit.
BATCH = 24

NAMES = 50
WORKERS = 10
SECONDS_PER_TASK = 0.001

Event = dict[str, Any]
Shape = Callable[[int, random.Random], Event]


def worker(number: int) -> str:
    """Give the hostname of a worker."""
    return f"celery@worker-{number % WORKERS}.example"


def name(number: int) -> str:
    """Give the name of a task."""
    return f"shop.orders.tasks.step_{number % NAMES:02}"


def make_id(rng: random.Random) -> str:
    """Make a task id."""
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def plain_task(number: int, rng: random.Random) -> Event:
    """Describe a task that is its own root, as most are, with arguments that no other task has."""
    task_id = make_id(rng)
    return {
        "uuid": task_id,
        "root_id": task_id,
        "parent_id": None,
        "name": name(number),
        "args": f"({number}, 'order-{number}')",
        "kwargs": f"{{'customer': {number * 7}}}",
        "retries": 0,
        "eta": None,
        "expires": None,
    }


def life(number: int, task: Event, began: float, rng: random.Random) -> tuple[Event, Event, Event, Event]:
    """Give the four events of a task that succeeds: sent, received, started, succeeded."""
    task_id = task["uuid"]
    sent = began + number * SECONDS_PER_TASK
    runtime = rng.random()
    client = {"hostname": "gen4711@web.example", "utcoffset": 0, "pid": 4711, "clock": 4 * number}
    by_worker = {"hostname": worker(number), "utcoffset": 0, "pid": 815}
    route = {"queue": "celery", "exchange": "", "routing_key": "celery"}
    end = {"result": f"{{'order': {number}}}", "runtime": runtime}
    return (
        {**client, **task, **route, "timestamp": sent, "type": "task-sent"},
        {**by_worker, "clock": 4 * number + 1, **task, "timestamp": sent + 0.01, "type": "task-received"},
        {**by_worker, "clock": 4 * number + 2, "uuid": task_id, "timestamp": sent + 0.02, "type": "task-started"},
        {
            **by_worker,
            "clock": 4 * number + 3,
            "uuid": task_id,
            **end,
            "timestamp": sent + 0.02 + runtime,
            "type": "task-succeeded",
        },
    )


def events(tasks: int, window: int = 1, began: float = 1_700_000_000.0, seed: int = 1) -> Iterator[str]:
    """Yield the events of so many tasks as JSON: of `window` tasks first all sent, then all received, and so on."""
    rng = random.Random(seed)
    for start in range(0, tasks, window):
        lives = [
            [json.dumps(event) for event in life(number, plain_task(number, rng), began, rng)]
            for number in range(start, min(start + window, tasks))
        ]
        for step in range(4):
            yield from (texts[step] for texts in lives)


def bodies(texts: Iterator[str], size: int = BATCH) -> Iterator[bytes]:
    """Yield message bodies of so many events each; a single event is sent by itself and not in a list."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield _body(batch, size)
            batch = []
    if batch:
        yield _body(batch, size)


def _body(batch: list[str], size: int) -> bytes:
    return (batch[0] if size == 1 else f"[{', '.join(batch)}]").encode()
