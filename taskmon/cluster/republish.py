"""What events have recorded of a task that is to run again: where it went, and its arguments. Pure.

Arguments are recorded as text, which is parsed and never evaluated.
"""

import ast
import re
from datetime import UTC
from typing import Any

from celery.utils.saferepr import saferepr

from ..errors import CommandRefused, InvalidArgument, UnreadableArguments
from ..outcomes import ORPHANED
from ..parameters import parse_parameters
from ..records import CUT_MARK, READY_STATES, Task
from .publish_options import PublishOptions, parse_name


def find_destination(task: Task) -> tuple[str, dict[str, Any]]:
    """Return the name of a task and where it went, as far as that is known.

    Raises CommandRefused, also for a task that is neither finished nor orphaned.
    """
    if task.state not in READY_STATES and task.reconciled != ORPHANED:
        raise CommandRefused(f"The task is not finished: its state is {task.state}")
    if not task.name:
        raise CommandRefused("The name of the task is not known: no event told it")
    queue = task.queue or (None if task.exchange else task.routing_key)
    wanted = {"queue": queue} if queue else {"exchange": task.exchange, "routing_key": task.routing_key}
    try:
        known = parse_parameters(PublishOptions, wanted, UTC)
        options = {name: getattr(known, name) for name, value in wanted.items() if value is not None}
        return parse_name("name", task.name), options
    except InvalidArgument as exc:
        raise CommandRefused(f"The task was sent in a way that cannot be repeated: {exc}") from exc


def read_recorded(what: str, text: str | None) -> Any:
    """Read the arguments that an event recorded as text; raises UnreadableArguments for what is cut or no literal.

    Celery writes strings without escapes but for quotes, so the text is escaped before it is read. What is read must
    give the same text again: what it would silently read as something else is refused.
    """
    kind: type = tuple if what == "args" else dict
    if text is None:
        raise UnreadableArguments(f"The {what} of the task are not known: no event told them")
    if text.endswith(CUT_MARK):
        raise UnreadableArguments(f"The {what} of the task are cut: they were longer than --max-text allows")
    escaped = re.sub(r"\\(?!')", r"\\\\", text).replace("\n", r"\n").replace("\r", r"\r")
    value = _read_literal(escaped)
    if value is None or saferepr(value, maxlevels=0) != text:
        value = _read_literal(text) if "\\" not in text else None
        if value is not None and repr(value) != text:
            value = None
    if isinstance(value, list) and what == "args":
        value = tuple(value)
    if _holds_a_cut(value) or (value is None and "..." in text):
        raise UnreadableArguments(f"The {what} of the task are cut: Celery shortens long ones in its events")
    if not isinstance(value, kind):
        raise UnreadableArguments(f"The {what} of the task are no literals, such as the repr of an object")
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise UnreadableArguments(f"The {what} of the task have names that are no texts")
    return value


def _read_literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _holds_a_cut(value: Any) -> bool:
    """Look for what Celery leaves where it cut: an ellipsis, or a text that ends in three dots."""
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if item is ... or (isinstance(item, str) and item.endswith("...")):
            return True
        if isinstance(item, bytes) and item.endswith(b"..."):
            return True
        if isinstance(item, list | tuple | set):
            stack.extend(item)
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
    return False
