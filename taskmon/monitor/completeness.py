"""What is known to be missing of a task, or to be cut. Pure; asked for every task object that goes out."""

import re
from typing import Final

from celery.states import SUCCESS

from ..records import CUT_MARK, Task

#: Celery shortens a text only from this many characters on, unless told otherwise; an ellipsis for depth may come
#: in any text.
_MIN_CUT_LENGTH: Final = 1000

_DOTS: Final = "..."

#: Dots where no literal has them: for what is nested too deep, and for what did not fit.
_BARE: Final = re.compile(r"\.\.\.(?:[,)\]}]|\Z)")

#: Dots at the end of a string, which many a whole text has too.
_QUOTED: Final = re.compile(r"\.\.\.['\"](?:[,)\]}:]|\Z)")

#: A worker that does not have the task says that it failed, and nothing else.
_UNREGISTERED: Final = "NotRegistered("


def find_gaps(task: Task) -> list[str]:
    """List the fields of a task that should be known and are not, that could not be read, and the texts that are cut.

    `sent` is never among them: by default Celery does not tell it.
    """
    gaps = []
    args, kwargs, result = task.args, task.kwargs, task.result
    if task.name is None:
        gaps.append("name")
    if task.received is None or task.started is None:
        gaps += _missing_times(task)
    if not args or args.endswith(CUT_MARK) or (_DOTS in args and is_shortened(args)):
        gaps.append("args")
    if not kwargs or kwargs.endswith(CUT_MARK) or (_DOTS in kwargs and is_shortened(kwargs)):
        gaps.append("kwargs")
    if result is None:
        if task.state == SUCCESS:
            gaps.append("result")
    elif result.endswith(CUT_MARK) or (_DOTS in result and is_shortened(result)):
        gaps.append("result")
    if task.exception is not None and task.exception.endswith(CUT_MARK):
        gaps.append("exception")
    if task.traceback is not None and task.traceback.endswith(CUT_MARK):
        gaps.append("traceback")
    if task.omitted is not None:
        gaps += [field for field in task.omitted.split() if field not in gaps]
    return gaps


def _missing_times(task: Task) -> list[str]:
    """List the events that a later one shows to have been missed.

    A task may be revoked before it is received or started, and one that its worker does not have is neither.
    """
    ended = (task.succeeded, task.failed, task.retried, task.rejected) != (None, None, None, None)
    if ended and task.exception is not None and task.exception.startswith(_UNREGISTERED):
        return []
    missing = []
    if task.received is None and (ended or task.started is not None):
        missing.append("received")
    if task.started is None and ended:
        missing.append("started")
    return missing


def is_shortened(text: str) -> bool:
    """Tell whether Celery has shortened a text of arguments or of a result: it leaves three dots."""
    return _BARE.search(text) is not None or (len(text) >= _MIN_CUT_LENGTH and _QUOTED.search(text) is not None)
