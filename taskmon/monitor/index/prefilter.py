"""Prefilter: of many tasks, those that may match a search, at a fraction of the cost of asking about each.

The texts of some hundred tasks are put together and folded as one; a term that is not in there is in none of them.
Of fields with few distinct values, the values are tested and not the tasks. What a prefilter lets through must still
be tested for a match: it may let through too much, never too little. Pure.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Final, NamedTuple

from ...records import Task
from ..search import Node, Search, Term, Terms, pair_pattern, pair_words
from ..task_fields import SPARSE
from .store import PLAIN
from .texts import (
    READERS,
    Read,
    Select,
    Tasks,
    Texts,
    by_any,
    by_every,
    by_pattern,
    read_ids,
    read_ids_and_texts,
    read_nothing,
    read_texts,
)

Get = Callable[[Task], Any]

#: A field, those of its values that a term is in, and whether these are all.
Hits = tuple[Get, set[str], bool]

#: Gives the values that a field has among the tasks held, and more perhaps; None for those without one.
Values = Callable[[str], Collection[Hashable]]

#: So many values are compared with so many terms at the most; a search for more goes without a prefilter.
MAX_VALUES: Final = 50_000

#: The fields of few distinct values that a plain term looks into.
_PLAIN_FACETS: Final = ("name", "state", "worker")

#: The ranks of prefilters: a field has a value; texts have all of some needles; anything else.
_ONE_VALUE, _TEXT, _OTHER = range(3)

_ID: Final = frozenset(PLAIN)

#: The texts, None for what a plain term looks into, that may be hidden, or have something masked in them.
_MASKED: Final = frozenset({None, "args", "kwargs", "result", "exception"})


class Prefilter(NamedTuple):
    """`select` lets through what may match. Every match is in each of `groups`, which are fields with their value.

    Of several, that of the lowest rank is asked first: most tasks are to be refused at the least cost.
    """

    select: Select
    groups: tuple[tuple[str, str], ...] = ()
    rank: int = _ONE_VALUE


def make_prefilter(search: Search, values: Values, plain_ids: bool) -> Prefilter | None:
    """Make the prefilter of a search, None where there is nothing to be gained by one.

    With `plain_ids`, no id has anything but `PLAIN` in it.
    """
    if search.terms is None:
        return None
    leaves = list(_leaves(search.terms))
    facets = {*_PLAIN_FACETS, "queue"}
    if len(leaves) * sum(len(values(field)) for field in facets) > MAX_VALUES:
        return None
    return _Compiler(search, leaves, values, plain_ids).compile(search.terms)


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
    """Makes prefilters of terms and groups of them."""

    def __init__(self, search: Search, leaves: list[Term], values: Values, plain_ids: bool) -> None:
        self._hides = search.hides
        self._mask_hints = search.mask_hints
        self._values = values
        self._is_ascii = all((term.key or "").isascii() and term.text.isascii() for term in leaves)
        needles = [term.text.casefold() for term in leaves if term.field is None]
        self._reads_ids = not plain_ids or any(set(needle) <= _ID for needle in needles)
        self._texts: dict[str | None, Texts] = {}

    def compile(self, node: Node) -> Prefilter:
        """Make the prefilter of a term or a group."""
        terms = node if isinstance(node, Terms) else Terms(True, [node])
        parts: list[Prefilter] = []
        texts: dict[str | None, list[Term]] = {}  # terms in the same texts are looked for together
        for member in terms.members:
            if isinstance(member, Terms):
                parts.append(self.compile(member))
            elif member.key is not None:
                parts.append(self._pair(member))
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
            parts.append(self._by_text(field, wanted, unwanted, terms.every))
        return _every(parts) if terms.every else _any(parts)

    def _by_text(self, field: str | None, wanted: list[str], unwanted: list[str], every: bool) -> Prefilter:
        """Select by a text, or by all that a plain term looks into but for the fields of few values."""
        mask_hints = self._mask_hints if field in _MASKED else ()
        rank = _TEXT if every and wanted else _OTHER
        return Prefilter(
            (by_every if every else by_any)(self._texts_of(field), wanted, unwanted, mask_hints), rank=rank
        )

    def _texts_of(self, field: str | None) -> Texts:
        """Give the texts of a field, or for plain terms, without the ids where none of them can be in one."""
        if field not in self._texts:
            read: Read = read_nothing
            if not self._hides or field not in _MASKED:
                read = READERS[field] if field else read_ids_and_texts if self._reads_ids else read_texts
            elif field is None and self._reads_ids:
                read = read_ids
            self._texts[field] = Texts(read, self._is_ascii)
        return self._texts[field]

    def _pair(self, term: Term) -> Prefilter:
        """Select by a pair of kwargs: its words must be there; one that is not wanted needs a closer look."""
        if not term.wanted:
            return Prefilter(let_all)
        if self._hides:
            return Prefilter(let_none)
        return Prefilter(by_pattern(self._texts_of("kwargs"), pair_words(term), pair_pattern(term)), rank=_TEXT)

    def _by_value(self, term: Term) -> Prefilter:
        """Select by a field of few values."""
        field, folded = str(term.field), term.text.casefold()
        values = self._values(field)
        if field == "state":
            hits = {value for value in values if isinstance(value, str) and value.casefold() == folded}
        else:
            hits = _containing(values, folded)
        select = _by_hits([(attrgetter(field), hits)], term.wanted, field not in SPARSE and len(hits) == len(values))
        if not term.wanted:
            return Prefilter(select, rank=_OTHER)
        if len(hits) != 1:
            return Prefilter(select)
        return Prefilter(select, tuple((field, value) for value in hits))

    def _plain_hits(self, term: Term) -> list[Hits]:
        """List the fields with a value that a plain term is in, with these values, and whether these are all."""
        folded = term.text.casefold()
        found: list[Hits] = []
        for field in _PLAIN_FACETS:
            values = self._values(field)
            if hits := _containing(values, folded):
                found.append((attrgetter(field), hits, len(hits) == len(values)))
        return found

    def _plain(self, term: Term, found: list[Hits]) -> Prefilter:
        """Select by a plain term that is in the name, state or worker of some tasks, perhaps in texts of others."""
        hits = [(get, values) for get, values, _ in found]
        if any(is_all for _, _, is_all in found):
            return Prefilter(let_all if term.wanted else let_none)
        folded = [term.text.casefold()]
        if term.wanted:
            in_texts = self._by_text(None, folded, [], True)
            return Prefilter(_union([_by_hits(hits, True, False), in_texts.select]), rank=_OTHER)
        in_texts = self._by_text(None, [], folded, True)
        return Prefilter(_chain([_by_hits(hits, False, False), in_texts.select]), rank=_OTHER)


def _containing(values: Iterable[Hashable], folded: str) -> set[str]:
    return {value for value in values if isinstance(value, str) and folded in value.casefold()}


def _exact(term: Term) -> Prefilter:
    """Select by an id."""
    field = str(term.field)
    select = _by_hits([(attrgetter(field), {term.text})], term.wanted, False)
    return Prefilter(select, ((field, term.text),)) if term.wanted else Prefilter(select, rank=_OTHER)


def _by_hits(found: list[tuple[Get, set[str]]], wanted: bool, is_all: bool) -> Select:
    """Select by whether one of the fields has one of its values."""
    found = [(get, hits) for get, hits in found if hits]
    if not found or is_all:
        return let_all if wanted is is_all else let_none
    if len(found) == 1:
        ((get, hits),) = found
        if wanted:
            return lambda tasks: [task for task, value in zip(tasks, map(get, tasks), strict=True) if value in hits]
        return lambda tasks: [task for task, value in zip(tasks, map(get, tasks), strict=True) if value not in hits]

    def select(tasks: Tasks) -> Tasks:
        return [task for task in tasks if any(get(task) in hits for get, hits in found) is wanted]

    return select


# Groups


def _every(parts: list[Prefilter]) -> Prefilter:
    """Make the prefilter of what every one of some prefilters lets through."""
    groups = tuple(group for part in parts for group in part.groups)
    parts = sorted(parts, key=lambda part: part.rank)
    return Prefilter(_chain([part.select for part in parts]), groups, parts[0].rank)


def _any(parts: list[Prefilter]) -> Prefilter:
    """Make the prefilter of what any of some prefilters lets through."""
    return Prefilter(_union([part.select for part in parts]), rank=_OTHER)


def _chain(selectors: list[Select]) -> Select:
    """Select what the one before let through; the one that refuses most of what it sees comes first the next time."""
    if let_none in selectors:
        return let_none
    selectors = [select for select in selectors if select is not let_all]
    if len(selectors) < 2:
        return selectors[0] if selectors else let_all

    def select(tasks: Tasks) -> Tasks:
        best, least = 0, 0.5
        for place, one in enumerate(selectors):
            if not tasks:
                break
            seen = len(tasks)
            tasks = one(tasks)
            if place and len(tasks) < least * seen:
                best, least = place, len(tasks) / seen
            elif not place:
                least = min(least, len(tasks) / seen)
        if best:
            selectors.insert(0, selectors.pop(best))
        return tasks

    return select


def _union(selectors: list[Select]) -> Select:
    """Put together, in their order, the tasks that any lets through."""
    if let_all in selectors:
        return let_all
    selectors = [select for select in selectors if select is not let_none]
    if len(selectors) < 2:
        return selectors[0] if selectors else let_none

    def select(tasks: Tasks) -> Tasks:
        parts = [part for one in selectors if (part := one(tasks))]
        if len(parts) < 2:
            return parts[0] if parts else []
        let = {id(task) for part in parts for task in part}
        return [task for task in tasks if id(task) in let]

    return select
