"""Where a value ends that stands in a text, as `repr`, JSON, a call, a header or a log line writes it. Pure.

The text is read once, from the beginning of the value on. Texts may be quoted within others, to any depth: quotes
with the same number of backslashes belong together.
"""

import re
from functools import lru_cache
from typing import Final

#: Brackets, quotes and separators of one value that are looked at; one with more extends to the end of its text.
_MAX_STEPS: Final = 1000

_MAX_BACKSLASHES: Final = 1023

_OPENING: Final = re.compile(r"[bBuUrRfF]{0,2}(?P<slashes>\\*+)(?P<quote>['\"])")
_SCALAR: Final = re.compile(r"[-+\w.]++(?=\s{0,8}(?:[)\]}&;\n]|,(?:[\s'\"\\]|\Z|[\w.-]{1,100}+[:=])|\Z))")
_ANGLE: Final = re.compile(r"<(?:[^<>\n]++|<(?:[^<>\n]++|<[^<>\n]*+>)*+>)*+>(?=\s{0,8}(?:[,)\]}&;'\"\\\n]|\Z))")
_ANGLE_LOOSE: Final = re.compile(r"<[^\n]*?>(?=\s{0,8}(?:[,)\]}'\"\\\n]|\Z))")
_LINE: Final = re.compile(r"[^\n]*")

#: What goes on behind a text in quotes: a further one, which Python adds to it, or a quote that SQL doubles.
_MORE: Final = re.compile(r"(?:\s{1,200}+[bBuUrRfF]{0,2})?(?P<slashes>\\*+)(?P<quote>['\"])")

#: A text of YAML that is all lines which are indented as its first one.
_REST_OF_LINE: Final = r"[^\n\\]*+(?:\\++(?!n)[^\n\\]*+)*+"
_BLOCK: Final = re.compile(
    rf"[|>][-+\d]{{0,2}}[ ]*(?P<line>\n|\\{{1,64}}n)(?P<indent>[ ]{{1,64}}+){_REST_OF_LINE}"
    rf"(?:(?P=line)(?:(?P=indent){_REST_OF_LINE}|[ ]*+(?=(?P=line))))*+"
)

#: A quote as HTML, JSON or a URL writes it, and where a value ends that has none in such a text.
ENCODED_QUOTE: Final = r"(?:&quot;|&#0?3[49];|&#x2[27];|\\{1,64}+u002[27]|%2[27])"
_ENCODED_OPENING: Final = re.compile(f"(?i:{ENCODED_QUOTE})")
_ENCODED_END: Final = re.compile(r"(?i)%(?:26|2c|7d|22|27)|[&\s'\"<>,}\\]")

_TOKEN: Final = re.compile(
    r"(?<!\\)(?P<slashes>\\*+)(?P<quote>['\"])|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<line>\n|(?<!\\)\\++[rn])"
    r"|(?P<comma>,)|(?P<other>[;&])|(?P<word>(?<!\s)\s++[\w.-]++[=:])"
)
#: What a token begins with: to look for one of these is quick.
_STOP: Final = re.compile(r"[\s'\"\\()\[\]{},;&](?:(?<=\\)\\*+|\s*+)")

#: After the quote at the end of a text, or the comma at the end of a value.
_AFTER_QUOTE: Final = re.compile(r"\s*(?:[,)\]}:;>]|\\++[rn]|\Z)")
_NEXT_KEY: Final = re.compile(r",\s*(?:\\*+['\"]|[\w.\-]++\s*[:=])")


def find_end(text: str, start: int, quoted: bool, sign: str) -> tuple[int, int]:
    """Return where the value ends that begins here, and how many steps it took to see that.

    `quoted` is whether the name of the value is in quotes, as in a dict or a pair; `sign` is what stands between
    them, or `header` where the value is all of the line, `tag` where it is that of an element of XML, and `encoded`
    where it is written as in HTML or a URL.
    """
    if sign == "tag":
        is_raw = text.startswith("<![CDATA[", start)
        end = text.find("]]>" if is_raw else "<", start)
        return len(text) if end < 0 else end, 1
    if sign == "encoded":
        return _find_encoded_end(text, start), 1
    if sign == ":" and not quoted:
        block = _BLOCK.match(text, start)
        if block is not None:
            return block.end(), 1
    if sign != "header":
        opening = _OPENING.match(text, start)
        if opening is not None:
            return _find_end_of_strings(text, opening)
        scalar = _SCALAR.match(text, start)
        if scalar is not None:
            return scalar.end(), 1
        if text.startswith("<", start):
            angle = _ANGLE.match(text, start) or _ANGLE_LOOSE.match(text, start) or _LINE.match(text, start)
            return angle.end() if angle is not None else len(text), 1
    return _scan(text, start, quoted, sign)


def _find_encoded_end(text: str, start: int) -> int:
    opening = _ENCODED_OPENING.match(text, start)
    if opening is None:
        found = _ENCODED_END.search(text, start)
        return len(text) if found is None else found.start()
    closing = re.compile(rf"(?<!\\)(?<!%5[cC]){re.escape(opening[0])}").search(text, opening.end())
    return len(text) if closing is None else closing.end()


def _scan(text: str, start: int, quoted: bool, sign: str) -> tuple[int, int]:
    """Find the end of a value that is neither a text nor a number, from bracket to bracket."""
    depth = steps = 0
    place = start
    while (stop := _STOP.search(text, place)) is not None:
        token = _TOKEN.match(text, stop.start())
        if token is None:
            place = stop.end()
            continue
        steps += 1
        if steps > _MAX_STEPS:
            return len(text), steps
        place = token.end()
        if token["quote"]:
            if depth == 0 and _AFTER_QUOTE.match(text, place):
                return token.start(), steps
            if depth:
                place = _find_end_of_string(text, token)
        elif token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
            if depth < 0 and sign != "header":
                return token.start(), steps
            if depth == 0 and not quoted and sign != "header":
                return place, steps
        elif depth <= 0 and _is_end(text, token, quoted, sign):
            return token.start(), steps
    return len(text), steps


def _is_end(text: str, token: re.Match[str], quoted: bool, sign: str) -> bool:
    """Whether a value ends before this token, which is outside of brackets and no quote."""
    if token["line"]:
        return True
    if sign == "header":
        return False
    if token["comma"]:
        return sign == "," or _NEXT_KEY.match(text, token.start()) is not None
    return not quoted


def _find_end_of_strings(text: str, opening: re.Match[str]) -> tuple[int, int]:
    """Find the end of a text in quotes and of those that follow it with nothing between; count them."""
    steps = 0
    first, more = opening, opening
    while True:
        steps += 1
        end = _find_end_of_string(text, more)
        following = _MORE.match(text, end)
        if following is None or following["slashes"] != first["slashes"]:
            return end, steps
        if following.start("slashes") == end and following["quote"] != first["quote"]:
            return end, steps
        if steps > _MAX_STEPS:
            return len(text), steps
        more = following


def _find_end_of_string(text: str, opening: re.Match[str]) -> int:
    """Find the end of a text in quotes, which ends with its text at the latest."""
    slashes, quote = opening["slashes"], opening["quote"]
    start, level = opening.end(), len(slashes)
    if not slashes and text.startswith(2 * quote, start):
        end = text.find(3 * quote, start + 2)
        return len(text) if end < 0 else end + 3
    if level > _MAX_BACKSLASHES:
        return len(text)
    body = _string_body(level.bit_length(), quote).match(text, start)
    end = start if body is None else body.end()
    if end >= len(text):
        return len(text)
    run = text.find(quote, end) - end
    return end + run + 1 if run >= level else end


@lru_cache(maxsize=64)
def _string_body(bits: int, quote: str) -> re.Pattern[str]:
    """Make the pattern of what is in quotes that have so many bits in their number of backslashes.

    A quote within has at least twice as many, whatever wrote the text and however often it was quoted. A text that
    ends with backslashes of its own seems to go on, and is masked up to the next quote.
    """
    more = 1 << bits
    return re.compile(rf"(?:[^{quote}\\]++|\\{{{more},}}+{quote}?|\\++(?!{quote}))*+")
