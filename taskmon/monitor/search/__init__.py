"""The search language: a line of text becomes a fast yes-or-no question about one task. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .language import MAX_DEPTH, MAX_LENGTH, MAX_TOKENS, MIN_SUBSTRING, Node, Term, Terms, only_wanted, parse_terms
from .matching import compile_terms
from .pairs import pair_pattern, pair_words

if TYPE_CHECKING:
    from ...records import Task

__all__ = [
    "MAX_DEPTH",
    "MAX_LENGTH",
    "MAX_TOKENS",
    "MIN_SUBSTRING",
    "Node",
    "Search",
    "Term",
    "Terms",
    "compile_terms",
    "only_wanted",
    "pair_pattern",
    "pair_words",
    "parse_search",
]


@dataclass(frozen=True, slots=True)
class Search:
    """A search that follows the grammar; two are equal when their texts are. None as terms matches every task.

    `matches` is what counts, and may see less of a task than the terms look into: with `hides`, no args, kwargs,
    result and exception. Of these it may see others where one of the `mask_hints` is in them, folded: there, what
    must not be in them may be hidden from it.
    """

    text: str
    matches: Callable[["Task"], bool] = field(repr=False, compare=False)
    terms: Node | None = field(default=None, repr=False, compare=False)
    hides: bool = field(default=False, repr=False, compare=False)
    mask_hints: tuple[str, ...] = field(default=(), repr=False, compare=False)


def parse_search(text: str) -> Search:
    """Compile a search; one without any term matches every task. Raises InvalidSearch."""
    terms = parse_terms(text)
    if terms is None:
        return Search(text, lambda task: True)
    return Search(text, compile_terms(terms), terms)
