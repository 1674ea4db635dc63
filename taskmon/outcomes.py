"""What is found out of a task besides its events: how it ended, or that nobody has it. Pure.

A task that finished unseen is settled by what the result backend says; one that nobody knows is marked as orphaned.
Both hold only until an event says otherwise.
"""

from typing import Final

from celery import states
from msgspec import Struct

from .records import READY_STATES, TASK_EVENTS, Event, Task

#: The values of `Task.reconciled`: how it ended is from the result backend · no worker has it, no result is stored.
SETTLED: Final = "result backend"
ORPHANED: Final = "orphaned"

#: The field that keeps the time of each final state.
FINISHED: Final = {states.SUCCESS: "succeeded", states.FAILURE: "failed", states.REVOKED: "revoked"}


class Outcome(Struct, frozen=True):
    """How a task ended, as the result backend has it: a final state, and when, in epoch seconds, if that is known.

    `result` and `exception` are `repr` texts, as in events.
    """

    state: str
    finished: float | None = None
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None


def resolve(task: Task, outcome: Outcome) -> None:
    """Let a task be finished as its outcome says."""
    task.state = outcome.state
    task.reconciled = SETTLED
    if outcome.finished is not None:
        setattr(task, FINISHED[outcome.state], outcome.finished)
        task.timestamp = outcome.finished
    if outcome.state == states.SUCCESS:
        task.result = outcome.result
    else:
        task.exception, task.traceback = outcome.exception, outcome.traceback


def contradicts(task: Task, event: Event) -> bool:
    """Tell whether an event wins over the outcome that settled its task.

    One that says how the task ended does, and one of a later run, but for a retry: these are told of late. What only
    comes late does not, unless merging it would take back the state.
    """
    kind = TASK_EVENTS.get(event.type)
    state = event.type[5:].upper() if kind is None else kind[0]
    if state in READY_STATES:
        return True
    if state == states.RETRY:
        return False
    finished = getattr(task, FINISHED[task.state])
    if finished is None:
        return kind is None and task.state == states.REVOKED
    if event.type == "task-sent" or event.timestamp is None:
        return False
    return bool(event.timestamp > finished) or (kind is None and task.state == states.REVOKED)


def unresolve(task: Task) -> str:
    """Take back what settled a task, for an event is to say how it is; give the field of a time that it lost."""
    field = FINISHED[task.state]
    setattr(task, field, None)
    task.state = states.PENDING
    task.result = task.exception = task.traceback = None
    task.reconciled = None
    return field
