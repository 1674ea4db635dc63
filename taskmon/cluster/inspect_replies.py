"""From what a worker replies to an inspect to JSON that may be shown, without passwords. Pure."""

import re
from typing import Any, Final

import msgspec

from ..masking import mask_passwords
from ..nesting import MAX_DEPTH

_SHAPES: Final[dict[str, type]] = {"stats": dict, "conf": dict}
_SECRET: Final = re.compile(r"(?i)pass|secret|token|credential|key(?!prefix)")
_NO_SECRET: Final = re.compile(r"(?i)routing_key")
_MASK: Final = "***"
_TOO_DEEP: Final = "..."
_ENCODE: Final = msgspec.json.Encoder().encode
_MAX_QUEUES: Final = 1000
_MAX_NAME_LENGTH: Final = 255
_MAX_INTEGER: Final = 1 << 63


def read_answer(method: str, reply: Any) -> tuple[msgspec.Raw, Any]:
    """Give the JSON of a reply, secrets masked, and what taskmon itself reads of it; ValueError for a bad one."""
    shape = _SHAPES.get(method, list)
    if not isinstance(reply, shape) or (isinstance(reply, dict) and reply.keys() == {"error"}):
        raise ValueError(f"no answer to {method}")
    more: Any = None
    if method == "active_queues":
        more = _queue_names(reply)
    elif method == "stats":
        more = _pool_size(reply)
    return msgspec.Raw(_ENCODE(_clean(reply, keys=method == "conf"))), more


def _queue_names(reply: Any) -> tuple[str, ...]:
    names = (queue.get("name") for queue in reply[:_MAX_QUEUES] if isinstance(queue, dict))
    return tuple(name for name in names if isinstance(name, str) and 0 < len(name) <= _MAX_NAME_LENGTH)


def _pool_size(reply: Any) -> int | None:
    pool = reply.get("pool")
    size = pool.get("max-concurrency") if isinstance(pool, dict) else None
    return size if isinstance(size, int) and 0 <= size < _MAX_INTEGER else None


def _clean(value: Any, keys: bool = False, secret: bool = False, depth: int = 1) -> Any:
    """Make a value strict JSON, without passwords: in URLs everywhere, by the names of keys where `keys` says so.

    Whatever is in a broker's settings is looked at by names of keys too. A secret one hides all that is in it. Three
    dots are left of what lies too deep.
    """
    if isinstance(value, dict | list | tuple | set | frozenset) and depth > MAX_DEPTH:
        return _TOO_DEEP
    if isinstance(value, dict):
        return {
            _text(str(name)): _clean(
                _unwrapped(item), keys or name == "broker", secret or (keys and _is_secret(str(name))), depth + 1
            )
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(_unwrapped(item), keys, secret, depth + 1) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if secret:
        return _MASK
    if isinstance(value, int):
        return value if -_MAX_INTEGER <= value < _MAX_INTEGER else str(value)
    return value if isinstance(value, float) else mask_passwords(_text(str(value)))


def _unwrapped(value: Any) -> Any:
    """Take out of its wrapping what kombu has wrapped, as JSON has no such type: a date, an id."""
    if isinstance(value, dict) and value.keys() == {"__type__", "__value__"}:
        return value["__value__"]
    return value


def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None and _NO_SECRET.search(name) is None


def _text(text: str) -> str:
    """Put ? for what UTF-8 cannot write."""
    return text.encode("utf-8", "replace").decode()
