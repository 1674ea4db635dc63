"""Masker: hides secrets in texts and JSON values, by the names of keys and by the shape of the secret. Pure.

A text is scanned once for the words that names of secrets have in common; only around these is it looked at closely.
So the time is proportional to the length of the text. Where it is not clear where a value ends, too much is masked
rather than too little.
"""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final

from ..masking import MASK, SHAPE_HINTS, lower_each, mask_shapes
from .value_ends import ENCODED_QUOTE, find_end

#: Characters of the longest text whose masked form is remembered, and how many of them are.
_MAX_CACHED_LENGTH: Final = 1024
_MAX_CACHED_TEXTS: Final = 8192

#: Places of one text that are looked at closely; what comes after more of them is masked, whatever it is.
_MAX_STEPS: Final = 800

_MAX_NAME: Final = 100
_QUOTES: Final = frozenset("'\"")

_WORD: Final = re.compile("[a-z0-9]+")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LAST: Final = re.compile(r"[./\[\]'\"]+")

#: The characters of a name, and how a name goes on behind a word of it, up to the separator before its value.
_NAME: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_REST: Final = r"[\w.\-]{0,100}+(?:[\w.\- ]{0,100}+(?=\\{0,1023}+['\"]))?(?:\\{0,1023}+['\"])?\]?"
_SIGN: Final = rf"(\s{{0,100}}+[:=,>]|{ENCODED_QUOTE}|%3[ad]|\s(?=[a-z]{{1,20}}+=))?"

_QUOTED: Final = re.compile(
    r"(?P<name>[\w.\- ]{1,200}+)(?P<slashes>\\*+)(?P<quote>['\"])\]?\s*"
    r"(?P<sign>:(?!//)|=(?!=)>?|,|(?=[a-zA-Z]{1,20}+=))\s*"
)
_BARE: Final = re.compile(r"(?P<name>[\w.\-]{1,200}+)\]?[ \t]*(?P<sign>=(?!=)>?|:(?![:/])|>)[ \t]*")
_ENCODED: Final = re.compile(
    rf"(?i)(?P<name>[\w.\-]{{1,200}}+)(?:{ENCODED_QUOTE}\s*(?:[:=]|%3[ad])|(?P<sign>%3[ad]))(?:%20|[ +])*"
)
#: What stands between a name and what is no part of it: the `n` of a line's end, the digits of an encoded quote.
_ESCAPES: Final = (
    (re.compile(r"u00[0-9a-f]{2}", re.I), "\\"),
    (re.compile(r"[nrt]"), "\\"),
    (re.compile(r"[0-9a-f]{2}", re.I), "%"),
)
_MAX_PREFIX: Final = 34
_TAG: Final = re.compile(r"<(?:\w{1,32}:)?\Z")

#: The value of `{'name': 'password', 'type': 5, 'value': …}` from the comma on, and that of an element of XML.
_NAMES: Final = ("name", "key", "id", "field")
_NAMED_VALUE: Final = re.compile(
    r"[^{}\[\]v]{0,80}+(?:v(?!al)[^{}\[\]v]{0,80}+){0,9}+(?<=['\"])val(?:ue)?\\*+['\"]\s*:\s*", re.I
)
_NAMED_ATTRIBUTE: Final = re.compile(r"[^<>v]{0,80}+(?:v(?!alue=)[^<>v]{0,80}+){0,9}+value=", re.I)


class Masker:
    """Masks the values of keys that match one of some patterns, and what has the shape of a secret.

    A pattern is a name with `*` for anything; `-`, `_`, `.` and a new word in capitals are the same, and so is case.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        plain = sorted({_plain(pattern) for pattern in patterns})
        whole = "|".join(translate(pattern) for pattern in plain)
        words = _cover([_WORD.findall(pattern) for pattern in plain])
        self._matches = re.compile(whole).match if whole else None
        self._words = re.compile(f"(?:{'|'.join(map(re.escape, sorted(words)))}){_REST}{_SIGN}") if words else None
        #: In each text that has something to mask in it, in small letters, is one of these.
        self.mask_hints = _shortest(words | set(SHAPE_HINTS))
        self._hinted = re.compile(_any_of(self.mask_hints)).search
        self.is_secret = lru_cache(maxsize=4096)(self._is_secret)
        self._short = lru_cache(maxsize=_MAX_CACHED_TEXTS)(self._mask)

    def may_mask(self, text: str) -> bool:
        """Whether a text may have something to mask in it; nearly all texts have nothing."""
        return self._hinted(text.lower()) is not None

    def text(self, text: str | None, mark: str = MASK) -> str | None:
        """Mask a text as `repr`, JSON, a call or a header writes it; the same object if there is nothing to mask."""
        if not text or not self.may_mask(text):
            return text
        return self._short(text, mark) if len(text) <= _MAX_CACHED_LENGTH else self._mask(text, mark)

    def value(self, value: Any) -> Any:
        """Mask a JSON value, however deep."""
        if isinstance(value, dict):
            return self._pairs(value)
        if isinstance(value, list | tuple):
            items = [self.value(inner) for inner in value]
            for place, name in enumerate(value[:-1]):
                if isinstance(name, str) and (place == 0 or name.startswith("-")) and self.is_secret(name):
                    items[place + 1] = MASK
            return items
        return self.text(value) if isinstance(value, str) else value

    def _pairs(self, pairs: dict[Any, Any]) -> dict[Any, Any]:
        shown = {
            self.text(key) if isinstance(key, str) else key: (
                MASK if isinstance(key, str) and self.is_secret(key) else self.value(inner)
            )
            for key, inner in pairs.items()
        }
        name = next((pairs[key] for key in ("name", "key") if isinstance(pairs.get(key), str)), None)
        if name is not None and self.is_secret(name):
            shown.update((key, MASK) for key in ("value", "val") if key in shown)
        return shown

    def _is_secret(self, name: str) -> bool:
        """Whether a name is that of a secret: all of it, or what it ends with after a dot or in brackets."""
        if self._matches is None or len(name) > 4 * _MAX_NAME:
            return False
        name = name.strip("-. ")
        names = {name, _LAST.split(name.rstrip("]'\""))[-1]}
        return any(self._matches(_plain(one)) is not None for one in names)

    def _mask(self, text: str, mark: str = MASK) -> str:
        text = mask_shapes(text, mark)
        if self._words is None:
            return text
        parts: list[str] = []
        done = steps = 0
        for match in self._words.finditer(lower_each(text)):
            if match[1] is None or match.start() < done:
                continue
            steps += 1
            found = _find_name(text, match.start())
            if found is not None and self.is_secret(found["name"]):
                start, quoted, sign = _find_value(text, found)
                if sign is not None:
                    end, more = find_end(text, start, quoted, sign)
                    steps += more
                    if end > start:
                        parts += text[done:start], mark
                        done = end
                        if done == len(text):
                            break
            if steps > _MAX_STEPS and done < len(text):
                place = max(done, match.end())
                return "".join((*parts, text[done:place], mark))
        return "".join((*parts, text[done:])) if parts else text


def _find_name(text: str, word: int) -> re.Match[str] | None:
    """Find the name that has a word at this place in it, and what separates it from its value."""
    before = text[max(0, word - _MAX_NAME) : word]
    quoted = word - len(before) + len(before.rstrip(_NAME + " "))
    opening = text[quoted - 1] if quoted else ""
    if opening in _QUOTES:
        found = _QUOTED.match(text, quoted)
        if found is not None and found["quote"] == opening:
            slashes = found["slashes"]
            if not slashes or text.endswith(slashes, 0, quoted - 1):
                return found
    first = word - len(before) + len(before.rstrip(_NAME))
    first += _escape_before(text, first, word)
    return _BARE.match(text, first) or _ENCODED.match(text, first)


def _escape_before(text: str, first: int, word: int) -> int:
    """Return how many characters before a name belong to an escape, as the `n` in `\\npin=1` does."""
    for pattern, sign in _ESCAPES:
        found = pattern.match(text, first, word)
        if found is not None and text.startswith(sign, first - 1):
            return len(found[0])
    return 0


def _find_value(text: str, found: re.Match[str]) -> tuple[int, bool, str | None]:
    """Return where the value of a secret begins, whether its name is in quotes, and what sign stands between them.

    There is no sign where a comma does not separate a name from its value.
    """
    sign, quoted = found["sign"], found.re is _QUOTED
    if found.re is _ENCODED:
        return found.end(), False, "encoded"
    if not quoted and sign == ">":
        is_tag = _TAG.search(text, max(0, found.start() - _MAX_PREFIX), found.start())
        return found.end(), False, "tag" if is_tag else None
    if not quoted:
        is_line = sign == ":" and found["name"].lower().endswith(("authorization", "cookie"))
        return found.end(), False, "header" if is_line else sign
    first = found.start() - 1 - len(found["slashes"])
    if sign and sign != ",":
        return found.end(), True, sign
    before = text[max(0, first - 20) : first].rstrip()
    if before.endswith((":", "=")) and before[:-1].rstrip("\\'\" ").lower().endswith(_NAMES):
        named = (_NAMED_VALUE if sign else _NAMED_ATTRIBUTE).match(text, found.end())
        if named is not None:
            return named.end(), bool(sign), ":" if sign else "="
    if not sign:
        return found.end(), True, None
    opens = text[max(0, first - 12) : first].rstrip("bBuUrR \n")[-1:] in ("(", "[")
    return found.end(), True, "," if opens or found["name"].startswith("-") else None


def _shortest(words: set[str]) -> tuple[str, ...]:
    """Leave out the words that have another one in them."""
    return tuple(sorted(word for word in words if not any(other in word for other in words - {word})))


def _cover(patterns: list[list[str]]) -> set[str]:
    """Choose few words so that each pattern has one of them in it; the empty one, which is in all, if it has none."""
    chosen: set[str] = set()
    left = [words or [""] for words in patterns]
    while left:
        known = sorted({word for words in left for word in words}, key=lambda word: (-len(word), word))
        best = max(known, key=lambda word: sum(any(word in other for other in words) for words in left))
        chosen.add(best)
        left = [words for words in left if not any(best in other for other in words)]
    return chosen


def _any_of(words: Iterable[str]) -> str:
    """Return a pattern that matches any of some words; what several begin with stands once, which is quicker."""
    rest: dict[str, list[str]] = {}
    for word in words:
        if not word:
            return ""
        rest.setdefault(word[0], []).append(word[1:])
    parts = [re.escape(first) + _any_of(words) for first, words in sorted(rest.items())]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _plain(name: str) -> str:
    return _CAMEL.sub("_", name).lower().replace("-", "_").replace(".", "_").replace(" ", "_")
