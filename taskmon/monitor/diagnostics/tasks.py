"""What is missing of the newest tasks, or cut. Event loop only."""

from collections.abc import Callable, Iterator
from typing import Final

from celery import states

from ...records import CUT_MARK, Task
from ..completeness import is_shortened
from ..state import State
from .findings import MAX_LISTED, Finding, count_of, name_some

#: As many of the newest tasks are looked at.
NEWEST: Final = 300

#: Characters of their texts that are searched at the most, about, which takes some milliseconds.
MAX_CHARACTERS: Final = 300_000

_UNSENT: Final = (
    "Who publishes them, a client or a worker, has task_send_sent_event off, as is Celery's default",
    "They were sent while taskmon was not connected: then tasks sent from now on have it",
)

#: Seconds that a later task of a queue must have been there: events of several workers come in any order.
OVERTAKEN_BY: Final = 10.0

_OVERTAKEN: Final = (
    "A worker ran them and sent no events then, as it was started without -E while taskmon was not there to ask:"
    " GET /api/task/result/<id> says how they ended, where there is a result backend, which taskmon asks"
    " by itself after --orphan-after",
    "The events of them were missed while taskmon or its connection was down: see events-missed",
    "Their messages were purged or expired, or wait with a lower priority: compare the length of the queue",
)


def examine_tasks(state: State) -> Iterator[Finding]:
    """Look at the newest tasks for what is missing of them all, and for what is cut."""
    tasks = state.newest(NEWEST)
    sent = {task.name for task in tasks if task.sent is not None}
    unsent = [task.name for task in tasks if task.received is not None and task.name and task.name not in sent]
    if unsent:
        names = sorted(set(unsent))
        yield Finding(
            "task-sent-off",
            f"No task-sent has come of {name_some(names)}: time of sending, client and queue are not known",
            "task_send_sent_event",
            count=len(unsent),
            tasks=tuple(names[:MAX_LISTED]),
            causes=_UNSENT,
        )
    yield from _examine_overtaken(tasks)
    tasks = list(_of_bounded_length(tasks))
    shortened = sum(_any_text(task, is_shortened) for task in tasks)
    if shortened:
        yield Finding(
            "arguments-shortened",
            f"Celery has shortened arguments or results of {count_of(shortened, 'task')} of the newest"
            f" {len(tasks)}: raise argsrepr_maxsize and kwargsrepr_maxsize of app.amqp, resultrepr_maxsize of"
            " tasks; task_repr_maxlevels for what is nested deep",
            "argsrepr_maxsize",
            count=shortened,
        )
    cut = sum(_any_text(task, _is_cut) for task in tasks)
    if cut:
        yield Finding(
            "text-cut",
            f"{count_of(cut, 'task')} of the newest {len(tasks)} have texts longer than --max-text allows",
            "--max-text",
            count=cut,
        )


def _examine_overtaken(tasks: list[Task]) -> Iterator[Finding]:
    """Find tasks that were sent and not received, while later ones of their queue were."""
    latest: dict[str, float] = {}
    for task in tasks:
        if task.queue and task.sent is not None and task.received is not None:
            latest[task.queue] = max(task.sent, latest.get(task.queue, 0.0))
    overtaken = [
        task
        for task in tasks
        if task.queue in latest
        and task.state == states.PENDING
        and task.eta is None
        and task.reconciled is None
        and task.sent is not None
        and task.sent + OVERTAKEN_BY < latest[task.queue]
    ]
    if overtaken:
        names = sorted({task.name or "" for task in overtaken})
        yield Finding(
            "tasks-overtaken",
            f"Of the newest {len(tasks)} tasks {len(overtaken)} ({name_some(names)}) were sent and never received,"
            " though later ones of the same queue were",
            "worker_send_task_events",
            count=len(overtaken),
            tasks=tuple(names[:MAX_LISTED]),
            causes=_OVERTAKEN,
        )


def _of_bounded_length(tasks: list[Task]) -> Iterator[Task]:
    """Yield the first tasks, until their texts are too long together."""
    left = MAX_CHARACTERS
    for task in tasks:
        yield task
        left -= sum(map(len, filter(None, (task.args, task.kwargs, task.result))))
        if left < 0:
            return


def _any_text(task: Task, cut: Callable[[str], bool]) -> bool:
    """Tell whether one of the texts is cut of which Celery tells only the beginning."""
    return any(text is not None and cut(text) for text in (task.args, task.kwargs, task.result))


def _is_cut(text: str) -> bool:
    return text.endswith(CUT_MARK)
