"""What is shown of a task, and to whom: arguments and results hidden from some, values of secret keys masked, and the
function of `--format-task`. Every way out asks here, so that none says what another hides.
"""

import copy
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

from .auth import Role
from .errors import InvalidSetting
from .records import Task
from .search import Search, compile_terms, compile_twice, only_wanted

logger = logging.getLogger(__name__)

Show = Callable[[Task], Task]

MASK: Final = "***"
_HIDDEN: Final = ("args", "kwargs", "result")
_OF_TASKS: Final = frozenset(("args", "kwargs", "argsrepr", "kwargsrepr"))
_CACHED: Final = 1024  # characters of the longest text whose masked form is remembered
_MOST_CACHED: Final = 8192
_WARN_EVERY: Final = 60.0

# A key as `repr` and JSON write it, quotes escaped or not, or as in a call.
_KEY: Final = re.compile(
    r"""(?P<esc>\\?)(?P<quote>['"])(?P<name>[^'"\\\n]{1,100})(?P=esc)(?P=quote)\s*:\s*"""
    r"""|(?<![\w.])(?P<word>[A-Za-z_][\w.-]{0,100})=(?!=)"""
)
_STRING: Final = re.compile(r"""[bBuUrR]{0,2}(?P<esc>\\?)(?P<quote>['"])""")
_BARE: Final = re.compile(r"[^\s,;&)\]}'\"([{]*")
#: The longest word of a pattern must be in a text that has a key like it.
_WORD: Final = re.compile("[a-z0-9]+")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Masker:
    """Masks the values of keys that match one of some patterns, in texts and in JSON values.

    A pattern is a name with `*` for anything; `-`, `_` and a new word in capitals are the same, and so is case.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        whole = "|".join(translate(_plain(pattern)) for pattern in patterns)
        #: In each text that has something to mask in it, in small letters, is one of these.
        self.hints = _shortest({max(_WORD.findall(_plain(pattern)), key=len, default="") for pattern in patterns})
        self._matches = re.compile(whole).match if whole else None
        self.is_secret = lru_cache(maxsize=4096)(self._is_secret)
        self._short = lru_cache(maxsize=_MOST_CACHED)(self._mask)

    def text(self, text: str | None) -> str | None:
        """Mask a text as `repr`, JSON or a call writes keys and values; the same object when there is nothing."""
        if not text or self._matches is None:
            return text
        lower = text.lower()
        for hint in self.hints:
            if hint in lower:
                break
        else:  # as in nearly all texts
            return text
        return self._short(text) if len(text) <= _CACHED else self._mask(text)

    def value(self, value: Any) -> Any:
        """Mask a JSON value, however deep."""
        if self._matches is None:
            return value
        if isinstance(value, dict):
            return {
                key: MASK if isinstance(key, str) and self.is_secret(key) else self.value(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def _is_secret(self, name: str) -> bool:
        return self._matches is not None and self._matches(_plain(name)) is not None

    def _mask(self, text: str) -> str:
        parts: list[str] = []
        done = 0
        for match in _KEY.finditer(text):
            if match.start() >= done and self.is_secret(match["name"] or match["word"]):
                end = _end_of_value(text, match.end())
                parts += text[done : match.end()], MASK
                done = end
        return "".join((*parts, text[done:])) if parts else text


class Showing:
    """Says for each role how a task is shown; None where as it is."""

    def __init__(self, masker: Masker, least: Role | None, format_task: Callable[[Any], Any] | None = None) -> None:
        self.masker = masker
        self._least = least
        self._format = format_task
        self._warn_after = float("-inf")

    def sees(self, role: Role) -> bool:
        """Tell whether arguments and results are shown to a role."""
        return self._least is not None and role >= self._least

    def show(self, task: Task, role: Role) -> Task:
        """Give a task as this role may see it: the same object where there is nothing to hide."""
        if not self.sees(role):
            return self._formatted(msgspec.structs.replace(task, args=None, kwargs=None, result=None))
        text = self.masker.text
        args, kwargs, result = text(task.args), text(task.kwargs), text(task.result)
        if args is not task.args or kwargs is not task.kwargs or result is not task.result:
            task = msgspec.structs.replace(task, args=args, kwargs=kwargs, result=result)
        return self._formatted(task) if self._format is not None else task

    def guard(self, search: Search, role: Role) -> Search:
        """Let a search look only at what this role is shown: else it would tell what is hidden, by yes and no.

        What a term asks for must be in a task both as it is and as it is shown, what it forbids not as it is shown.
        """
        if search.terms is None or (self.sees(role) and self._format is None and not self.masker.hints):
            return search
        wanted = only_wanted(search.terms)
        may_match = (lambda task: True) if wanted is None else compile_terms(wanted)
        matches = None if wanted == search.terms else search.matches
        tells, show = compile_twice(search.terms), self.show

        def check(task: Task) -> bool:
            if not may_match(task):
                return False
            shown = show(task, role)
            if shown is task:
                return matches is None or matches(task)
            return tells(task, shown)

        if self._format is not None:
            return Search(search.text, check, wanted)
        if not self.sees(role):
            return Search(search.text, check, search.terms, hides=True)
        return Search(search.text, check, search.terms, hints=self.masker.hints)

    def value(self, value: Any, role: Role) -> Any:
        """Give a result as this role may see it."""
        return self.masker.value(value) if self.sees(role) else None

    def inspected(self, answers: Mapping[str, msgspec.Raw], role: Role) -> dict[str, msgspec.Raw]:
        """Give what a worker says of its tasks as this role may see it."""
        return {name: self._inspected(raw, self.sees(role)) for name, raw in answers.items()}

    def _inspected(self, raw: msgspec.Raw, sees: bool) -> msgspec.Raw:
        if b'args"' not in bytes(raw):
            return raw
        return msgspec.Raw(msgspec.json.encode(self._tasks(msgspec.json.decode(raw), sees)))

    def _tasks(self, value: Any, sees: bool) -> Any:
        if isinstance(value, list):
            return [self._tasks(inner, sees) for inner in value]
        if not isinstance(value, dict):
            return value
        return {
            key: (self.masker.value(inner) if sees else None) if key in _OF_TASKS else self._tasks(inner, sees)
            for key, inner in value.items()
        }

    def _formatted(self, task: Task) -> Task:
        """Let the function of --format-task change a copy; where it fails, arguments and result are hidden."""
        if self._format is None:
            return task
        try:
            formatted = self._format(copy.copy(task))
        # It is the user's own code: whatever it raises must not end an answer, or show what it was to hide.
        except Exception as exc:
            return self._failed(task, type(exc).__name__)
        if not isinstance(formatted, Task):
            return self._failed(task, "it gives no task back")
        texts = {name: _as_text(getattr(formatted, name)) for name in (*_HIDDEN, "exception", "traceback")}
        return msgspec.structs.replace(formatted, **texts)

    def _failed(self, task: Task, reason: str) -> Task:
        if time.monotonic() >= self._warn_after:
            self._warn_after = time.monotonic() + _WARN_EVERY
            logger.error("--format-task fails (%s): arguments and results are hidden", reason)
        return msgspec.structs.replace(task, args=None, kwargs=None, result=None)


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


def _shortest(words: set[str]) -> tuple[str, ...]:
    """Leave out the words that have another one in them."""
    return tuple(sorted(word for word in words if not any(other in word for other in words - {word})))


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


def _plain(name: str) -> str:
    return _CAMEL.sub("_", name).lower().replace("-", "_")


def _end_of_value(text: str, start: int) -> int:
    """Find the end of the value that begins here: of a text in quotes, of brackets, or of a bare word."""
    string = _STRING.match(text, start)
    if string:
        return _end_of_string(text, string)
    place = _BARE.match(text, start).end()  # type: ignore[union-attr]
    if place >= len(text) or text[place] not in "([{":
        return place
    depth = 0
    while place < len(text):
        string = _STRING.match(text, place) if text[place] in "'\"" else None
        if string:
            place = _end_of_string(text, string)
            continue
        depth += (text[place] in "([{") - (text[place] in ")]}")
        place += 1
        if depth == 0:
            return place
    return len(text)


def _end_of_string(text: str, opening: re.Match[str]) -> int:
    place = opening.end()
    closing = opening["esc"] + opening["quote"]
    while place < len(text):
        if text.startswith(closing, place):
            return place + len(closing)
        place += 2 if text[place] == "\\" else 1
    return len(text)
