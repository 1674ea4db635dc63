"""What a search asks of a database's index: which texts a row must have, whatever else it must have.

A row that the index finds may still not match, and is looked at again; one that matches is always found.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, or_

from ..monitor.search import MIN_SUBSTRING, Node, Term, Terms
from .schema import tasks

Condition = ColumnElement[bool]


class Texts(Struct, frozen=True):
    """Folded texts of which a row has every one, or any; a member is a text or has members itself."""

    every: bool
    members: "tuple[str | Texts, ...]"


Match = Callable[[Texts], Condition]


def find_condition(node: Node, match: Match) -> Condition | None:
    """Write the condition that a search puts to rows, None for none; `match` asks the index for texts."""
    texts = _texts(node)
    if texts is not None:
        return match(texts if isinstance(texts, Texts) else Texts(True, (texts,)))
    if isinstance(node, Term):
        return _exact(node)
    conditions = [find_condition(member, match) for member in node.members]
    known = [condition for condition in conditions if condition is not None]
    if node.every:
        return and_(*known) if known else None
    return or_(*known) if len(known) == len(conditions) else None


def _texts(node: Node) -> "str | Texts | None":
    """Give the texts that a row must have to match, None where it takes more than texts to tell."""
    if isinstance(node, Terms):
        members = tuple(_texts(member) for member in node.members)
        known = tuple(member for member in members if member is not None)
        return Texts(node.every, known) if len(known) == len(members) else None
    if not node.wanted:
        return None
    if node.key is not None:
        words = [word for word in (_word(node.key), _word(node.text)) if len(word) >= MIN_SUBSTRING]
        return Texts(True, tuple(words)) if words else None
    return node.text.casefold() if node.field not in _EXACT else None


#: The terms for whose fields there are indexes.
_EXACT: Final = ("state", "root_id", "parent_id")


def _exact(term: Term) -> Condition | None:
    at: Any = tasks.c
    if not term.wanted or term.field not in _EXACT:
        return None
    if term.field == "state":  # whose case does not matter; Celery's are in capitals, and so are custom ones
        return at.state.in_(sorted({term.text, term.text.upper()}))  # type: ignore[no-any-return]
    if term.field == "root_id":
        return or_(and_(at.root_id == term.text, at.root_id != at.uuid), at.uuid == term.text)
    return at.parent_id == term.text  # type: ignore[no-any-return]


def _word(text: str) -> str:
    """Give the longest part of a text that a repr never writes differently."""
    return max(re.split(r"\W+", text.casefold()), key=len)
