"""The search language: a line of text becomes a fast yes-or-no question about one task.

Pure. `parse_search` checks the whole grammar and compiles it to closures once, since a search may be put to
every task that is held. Case matters in root and parent ids only. No group of terms folds a text twice.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from .errors import InvalidSearch

if TYPE_CHECKING:
    from .records import Task

MAX_LENGTH: Final = 2048
MAX_TOKENS: Final = 128
MAX_DEPTH: Final = 5
MIN_SUBSTRING: Final = 3

#: What a word may start with, up to a colon, and the task field it narrows the search to.
EXACT_FIELDS: Final = {"state": "state", "root": "root_id", "parent": "parent_id"}
TEXT_FIELDS: Final = {name: name for name in ("name", "worker", "queue", "args", "kwargs", "result", "exception")}

#: The second argument is what `_haystack` says of the task, or empty where nobody has asked it yet.
Check = Callable[["Task", str], bool]
Source = Callable[["Task", str], str]


@dataclass(frozen=True, slots=True)
class Search:
    """A search that follows the grammar; two are equal when their texts are. None as terms matches every task."""

    text: str
    matches: Callable[["Task"], bool] = field(repr=False, compare=False)
    terms: "Node | None" = field(default=None, repr=False, compare=False)


def parse_search(text: str) -> Search:
    """Compile a search; one without any term matches every task. Raises InvalidSearch."""
    tokens = _tokens(text)
    if not tokens:
        return Search(text, lambda task: True)
    terms = _Parser(tokens, len(text)).parse()
    check = _compile(terms).check
    return Search(text, lambda task: check(task, ""), terms)


# From text to terms and groups


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


# From terms and groups to closures


class _Compiled(NamedTuple):
    """`plain`: it looks into the haystack, somewhere. Of two, that of lower cost is asked first."""

    cost: int
    plain: bool
    check: Check


_COSTS: Final = {"state": 0, "root_id": 0, "parent_id": 0, "name": 1, "worker": 1, "queue": 1}
_LONG_COST: Final = 2
_PAIR_COST: Final = 3
_PLAIN_COST: Final = 4


def _haystack(task: "Task", text: str) -> str:
    """Give all that a plain term looks into, folded; no term has the NUL between the fields."""
    return (
        text
        or "\0".join(
            (
                task.uuid,
                task.name or "",
                task.state,
                task.worker or "",
                task.args or "",
                task.kwargs or "",
                task.result or "",
            )
        ).casefold()
    )


def _folded(name: str) -> Source:
    """Make the function that gives one field of a task, folded, and nothing for None."""
    get: Callable[[Task], str | None] = attrgetter(name)

    def source(task: "Task", text: str) -> str:
        value = get(task)
        return value.casefold() if value else ""

    return source


def _compile(node: Node) -> _Compiled:
    """Compile a term or a group."""
    group = node if isinstance(node, Terms) else Terms(True, [node])
    needles: dict[str | None, dict[tuple[str, bool], None]] = {}  # those of one text are looked for together
    parts: list[_Compiled] = []
    for member in group.members:
        if isinstance(member, Terms):
            parts.append(_compile(member))
        elif member.key is not None:
            parts.append(_Compiled(_PAIR_COST, False, _pair(member.key, member.text, member.wanted)))
        elif member.field in EXACT_FIELDS.values():
            parts.append(_Compiled(0, False, _exact(member.field, member.text, member.wanted)))
        else:
            needles.setdefault(member.field, {})[member.text.casefold(), member.wanted] = None
    for name, wanted in needles.items():
        source = _haystack if name is None else _folded(name)
        cost = _PLAIN_COST if name is None else _COSTS.get(name, _LONG_COST)
        parts.append(_Compiled(cost, name is None, _contains(source, tuple(wanted), group.every)))
    return _join(parts, group.every)


def _contains(source: Source, needles: tuple[tuple[str, bool], ...], every: bool) -> Check:
    """Look for every needle, or any; a needle that is not wanted must be missing."""
    needle, wanted = needles[0]
    if len(needles) == 1 and wanted:
        return lambda task, text: needle in source(task, text)

    def check(task: "Task", text: str) -> bool:
        folded = source(task, text)
        for needle, wanted in needles:
            if ((needle in folded) is wanted) is not every:
                return not every
        return every

    return check


def _exact(name: str | None, value: str, wanted: bool) -> Check:
    """Compare a state, whose case does not matter, or an id, whose case does."""
    if name == "state":
        state = value.casefold()
        return lambda task, text: (task.state.casefold() == state) is wanted
    if name == "root_id":
        return lambda task, text: (task.root_id == value) is wanted
    return lambda task, text: (task.parent_id == value) is wanted


def _join(parts: list[_Compiled], every: bool) -> _Compiled:
    """Ask the parts in the order of their cost, those that need the haystack last, and make it once."""
    if len(parts) == 1:
        return parts[0]
    parts.sort(key=lambda part: (part.plain, part.cost))
    cost = parts[-1].cost
    plain = parts[-1].plain
    late = tuple(part.check for part in parts if part.plain)
    early = tuple(part.check for part in parts if not part.plain)
    if len(late) < 2:
        early, late = early + late, ()

    def check(task: "Task", text: str) -> bool:
        for part in early:
            if part(task, text) is not every:
                return not every
        if late:
            text = _haystack(task, text)
            for part in late:
                if part(task, text) is not every:
                    return not every
        return every

    return _Compiled(cost, plain, check)


# A pair of kwargs
#
# Celery's own repr of arguments is not always Python: it leaves backslashes and line breaks in strings as
# they are, cuts what is long, and shows a datetime by its constructor. `ast.literal_eval` would refuse some
# of that and misread some. So only brackets and quotes are read here, in one go over the text.

_SINGLE, _DOUBLE = r"'(?:[^'\\]|\\.)*+'", r'"(?:[^"\\]|\\.)*+"'
_STRUCTURE: Final = re.compile(
    rf"""(?P<string>{_SINGLE}|{_DOUBLE})|(?P<cut>['"].*)|(?P<open>[(\[{{])|(?P<close>[)\]}}])|(?P<comma>,)""",
    re.S,
)


def _pair(key: str, value: str, wanted: bool) -> Check:
    """Look for `key: value` among the outermost pairs of kwargs, the value a string or anything else."""
    keys, strings = _alternatives(_quoted(key)), _alternatives(_quoted(value))
    shown = rf"{strings}(?=\s*(?:[,}}]|\.\.\.|\Z))"  # a string is whole even where the text is cut after it
    if _is_one_value(value):
        shown += rf"|{re.escape(value.casefold())}(?=\s*[,}}])"
    pair = re.compile(rf"{keys}\s*:\s*(?:{shown})")
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
