"""From what a result backend holds of a task to a Result. Pure.

What is stored is hostile until it is read: no pickle is ever loaded, and an exception stays the text and the
arguments that it is stored as; the class that it names is neither looked up nor made.
"""

import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from math import isfinite
from typing import Any, Final

from celery import states
from celery.backends import base
from kombu.serialization import loads

from ..errors import InvalidEvent
from ..nesting import MAX_DEPTH
from ..receiving.decoding import decompress

#: Bytes of one stored result, decompressed: what is larger is not read.
LARGEST: Final = 8 << 20

#: The content types that are read. kombu trusts two more whatever it is told: one of them may hold a pickle.
READABLE: Final = frozenset({"application/json", "application/x-yaml", "application/x-msgpack"})

#: The state of a task whose stored state cannot be read.
UNKNOWN: Final = "UNKNOWN"

_PICKLE: Final = "application/x-python-serialize"
_NO_PICKLE: Final = "it is stored as a pickle, which taskmon never loads"
_MAX_VALUES: Final = 1_000_000
_MAX_BITS: Final = 10_000
_STATE: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,63}")
_COMPRESSED: Final[bytes | None] = getattr(base, "COMPRESSED_PAYLOAD_MAGIC", None)


@dataclass(frozen=True, slots=True)
class Result:
    """The state of a task and, once it is ready, its result, as plain JSON values.

    `value` of a task that failed is the `repr` of its exception. `reason` says why `value` is missing, if it is.
    `finished` is when the task finished, in epoch seconds, None where that is not stored.
    """

    task_id: str
    state: str = states.PENDING
    value: Any = None
    traceback: str | None = None
    reason: str | None = None
    finished: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the task is finished, as far as the result backend says."""
        return self.state in states.READY_STATES or self.state == UNKNOWN


class _Unreadable(Exception):
    """What is stored is not read; the text says why."""


def read_stored(
    task_id: str, payload: bytes | str, content_type: str, content_encoding: str, compression: str | None = None
) -> Result:
    """Make a Result of what is stored of a task; never raises, says in `reason` what cannot be read."""
    try:
        payload = _unpack(payload, compression)
        if _is_pickle(payload, content_type):
            return Result(task_id, _find_pickled_state(payload), reason=_NO_PICKLE)
        return _read_meta(task_id, _load(payload, content_type, content_encoding))
    except _Unreadable as exc:
        return Result(task_id, UNKNOWN, reason=str(exc))


def read_row(
    task_id: str, meta: dict[str, Any], payload: bytes | str | None, content_type: str, content_encoding: str
) -> Result:
    """Make a Result of a row of a table, in which only the result is encoded, as `payload`; never raises."""
    stored = Result(task_id, UNKNOWN)
    try:
        stored = _read_meta(task_id, meta)
        if payload is None or stored.state not in states.READY_STATES:
            return stored
        payload = _unpack(payload, None)
        if _is_pickle(payload, content_type):
            return replace(stored, reason=_NO_PICKLE)
        return _read_meta(task_id, {**meta, "result": _load(payload, content_type, content_encoding)})
    except _Unreadable as exc:
        return replace(stored, reason=str(exc))


def _is_pickle(payload: bytes, content_type: str) -> bool:
    return content_type == _PICKLE or (payload[:1] == b"\x80" and content_type != "application/x-msgpack")


def _unpack(payload: bytes | str, compression: str | None) -> bytes:
    """Bound the size of a payload, and decompress it when its message or Celery's mark says it is compressed."""
    data = payload.encode(errors="surrogateescape") if isinstance(payload, str) else bytes(payload)
    if _COMPRESSED is not None and data.startswith(_COMPRESSED):
        name, _, data = data[len(_COMPRESSED) :].partition(b"\0")
        compression = name.decode(errors="replace")
    if compression is not None:
        try:
            data = decompress(data, compression, LARGEST)
        except InvalidEvent as exc:
            raise _Unreadable(f"it is compressed and cannot be read ({exc})") from exc
    if len(data) > LARGEST:
        raise _Unreadable(f"it is larger than {LARGEST >> 20} MiB")
    return data


def _load(data: bytes, content_type: str, content_encoding: str) -> Any:
    if content_type not in READABLE:
        raise _Unreadable(f"it is stored as {content_type[:100]}, which taskmon does not read")
    try:
        return loads(data, content_type, content_encoding, accept=READABLE)
    except Exception as exc:  # decoders raise what they like at hostile data
        raise _Unreadable(f"it is no {content_type}") from exc


def _read_meta(task_id: str, meta: Any) -> Result:
    state = meta.get("status") if isinstance(meta, dict) else None
    if not isinstance(state, str) or not state:
        raise _Unreadable("it is not what Celery stores")
    state = _clean(state[:128])
    if state not in states.READY_STATES:
        return Result(task_id, state)
    traceback = meta.get("traceback")
    trace = _clean(traceback) if isinstance(traceback, str) else None
    finished = _read_time(meta.get("date_done"))
    value = meta.get("result")
    try:
        if state in states.EXCEPTION_STATES:
            value = _describe_exception(value)
        return Result(task_id, state, make_plain(value), trace, finished=finished)
    except (RecursionError, ValueError, _Unreadable) as exc:
        why = str(exc) if isinstance(exc, _Unreadable) else "it is nested too deep, or has a number too long to write"
        return Result(task_id, state, traceback=trace, reason=why, finished=finished)


def _read_time(stored: Any) -> float | None:
    """Read when a task finished; Celery writes ISO 8601, without a zone in UTC."""
    if isinstance(stored, str):
        try:
            stored = datetime.fromisoformat(stored[:64])
        except ValueError:
            return None
    if not isinstance(stored, datetime):
        return None
    try:
        seconds = (stored if stored.tzinfo else stored.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None
    return seconds if seconds >= 0 else None


def _describe_exception(stored: Any) -> Any:
    """Write a stored exception as its `repr` would be; what is none comes back as it is."""
    if not isinstance(stored, dict) or not isinstance(stored.get("exc_type"), str):
        return stored
    arguments = stored.get("exc_message", "")
    if not isinstance(arguments, Sequence) or isinstance(arguments, str):
        arguments = (arguments,)
    return f"{stored['exc_type'].rpartition('.')[2]}({', '.join(map(repr, arguments))})"


def make_plain(value: Any) -> Any:
    """Make what a decoder gave fit for strict JSON: what JSON does not have makes the whole a `repr`.

    NaN and its like become None. Raises _Unreadable for what would be too large, RecursionError, ValueError.
    """
    left = _MAX_VALUES

    def plain(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Unreadable(f"it has more than {_MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise _Unreadable(f"it is nested more than {MAX_DEPTH} levels deep")
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, str):
            return _clean(item)
        if isinstance(item, int):
            if item.bit_length() > _MAX_BITS:
                raise ValueError
            return item
        if isinstance(item, float):
            return item if isfinite(item) else None
        if isinstance(item, list | tuple):
            return [plain(member, depth + 1) for member in item]
        if isinstance(item, dict):
            return {_make_key(key): plain(member, depth + 1) for key, member in item.items()}
        raise TypeError

    try:
        return plain(value, 0)
    except TypeError:
        return _clean(repr(value))


def _make_key(key: Any) -> str:
    if isinstance(key, str):
        return _clean(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise TypeError


def _clean(text: str) -> str:
    """Write lone surrogates as escapes: there is no UTF-8 for them."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _find_pickled_state(payload: bytes) -> str:
    """Read the state off a pickled result without loading it: Celery stores the state first, by the key `status`."""
    is_next = False
    try:
        for _, argument, _ in islice(pickletools.genops(payload[:4096]), 32):
            if isinstance(argument, str):
                if is_next:
                    return argument if _STATE.fullmatch(argument) else UNKNOWN
                is_next = argument == "status"
    except Exception:  # the tokenizer raises what it likes at hostile data
        return UNKNOWN
    return UNKNOWN
