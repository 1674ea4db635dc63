"""From the bytes of a broker message to events. Runs in either thread; keeps nothing between messages.

Whatever arrives is hostile until it is parsed: a message or an event that breaks a rule is counted under a short
reason and dropped, and costs no other event anything. A field that breaks one costs no other field anything.
"""

import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import inf
from typing import Any, Final, TypeVar

import msgspec
from kombu.exceptions import DecodeError, KombuError
from kombu.serialization import loads

from ..errors import InvalidEvent
from ..records import CUT_MARK, TEXT_FIELDS, Event, PartialEvent
from .coercion import make_event

#: Called for everything that is refused: a short reason, and a detail for the log.
Reject = Callable[[str, str], None]

#: Called for every field that is left out of an event: its name, and the type of the event for the log.
Omit = Callable[[str, str], None]

JSON: Final = "application/json"

_PICKLES: Final = frozenset({"application/x-python-serialize", "pickle"})
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "binary", ""})
_MAX_EVENTS: Final = 10_000
_MAX_DIGITS: Final = 1000
_MAX_LZMA_MEMORY: Final = 64 << 20

#: Longer messages are not plain. One of this length is decoded in under a millisecond; Celery's have some 10,000.
_PLAIN: Final = 65_536

#: What decoders raise for what they cannot read. Which of these it is depends on the version of msgspec.
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, OverflowError)

T = TypeVar("T", bound=Sequence[Any])

_decode_batch: Final = msgspec.json.Decoder(list[Event]).decode
_decode_raw_batch: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_one: Final = msgspec.json.Decoder(Event).decode


def is_plain(
    body: bytes | str, content_type: str | None, content_encoding: str | None, compression: str | None
) -> bool:
    """Tell whether a message is quickly decoded: JSON as Celery sends it, of the usual length."""
    return (
        len(body) <= _PLAIN
        and not compression
        and content_type in (JSON, None)
        and (content_encoding in _UTF8 or content_encoding is None)
    )


class EventDecoder:
    """Decodes message bodies; `accept` are the content types that the Celery app takes, pickle never among them."""

    def __init__(self, accept: Collection[str], max_message: int, max_text: int, reject: Reject, omit: Omit) -> None:
        self._accept = {JSON, *accept} - _PICKLES
        self._max_message = max_message
        self._max_text = max_text
        self._reject = reject
        self._omit = omit

    def decode(
        self,
        body: bytes | str,
        content_type: str | None = JSON,
        content_encoding: str | None = "utf-8",
        compression: str | None = None,
    ) -> list[Event]:
        """Give the events of a message; never raises, calls `reject` and `omit` for what is left out."""
        try:
            events = self._decode(body, content_type or JSON, (content_encoding or "").lower(), compression)
        except InvalidEvent as exc:
            self._reject(exc.reason, exc.detail)
            return []
        except RecursionError:
            self._reject("nesting", "nested too deep to be read")
            return []
        if [event for event in events if event.uuid is None or event.hostname is None]:
            events = [event for event in events if self._has_subject(event)]
        if len(body) > self._max_text or compression:
            for event in events:
                self._cut(event)
        return events

    def _decode(self, body: bytes | str, content_type: str, encoding: str, compression: str | None) -> list[Event]:
        if len(body) > self._max_message:
            raise InvalidEvent("too-large", f"{len(body)} bytes")
        if compression:
            body = decompress(body, compression, self._max_message)
        if content_type == JSON and encoding in _UTF8:
            return self._decode_json(body)
        return self._decode_other(body, content_type, encoding)

    def _decode_json(self, body: bytes | str) -> list[Event]:
        """Decode at one go what is as it should be, event by event what is not."""
        single = body[:1] in (b"{", "{")
        try:
            return [_decode_one(body)] if single else _bounded(_decode_batch(body))
        except _UNREADABLE:
            pass
        try:
            parts = _decode_raw_batch(body)
        except _UNREADABLE:
            return self._from_object(_load_json(body))
        return self._each(parts, _decode_raw)

    def _decode_other(self, body: bytes | str, content_type: str, encoding: str) -> list[Event]:
        """Decode what is not plain JSON with kombu, if the app accepts it."""
        if content_type not in self._accept:
            raise InvalidEvent("content-type", content_type[:100])
        try:
            content = loads(body, content_type, encoding or "utf-8", accept=self._accept)
        except (DecodeError, LookupError) as exc:
            raise InvalidEvent("malformed", str(exc)[:200]) from exc
        except KombuError as exc:  # not allowed, or its library is not installed
            raise InvalidEvent("content-type", content_type[:100]) from exc
        return self._from_object(content)

    def _from_object(self, content: object) -> list[Event]:
        if isinstance(content, dict):
            content = [content]
        if not isinstance(content, list):
            raise InvalidEvent("shape", f"neither a list nor an object but {type(content).__name__}")
        return self._each(content, make_event)

    def _each(self, parts: Sequence[Any], decode: Callable[[Any], Event]) -> list[Event]:
        """Decode event by event, so that a bad one costs only itself."""
        events = []
        for part in _bounded(parts):
            try:
                event = decode(part)
            except InvalidEvent as exc:
                self._reject(exc.reason, exc.detail)
            except RecursionError:
                self._reject("nesting", "nested too deep to be read")
            else:
                events.append(event)
                if isinstance(event, PartialEvent):
                    for field in event.omitted:
                        self._omit(field, event.type[:100])
        return events

    def _has_subject(self, event: Event) -> bool:
        """Refuse a task event without a task, a worker event without a worker."""
        if event.uuid is None and event.type.startswith("task-"):
            self._reject("no-uuid", event.type[:100])
            return False
        if event.hostname is None and event.type.startswith("worker-"):
            self._reject("no-hostname", event.type[:100])
            return False
        return True

    def _cut(self, event: Event) -> None:
        """Cut the texts that are too long, so that one task cannot fill the memory."""
        for field in TEXT_FIELDS:
            text = getattr(event, field)
            if isinstance(text, str) and len(text) > self._max_text:
                setattr(event, field, text[: self._max_text - len(CUT_MARK)] + CUT_MARK)


def _bounded(events: T) -> T:
    if len(events) > _MAX_EVENTS:
        raise InvalidEvent("too-many", f"{len(events)} events in one message")
    return events


def _load_json(body: bytes | str) -> Any:
    """Read JSON as Python's own library does, which lets through NaN, lone surrogates and what is not UTF-8.

    So each of these costs only the event that it is in.
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8-sig", "surrogateescape")
        return json.loads(text, parse_int=_parse_int)
    except ValueError as exc:
        raise InvalidEvent("malformed", str(exc)[:200]) from exc


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) < _MAX_DIGITS else inf


def _decode_raw(part: msgspec.Raw) -> Event:
    """Decode one event of a batch; Python's own library reads what msgspec refuses, and shows what is wrong."""
    try:
        return _decode_one(part)
    except _UNREADABLE:
        return make_event(_load_json(bytes(part)))


def decompress(body: bytes | str, compression: str, most: int) -> bytes:
    """Decompress to `most` bytes and no further: a small message may hold a large one."""
    make = _DECOMPRESSORS.get(compression)
    if make is None:
        raise InvalidEvent("compression", compression[:100])
    stream = make()
    try:
        data: bytes = stream.decompress(body.encode() if isinstance(body, str) else body, most + 1)
    except (zlib.error, lzma.LZMAError, OSError, ValueError) as exc:
        raise InvalidEvent("compression", str(exc)[:200]) from exc
    if len(data) > most:
        raise InvalidEvent("too-large", f"over {most} bytes once decompressed")
    if not stream.eof:
        raise InvalidEvent("compression", "the data end too early")
    return data


_DECOMPRESSORS: Final[dict[str, Callable[[], Any]]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    # The header of the data says how much memory it takes.
    "application/x-lzma": partial(lzma.LZMADecompressor, memlimit=_MAX_LZMA_MEMORY),
}
