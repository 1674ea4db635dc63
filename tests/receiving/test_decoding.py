"""Whatever a message holds, decoding it counts what is wrong under a reason and never raises."""

import bz2
import json
import lzma
import math
import pickle
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.compression import compress
from kombu.serialization import register, unregister

from taskmon.receiving.decoding import EventDecoder
from taskmon.records import CUT_MARK, TEXT_FIELDS, Event

KIB = 1024
GOOD = {"type": "task-received", "uuid": "a", "hostname": "h", "timestamp": 1.5, "name": "tasks.add"}
GOOD_JSON = json.dumps(GOOD)


class Decoding:
    """An EventDecoder, and what it refused."""

    def __init__(self, *accept: str, max_message: int = 8 * KIB * KIB, max_text: int = 64 * KIB) -> None:
        self.refused: list[tuple[str, str]] = []
        self.omitted: Counter[str] = Counter()
        self.decoder = EventDecoder(
            accept,
            max_message,
            max_text,
            lambda *refused: self.refused.append(refused),
            lambda field, _: self.omitted.update([field]),
        )
        self.decode = self.decoder.decode

    @property
    def reasons(self) -> Counter[str]:
        return Counter(reason for reason, _ in self.refused)


def refusal(body: bytes | str, *more: Any, accept: tuple[str, ...] = ()) -> str:
    """Give the one reason for which a message is refused as a whole."""
    decoding = Decoding(*accept)
    assert decoding.decode(body, *more) == []
    assert len(decoding.refused) == 1
    assert decoding.reasons.total() == 1
    return decoding.refused[0][0]


# Good messages


def test_a_batch() -> None:
    decoding = Decoding()
    events = decoding.decode(f"[{GOOD_JSON}, {GOOD_JSON}]".encode())
    assert events == [Event(**GOOD), Event(**GOOD)]
    assert not decoding.refused


@pytest.mark.parametrize(
    "body",
    [
        GOOD_JSON,
        f"[{GOOD_JSON}]",
        f" \n[{GOOD_JSON}] ",
        f"\r\n\t{GOOD_JSON}",
        json.dumps([{**GOOD, "utcoffset": -2, "local_received": 5, "own": {"deep": [1, {}]}}]),
        json.dumps([{**GOOD, "as_dict": 1, "event": "x", "heartbeats": [], "__class__": "int"}]),
    ],
)
def test_every_form_of_one_event(body: str) -> None:
    decoding = Decoding()
    assert decoding.decode(body) == decoding.decode(body.encode()) == [Event(**GOOD)]
    assert decoding.decode(b"\xef\xbb\xbf" + body.encode()) == [Event(**GOOD)]
    assert not decoding.refused


def test_no_events_are_no_error() -> None:
    decoding = Decoding()
    assert decoding.decode(b"[]") == []
    assert not decoding.refused


def test_a_null_says_as_little_as_nothing() -> None:
    nulls = dict.fromkeys(Event.__struct_fields__) | {"type": "task-retried", "uuid": "a"}
    assert Decoding().decode(json.dumps(nulls)) == Decoding().decode(b'{"type": "task-retried", "uuid": "a"}')


@pytest.mark.parametrize("content_type", ["application/json", None, ""])
@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "binary", "us-ascii", None, ""])
def test_what_counts_as_json(content_type: str | None, encoding: str | None) -> None:
    assert Decoding().decode(GOOD_JSON.encode(), content_type, encoding) == [Event(**GOOD)]


# A bad event costs only itself


NESTED = "[" * 100 + "]" * 100
BAD_EVENTS = {
    "no object: number": ("5", "shape"),
    "no object: null": ("null", "shape"),
    "no object: text": ('"task-sent"', "shape"),
    "no object: list": ("[]", "shape"),
    "empty": ("{}", "no-type"),
    "no type": ('{"uuid": "a"}', "no-type"),
    "type is null": ('{"type": null, "uuid": "a"}', "wrong-type"),
    "type is empty": ('{"type": "", "uuid": "a"}', "wrong-type"),
    "type is long": (json.dumps({"type": "task-" + "x" * 1024, "uuid": "a"}), "wrong-type"),
    "no uuid": ('{"type": "task-sent"}', "no-uuid"),
    "uuid is null": ('{"type": "task-sent", "uuid": null}', "no-uuid"),
    "uuid is a number": ('{"type": "task-sent", "uuid": 5}', "wrong-type"),
    "uuid is empty": ('{"type": "task-sent", "uuid": ""}', "wrong-type"),
    "uuid is long": (json.dumps({"type": "task-sent", "uuid": "x" * 1025}), "wrong-type"),
    "no hostname": ('{"type": "worker-heartbeat"}', "no-hostname"),
    "hostname is an object": ('{"type": "worker-online", "hostname": {}}', "wrong-type"),
    "lone surrogate as id": ('{"type": "task-sent", "uuid": "\\udfff"}', "encoding"),
    "invalid UTF-8 as id": (b'{"type": "task-sent", "uuid": "\xc0\x80"}', "encoding"),
    "invalid UTF-8 in the type": (b'{"type": "task-\xff", "uuid": "a"}', "encoding"),
    "a wrong type beside invalid UTF-8 in a field of its own": (
        b'{"type": 5, "own": "\xff"}',
        "wrong-type",
    ),
    "no type, and a field of a wrong type": ('{"uuid": "a", "clock": "1"}', "no-type"),
    "invalid UTF-8 and NaN": (b'{"type": "task-sent", "uuid": "\xc0\x80", "own": NaN}', "encoding"),
}
HARMLESS = {
    "nested in a field of its own": f'{{"type": "task-sent", "uuid": "a", "own": {NESTED}}}',
    "NaN in a field of its own": '{"type": "task-sent", "uuid": "a", "own": NaN}',
    "invalid UTF-8 in a field of its own": b'{"type": "task-sent", "uuid": "a", "own": "\xff"}',
    "invalid UTF-8 in the name of a field of its own": b'{"type": "task-sent", "uuid": "a", "\xff": 1}',
    "lone surrogate in the name of a field of its own": '{"type": "task-sent", "uuid": "a", "\\ud800": 1}',
    "1e999 in a field of its own": '{"type": "task-sent", "uuid": "a", "own": 1e999}',
    "thousands of digits in a field of its own": '{"type": "task-sent", "uuid": "a", "own": %s}' % ("9" * 5000),
    "a field twice": '{"type": "task-sent", "uuid": "b", "uuid": "a"}',
}


def batch_of_24(one: str | bytes) -> bytes:
    parts = [GOOD_JSON.encode()] * 24
    parts[11] = one if isinstance(one, bytes) else one.encode()
    return b"[" + b",".join(parts) + b"]"


@pytest.mark.parametrize(("bad", "reason"), BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_a_bad_event_costs_only_itself(bad: str | bytes, reason: str) -> None:
    decoding = Decoding()
    assert decoding.decode(batch_of_24(bad)) == [Event(**GOOD)] * 23
    assert decoding.reasons == {reason: 1}
    assert refusal(b"[" + (bad if isinstance(bad, bytes) else bad.encode()) + b"]") == reason


@pytest.mark.parametrize(("bad", "reason"), BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_a_bad_event_alone(bad: str | bytes, reason: str) -> None:
    body = bad if isinstance(bad, bytes) else bad.encode()
    if body != b"[]":  # which is a batch of none
        assert refusal(body) == reason


@pytest.mark.parametrize("one", HARMLESS.values(), ids=HARMLESS)
def test_what_is_not_looked_at_does_no_harm(one: str | bytes) -> None:
    decoding = Decoding()
    assert len(decoding.decode(one)) == 1
    events = decoding.decode(batch_of_24(one))
    assert len(events) == 24
    assert events[11].uuid == "a"
    assert not decoding.refused


def test_all_bad_at_once() -> None:
    decoding = Decoding()
    bad = [part if isinstance(part, bytes) else part.encode() for part, _ in BAD_EVENTS.values()]
    assert decoding.decode(b"[" + b",".join([GOOD_JSON.encode(), *bad, GOOD_JSON.encode()]) + b"]") == [
        Event(**GOOD),
        Event(**GOOD),
    ]
    assert decoding.reasons == Counter(reason for _, reason in BAD_EVENTS.values())


def test_a_custom_event_needs_neither_task_nor_worker() -> None:
    decoding = Decoding()
    assert [e.type for e in decoding.decode(b'[{"type": "cache-hit"}, {"type": "task-mine", "uuid": "a"}]')] == [
        "cache-hit",
        "task-mine",
    ]
    assert not decoding.refused


# Messages that are refused as a whole


@pytest.mark.parametrize(
    "body", ["", " ", "no JSON", "[5", "[{]", '{"type": "task-sent"', "[,]", "\x00", "'a'", "\ud800"]
)
def test_no_json(body: str) -> None:
    assert refusal(body) == "malformed"
    assert refusal(body.encode("utf-8", "surrogatepass")) == "malformed"


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"\x80\x04\x95", bytes(range(256))])
def test_bytes_that_are_no_text(body: bytes) -> None:
    assert refusal(body) == "malformed"


@pytest.mark.parametrize("body", ["null", "5", "1.5", "true", '"task-sent"', "NaN"])
def test_neither_a_list_nor_an_object(body: str) -> None:
    assert refusal(body) == "shape"


def test_lone_surrogates_in_a_text_body() -> None:
    assert refusal('[{"type": "task-sent", "uuid": "\ud800"}]') == "encoding"


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b'[{"type":"x","a":' + b"[" * 100_000],
)
def test_deep_nesting(body: bytes) -> None:
    assert refusal(body) == "nesting"
    assert refusal(body.decode()) == "nesting"


def test_a_string_of_50_mb() -> None:
    body = b'[{"type": "task-sent", "uuid": "a", "args": "' + b"x" * 50_000_000 + b'"}]'
    assert refusal(body) == "too-large"
    assert refusal(body.decode()) == "too-large"


def test_one_byte_too_many() -> None:
    decoding = Decoding(max_message=len(GOOD_JSON))
    assert len(decoding.decode(GOOD_JSON.encode())) == 1
    assert decoding.decode(GOOD_JSON.encode() + b" ") == []
    assert decoding.reasons == {"too-large": 1}


@pytest.mark.parametrize("one", ["{}", '{"type":"x"}'])
def test_too_many_events(one: str) -> None:
    assert refusal(f"[{','.join([one] * 10_001)}]") == "too-many"
    assert len(Decoding().decode(f"[{','.join([one] * 10_000)}]")) == (10_000 if "x" in one else 0)


def test_a_message_of_the_largest_size_does_not_take_long() -> None:
    body = b"[" + b"{}," * (8 * KIB * KIB // 3 - 1) + b"{}]"
    began = time.process_time()
    assert refusal(body) == "too-many"
    assert time.process_time() - began < 5


# Other serializers


PICKLE = "application/x-python-serialize"


class Boom:
    """Shows itself when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("accept", [(), (PICKLE,), (PICKLE, "pickle")])
@pytest.mark.parametrize("content_type", [PICKLE, "pickle"])
def test_never_a_pickle(accept: tuple[str, ...], content_type: str) -> None:
    body = pickle.dumps(Boom())
    assert refusal(body, content_type, "binary", accept=accept) == "content-type"
    assert refusal(body, accept=accept) == "malformed"


@pytest.mark.parametrize("content_type", ["application/x-yaml", "text/plain", "application/data", "x" * 10_000, "\n"])
def test_what_the_app_does_not_accept(content_type: str) -> None:
    decoding = Decoding("application/x-msgpack")
    assert decoding.decode(GOOD_JSON.encode(), content_type, "binary") == []
    assert decoding.refused == [("content-type", content_type[:100])]


@pytest.fixture
def literal_serializer() -> Any:
    """A serializer that the app accepts, which yields whatever `eval` makes of the body: kombu's real registry."""

    def loads(body: bytes | str) -> object:
        return eval(body, {"nan": math.nan, "inf": math.inf})

    register("literal", repr, loads, "application/x-literal", "binary")
    yield "application/x-literal"
    unregister("literal")


def decode_literal(content: object, accept: str) -> tuple[list[Event], Counter[str]]:
    decoding = Decoding(accept)
    return decoding.decode(repr(content).encode(), accept, "binary"), decoding.reasons


def test_another_serializer(literal_serializer: str) -> None:
    good = Event(**GOOD)
    assert decode_literal(GOOD, literal_serializer) == ([good], {})
    assert decode_literal([GOOD, GOOD], literal_serializer) == ([good, good], {})
    assert decode_literal({**GOOD, 5: 6, None: 7, "own": b"x"}, literal_serializer) == ([good], {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (5, "shape"),
        (None, "shape"),
        ([], "shape"),
        ({}, "no-type"),
        ({"uuid": "a"}, "no-type"),
        ({"type": "task-sent"}, "no-uuid"),
        ({"type": b"task-sent", "uuid": "a"}, "wrong-type"),
    ],
)
def test_a_bad_event_of_another_serializer(literal_serializer: str, bad: Any, reason: str) -> None:
    events, reasons = decode_literal([GOOD, bad, GOOD], literal_serializer)
    assert events == [Event(**GOOD)] * 2
    assert reasons == {reason: 1}


@pytest.mark.parametrize("body", [b"(", b"1/0", b"1 +", b"undefined", b"(" * 10_000])
def test_a_serializer_that_fails(literal_serializer: str, body: bytes) -> None:
    assert refusal(body, literal_serializer, "binary", accept=(literal_serializer,)) in ("malformed", "nesting")


def test_an_accepted_serializer_that_is_not_installed() -> None:
    def missing(body: object) -> object:
        from kombu.exceptions import SerializerNotInstalled

        raise SerializerNotInstalled("No decoder installed")

    register("absent", None, missing, "application/x-absent", "utf-8")
    try:
        assert refusal(b"a: 1", "application/x-absent", "utf-8", accept=("application/x-absent",)) == "content-type"
    finally:
        unregister("absent")


def test_a_content_type_of_no_serializer_at_all() -> None:
    assert refusal(b"{}", "application/x-unheard-of", "utf-8", accept=("application/x-unheard-of",)) == "shape"
    accept = ("application/x-unheard-of",)
    assert refusal(b"{}", "application/x-unheard-of", "no-such-encoding", accept=accept) == "malformed"


@pytest.mark.parametrize("name", ["yaml", "msgpack"])
def test_the_serializers_that_celery_knows(name: str) -> None:
    pytest.importorskip(name)
    from kombu.serialization import dumps

    content_type, encoding, body = dumps([GOOD, {**GOOD, "uuid": "b"}, 5], name)
    assert refusal(body, content_type, encoding) == "content-type"
    decoding = Decoding(content_type)
    assert [event.uuid for event in decoding.decode(body, content_type, encoding)] == ["a", "b"]
    assert decoding.reasons == {"shape": 1}


def test_json_in_another_encoding_is_kombus_affair() -> None:
    decoding = Decoding()
    assert decoding.decode(GOOD_JSON.encode(), "application/json", "latin-1") == [Event(**GOOD)]
    assert refusal(GOOD_JSON.encode("utf-16"), "application/json", "utf-16") == "malformed"
    typed = json.dumps({**GOOD, "name": {"__type__": "datetime", "__value__": "2030-01-01T00:00:00"}})
    (event,) = decoding.decode(typed, "application/json", "latin-1")
    assert event.name == "2030-01-01T00:00:00"


# Compression


COMPRESSIONS = ("zlib", "bzip2", "lzma")


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_compressed_message(name: str) -> None:
    body, content_type = compress(f"[{GOOD_JSON}]".encode(), name)
    decoding = Decoding()
    assert decoding.decode(body, "application/json", "utf-8", content_type) == [Event(**GOOD)]
    assert not decoding.refused


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_compressed_message_that_is_broken(name: str) -> None:
    body, content_type = compress(f"[{GOOD_JSON}]".encode(), name)
    json_type = ("application/json", "utf-8")
    for broken in (b"", body[:-1], body[: len(body) // 2], b"x" + body, body[:20] + b"\xff" * 20, b"[]", "[]", "ä"):
        assert refusal(broken, *json_type, content_type) == "compression"
    damaged = bytearray(body)
    damaged[len(body) // 2] ^= 0xFF
    assert refusal(bytes(damaged), *json_type, content_type) == "compression"


@pytest.mark.parametrize("compression", ["gzip", "application/x-brotli", "application/zstd", "x" * 10_000, "\n"])
def test_an_unknown_compression(compression: str) -> None:
    decoding = Decoding()
    assert decoding.decode(b"[]", "application/json", "utf-8", compression) == []
    assert decoding.refused == [("compression", compression[:100])]


BOMBS = {
    "application/x-gzip": lambda data: zlib.compress(data, 9),
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
}


@pytest.mark.parametrize("compression", BOMBS)
def test_a_bomb(compression: str) -> None:
    body = BOMBS[compression](b" " * (20 * KIB * KIB))
    assert len(body) < 50 * KIB
    assert refusal(body, "application/json", "utf-8", compression) == "too-large"


@pytest.mark.parametrize("compression", BOMBS)
def test_the_largest_size_once_decompressed(compression: str) -> None:
    decoding = Decoding(max_message=KIB)
    exactly = GOOD_JSON.encode().ljust(KIB)
    assert len(decoding.decode(BOMBS[compression](exactly), "application/json", "utf-8", compression)) == 1
    assert not decoding.refused
    assert decoding.decode(BOMBS[compression](exactly + b" "), "application/json", "utf-8", compression) == []
    assert decoding.reasons == {"too-large": 1}


def test_data_that_ask_for_much_memory_to_be_decompressed() -> None:
    stream = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}])
    body = stream.compress(b"[]") + stream.flush()
    assert refusal(body, "application/json", "utf-8", "application/x-lzma") == "compression"


def test_a_long_text_that_was_compressed_is_cut() -> None:
    decoding = Decoding(max_text=100)
    body = zlib.compress(json.dumps([{**GOOD, "args": "x" * 10_000}]).encode())
    assert len(body) < 150
    (event,) = decoding.decode(body, "application/json", "utf-8", "application/x-gzip")
    assert len(str(event.args)) == 100


# Long texts


@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_a_long_text_is_cut_with_a_mark(field: str) -> None:
    text = "äb" * 50_000
    (event,) = Decoding(max_text=1000).decode(json.dumps([{**GOOD, field: text}]))
    cut = getattr(event, field)
    assert len(cut) == 1000
    assert cut == text[: 1000 - len(CUT_MARK)] + CUT_MARK


def test_a_text_of_just_the_length_is_left() -> None:
    decoding = Decoding(max_text=1000)
    first, second = decoding.decode(json.dumps([{**GOOD, "args": "x" * 1000}, {**GOOD, "args": "x" * 1001}]))
    assert first.args == "x" * 1000
    assert second.args == "x" * (1000 - len(CUT_MARK)) + CUT_MARK


# Anything at all


NUMBERS = {"timestamp": (0, 1e11), "runtime": (-1e15, 1e15), "freq": (0.1, 3600)}
INTEGERS = ("clock", "retries", "pid", "active", "processed")


def check(event: Event) -> None:
    """Insist that an event is what the rest of taskmon takes for granted."""
    assert isinstance(event, Event)
    for field in ("type", "uuid", "hostname"):
        text = getattr(event, field)
        assert (text is None and field != "type") or (isinstance(text, str) and 1 <= len(text) <= 1024)
    for field in TEXT_FIELDS:
        text = getattr(event, field)
        assert text is None or (isinstance(text, str) and len(text) <= 100)
    for field, (lowest, highest) in NUMBERS.items():
        number = getattr(event, field)
        if number is not None:
            assert type(number) is float
            assert lowest <= number <= highest
    for field in INTEGERS:
        number = getattr(event, field)
        assert number is None or (type(number) is int and abs(number) <= 2**62)
    if event.loadavg is not None:
        assert all(type(number) is float and math.isfinite(number) for number in event.loadavg)
    assert event.uuid is not None or not event.type.startswith("task-")
    assert event.hostname is not None or not event.type.startswith("worker-")
    msgspec.json.encode(event)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=30)
    | st.sampled_from(["task-sent", "worker-online", "x" * 150, 1e11, 2**62, 2**63, -0.0])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
OBJECTS = st.dictionaries(
    st.sampled_from([*Event.__struct_fields__, "own"]), VALUES, max_size=8
) | st.fixed_dictionaries(
    {"type": st.sampled_from(["task-sent", "task-received", "worker-online", "mine"])},
    optional={field: SCALARS for field in Event.__struct_fields__ if field != "type"},
)
ENCODINGS = st.sampled_from(["utf-8", "binary", "utf-16", "nonsense", "", None])
TYPES = st.sampled_from(["application/json", "application/x-literal", PICKLE, "", None]) | st.text(max_size=10)
PACKED = st.sampled_from([None, *BOMBS, "gzip", ""])


@given(
    st.binary(max_size=300) | st.text(st.characters(exclude_categories=()), max_size=100), TYPES, ENCODINGS, PACKED
)
def test_no_bytes_whatever_raise(body: bytes | str, content_type: str, encoding: str, compression: str) -> None:
    for one in Decoding(max_text=100).decode(body, content_type, encoding, compression):
        check(one)


@given(st.lists(OBJECTS | VALUES, max_size=6), st.booleans())
def test_no_json_whatever_raises(content: list[Any], ascii_only: bool) -> None:
    body = json.dumps(content, ensure_ascii=ascii_only)
    for one_body in (body, body.encode("utf-8", "surrogatepass")):
        decoding = Decoding(max_text=100)
        events = decoding.decode(one_body)
        for one in events:
            check(one)
        assert len(events) + len(decoding.refused) == len(content)


@given(OBJECTS | VALUES, st.integers(0, 60), st.binary(min_size=1, max_size=3))
def test_no_damage_whatever_raises(content: Any, place: int, damage: bytes) -> None:
    body = bytearray(json.dumps([GOOD, content]).encode())
    body[place : place + len(damage)] = damage
    for one in Decoding(max_text=100).decode(bytes(body)):
        check(one)
