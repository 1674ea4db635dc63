"""What must not be seen, by its shape: passwords in URLs, and keys and tokens that look like such. Pure.

Each shape is looked for only where its anchor is in the text, and nothing in its pattern repeats without a bound or
gives back what it took: the time is proportional to the length of the text.
"""

import re
from typing import Final, NamedTuple

MASK: Final = "***"

#: Anchors in one text that are looked at; what comes after more of them is masked, whatever it is.
_MAX_ANCHORS: Final = 4000

_UNTIL_BLANK: Final = r"[^\s'\"\\<>]+"
_USER: Final = r"['\",=\s]{1,8}[^\s'\":]{1,64}+:(?!//|\d{1,9}\b)"


class _Shape(NamedTuple):
    """A secret by its looks: its pattern matches `before` characters before each anchor, which is in small letters.

    The first group stays, and so does the text at its end that `after` names. `needs` is in each such secret, too.
    """

    anchor: str
    pattern: re.Pattern[str]
    before: int = 0
    after: str = ""
    hint: str = ""
    needs: str = ""


def _token(anchor: str, pattern: str, before: int = 0) -> _Shape:
    """Return the shape of a token, of which nothing stays, where it is no part of a longer word."""
    return _Shape(anchor, re.compile(rf"()(?<![A-Za-z0-9])(?:{pattern})"), before)


# In "--token must be …" no value follows.
_NO_SENTENCE: Final = r"(?!(?:must|is|are|cannot|names|and|or)[ \t])"
_QUERY: Final = re.compile(
    r"(?i)([?&][a-z_-]{0,64}(?:password|passwd|secret|token|api_?key|signature|credential|sig)=)[^&\s'\"]+"
)

_SHAPES: Final = (
    _Shape(
        "-----begin ",
        re.compile(r"()-----BEGIN [^\n-]{1,64}-----(?:(?!-----END )[\s\S])*+(?:-----END [^\n-]{1,64}-----)?"),
    ),
    _Shape("bearer", re.compile(r"(?i)(bearer\s{1,8})(?=[\w+/=:~.-]{0,200}[\d=_.~+/-]|\w{20})[\w+/=:~.-]{6,}")),
    _Shape("basic", re.compile(r"((?i:basic)\s{1,8})(?=[\w+/]{0,200}(?:\d|=|[a-z][A-Z]))[\w+/]{6,}={0,2}")),
    *(
        _Shape(f"--{name}", re.compile(rf"(?i)(--{name}[\w-]{{0,20}}[ \t]{{1,8}}){_NO_SENTENCE}{_UNTIL_BLANK}"))
        for name in ("pass", "pwd", "token", "secret", "api")
    ),
    *(
        _Shape(words, re.compile(rf"(?i)({words}[ \t]{{0,8}}\\{{0,64}}+(['\"]))(?:(?!\\{{0,64}}\2)[^\n]){{1,256}}"))
        for words in ("password ", "identified by ")
    ),
    _Shape("password ", re.compile(r"(?i)(password\s[^<>\n]{1,256}+>)[^<\s][^<]*+(?=</)")),
    _Shape("sshpass", re.compile(rf"(?i)(sshpass['\",\s]{{1,8}}-p['\",\s]{{0,8}}){_UNTIL_BLANK}")),
    *(_Shape(option, re.compile(rf"(?i)([\s'\"]{option}{_USER}){_UNTIL_BLANK}"), 1) for option in ("-u", "--user")),
    _Shape("api.telegram.org/", re.compile(rf"(?i)(api\.telegram\.org/){_UNTIL_BLANK}")),
    _Shape("hooks.", re.compile(rf"(?i)(hooks\.[\w.-]{{1,100}}+(?::\d+)?/){_UNTIL_BLANK}"), hint="hook"),
    _Shape("hook", re.compile(rf"(?i)(hooks?b?\d?/){_UNTIL_BLANK}"), hint="hook"),
    _token("eyj", r"(?<![-_])eyJ[\w-]{8,}+\.[\w-]{4,}+(?:\.[\w-]*+){0,3}"),
    _token("akia", r"AKIA[A-Z0-9]{12,}"),
    _token("asia", r"ASIA[A-Z0-9]{12,}"),
    *(_token(f"gh{kind}_", rf"gh{kind}_\w{{8,}}") for kind in "pousr"),
    _token("github_pat_", r"github_pat_\w{8,}"),
    _token("dckr_pat_", r"dckr_pat_[\w-]{8,}"),
    _token("glpat-", r"glpat-[\w-]{8,}"),
    _token("_live_", r"[a-z]{2}_live_\w{6,}", 2),
    _token("_test_", r"(?:sk|rk|pk)_test_\w{6,}", 2),
    _token("whsec_", r"whsec_[\w+/=]{8,}"),
    _token("xox", r"xox[a-z](?:\.xox[a-z])?-[\w-]{6,}"),
    _token("xapp-", r"xapp-[\w-]{6,}"),
    _token("aiza", r"AIza[\w-]{16,}"),
    _token("ya29.", r"ya29\.[\w-]{10,}"),
    _token("gocspx-", r"GOCSPX-[\w-]{10,}"),
    _token("sk-", r"sk-[\w-]{16,}"),
    _token("sg.", r"(?<![-_])SG\.[\w-]{10,}\.[\w-]{10,}"),
    _token("hf_", r"hf_[A-Za-z0-9]{16,}"),
    _token("npm_", r"npm_[A-Za-z0-9]{16,}"),
    _token("pypi-", r"pypi-[\w-]{16,}"),
    _token("dop_v1_", r"dop_v1_\w{16,}"),
    _token("shpat_", r"shpat_\w{16,}"),
    _token("hvs.", r"hvs\.[\w-]{16,}"),
    _token("age-secret-key-", r"AGE-SECRET-KEY-1\w{16,}"),
    _Shape(
        "://",
        re.compile(r"(://(?::|[^\s:/?#@]{1,256}+:(?!\d{1,5}[/?#])))(?:(?!://)\S)*@"),
        after="@",
        needs="@",
    ),
    _Shape("://", re.compile(r"(://)(?=[^\s:/?#@'\"\\]{0,256}\d)[^\s:/?#@'\"\\]{12,256}+@"), after="@", needs="@"),
    _Shape("?", _QUERY, hint="://"),
    _Shape("&", _QUERY, hint="://"),
)

#: In each text that has a secret of such a shape, in small letters, is one of these.
SHAPE_HINTS: Final = tuple({shape.hint or shape.anchor for shape in _SHAPES})


def mask_shapes(text: str, mark: str = MASK) -> str:
    """Put the mark for what looks like a secret by itself, whatever it is called."""
    lower = lower_each(text)
    left = _MAX_ANCHORS
    for shape in _SHAPES:
        if (shape.hint or shape.anchor) in lower and shape.anchor in lower and shape.needs in lower:
            masked, left = _mask_shape(text, lower, shape, mark, left)
            if masked is not text:
                text, lower = masked, lower_each(masked)
    return text


def _mask_shape(text: str, lower: str, shape: _Shape, mark: str, left: int) -> tuple[str, int]:
    """Mask one shape, at the first `left` anchors at the most; return how many are left."""
    find, match = lower.find, shape.pattern.match
    parts: list[str] = []
    done = 0
    at = find(shape.anchor)
    while at >= 0:
        if left == 0:
            return "".join((*parts, text[done:at], mark)), 0
        left -= 1
        found = match(text, at - shape.before) if at - shape.before >= done else None
        if found is None:
            at = find(shape.anchor, at + len(shape.anchor))
            continue
        parts += text[done : found.start()], found[1], mark, shape.after
        done = found.end()
        at = find(shape.anchor, done)
    return ("".join((*parts, text[done:])) if parts else text), left


def lower_each(text: str) -> str:
    """Put small letters for capitals, each for one, so that places stay what they are."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join([small if len(small := letter.lower()) == 1 else letter for letter in text])


def mask_passwords(text: str) -> str:
    """Put *** for the passwords of URLs in a text, and for what has the shape of a secret."""
    return mask_shapes(text)
