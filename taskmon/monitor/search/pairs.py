"""A pair of kwargs: whether the text of a task's kwargs has a key with a value. Pure.

Celery's own repr of arguments is not always Python: it leaves backslashes and line breaks in strings as they are,
cuts what is long, and shows a datetime by its constructor. `ast.literal_eval` would refuse some of that and misread
some. So only brackets and quotes are read here, in one go over the text.
"""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from .language import Term

if TYPE_CHECKING:
    from ...records import Task

_SINGLE, _DOUBLE = r"'(?:[^'\\]|\\.)*+'", r'"(?:[^"\\]|\\.)*+"'
_STRUCTURE: Final = re.compile(
    rf"""(?P<string>{_SINGLE}|{_DOUBLE})|(?P<cut>['"].*)|(?P<open>[(\[{{])|(?P<close>[)\]}}])|(?P<comma>,)""",
    re.S,
)


def make_pair_check(key: str, value: str, wanted: bool) -> Callable[["Task", str], bool]:
    """Look for `key: value` among the outermost pairs of kwargs, the value a string or anything else."""
    pair = _pattern(key, value)
    hint = _longest_word(key)

    def check(task: "Task", text: str) -> bool:
        if not task.kwargs:
            return not wanted
        folded = task.kwargs.casefold()
        if hint not in folded or not pair.search(folded):
            return not wanted
        for depth, found in _depths(folded):
            if depth == 1 and found["string"] and pair.match(folded, found.start()):
                return wanted
        return not wanted

    return check


def pair_pattern(term: Term) -> re.Pattern[str]:
    """Give the pattern that the kwargs, folded, have in them wherever a pair is, at whichever depth."""
    return _pattern(term.key or "", term.text)


def _pattern(key: str, value: str) -> re.Pattern[str]:
    keys, strings = _alternatives(_quoted(key)), _alternatives(_quoted(value))
    shown = rf"{strings}(?=\s*(?:[,}}]|\.\.\.|\Z))"  # a string is whole even where the text is cut after it
    if _is_one_value(value):
        shown += rf"|{re.escape(value.casefold())}(?=\s*[,}}])"
    return re.compile(rf"{keys}\s*:\s*(?:{shown})")


def pair_words(term: Term) -> tuple[str, ...]:
    """List words, folded, that the kwargs have in them wherever a pair is: of its key and of its value."""
    return tuple(word for text in (term.key or "", term.text) if (word := _longest_word(text)))


def _longest_word(text: str) -> str:
    """Give the longest word in a text, folded: it has nothing in it that a repr writes differently."""
    return max(re.split(r"\W+", text.casefold()), key=len)


def _quoted(text: str) -> set[str]:
    """List how a string may be shown, folded: as Celery does, as Python does, as JSON does."""
    escaped = text.replace("'", "\\'"), text.replace('"', '\\"')
    return {shown.casefold() for shown in (f"'{escaped[0]}'", repr(text), f'"{escaped[1]}"')}


def _alternatives(texts: set[str]) -> str:
    """Write a pattern that matches any of some texts."""
    return f"(?:{'|'.join(map(re.escape, sorted(texts)))})"


def _is_one_value(text: str) -> bool:
    """Tell whether a text can be all of a value: no bracket or quote left open, no comma outside of them."""
    depth = 0
    for depth, found in _depths(text):
        if depth < 0 or found["cut"] or (found["comma"] and depth == 0):
            return False
    return bool(text) and depth == 0


def _depths(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield each string, bracket and comma, and how many brackets are open after it."""
    depth = 0
    for found in _STRUCTURE.finditer(text):
        if found["open"]:
            depth += 1
        elif found["close"]:
            depth -= 1
        yield depth, found
