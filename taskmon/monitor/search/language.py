"""The grammar of searches: a line of text becomes terms and groups of them, or an InvalidSearch. Pure."""

import re
from typing import Final, NamedTuple

from ...errors import InvalidSearch

MAX_LENGTH: Final = 2048
MAX_TOKENS: Final = 128
MAX_DEPTH: Final = 5
MIN_SUBSTRING: Final = 3

#: What a word may start with, up to a colon, and the task field it narrows the search to.
EXACT_FIELDS: Final = {"state": "state", "root": "root_id", "parent": "parent_id"}
TEXT_FIELDS: Final = {name: name for name in ("name", "worker", "queue", "args", "kwargs", "result", "exception")}


class _Token(NamedTuple):
    position: int
    text: str


class Term(NamedTuple):
    """`field` is None for a plain term; `key` is set for a pair of kwargs, whose value `text` is then."""

    field: str | None
    key: str | None
    text: str
    wanted: bool


class Terms(NamedTuple):
    """Every member must match, or any."""

    every: bool
    members: "list[Node]"


Node = Term | Terms


def only_wanted(node: Node | None) -> Node | None:
    """Leave out the terms that must not match: what is left matches as much or more. None if that is every task."""
    if node is None or isinstance(node, Term):
        return node if node is None or node.wanted else None
    members = [only_wanted(member) for member in node.members]
    left = [member for member in members if member is not None]
    if not left or (not node.every and len(left) < len(members)):
        return None
    return Terms(node.every, left)


def parse_terms(text: str) -> Node | None:
    """Read a search; one without any term is None. Raises InvalidSearch."""
    tokens = _tokens(text)
    return _Parser(tokens, len(text)).parse() if tokens else None


_TOKEN: Final = re.compile(r'[()]|(?:\\["\\]|"(?:\\["\\]|[^"])*+"|[^\s()"])++')
_BLANKS: Final = re.compile(r"\s*")
_QUOTE: Final = re.compile(r'\\(["\\])|"')


def _tokens(text: str) -> list[_Token]:
    """Split a search into parentheses and words; quotes stay in the words, since AND and "AND" differ."""
    if len(text) > MAX_LENGTH:
        raise InvalidSearch(f"must have at most {MAX_LENGTH:,} characters", MAX_LENGTH)
    if "\0" in text:
        raise InvalidSearch("must not contain a NUL character", text.index("\0"))
    tokens: list[_Token] = []
    position = _skip_blanks(text, 0)
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise InvalidSearch("has a quote that is never closed", position)
        if len(tokens) == MAX_TOKENS:
            raise InvalidSearch(f"must have at most {MAX_TOKENS} words and parentheses", position)
        tokens.append(_Token(position, found[0]))
        position = _skip_blanks(text, found.end())
    return tokens


def _skip_blanks(text: str, position: int) -> int:
    """Find the next position that is not blank."""
    found = _BLANKS.match(text, position)
    return found.end() if found else position


class _Parser:
    """Recursive descent, at most `MAX_DEPTH` deep: any -> every (OR every)*, every -> part (AND? part)*."""

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self.tokens = [*tokens, _Token(end, "")]
        self.at = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def parse(self) -> Node:
        """Read all of it."""
        node = self.any(0)
        if self.token.text:
            raise InvalidSearch("has a ) without its (", self.token.position)
        return node

    def any(self, depth: int) -> Node:
        """Read terms or groups with OR between them."""
        members = [self.every(depth)]
        while self.token.text == "OR":
            self.operator()
            members.append(self.every(depth))
        return members[0] if len(members) == 1 else Terms(False, members)

    def every(self, depth: int) -> Node:
        """Read terms or groups with AND or nothing between them."""
        members = [self.part(depth)]
        while self.token.text not in ("", ")", "OR"):
            if self.token.text == "AND":
                self.operator()
            members.append(self.part(depth))
        return members[0] if len(members) == 1 else Terms(True, members)

    def operator(self) -> None:
        """Step over AND or OR, which something must follow."""
        position, text = self.token
        self.at += 1
        if self.token.text in ("", ")", "AND", "OR"):
            raise InvalidSearch(f"needs a term after {text}", position)

    def part(self, depth: int) -> Node:
        """Read a term, or a group in parentheses."""
        position, text = self.token
        self.at += 1
        if text == "(":
            return self.group(position, depth + 1)
        if text == ")":
            raise InvalidSearch("has a ) without its (", position)
        if text in ("AND", "OR"):
            raise InvalidSearch(f"needs a term before {text}", position)
        if text == "NOT":
            raise InvalidSearch("does not know NOT: write -term to leave out what matches a term", position)
        return _term(position, text)

    def group(self, position: int, depth: int) -> Node:
        """Read what is left of a group after its parenthesis, which was at `position`."""
        if depth > MAX_DEPTH:
            raise InvalidSearch(f"must not have more than {MAX_DEPTH} parentheses in one another", position)
        if self.token.text == ")":
            raise InvalidSearch("has nothing between ( and )", position)
        if not self.token.text:
            raise InvalidSearch("has a ( that is never closed", position)
        node = self.any(depth)
        if self.token.text != ")":
            raise InvalidSearch("has a ( that is never closed", position)
        self.at += 1
        return node


def _term(position: int, word: str) -> Term:
    """Make a term of a word; a `-` or a field name counts only outside quotes."""
    wanted = not word.startswith("-")
    rest = word if wanted else word[1:]
    if not wanted and (not rest or rest.startswith("-")):
        raise InvalidSearch("needs a term right after -, and quotes around one that starts with -", position)
    prefix, colon, value = rest.partition(":")
    name = prefix.casefold() if colon else ""
    if name in EXACT_FIELDS or name in TEXT_FIELDS:
        text = _unquote(value)
        if not text.strip():
            raise InvalidSearch(f"needs a value right after {name}:", position)
        if name in EXACT_FIELDS:
            return Term(EXACT_FIELDS[name], None, text, wanted)
        key, equals, pair_value = text.partition("=")
        if name == "kwargs" and equals and key.strip():
            return Term(name, key.strip(), pair_value.strip(), wanted)
        return Term(TEXT_FIELDS[name], None, _substring(position, text), wanted)
    return Term(None, None, _substring(position, _unquote(rest)), wanted)


def _unquote(word: str) -> str:
    """Take away the quotes, and the backslash before a quote or another backslash."""
    return _QUOTE.sub(r"\1", word)


def _substring(position: int, text: str) -> str:
    """Refuse a text that is in nearly every task."""
    if len(text.strip()) < MIN_SUBSTRING:
        raise InvalidSearch(f"needs at least {MIN_SUBSTRING} characters in a term", position)
    return text
