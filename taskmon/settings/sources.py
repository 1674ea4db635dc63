"""Where the values of options come from: flags, variables named TASKMON_ and FLOWER_, a file, the defaults.

`load_settings` merges them; it reads that one file, in TOML or Flower's, logs nothing and changes nothing global.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import InvalidSetting
from .flower import FLOWER_ONLY, say_not_needed
from .flower_file import FLOWER_FILE, FlowerFile, read_flower_file
from .kinds import parse_switch
from .options import DEFAULT_FILE, OPTION, OPTIONS, Settings
from .secret_files import FILE_VARIABLES, SecretFile, find_credentials, read_secrets
from .secret_rules import MAKE_SECRET, find_weakness
from .table import Given, Option, checked
from .trusted_files import open_trusted

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
    """Settings, sentences about how they came to be, which belong into the log as warnings, and the files read."""

    settings: Settings
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()


_Layer = dict[str, Given]

_CELERY_VARIABLES: Final = {"broker": "CELERY_BROKER_URL", "result_backend": "CELERY_RESULT_BACKEND"}
#: Flower's spelling of --cookie-secret, as its manual has it.
_FLOWER_FLAG: Final = "--cookie_secret"
_FROM_CELERY: Final = Given(None, "CELERY_BROKER_URL")


def load_settings(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    directory: Path,
    not_needed: Iterable[str] = (),
    as_flower: Iterable[str] = (),
) -> Loaded:
    """Merge all sources; raise InvalidSetting that says which one gave the bad value.

    `flags` maps names of options to what was given; None, () and empty variables count as not given. `not_needed` are
    flags that were left out, as they say nothing here; `as_flower` those that are spelled as in Flower's manual.
    """
    notes: list[str] = []
    ignored = list(not_needed)
    flower_flags = {"cookie_secret": _FLOWER_FLAG} if "cookie_secret" in as_flower else {}
    given = {
        name: Given(value, flower_flags.get(name, ""))
        for name, value in flags.items()
        if value is not None and value != ()
    }
    own = {**_from_environ(environ), **given}
    flower = _from_flower(environ, ignored)
    conf = own.get("conf") or flower.pop("conf", None)
    toml, file = _from_files(conf, directory, notes)
    written = {name: Given(value, str(file.path)) for name, value in file.values.items()}
    credentials = {name: Given(secret, str(secret.path)) for name, secret in find_credentials(environ)}
    merged: _Layer = {**_from_celery(environ), **toml, **written, **credentials, **flower, **own}
    files = [Path(str(toml["conf"].value))] if toml else [file.path] if file.path.is_file() else []
    files += read_secrets(merged, directory, environ, notes)
    merged.update(_from_set(merged))
    used = [entry.source for name, entry in sorted(flower.items()) if merged[name].source == entry.source]
    if used:
        notes.append(f"Taken from the environment under Flower's names: {', '.join(used)}")
    ignored += [f"{name} in {file.path.name}" for name in file.not_needed]
    if ignored:
        notes.append(say_not_needed(ignored))
    _note_what_is_computed(file, merged, notes)
    _drop_weak_secrets(merged, notes)
    _find_provider_as_flower(merged, environ)
    _open_as_flower(merged, environ, notes)
    return Loaded(_make(merged), tuple(notes), tuple(files))


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
        if variable not in names and variable not in FILE_VARIABLES:
            known = (each.removeprefix("TASKMON_") for each in (*names, *FILE_VARIABLES))
            raise UnknownSetting("the environment", variable, known, "TASKMON_")
        name = names.get(variable) or FILE_VARIABLES[variable]
        if value and name in found:  # TASKMON_X is sorted before TASKMON_X_FILE
            raise InvalidSetting(name, f"must be given once, in {OPTION[name].variable} or in {variable}")
        if value:
            found[name] = Given(SecretFile(Path(value)) if variable in FILE_VARIABLES else value, variable)
    return found


def _is_service_link(variable: str, value: str) -> bool:
    is_url = variable.endswith("_PORT") and _SERVICE_URL.match(value)
    return bool(is_url or _SERVICE_LINK.fullmatch(variable))


def _from_flower(environ: Mapping[str, str], ignored: list[str]) -> _Layer:
    names = {option.flower: option.name for option in OPTIONS if option.flower} | {"conf": "conf"}
    found: _Layer = {}
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix("FLOWER_").lower()
        if not variable.startswith("FLOWER_") or not value or _is_service_link(variable, value):
            continue
        if name in names:
            found[names[name]] = Given(value, variable)
        elif name in FLOWER_ONLY:
            ignored.append(variable)
    return found


def _from_set(merged: _Layer) -> _Layer:
    """Return the URLs that --set gives: they go before Celery's variables, and behind --broker's own sources."""
    entry = merged.get("set")
    found: _Layer = {}
    for text in checked(OPTION["set"], _flat(OPTION["set"], entry.value)) if entry else ():  # type: ignore[attr-defined]
        key, _, value = text.partition("=")
        name = {"broker_url": "broker", "result_backend": "result_backend"}.get(key.lower())
        if name and merged.get(name, _FROM_CELERY).source in _CELERY_VARIABLES.values():
            found[name] = Given(value, "--set")
    return found


def _note_what_is_computed(file: FlowerFile, merged: _Layer, notes: list[str]) -> None:
    """Say what Flower's file computes, and close what may have been closed there."""
    missing = [name for name in file.computed if name not in merged]
    if missing:
        instead = ", ".join(f"{OPTION[name].flag} or {OPTION[name].variable}" for name in missing)
        notes.append(
            f"{file.path.name} is read and not run, so what it computes is missing: "
            f"{', '.join(OPTION[name].flower or name for name in missing)}; set {instead}"
        )
    closed = {
        "read_only": ("read_only", True),
        "auth": ("default_role", "none"),
        "format_task": ("show_args", "none"),
    }
    for name, (option, value) in closed.items():
        if name in missing and option not in merged:
            merged[option] = Given(value, str(file.path))
            notes.append(
                f"{OPTION[option].flag} is {'on' if value is True else value} until {OPTION[name].flag} is set"
            )
    for name, near in file.misspelt.items():
        notes.append(f"{file.path.name} has {name[:80]!a}, which is no option of Flower; did you mean {near}?")


def _drop_weak_secrets(merged: _Layer, notes: list[str]) -> None:
    """Ignore a secret of Flower's that is too weak to sign with; taskmon then makes one, as without any."""
    entry = merged.get("cookie_secret")
    if entry is None or not (entry.source.startswith(("FLOWER_", _FLOWER_FLAG)) or entry.source.endswith(".py")):
        return
    given = [entry.value] if isinstance(entry.value, str) else list(entry.value)  # type: ignore[call-overload]
    rules = [find_weakness(str(text).strip()) for text in given]
    merged["cookie_secret"] = Given([text for text, rule in zip(given, rules, strict=True) if not rule], entry.source)
    broken = next(filter(None, rules), None)
    if not broken:
        return
    if all(rules):
        merged.pop("cookie_secret")
    what = "cookie_secret in " + Path(entry.source).name if entry.source.endswith(".py") else entry.source
    notes.append(
        f"{what} is ignored, as it {broken}: a secret is made at each start, and sessions end with it; {MAKE_SECRET}"
    )


def _find_provider_as_flower(merged: _Layer, environ: Mapping[str, str]) -> None:
    """Apply what Flower's handlers for GitHub and GitLab read from the environment by themselves.

    A restriction that cannot be kept as it is must not be lost: it is refused until --roles says the same.
    """
    provider = str(merged["auth_provider"].value).lower() if "auth_provider" in merged else ""
    name = next((name for name in ("github", "gitlab") if name in provider), None)
    domain = environ.get(f"FLOWER_{name.upper()}_OAUTH_DOMAIN") if name else None
    if name and domain and domain != f"{name}.com" and "oidc_issuer" not in merged:
        merged["oidc_issuer"] = Given(f"https://{domain}", f"FLOWER_{name.upper()}_OAUTH_DOMAIN")
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
        merged["anonymous_role"] = Given("viewer", variable)
        notes.append(f"{variable} is set: who gives no credentials has the role viewer")


def _from_celery(environ: Mapping[str, str]) -> _Layer:
    return {name: Given(environ[key], key) for name, key in _CELERY_VARIABLES.items() if environ.get(key)}


def _from_files(conf: Given | None, directory: Path, notes: list[str]) -> tuple[_Layer, FlowerFile]:
    """Read the one file there is to read: of --conf, else taskmon.toml, else Flower's."""
    beside = directory / FLOWER_FILE
    if conf is not None:
        path = directory / _checked_path(conf)
        if path.suffix == ".toml" or (path.suffix != ".py" and conf.source != "FLOWER_CONF"):
            return _from_toml(path), FlowerFile(path)
        if path == beside and not path.is_file():
            notes.append(f"There is no {FLOWER_FILE} in {directory}; Flower, too, goes on without it")
            return {}, FlowerFile(path)
        return {"conf": Given(path, "")}, read_flower_file(path)
    path = directory / DEFAULT_FILE
    if path.is_file():
        if beside.is_file():
            notes.append(f"{FLOWER_FILE} is not read, as there is {DEFAULT_FILE}")
        return _from_toml(path), FlowerFile(path)
    return ({}, read_flower_file(beside)) if beside.is_file() else ({}, FlowerFile(beside))


def _from_toml(path: Path) -> _Layer:
    found: _Layer = {"conf": Given(path, "")}
    for key, value in _read_toml(path).items():
        name = key.replace("-", "_")
        if name not in OPTION or name == "conf":
            raise UnknownSetting(str(path), key, sorted(OPTION.keys() - {"conf"}))
        if isinstance(value, dict):
            raise InvalidSetting(name, f"must not be a table (given in {path})")
        found[name] = Given(value, str(path))
    return found


def _checked_path(conf: Given) -> Path:
    return Path(str(checked(OPTION["conf"], conf.value)))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with open_trusted("conf", path) as file:
            return tomllib.loads(file.read().decode())
    except OSError as exc:
        reason = exc.strerror or "no reason known"
    except (ValueError, RecursionError) as exc:
        # The library's sentence may quote the file: only the place is taken from it.
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(exc))
        reason = f"the fault is at {place[1]}" if place else "it is no text in UTF-8, or nested too deep"
    raise InvalidSetting("conf", f"must name a TOML file that can be read ({reason})", str(path))
