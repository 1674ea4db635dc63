"""Celery's own settings, from --celery-config and --set: read, checked by names and types, and put into an app."""

import logging
import runpy
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from celery import Celery
from celery.app.defaults import NAMESPACES, flatten
from kombu.transport.virtual import Channel

from .errors import InvalidSetting
from .masking import mask_passwords
from .settings import Settings, check_trusted, is_readable_by_others, parse_switch

logger = logging.getLogger(__name__)

#: What an app keeps of its settings: made anew after they have changed.
_CACHED: Final = ("amqp", "control", "events", "timezone")
#: Options of the transports that are no attribute of a channel.
_TRANSPORT_OPTIONS: Final = {
    *("body_encoding", "deadletter_queue", "polling_interval", "reauth_check_interval", "unacked_restore_interval"),
    *("confirm_publish", "max_retries", "interval_start", "interval_step", "interval_max", "errback"),
    *("client_properties", "read_timeout", "write_timeout", "connect_retries_timeout"),
}


class _Names:
    """The settings that Celery knows: their types, and today's name of each that had another once."""

    def __init__(self) -> None:
        rows = list(flatten(NAMESPACES, keyfilter=lambda ns, key, option: [(ns, key, option)]))
        self.types: dict[str, str] = {ns + key: _type_name(option.type) for ns, key, option in rows}
        self._old = {
            old.format(key).lower(): ns + key for ns, key, option in rows for old in getattr(option, "old", ())
        }

    def find(self, name: str) -> str | None:
        """Return today's name of a setting in any spelling, None for what is none."""
        low = name.lower()
        for candidate in (low, self._old.get(low, ""), low.removeprefix("celery_")):
            if candidate in self.types:
                return candidate
        return None

    def nearest(self, name: str, cutoff: float = 0.5) -> str | None:
        """Return the setting that is most like a name."""
        return next(iter(get_close_matches(name.lower(), self.types, n=1, cutoff=cutoff)), None)


def apply_celery_settings(celery_app: Celery, settings: Settings) -> None:
    """Put the settings into an app; those of --set go last. Raises InvalidSetting."""
    names = _Names()
    changes: dict[str, Any] = {}
    if settings.celery_config is not None:
        changes |= _read_file(settings.celery_config, names)
    for text in settings.set:
        _assign(changes, text, names, celery_app)
    if not changes:
        return
    celery_app.conf.update(changes)
    for name in _CACHED:
        celery_app.__dict__.pop(name, None)


def _read_file(path: Path, names: _Names) -> dict[str, Any]:
    check_trusted("celery_config", path)
    is_toml = path.suffix == ".toml"
    found: dict[str, Any] = {}
    for key, value in (_load_toml(path) if is_toml else _run(path)).items():
        name = names.find(key)
        if name is not None:
            found[name] = _checked(name, value, names.types[name], path)
            continue
        # A Python file may have variables of its own; what is nearly a setting was meant to be one.
        near = names.nearest(key, 0.5 if is_toml else 0.85)
        if is_toml or near:
            raise _unknown("celery_config", f"has {key[:80]!a}, which is", near, f" (in {path})")
    logger.info("Settings of Celery were read from %s", path)
    if is_readable_by_others(path) and any(map(_has_secret, found.items())):
        logger.warning("Others may read the file that holds a secret: --celery-config; chmod go-r takes that away")
    return found


def _has_secret(setting: tuple[str, Any]) -> bool:
    name, value = setting
    return bool(value) and ("password" in name or "secret" in name or mask_passwords(str(value)) != str(value))


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        reason = exc.strerror or "no reason known"
    except (ValueError, RecursionError):
        reason = "it is not TOML"
    raise InvalidSetting("celery_config", f"must name a file that can be read ({reason})", str(path))


def _run(path: Path) -> dict[str, Any]:
    try:
        found = runpy.run_path(str(path))
    except OSError as exc:
        reason = exc.strerror or "no reason known"
    except (Exception, SystemExit) as exc:  # somebody's module can raise anything
        reason = f"{type(exc).__name__}: {exc}"
    else:
        skipped = (ModuleType, FunctionType, type)
        return {
            key: value for key, value in found.items() if not key.startswith("_") and not isinstance(value, skipped)
        }
    raise InvalidSetting("celery_config", f"must name a file that can be read ({reason})", str(path))


def _assign(changes: dict[str, Any], text: str, names: _Names, celery_app: Celery) -> None:
    key, _, value = text.partition("=")
    first, *inner = key.split(".")
    name = names.find(first)
    if name is None:
        raise _unknown("set", f"{key[:80]} is", names.nearest(first))
    if name in ("broker_url", "result_backend"):  # Settings has them
        return
    if not inner:
        changes[name] = _checked(name, _parse(value, names.types[name], name), names.types[name], None)
        return
    base = changes.get(name, celery_app.conf.get(name))
    if names.types[name] not in ("dict", "any", "bool") or not isinstance(base or {}, Mapping):
        raise InvalidSetting("set", f"{name} is no dict that could have the key {'.'.join(inner)[:80]}")
    if name == "broker_transport_options":
        _check_transport_option(inner[0], celery_app)
    changes[name] = place = dict(base or {})
    for part in inner[:-1]:
        place[part] = dict(place.get(part) or {}) if isinstance(place.get(part), Mapping | None) else {}
        place = place[part]
    place[inner[-1]] = _parse_freely(value)


def _check_transport_option(option: str, celery_app: Celery) -> None:
    """Refuse an option that Redis' transport, whose options are all known, does not have."""
    scheme = str(celery_app.conf.broker_read_url or "").partition("://")[0]
    if scheme not in ("redis", "rediss", "sentinel"):
        return
    from kombu.transport.redis import SentinelChannel

    known = {*Channel.from_transport_options, *SentinelChannel.from_transport_options, *_TRANSPORT_OPTIONS}
    if option not in known:
        near = get_close_matches(option, sorted(known), n=1, cutoff=0.3)
        raise InvalidSetting(
            "set",
            f"broker_transport_options.{option[:80]} is no option of the transport {scheme}"
            + (f"; did you mean {near[0]}?" if near else ""),
        )


def _parse(text: str, kind: str, name: str) -> Any:
    """Read the text of a setting as its type has it."""
    if kind == "string":
        return text
    if kind in ("list", "tuple"):
        value = _parse_freely(text)
        return value if isinstance(value, list) else [piece.strip() for piece in text.split(",") if piece.strip()]
    if kind == "bool" and not text.startswith("{"):
        try:
            return parse_switch(text)
        except ValueError as exc:
            raise InvalidSetting("set", f"{name} {exc}") from None
    return _parse_freely(text)


def _parse_freely(text: str) -> Any:
    """Read a text as TOML writes values, else as it is: 5, true, [1, 2], {a = 1}, or a text without quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, RecursionError):
        return text


def _checked(name: str, value: Any, kind: str, path: Path | None) -> Any:
    """Return a value of a type that Celery can work with; raises InvalidSetting, which never quotes it."""
    option, where = ("celery_config", f" (in {path})") if path else ("set", "")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = {
        "int": number,
        "float": number or hasattr(value, "total_seconds"),
        "bool": isinstance(value, bool | int | Mapping),
        "dict": isinstance(value, Mapping) or name == "task_queues",  # Celery calls it a dict, and takes a list
        "list": isinstance(value, list | tuple | set | frozenset | str),
        "tuple": isinstance(value, list | tuple | set | frozenset | str),
    }.get(kind, True)
    if value is None or right:
        return value
    noun = {"int": "a number", "float": "a number", "bool": "yes or no", "dict": "a dict, such as name.key=value"}
    raise InvalidSetting(option, f"{name} must be {noun.get(kind, 'a list')}{where}")


def _unknown(option: str, beginning: str, near: str | None, where: str = "") -> InvalidSetting:
    hint = f"; did you mean {near}?" if near else ""
    return InvalidSetting(option, f"{beginning} no setting of Celery{hint}{where}")


def _type_name(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.__name__
