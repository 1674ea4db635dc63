"""Sieve: from many tasks, those that may match a search, at a fraction of what it takes to ask about each of them.

The texts of some hundred tasks are put together and folded as one; a term that is not in there is in none of them.
Of fields with few distinct values, the values are looked at and not the tasks. What a sieve lets through must still
be asked for a match: it may let through too much, never too little. Pure.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final, NamedTuple

from ..records import Task
from ..search import Node, Term, Terms, pair_words
from .store import PLAIN

Tasks = list[Task]
Sift = Callable[[Tasks], Tasks]
Get = Callable[[Task], Any]
Read = Callable[[Tasks], list[str]]

#: A field, those of its values that a term is in, and whether these are all.
Hits = tuple[Get, set[str], bool]

#: Gives the values that a field has among the tasks held, and more perhaps; None for those without one.
Values = Callable[[str], Collection[Hashable]]

#: So many values are compared with so many terms at the most; a search for more goes without a sieve.
MOST_VALUES: Final = 50_000

#: The fields of few distinct values that a plain term looks into.
_PLAIN_FACETS: Final = ("name", "state", "worker")

#: The fields of few distinct values that some tasks lack without this showing in the values.
_SPARSE: Final = frozenset({"queue"})

#: The ranks of sieves: a field has a value; texts have all of some needles; anything else.
_ONE_VALUE, _TEXT, _OTHER = range(3)

#: Characters that are looked at together at the most, and tasks whose texts are read together.
_MOST_TEXT: Final = 500_000
_READ: Final = 64

_ID: Final = frozenset(PLAIN)

#: Stands between two tasks. No term has a NUL; a text that has this one makes the parts too many, which shows.
_BETWEEN: Final = "\0\n\0"


class TooLong(Exception):
    """The texts of so many tasks are too long to be looked at together."""


class Sieve(NamedTuple):
    """`sift` lets through what may match. Every match is in each of `groups`, which are fields with their value.

    Of several, that of the lowest rank is asked first: most tasks are to be refused at the least cost.
    """

    sift: Sift
    groups: tuple[tuple[str, str], ...] = ()
    rank: int = _ONE_VALUE


def make_sieve(terms: Node | None, values: Values, plain_ids: bool) -> Sieve | None:
    """Make the sieve of a search, None where there is nothing to be gained by one.

    With `plain_ids`, no id has anything but `PLAIN` in it.
    """
    if terms is None:
        return None
    fields = [term.field for term in _leaves(terms)]
    facets = {*_PLAIN_FACETS, "queue"}
    if len(fields) * sum(len(values(field)) for field in facets) > MOST_VALUES:
        return None
    return _Compiler(values, plain_ids).compile(terms)


def _leaves(node: Node) -> Iterator[Term]:
    if isinstance(node, Term):
        yield node
    else:
        for member in node.members:
            yield from _leaves(member)


def let_all(tasks: Tasks) -> Tasks:
    """Let every task through."""
    return tasks


def let_none(tasks: Tasks) -> Tasks:
    """Let no task through."""
    return []


class _Compiler:
    """Makes sieves of terms and groups of them."""

    def __init__(self, values: Values, plain_ids: bool) -> None:
        self._values = values
        self._plain_ids = plain_ids

    def compile(self, node: Node) -> Sieve:
        """Make the sieve of a term or a group."""
        terms = node if isinstance(node, Terms) else Terms(True, [node])
        parts: list[Sieve] = []
        texts: dict[str | None, list[Term]] = {}  # terms in the same texts are looked for together
        for member in terms.members:
            if isinstance(member, Terms):
                parts.append(self.compile(member))
            elif member.key is not None:
                parts.append(_pair(member))
            elif member.field in ("root_id", "parent_id"):
                parts.append(_exact(member))
            elif member.field in ("state", "name", "worker", "queue"):
                parts.append(self._by_value(member))
            elif member.field is None and (hits := self._plain_hits(member)):
                parts.append(self._plain(member, hits))
            else:
                texts.setdefault(member.field, []).append(member)
        for field, members in texts.items():
            wanted = sorted((term.text.casefold() for term in members if term.wanted), key=len, reverse=True)
            unwanted = [term.text.casefold() for term in members if not term.wanted]
            rank = _TEXT if terms.every and wanted else _OTHER
            read = _READERS[field] if field else self._plain_reader(wanted + unwanted)
            parts.append(Sieve(_by_text(read, wanted, unwanted, terms.every), rank=rank))
        return _every(parts) if terms.every else _any(parts)

    def _plain_reader(self, needles: list[str]) -> Read:
        """Give what reads the texts for plain terms, without the ids where none of them can be in one."""
        if self._plain_ids and not any(set(needle) <= _ID for needle in needles):
            return _read_texts
        return _read_ids_and_texts

    def _by_value(self, term: Term) -> Sieve:
        """Sift by a field of few values."""
        field, folded = str(term.field), term.text.casefold()
        values = self._values(field)
        if field == "state":
            hits = {value for value in values if isinstance(value, str) and value.casefold() == folded}
        else:
            hits = _containing(values, folded)
        sift = _by_hits([(attrgetter(field), hits)], term.wanted, field not in _SPARSE and len(hits) == len(values))
        if not term.wanted:
            return Sieve(sift, rank=_OTHER)
        if len(hits) != 1:
            return Sieve(sift)
        return Sieve(sift, tuple((field, value) for value in hits))

    def _plain_hits(self, term: Term) -> list[Hits]:
        """List the fields with a value that a plain term is in, with these values, and whether these are all."""
        folded = term.text.casefold()
        found: list[Hits] = []
        for field in _PLAIN_FACETS:
            values = self._values(field)
            if hits := _containing(values, folded):
                found.append((attrgetter(field), hits, len(hits) == len(values)))
        return found

    def _plain(self, term: Term, found: list[Hits]) -> Sieve:
        """Sift by a plain term that is in the name, state or worker of some tasks, and in texts of others perhaps."""
        hits = [(get, values) for get, values, _ in found]
        if any(is_all for _, _, is_all in found):
            return Sieve(let_all if term.wanted else let_none)
        folded = [term.text.casefold()]
        read = self._plain_reader(folded)
        if term.wanted:
            return Sieve(_union([_by_hits(hits, True, False), _by_text(read, folded, [], True)]), rank=_OTHER)
        others = _by_hits(hits, False, False)
        return Sieve(_chain([others, _by_text(read, [], folded, True)]), rank=_OTHER)


def _containing(values: Iterable[Hashable], folded: str) -> set[str]:
    return {value for value in values if isinstance(value, str) and folded in value.casefold()}


def _exact(term: Term) -> Sieve:
    """Sift by an id."""
    field = str(term.field)
    sift = _by_hits([(attrgetter(field), {term.text})], term.wanted, False)
    return Sieve(sift, ((field, term.text),)) if term.wanted else Sieve(sift, rank=_OTHER)


def _pair(term: Term) -> Sieve:
    """Sift by a pair of kwargs: its words must be there; one that is not wanted needs a closer look."""
    words = list(pair_words(term))
    if not term.wanted or not words:
        return Sieve(let_all)
    return Sieve(_by_text(_READERS["kwargs"], words, [], True), rank=_TEXT)


def _by_hits(found: list[tuple[Get, set[str]]], wanted: bool, is_all: bool) -> Sift:
    """Sift by whether one of the fields has one of its values."""
    found = [(get, hits) for get, hits in found if hits]
    if not found or is_all:
        return let_all if wanted is is_all else let_none
    if len(found) == 1:
        ((get, hits),) = found
        if wanted:
            return lambda tasks: [task for task, value in zip(tasks, map(get, tasks), strict=True) if value in hits]
        return lambda tasks: [task for task, value in zip(tasks, map(get, tasks), strict=True) if value not in hits]

    def sift(tasks: Tasks) -> Tasks:
        return [task for task in tasks if any(get(task) in hits for get, hits in found) is wanted]

    return sift


# Texts


def _read_texts(tasks: Tasks) -> list[str]:
    """Give the texts that a plain term looks into, but for the id and the fields of few values."""
    return [f"{t.args or ''}\0{t.kwargs or ''}\0{t.result or ''}" for t in tasks]


def _read_ids_and_texts(tasks: Tasks) -> list[str]:
    return [f"{t.uuid}\0{t.args or ''}\0{t.kwargs or ''}\0{t.result or ''}" for t in tasks]


_READERS: Final[dict[str, Read]] = {
    "args": lambda tasks: [t.args or "" for t in tasks],
    "kwargs": lambda tasks: [t.kwargs or "" for t in tasks],
    "result": lambda tasks: [t.result or "" for t in tasks],
    "exception": lambda tasks: [t.exception or "" for t in tasks],
}


def _by_text(read: Read, wanted: list[str], unwanted: list[str], every: bool) -> Sift:
    """Sift by the needles that are, and are not, in the texts of a task: all of these conditions, or any."""

    fold = _fold_ascii if all(map(str.isascii, wanted + unwanted)) else str.casefold

    def sift(tasks: Tasks) -> Tasks:
        text = fold(_BETWEEN.join(_read_some(read, tasks)))
        if every and not all(needle in text for needle in wanted):
            return []
        present = wanted if every else [needle for needle in wanted if needle in text]
        absent = [needle for needle in unwanted if needle in text]
        if (every and not wanted and not absent) or (not every and len(absent) < len(unwanted)):
            return tasks
        if not present and not absent:
            return []
        parts = text.split(_BETWEEN)
        if len(parts) != len(tasks):
            return tasks
        return _pick(tasks, parts, present, absent, every)

    return sift


def _read_some(read: Read, tasks: Tasks) -> list[str]:
    """Read the texts of tasks, some at a time, to give up early: a text may have 65,536 characters and more."""
    if len(tasks) == 1:
        return read(tasks)
    texts: list[str] = []
    left = _MOST_TEXT
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


def _pick(tasks: Tasks, texts: list[str], wanted: list[str], unwanted: list[str], every: bool) -> Tasks:
    """Pick the tasks whose text has what is wanted in it and lacks what is not: all of it, or any."""
    if not every:
        return [
            task
            for task, text in zip(tasks, texts, strict=True)
            if any(needle in text for needle in wanted) or any(needle not in text for needle in unwanted)
        ]
    pairs = list(zip(tasks, texts, strict=True))
    for needle in wanted:
        pairs = [pair for pair in pairs if needle in pair[1]]
    for needle in unwanted:
        pairs = [pair for pair in pairs if needle not in pair[1]]
    return [task for task, _ in pairs]


# Groups


def _every(parts: list[Sieve]) -> Sieve:
    """Make the sieve of what every one of some sieves lets through."""
    groups = tuple(group for part in parts for group in part.groups)
    parts = sorted(parts, key=lambda part: part.rank)
    return Sieve(_chain([part.sift for part in parts]), groups, parts[0].rank)


def _any(parts: list[Sieve]) -> Sieve:
    """Make the sieve of what any of some sieves lets through."""
    return Sieve(_union([part.sift for part in parts]), rank=_OTHER)


def _chain(sifts: list[Sift]) -> Sift:
    """Sift what the one before let through."""
    if let_none in sifts:
        return let_none
    sifts = [sift for sift in sifts if sift is not let_all]
    if len(sifts) < 2:
        return sifts[0] if sifts else let_all

    def sift(tasks: Tasks) -> Tasks:
        for one in sifts:
            if not tasks:
                break
            tasks = one(tasks)
        return tasks

    return sift


def _union(sifts: list[Sift]) -> Sift:
    """Put together, in their order, the tasks that any lets through."""
    if let_all in sifts:
        return let_all
    sifts = [sift for sift in sifts if sift is not let_none]
    if len(sifts) < 2:
        return sifts[0] if sifts else let_none

    def sift(tasks: Tasks) -> Tasks:
        parts = [part for one in sifts if (part := one(tasks))]
        if len(parts) < 2:
            return parts[0] if parts else []
        let = {id(task) for part in parts for task in part}
        return [task for task in tasks if id(task) in let]

    return sift
