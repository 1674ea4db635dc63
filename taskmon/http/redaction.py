"""What is shown, and to which role: arguments, results and errors hidden from some, secrets masked, and the function
of `--format-task`. Every way out asks here, so that none says what another hides.
"""

import copy
import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

from ..auth import Role
from ..errors import InvalidSetting, TaskmonError, UnreadableArguments
from ..masking import MASK
from ..monitor.search import Search, compile_terms, only_wanted
from ..records import Task
from .masker import Masker
from .worker_fields import hide_arguments, limit_answer

logger = logging.getLogger(__name__)

Show = Callable[[Task], Task]

#: The texts of a task that are hidden from some, and masked for the others.
HIDDEN: Final = ("args", "kwargs", "result", "exception", "traceback")
_NOTHING: Final = dict.fromkeys(HIDDEN)

#: Answers to inspects that have arguments of tasks in them, and those of which only admins see all.
_WITH_ARGUMENTS: Final = frozenset(("conf", "active", "reserved", "scheduled"))
_LIMITED: Final = frozenset(("conf", "stats", "active_queues"))
#: Answers whose shown form is remembered, and bytes of the longest of them.
_MAX_CACHED_ANSWERS: Final = 4096
_MAX_CACHED_BYTES: Final = 8192

_WARN_EVERY: Final = 60.0

#: The findings of the diagnostics that depend on these texts.
_FINDINGS_OF_TEXTS: Final = frozenset(("arguments-shortened", "text-cut"))

_RESULTS_HIDDEN: Final = "hidden: results are not shown to this role (--show-args)"

#: What a search finds in the place of what is masked: no term has a NUL.
_UNSEARCHABLE: Final = "\0"


class Showing:
    """What each role may see: every way out asks here."""

    def __init__(self, masker: Masker, least: Role | None, format_task: Callable[[Any], Any] | None = None) -> None:
        self.masker = masker
        self._least = least
        self._format = format_task
        self._warn_after = float("-inf")
        self._inspected = lru_cache(maxsize=_MAX_CACHED_ANSWERS)(self._inspect)

    def may_see(self, role: Role) -> bool:
        """Whether arguments, results and errors of tasks are shown to a role."""
        return self._least is not None and role >= self._least

    def show(self, task: Task, role: Role) -> Task:
        """Return a task as this role may see it: the same object where there is nothing to hide."""
        if not self.may_see(role):
            return self._formatted(_hide(task))
        texts = f"{task.args}\0{task.kwargs}\0{task.result}"
        if task.exception is not None or task.traceback is not None:
            texts = f"{texts}\0{task.exception}\0{task.traceback}"
        if self.masker.may_mask(texts):
            task = self._mask(task, MASK)
        return self._formatted(task) if self._format is not None else task

    def restrict(self, search: Search, role: Role) -> Search:
        """Return a search that looks only at what this role is shown: no answer to it differs by what is hidden.

        In the place of a masked value is what no term has, so that the mask is not found either.
        """
        if search.terms is None:
            return search
        matches, show = search.matches, self.show
        if self._format is not None:  # it may show what is in no text of the task, so that no index helps
            return Search(search.text, lambda task: matches(show(task, role)))
        wanted = only_wanted(search.terms)
        may_match = (lambda task: True) if wanted is None else compile_terms(wanted)
        if not self.may_see(role):
            return Search(
                search.text, lambda task: may_match(task) and matches(_hide(task)), search.terms, hides=True
            )

        may_mask, mask = self.masker.may_mask, self._mask

        def check(task: Task) -> bool:
            if not may_match(task):
                return False
            if may_mask(f"{task.args}\0{task.kwargs}\0{task.result}\0{task.exception}"):
                return matches(mask(task, _UNSEARCHABLE))
            return matches(task)

        return Search(search.text, check, search.terms, mask_hints=self.masker.mask_hints)

    def _mask(self, task: Task, mark: str) -> Task:
        text = self.masker.text
        masked = {name: text(getattr(task, name), mark) for name in HIDDEN}
        if all(masked[name] is getattr(task, name) for name in HIDDEN):
            return task
        return msgspec.structs.replace(task, **masked)

    def error(self, error: TaskmonError, role: Role | None) -> str:
        """Return what an error says to this role; None is nobody that is known."""
        if isinstance(error, UnreadableArguments) and (role is None or not self.may_see(role)):
            return error.general
        return self.masker.text(str(error)) or ""

    def may_know(self, code: str, role: Role) -> bool:
        """Whether a finding of the diagnostics is told to this role: not one that depends on texts hidden from it."""
        return code not in _FINDINGS_OF_TEXTS or self.may_see(role)

    def reason(self, reason: str | None, role: Role) -> str | None:
        """Return why a result is missing: because it is hidden, if it is."""
        return self.masker.text(reason) if self.may_see(role) else _RESULTS_HIDDEN

    def text(self, text: str | None, role: Role) -> str | None:
        """Return a text of a task, such as its traceback, as this role may see it."""
        return self.masker.text(text) if self.may_see(role) else None

    def value(self, value: Any, role: Role) -> Any:
        """Give a result as this role may see it."""
        return self.masker.value(value) if self.may_see(role) else None

    def inspected(self, answers: Mapping[str, msgspec.Raw], role: Role) -> dict[str, msgspec.Raw]:
        """Return what a worker has answered to inspects, by method, as this role may see it."""
        may_see, is_admin = self.may_see(role), role >= Role.ADMIN
        shown = {}
        for method, answer in answers.items():
            raw = bytes(answer)
            inspect = self._inspected if len(raw) <= _MAX_CACHED_BYTES else self._inspect
            shown[method] = inspect(method, raw, may_see, is_admin)
        return shown

    def _inspect(self, method: str, raw: bytes, may_see: bool, is_admin: bool) -> msgspec.Raw:
        hides = not may_see and method in _WITH_ARGUMENTS
        limits = not is_admin and method in _LIMITED
        if not hides and not limits and not self.masker.may_mask(raw.decode()):
            return msgspec.Raw(raw)
        answer = msgspec.json.decode(raw)
        if limits:
            answer = limit_answer(method, answer)
        if hides:
            answer = hide_arguments(method, answer)
        return msgspec.Raw(msgspec.json.encode(self.masker.value(answer)))

    def _formatted(self, task: Task) -> Task:
        """Let the function of --format-task change a copy; where it fails, arguments, result and error are hidden."""
        if self._format is None:
            return task
        try:
            formatted = self._format(copy.copy(task))
        # It is the user's own code: whatever it raises must not end an answer, or show what it was to hide.
        except Exception as exc:
            return self._failed(task, type(exc).__name__)
        if not isinstance(formatted, Task):
            return self._failed(task, "it gives no task back")
        texts = {name: _as_text(getattr(formatted, name)) for name in HIDDEN}
        return msgspec.structs.replace(formatted, **texts)

    def _failed(self, task: Task, reason: str) -> Task:
        if time.monotonic() >= self._warn_after:
            self._warn_after = time.monotonic() + _WARN_EVERY
            logger.error("--format-task fails (%s): arguments, results and errors are hidden", reason)
        return _hide(task)


def _hide(task: Task) -> Task:
    """Return a task without what is hidden, and without a word on whether it could be read."""
    omitted = task.omitted
    if omitted is not None:
        omitted = " ".join(name for name in omitted.split() if name not in _NOTHING) or None
    return msgspec.structs.replace(task, omitted=omitted, **_NOTHING)


def load_function(path: str) -> Callable[[Any], Any]:
    """Import what `package.module:function`, or with a dot, names; raise InvalidSetting."""
    module, _, name = path.replace(":", ".").rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), name)
    # Importing somebody's module can raise anything.
    except Exception as exc:
        raise InvalidSetting("format_task", f"cannot be imported ({type(exc).__name__}: {exc})", path) from exc
    if not callable(found):
        raise InvalidSetting("format_task", "must name a function", path)
    return found  # type: ignore[no-any-return]


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)
