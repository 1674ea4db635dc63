"""Kinds of values: how an option reads what a flag, a variable or a file says.

A parser raises ValueError(rule); the rule never quotes the value.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

TRUE_WORDS: Final = frozenset(("y", "yes", "t", "true", "on", "1"))
FALSE_WORDS: Final = frozenset(("n", "no", "f", "false", "off", "0"))
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
ADDRESS = re.compile(r"[\w.:%-]+")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]+\])(?::\d{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
QUEUE = re.compile(r"(?!amq\.)[\w.@:-]{1,255}", re.ASCII)
METRICS_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_SIZE = re.compile(r"(\d{1,15})\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_MAX_QUEUE_BYTES = 255
_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://\S+", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([wdhms]?)", re.IGNORECASE)
_UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1, "": 1}
_MAX_NAME: Final = 1_000
_BROKER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")


@dataclass(frozen=True)
class Kind:
    """How a value is read; `metavar` stands for it in --help, `split` is there when there can be many."""

    metavar: str
    parse: Callable[[Any], object]
    split: Callable[[str], list[str]] | None = None


def parse_switch(value: object) -> bool:
    """Read a boolean, in Flower's words."""
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError("must be yes or no")


def is_switch_word(word: str) -> bool:
    """Whether a word is a boolean, in Flower's words."""
    return word.strip().lower() in TRUE_WORDS | FALSE_WORDS


def format_size(size: int) -> str:
    """Write a number of bytes in the largest unit that divides it."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return str(size)


def read_text(value: object) -> str:
    """Read a text of one line, without blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    if _NOT_TEXT.search(value):
        raise ValueError("must not hold control characters or line breaks")
    return value.strip()


def read_queue_name(value: object) -> str:
    """Read the name of a queue, as a broker may have it."""
    name = read_text(value)
    if len(name.encode("utf-8", "replace")) > _MAX_QUEUE_BYTES:
        raise ValueError(f"must be at most {_MAX_QUEUE_BYTES} bytes long")
    return name


def matching(pattern: re.Pattern[str], rule: str) -> Callable[[object], str]:
    """Make the parser of texts that match a pattern as a whole."""

    def parse(value: object) -> str:
        text = read_text(value)
        if not pattern.fullmatch(text):
            raise ValueError(rule)
        return text

    return parse


KEY_PATTERN: Final = matching(
    re.compile(r"[\w.*-]{1,100}"), "must be names of keys, with * for anything, such as *password*"
)
DOTTED_PATH: Final = matching(
    re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*"), "must be like module:function"
)


def read_float(value: Any) -> float:
    """Read a number; a boolean, which Python takes for one, is NaN."""
    return math.nan if isinstance(value, bool) else float(value)


def _read_int(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _read_size(value: Any) -> int:
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()] if match else _read_int(value)


def between(metavar: str, read: Callable[[Any], float], lowest: int, highest: int, noun: str = "a number") -> Kind:
    """Make the kind of numbers within bounds, both included; `noun` names them in the rule."""
    bounds = map(format_size if read is _read_size else str, (lowest, highest))
    rule = f"must be {noun} between {' and '.join(bounds)}"

    def parse(value: object) -> float:
        try:
            number = read(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(rule) from None
        if not lowest <= number <= highest:
            raise ValueError(rule)
        return number

    return Kind(metavar, parse)


def count(lowest: int, highest: int) -> Kind:
    """Make the kind of whole numbers within bounds."""
    return between("N", _read_int, lowest, highest, "a whole number")


def size(lowest: int, highest: int) -> Kind:
    """Make the kind of sizes within bounds, in bytes: a whole number, or one with a unit."""
    return between("SIZE", _read_size, lowest, highest, "a size")


def choice(metavar: str, *choices: str) -> Kind:
    """Make the kind of one of some words, in any case."""

    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return word

    return Kind(metavar, parse)


#: The comma between two assignments, not one within a value.
ASSIGNMENT_COMMA: Final = re.compile(r",(?=\s*[A-Za-z][\w.]*=)")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)*=.*", re.DOTALL)


def read_assignment(value: object) -> str:
    """Read a setting of Celery and its value."""
    text = read_text(value)
    if not _ASSIGNMENT.fullmatch(text):
        raise ValueError("must be name=value, or name.key=value for a setting that is a dict")
    return text


def listing(metavar: str, item: Callable[[object], object], comma: re.Pattern[str] = re.compile(",")) -> Kind:
    """Make the kind of many items, which `comma` separates in a text."""

    def split(text: str) -> list[str]:
        return [piece.lstrip() for piece in comma.split(text) if piece.strip()]

    def parse(value: Any) -> tuple[object, ...]:
        pieces = split(value) if isinstance(value, str) else value
        return tuple(item(piece) for piece in (pieces if isinstance(pieces, list | tuple) else [pieces]))

    return Kind(metavar, parse, split)


_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
#: What Tornado and Celery also call a level; Tornado's none is to log nothing.
_OTHER_LEVELS: Final = {"warn": "warning", "fatal": "critical", "none": "critical", "notset": "debug"}


def read_level(value: object) -> str:
    """Read a level of the log, in any case, and as Flower and `celery worker` name it."""
    word = str(value).strip().lower()
    word = _OTHER_LEVELS.get(word, word)
    if word not in _LEVELS:
        raise ValueError(f"must be {', '.join(_LEVELS[:-1])} or {_LEVELS[-1]}")
    return word


def read_path(value: object) -> Path:
    """Read a path; ~ is the home directory."""
    try:
        return Path(value if isinstance(value, Path) else read_text(value)).expanduser()
    except RuntimeError:
        raise ValueError("must not begin with the home directory of an unknown user") from None


def read_socket_path(value: object) -> Path:
    """Read the path of a Unix socket, which the kernel cuts after 107 bytes."""
    path = read_path(value)
    if len(bytes(path)) > 107:
        raise ValueError("must be a path of at most 107 bytes")
    return path


def read_broker(value: object) -> str:
    """Read the URL of a broker, or several with ; between them, for kombu to take apart."""
    text = read_text(value)
    for url in text.split(";"):
        if not _BROKER.fullmatch(url):
            raise ValueError("must be a URL such as redis://host:6379/0 or amqp://host/vhost")
        try:
            _ = url.startswith(("redis", "amqp", "pyamqp")) and urlsplit(url).port
        except ValueError:
            raise ValueError("must have a number as port, and %2F for / in a password") from None
    return text


def read_public_url(value: object) -> str:
    """Read a URL of a place to reach taskmon or a provider at, without the / at its end."""
    rule = "must be a URL such as https://taskmon.example.org/prefix, without user, query or fragment"
    text = read_text(value).rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s@?#]", text):
        raise ValueError(rule)
    return text


def read_origin(value: object) -> str:
    """Read an origin as browsers write it: scheme, host and port."""
    rule = "must be exact origins such as https://dash.example.com, without path; * is refused"
    text = read_text(value).lower().rstrip("/")
    if not _ORIGIN.fullmatch(text):
        raise ValueError(rule)
    return text


def read_url_prefix(value: object) -> str:
    """Read the path before every route, empty for none."""
    bare = value.strip().strip("/") if isinstance(value, str) else "?"
    prefix = "/" + bare if bare else ""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("must be a path such as /taskmon, of letters, digits and - . _ ~")
    return prefix


def read_host(value: object) -> str:
    """Read a host name, in lower case, or an IP address, in its usual form."""
    text = read_text(value).lower().removeprefix("[").removesuffix("]").rstrip(".")
    try:
        return str(ip_address(text))
    except ValueError:
        if _HOST.fullmatch(text):
            return text
    raise ValueError("must be host names or IP addresses, without scheme and port")


def read_history(value: object) -> str:
    """Read the URL of a database to keep a history in."""
    text = read_text(value)
    if text.startswith("sqlite:"):
        path = text.removeprefix("sqlite:///")
        if path == text or not path or path.startswith(":") or "?" in path:
            raise ValueError("must be sqlite:/// and the path of a file, as in sqlite:///taskmon.sqlite3")
        return text
    if not _POSTGRESQL.fullmatch(text):
        raise ValueError("must be a URL such as sqlite:///taskmon.sqlite3 or postgresql://user@host/name")
    return text


def read_age(value: object) -> float:
    """Read a time to live, in seconds: a number with a unit, or of seconds."""
    match = _AGE.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    seconds = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not 60 <= seconds <= 100 * 365 * 86_400:
        raise ValueError("must be a time such as 30d, 12h or 90m, a minute at least")
    return seconds


def name_file(db: str) -> str:
    """Name the SQLite file for Flower's --db, whose own file, a shelf of pickles, is left alone."""
    return db if db.endswith((".sqlite3", ".sqlite")) else f"{db}.sqlite3"


def read_bound(value: object) -> float:
    """Read the upper bound of a bucket of a histogram; infinity is one."""
    try:
        bound = read_float(value)
    except (ValueError, TypeError, OverflowError):
        bound = math.nan
    if not bound > 0:
        raise ValueError("must be numbers greater than 0, separated by commas")
    return bound


def read_name(value: object) -> str:
    """Read a name: printable, and short enough to be a key."""
    name = read_text(value).strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError(f"must be 1 to {_MAX_NAME} printable characters")
    return name
