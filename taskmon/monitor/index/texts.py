"""The texts of many tasks at once: put together, folded, and looked into for all needles of a search. Pure.

A needle that is not in the texts of some hundred tasks is in none of them. Only where it is are they told apart.
"""

import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import compress
from typing import Final

from ...records import Task

Tasks = list[Task]
Select = Callable[[Tasks], Tasks]
Read = Callable[[Tasks], list[str]]

#: Characters that are looked at together at the most, and tasks whose texts are read together.
_MAX_TEXT: Final = 500_000
_READ: Final = 64

#: So many needles are looked for in all texts together; those after them only in what the first ones leave.
_NEEDLES_AT_FIRST: Final = 4

#: Stands between two tasks. No term has a NUL; a text that has this one makes the parts too many, which shows.
_BETWEEN: Final = "\0\n\0"


class TooLong(Exception):
    """The texts of so many tasks are too long to be looked at together."""


def read_nothing(tasks: Tasks) -> list[str]:
    """Give no text for any task."""
    return [""] * len(tasks)


def read_ids(tasks: Tasks) -> list[str]:
    """Give the ids."""
    return [t.uuid for t in tasks]


def read_texts(tasks: Tasks) -> list[str]:
    """Give the texts that a plain term looks into, but for the id and the fields of few values."""
    return [f"{t.args or ''}\0{t.kwargs or ''}\0{t.result or ''}" for t in tasks]


def read_ids_and_texts(tasks: Tasks) -> list[str]:
    """Give the texts that a plain term looks into, but for the fields of few values."""
    return [f"{t.uuid}\0{t.args or ''}\0{t.kwargs or ''}\0{t.result or ''}" for t in tasks]


READERS: Final[dict[str, Read]] = {
    "args": lambda tasks: [t.args or "" for t in tasks],
    "kwargs": lambda tasks: [t.kwargs or "" for t in tasks],
    "result": lambda tasks: [t.result or "" for t in tasks],
    "exception": lambda tasks: [t.exception or "" for t in tasks],
}


class Texts:
    """Texts of tasks, read and folded once for all that look into those of the same list."""

    def __init__(self, read: Read, is_ascii: bool) -> None:
        """With `is_ascii`, no needle has any other letters."""
        self._read = read
        self._fold = _fold_ascii if is_ascii else str.casefold
        self._tasks: Tasks | None = None
        self._text = ""
        self._parts: list[str] | None = None

    def of(self, tasks: Tasks) -> str:
        """Give the texts of these tasks as one; raises TooLong."""
        if tasks is not self._tasks:
            self._tasks = None
            self._text = self._fold(_BETWEEN.join(_read_some(self._read, tasks)))
            self._tasks, self._parts = tasks, None
        return self._text

    def parts(self, tasks: Tasks) -> list[str]:
        """Give the text of each of these tasks; none at all where they cannot be told apart."""
        text = self.of(tasks)
        if self._parts is None:
            self._parts = text.split(_BETWEEN)
        return self._parts if len(self._parts) == len(tasks) else []


def _read_some(read: Read, tasks: Tasks) -> list[str]:
    """Read the texts of tasks, some at a time, to give up early: a text may have 65,536 characters and more."""
    if len(tasks) == 1:
        return read(tasks)
    texts: list[str] = []
    left = _MAX_TEXT
    for start in range(0, len(tasks), _READ):
        some = read(tasks[start : start + _READ])
        left -= sum(map(len, some))
        if left < 0:
            raise TooLong
        texts += some
    return texts


def _fold_ascii(text: str) -> str:
    """Fold as much of a text as a needle in ASCII can be in: of other letters up to ÿ, only ß folds to ASCII."""
    if not text.isascii() and "ß" not in text:
        with suppress(UnicodeEncodeError):
            return text.encode("latin-1").lower().decode("latin-1")
    return text.casefold()


def by_every(
    texts: Texts, wanted: Iterable[str], unwanted: Iterable[str], mask_hints: Collection[str] = ()
) -> Select:
    """Select by texts that have every needle that is wanted in them, and none that is not.

    A text with a hint in it may look otherwise to who asks: what is not wanted says nothing of it. A needle that
    refuses most of what it sees comes first the next time.
    """
    needles = [*((needle, True) for needle in wanted), *((needle, False) for needle in unwanted)]
    mask_hints = list(mask_hints)

    def put_first(needle: tuple[str, bool]) -> None:
        needles.remove(needle)
        needles.insert(0, needle)

    def select(tasks: Tasks) -> Tasks:
        text = texts.of(tasks)
        for needle in [needle for needle, is_wanted in needles if is_wanted][:_NEEDLES_AT_FIRST]:
            if needle not in text:
                put_first((needle, True))
                return []
        present = set(_present([needle for needle, is_wanted in needles if not is_wanted], text))
        asked = [(needle, is_wanted) for needle, is_wanted in needles if is_wanted or needle in present]
        parts = texts.parts(tasks) if asked else []
        if not parts:
            return tasks
        shown = _present(mask_hints, text) if present else []
        best = None
        for needle, is_wanted in asked:
            seen = len(tasks)
            tasks, parts = _part(tasks, parts, needle, is_wanted, shown)
            best = (needle, is_wanted) if best is None and 2 * len(tasks) < seen else best
            if not tasks:
                break
        if best is not None:
            put_first(best)
        return tasks

    return select


def _part(
    tasks: Tasks, parts: list[str], needle: str, is_wanted: bool, mask_hints: list[str]
) -> tuple[Tasks, list[str]]:
    """Keep the tasks with a needle in their text; if it is not wanted those without it, or with a hint."""
    if is_wanted:
        let = [needle in part for part in parts]
    elif mask_hints:
        let = [needle not in part or any(hint in part for hint in mask_hints) for part in parts]
    else:
        let = [needle not in part for part in parts]
    if True not in let:
        return [], []
    return (list(compress(tasks, let)), list(compress(parts, let))) if False in let else (tasks, parts)


def by_any(texts: Texts, wanted: Iterable[str], unwanted: Iterable[str], mask_hints: Collection[str] = ()) -> Select:
    """Select by texts that have any wanted needle, or lack any unwanted one, or have a hint besides."""
    wanted, unwanted = list(wanted), list(unwanted)

    def select(tasks: Tasks) -> Tasks:
        text = texts.of(tasks)
        if len(_present(unwanted, text)) < len(unwanted):
            return tasks
        needles = wanted + list(mask_hints) if unwanted else wanted
        present = _present(needles, text)
        if not present and not unwanted:
            return []
        parts = texts.parts(tasks)
        if not parts:
            return tasks
        refused, left = tasks, parts
        for needle in present:
            refused, left = _part(refused, left, needle, False, [])
        for needle in unwanted:
            refused, left = _part(refused, left, needle, True, [])
        if not refused:
            return tasks
        if len(refused) == len(tasks):
            return []
        ids = set(map(id, refused))
        return [task for task in tasks if id(task) not in ids]

    return select


def by_pattern(texts: Texts, words: Iterable[str], pattern: re.Pattern[str]) -> Select:
    """Select by texts that have some words in them, and a match of a pattern."""
    has_words = by_every(texts, words, ())
    search = pattern.search

    def select(tasks: Tasks) -> Tasks:
        let = has_words(tasks)
        parts = texts.parts(tasks) if let else []
        if not parts:
            return let
        chosen = set(map(id, let))
        return [task for task, text in zip(tasks, parts, strict=True) if id(task) in chosen and search(text)]

    return select


def _present(needles: list[str], text: str) -> list[str]:
    """List the needles that are in a text; many are rather refused by a character that is not in there at all."""
    if len(needles) <= _NEEDLES_AT_FIRST:
        return [needle for needle in needles if needle in text]
    missing = {character for character in set("".join(needles)) if character not in text}
    return [needle for needle in needles if missing.isdisjoint(needle) and needle in text]
