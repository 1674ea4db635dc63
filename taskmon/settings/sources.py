"""Where the values of options come from: flags, variables named TASKMON_ and FLOWER_, a TOML file, the defaults.

`load_settings` merges them; it reads that one file, logs nothing and changes nothing global.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import InvalidSetting
from .kinds import parse_switch
from .options import DEFAULT_FILE, OPTION, OPTIONS, Settings
from .table import Option, checked

# Options of Flower that are no error, though taskmon does not have them: users bring them along.
FLOWER_ONLY: Final = frozenset(
    (
        *("auto_refresh", "broker_api", "conf", "natural_time", "state_save_interval"),
        *("tasks_columns", "xheaders"),
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
    _find_provider_as_flower(merged, environ)
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
        instead = " (--trusted-proxies is there for the last)" if ignored[-1] == "FLOWER_XHEADERS" else ""
        notes.append(f"Ignored, since taskmon does not have these options of Flower: {', '.join(ignored)}{instead}")
    return found


def _find_provider_as_flower(merged: _Layer, environ: Mapping[str, str]) -> None:
    """Apply what Flower's handlers for GitHub and GitLab read from the environment by themselves.

    A restriction that cannot be kept as it is must not be lost: it is refused until --roles says the same.
    """
    provider = str(merged["auth_provider"].value).lower() if "auth_provider" in merged else ""
    name = next((name for name in ("github", "gitlab") if name in provider), None)
    domain = environ.get(f"FLOWER_{name.upper()}_OAUTH_DOMAIN") if name else None
    if name and domain and domain != f"{name}.com" and "oidc_issuer" not in merged:
        merged["oidc_issuer"] = _Given(f"https://{domain}", f"FLOWER_{name.upper()}_OAUTH_DOMAIN")
    groups = "FLOWER_GITLAB_AUTH_ALLOWED_GROUPS"
    if name == "gitlab" and environ.get(groups) and "roles" not in merged:
        raise InvalidSetting("roles", f"must say who may come in, such as viewer=group:<name>, in place of {groups}")


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
    if wanted and {"basic_auth", "token", "auth", "auth_provider", "oidc_issuer"} & merged.keys():
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
    return Path(str(checked(OPTION["conf"], conf.value)))


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
