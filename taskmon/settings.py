"""The options of taskmon: one table, their rules, and where their values come from.

A `Settings` is frozen, checked when it is made, and shows no secret. `load_settings` merges flags, variables
named TASKMON_ and FLOWER_, a TOML file and the defaults; it reads that one file, logs nothing and changes
nothing global.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import date
from difflib import get_close_matches
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from .errors import InvalidSetting

DEFAULT_FILE: Final = "taskmon.toml"
TRUE_WORDS: Final = frozenset(("y", "yes", "t", "true", "on", "1"))
FALSE_WORDS: Final = frozenset(("n", "no", "f", "false", "off", "0"))
SCRYPT_HASH: Final = re.compile(
    r"\$scrypt\$ln=(1[4-8]),r=([1-9]|1[0-6]),p=([1-4])\$([A-Za-z0-9+/]{22}|[A-Za-z0-9+/]{43})\$([A-Za-z0-9+/]{43})"
)
TOKEN_LINE: Final = re.compile(
    r"tm_(?P<id>[0-9a-f]{8}):(?P<digest>[0-9a-f]{64}):(?P<role>viewer|operator|admin)"
    r":(?P<name>[A-Za-z0-9._@-]{1,64})(?::(?P<expires>\d{4}-\d\d-\d\d))?"
)
_FOREIGN_HASH = re.compile(r"\$(?:2[abxy]|5|6|y|apr1|argon2\w*|pbkdf2[\w-]*|scrypt)\$|\{\w+\}")
# A hash holds commas itself ("ln=14,r=8,p=1"): they do not end an entry.
_CREDENTIAL_COMMA = re.compile(r",(?!r=\d+,p=\d+\$|p=\d+\$)")
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ADDRESS = re.compile(r"[\w.:%-]+")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_METRICS_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_SIZE = re.compile(r"(\d{1,15})\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_BROKER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_URL_PASSWORD = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{0,30}://(?::|[^\s:/?#@]{1,256}:(?!\d{1,5}[/?#])))(?:(?!://)\S)*@"
)
_QUERY_PASSWORD = re.compile(r"(?i)([?&][a-z_-]*(?:password|passwd|secret|token|api_?key)=)[^&\s'\"]+")


def mask_passwords(text: str) -> str:
    """Put *** for the password of every URL in a text, rather for too much than for too little."""
    if "://" not in text:
        return text
    return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", text))


# Kinds of values. A parser takes what a flag, a variable or a file says and raises ValueError(rule); the rule
# never quotes the value.


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


def format_size(size: int) -> str:
    """Write a number of bytes in the largest unit that divides it."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return str(size)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    if _NOT_TEXT.search(value):
        raise ValueError("must not hold control characters or line breaks")
    return value.strip()


def _matching(pattern: re.Pattern[str], rule: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise ValueError(rule)
        return text

    return parse


def _read_float(value: Any) -> float:
    return math.nan if isinstance(value, bool) else float(value)


def _read_int(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _read_size(value: Any) -> int:
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()] if match else _read_int(value)


def _between(metavar: str, read: Callable[[Any], float], lowest: int, highest: int, noun: str = "a number") -> Kind:
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


def _count(lowest: int, highest: int) -> Kind:
    return _between("N", _read_int, lowest, highest, "a whole number")


def _size(lowest: int, highest: int) -> Kind:
    return _between("SIZE", _read_size, lowest, highest, "a size")


def _choice(metavar: str, *choices: str) -> Kind:
    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return word

    return Kind(metavar, parse)


def _list(metavar: str, item: Callable[[object], object], comma: re.Pattern[str] = re.compile(",")) -> Kind:
    def split(text: str) -> list[str]:
        return [piece.lstrip() for piece in comma.split(text) if piece.strip()]

    def parse(value: Any) -> tuple[object, ...]:
        pieces = split(value) if isinstance(value, str) else value
        return tuple(item(piece) for piece in (pieces if isinstance(pieces, list | tuple) else [pieces]))

    return Kind(metavar, parse, split)


def _path(value: object) -> Path:
    try:
        return Path(value if isinstance(value, Path) else _text(value)).expanduser()
    except RuntimeError:
        raise ValueError("must not begin with the home directory of an unknown user") from None


def _socket_path(value: object) -> Path:
    path = _path(value)
    if len(bytes(path)) > 107:
        raise ValueError("must be a path of at most 107 bytes")
    return path


def _broker(value: object) -> str:
    text = _text(value)
    for url in text.split(";"):
        if not _BROKER.fullmatch(url):
            raise ValueError("must be a URL such as redis://host:6379/0 or amqp://host/vhost")
        try:
            _ = url.startswith(("redis", "amqp", "pyamqp")) and urlsplit(url).port
        except ValueError:
            raise ValueError("must have a number as port, and %2F for / in a password") from None
    return text


def _public_url(value: object) -> str:
    rule = "must be a URL such as https://taskmon.example.org/prefix, without user, query or fragment"
    text = _text(value).rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s@?#]", text):
        raise ValueError(rule)
    return text


def _url_prefix(value: object) -> str:
    bare = value.strip().strip("/") if isinstance(value, str) else "?"
    prefix = "/" + bare if bare else ""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("must be a path such as /taskmon, of letters, digits and - . _ ~")
    return prefix


def _host(value: object) -> str:
    text = _text(value).lower().removeprefix("[").removesuffix("]").rstrip(".")
    try:
        return str(ip_address(text))
    except ValueError:
        if _HOST.fullmatch(text):
            return text
    raise ValueError("must be host names or IP addresses, without scheme and port")


def _user_and_password(value: object) -> str:
    _text(value)
    user, _, password = str(value).lstrip().partition(":")
    if not user.strip() or not password:
        raise ValueError("must be user:password")
    if not SCRYPT_HASH.fullmatch(password):
        if _FOREIGN_HASH.match(password):
            raise ValueError("holds a hash taskmon cannot check; make one with `taskmon hash-password`")
        if len(f"{user}:{password}".encode()) > 700:
            raise ValueError("must be at most 700 bytes for user and password")
    return f"{user}:{password}"


def _token_line(value: object) -> str:
    match = TOKEN_LINE.fullmatch(_text(value))
    if not match:
        raise ValueError("must be a line printed by `taskmon token`, which holds a hash and not the token")
    try:
        date.fromisoformat(match["expires"] or "2000-01-01")
    except ValueError:
        raise ValueError("must end in a date such as 2030-12-31, or have none") from None
    return match[0]


def _bound(value: object) -> float:
    try:
        bound = _read_float(value)
    except (ValueError, TypeError, OverflowError):
        bound = math.nan
    if not bound > 0:
        raise ValueError("must be numbers greater than 0, separated by commas")
    return bound


_DECADE = 315_360_000
_SWITCH = Kind("", parse_switch)
_SECONDS = _between("SECONDS", _read_float, 1, _DECADE)
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)
_ROLES = _choice("ROLE", "viewer", "operator", "admin")
_LEVELS = _choice("LEVEL", "debug", "info", "warning", "error", "critical")
_METRIC = Kind("NAME", _matching(_METRICS_PREFIX, "must be letters, digits and _, and begin with no digit"))
_ON = Kind("ADDRESS", _matching(_ADDRESS, "must be an IP address or a host name; 0.0.0.0 and :: are all"))


def _option(
    section: str,
    default: object,
    kind: Kind,
    text: str,
    *,
    secret: bool = False,
    short: str | None = None,
    flower: str | bool = False,
) -> Any:
    """Describe a field; `flower` says that Flower has the option too, or how it is called there."""
    about = {
        "section": section,
        "kind": kind,
        "help": text,
        "secret": secret,
        "short": short,
        "flower": flower,
    }
    return field(default=default, metadata=about)


_celery, _server, _access, _events, _limits, _metrics, _program = (
    partial(_option, section) for section in ("Celery", "Server", "Access", "Events", "Limits", "Metrics", "Program")
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every option, checked and normalised; raises InvalidSetting. Values may be texts, as from a flag."""

    app: str | None = _celery(
        None, Kind("TEXT", _text), "Celery app to load, as for celery: proj or proj.celery:app.", short="A"
    )
    broker: str | None = _celery(
        None, Kind("URL", _broker), "Broker to watch; without it the app's own.", short="b", secret=True
    )
    result_backend: str | None = _celery(
        None, Kind("URL", _text), "Result backend; without it the app's own.", secret=True
    )

    address: str = _server("127.0.0.1", _ON, "Address to listen on; 0.0.0.0 and :: are all.", flower=True)
    port: int = _server(5555, _count(0, 65_535), "Port to listen on; 0 is any free one.", flower=True)
    unix_socket: Path | None = _server(  # noqa: RUF009
        None, Kind("PATH", _socket_path), "Unix socket to listen on, in place of a port.", flower=True
    )
    url_prefix: str = _server(
        "", Kind("PATH", _url_prefix), "Path before every route, such as /taskmon.", flower=True
    )
    public_url: str | None = _server(None, Kind("URL", _public_url), "URL under which users reach taskmon.")
    max_body: int = _server(1 << 20, _size(1024, 1 << 30), "Largest body of a request.")
    max_connections: int = _server(1000, _count(1, 1_000_000), "Most connections open at a time.")

    basic_auth: tuple[str, ...] = _access(
        (),
        _list("USER:PASSWORD", _user_and_password, _CREDENTIAL_COMMA),
        "User who may log in, as admin; a hash may stand for the password.",
        secret=True,
        flower=True,
    )
    token: tuple[str, ...] = _access((), _list("LINE", _token_line), "Line printed by `taskmon token`.", secret=True)
    anonymous_role: Literal["viewer", "operator", "admin"] | None = _access(
        None, _ROLES, "What they may who give no credentials: viewer, operator or admin."
    )
    read_only: bool = _access(False, _SWITCH, "Refuse every request that would change something.", flower=True)
    allowed_hosts: tuple[str, ...] = _access(
        (), _list("HOST", _host), "Further host name under which taskmon may be asked."
    )

    enable_events: bool = _events(True, _SWITCH, "Ask workers to send events.", flower=True)
    inspect_timeout: float = _events(
        1000.0,
        _between("MS", _read_float, 1, 600_000),
        "How long to wait for answers of workers, in ms.",
        flower=True,
    )
    purge_offline_workers: float = _events(
        3600.0,
        _between("SECONDS", _read_float, 0, _DECADE),
        "Forget a worker that has been offline this long.",
        flower=True,
    )
    event_queue_ttl: float = _events(3600.0, _SECONDS, "How long RabbitMQ keeps events for taskmon.")
    event_queue_expires: float = _events(60.0, _SECONDS, "How long RabbitMQ keeps taskmon's queue while it is away.")

    max_tasks: int = _limits(100_000, _count(1, 100_000_000), "Most tasks to remember.", flower=True)
    max_workers: int = _limits(5000, _count(1, 1_000_000), "Most workers to remember.", flower=True)
    max_text: int = _limits(
        65_536, _count(16, 1 << 30), "Longest text in an event, in characters; the rest is cut off."
    )
    max_message: int = _limits(
        8 << 20, _size(1024, 1 << 30), "Largest message from the broker; a larger one is refused."
    )

    metrics_prefix: str = _metrics(
        "taskmon", _METRIC, "First word of the metrics' names; flower suits dashboards made for it."
    )
    metrics_worker_label: bool = _metrics(True, _SWITCH, "Tell workers apart in the metrics.")
    metrics_celery_exporter: bool = _metrics(False, _SWITCH, "Add the metrics of celery-exporter.")
    task_runtime_metric_buckets: tuple[float, ...] = _metrics(
        _BUCKETS, _list("SECONDS", _bound), "Upper bounds of the histogram of runtimes.", flower=True
    )

    conf: Path | None = _program(  # noqa: RUF009
        None, Kind("PATH", _path), "TOML file with options; without it taskmon.toml, if there."
    )
    debug: bool = _program(False, _SWITCH, "Log every request, and all that is of level debug.", flower=True)
    log_level: Literal["debug", "info", "warning", "error", "critical"] = _program(
        "info", _LEVELS, "Lowest level to log: debug, info, warning, error or critical.", flower="logging"
    )
    log_format: Literal["text", "json"] = _program(
        "text", _choice("text|json", "text", "json"), "How a line of the log looks."
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))
        bounds = self.task_runtime_metric_buckets
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise InvalidSetting("task_runtime_metric_buckets", "must be numbers, each greater than the one before")
        if bounds[-1] != math.inf:
            object.__setattr__(self, "task_runtime_metric_buckets", (*bounds, math.inf))
        for name, thing in (("basic_auth", "user"), ("token", "token")):
            keys = [entry.partition(":")[0] for entry in getattr(self, name)]
            if len(keys) != len(set(keys)):
                raise InvalidSetting(name, f"must name each {thing} once")

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{o.name}={_shown(o, getattr(self, o.name))}' for o in OPTIONS)})"


@dataclass(frozen=True)
class Option:
    """A row of the table, for the command line, the loader and the documentation."""

    name: str
    default: object
    section: str
    kind: Kind
    help: str
    secret: bool
    short: str | None
    flower: str | None

    @property
    def multiple(self) -> bool:
        """Whether it takes many values: a repeated flag, a text with commas, a TOML array."""
        return self.kind.split is not None

    @property
    def switch(self) -> bool:
        """Whether it is a boolean."""
        return self.kind is _SWITCH

    @property
    def flag(self) -> str:
        """Its long name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "TASKMON_" + self.name.upper()

    @property
    def default_text(self) -> str:
        """Its default as a user writes it; empty for none."""
        match self.default:
            case bool():
                return "on" if self.default else "off"
            case int() if self.kind.metavar == "SIZE":
                return format_size(self.default)
            case float():
                return f"{self.default:g}"
            case tuple():
                return ", ".join(f"{number:g}" for number in self.default if number != math.inf)
        return str(self.default or "")


def _to_option(entry: Field[Any]) -> Option:
    about = dict(entry.metadata)
    flower = about.pop("flower")
    return Option(
        name=entry.name,
        default=entry.default,
        flower=entry.name if flower is True else flower or None,
        **about,
    )


OPTIONS: Final = tuple(map(_to_option, fields(Settings)))
OPTION: Final = {option.name: option for option in OPTIONS}


def _checked(option: Option, value: object) -> object:
    if value is None and option.default is None:
        return None
    try:
        return option.kind.parse(value)
    except ValueError as exc:
        raise InvalidSetting(option.name, str(exc), None if option.secret else _quoted(value)) from None


def _quoted(value: object) -> str:
    return mask_passwords(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def _shown(option: Option, value: object) -> str:
    if not option.secret or not value:
        return repr(value)
    return repr("***" if option.multiple else mask_passwords(str(value)))


# Where values come from.

# Options of Flower that are no error, though taskmon does not have them: users bring them along.
FLOWER_ONLY: Final = frozenset(
    (
        *("auth", "auth_provider", "auto_refresh", "broker_api", "ca_certs", "certfile", "conf"),
        *(
            "cookie_secret",
            "db",
            "format_task",
            "keyfile",
            "natural_time",
            "oauth2_key",
            "oauth2_redirect_uri",
        ),
        *("oauth2_secret", "persistent", "state_save_interval", "tasks_columns", "xheaders"),
    )
)
# Kubernetes gives pods TASKMON_PORT=tcp://10.0.0.1:5555 and its like when a service is called taskmon.
_SERVICE_LINK = re.compile(r"\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)")
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://")


class UnknownSetting(InvalidSetting):
    """A name in the environment or in the file is no option; `nearest` is the known one most like it."""

    def __init__(self, place: str, name: str, known: Iterable[str], prefix: str = "") -> None:
        super().__init__(name, f"is unknown in {place}")
        close = get_close_matches(name.removeprefix(prefix), list(known), n=1)
        self.nearest = prefix + close[0] if close else None
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        self.args = (f"{place} has an option taskmon does not know, {name[:80]!a}{hint}",)


class Loaded(NamedTuple):
    """Settings, and sentences about how they came to be, which belong into the log as warnings."""

    settings: Settings
    notes: tuple[str, ...]


class _Given(NamedTuple):
    value: object
    source: str


_Layer = dict[str, _Given]


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], directory: Path) -> Loaded:
    """Merge all sources; raise InvalidSetting that says which one gave the bad value.

    `flags` maps names of options to what was given; None, () and empty variables count as not given.
    """
    notes: list[str] = []
    given = {name: _Given(value, "") for name, value in flags.items() if value is not None and value != ()}
    own = {**_from_environ(environ), **given}
    flower = _from_flower(environ, notes)
    merged: _Layer = {**_from_celery(environ), **_from_file(own.get("conf"), directory), **flower, **own}
    used = [entry.source for name, entry in sorted(flower.items()) if merged[name] is entry]
    if used:
        notes.append(f"Taken from the environment under Flower's names: {', '.join(used)}")
    _open_as_flower(merged, environ, notes)
    return Loaded(_make(merged), tuple(notes))


def _make(merged: _Layer) -> Settings:
    values: dict[str, Any] = {name: _flat(OPTION[name], entry.value) for name, entry in merged.items()}
    try:
        return Settings(**values)
    except InvalidSetting as exc:
        source = merged[exc.option].source
        if not source:
            raise
        raise InvalidSetting(exc.option, f"{exc.rule} (given in {source})", exc.value) from None


def _flat(option: Option, value: object) -> object:
    """Split every text of a repeated flag, which is a tuple; an array of the file is a list, and stays."""
    if isinstance(value, tuple) and option.kind.split:
        return tuple(piece for text in value for piece in option.kind.split(str(text)))
    return value


def _from_environ(environ: Mapping[str, str]) -> _Layer:
    names = {option.variable: option.name for option in OPTIONS}
    found: _Layer = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith("TASKMON_") or _is_service_link(variable, value):
            continue
        if variable not in names:
            raise UnknownSetting("the environment", variable, map(str.upper, OPTION), "TASKMON_")
        if value:
            found[names[variable]] = _Given(value, variable)
    return found


def _is_service_link(variable: str, value: str) -> bool:
    is_url = variable.endswith("_PORT") and _SERVICE_URL.match(value)
    return bool(is_url or _SERVICE_LINK.fullmatch(variable))


def _from_flower(environ: Mapping[str, str], notes: list[str]) -> _Layer:
    names = {option.flower: option.name for option in OPTIONS if option.flower}
    found: _Layer = {}
    ignored = []
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix("FLOWER_").lower()
        if not variable.startswith("FLOWER_") or not value or _is_service_link(variable, value):
            continue
        if name in names:
            found[names[name]] = _Given(value, variable)
        elif name in FLOWER_ONLY:
            ignored.append(variable)
    if ignored:
        notes.append(f"Ignored, since taskmon does not have these options of Flower: {', '.join(ignored)}")
    return found


def _open_as_flower(merged: _Layer, environ: Mapping[str, str], notes: list[str]) -> None:
    """Apply FLOWER_UNAUTHENTICATED_API; as in Flower it opens nothing where there is a way to log in."""
    variable = "FLOWER_UNAUTHENTICATED_API"
    text = environ.get(variable)
    if not text or "anonymous_role" in merged:
        return
    try:
        wanted = parse_switch(text)
    except ValueError as exc:
        raise InvalidSetting("anonymous_role", f"{exc} (given in {variable})", text) from None
    if wanted and ({"basic_auth", "token"} & merged.keys() or environ.get("FLOWER_AUTH")):
        notes.append(f"Ignored, since there are other ways to log in: {variable}")
    elif wanted:
        merged["anonymous_role"] = _Given("viewer", variable)
        notes.append(f"{variable} is set: who gives no credentials has the role viewer")


def _from_celery(environ: Mapping[str, str]) -> _Layer:
    names = {"broker": "CELERY_BROKER_URL", "result_backend": "CELERY_RESULT_BACKEND"}
    return {name: _Given(environ[key], key) for name, key in names.items() if environ.get(key)}


def _from_file(conf: _Given | None, directory: Path) -> _Layer:
    path = directory / (_checked_path(conf) if conf else DEFAULT_FILE)
    if conf is None and not path.is_file():
        return {}
    found: _Layer = {"conf": _Given(path, "")}
    for key, value in _read_toml(path).items():
        name = key.replace("-", "_")
        if name not in OPTION or name == "conf":
            raise UnknownSetting(str(path), key, sorted(OPTION.keys() - {"conf"}))
        if isinstance(value, dict):
            raise InvalidSetting(name, f"must not be a table (given in {path})")
        found[name] = _Given(value, str(path))
    return found


def _checked_path(conf: _Given) -> Path:
    return Path(str(_checked(OPTION["conf"], conf.value)))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        reason = exc.strerror or "no reason known"
    except (ValueError, RecursionError) as exc:
        # The library's sentence may quote the file: only the place is taken from it.
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(exc))
        reason = f"the fault is at {place[1]}" if place else "it is no text in UTF-8, or nested too deep"
    raise InvalidSetting("conf", f"must name a TOML file that can be read ({reason})", str(path))
