"""A field of another type than it should have costs neither the event nor any other field."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps

from taskmon.receiving.decoding import EventDecoder
from taskmon.records import TEXT_FIELDS, Event, PartialEvent

TASK = {
    "type": "task-received",
    "hostname": "celery@one",
    "pid": 7,
    "clock": 9,
    "uuid": "a",
    **{field: f"the {field}" for field in TEXT_FIELDS if not field.startswith("sw_")},
    "retries": 1,
    "runtime": 0.5,
    "timestamp": 1_700_000_000.25,
    "requeue": True,
}
WORKER = {
    "type": "worker-heartbeat",
    "hostname": "celery@one",
    "pid": 7,
    "clock": 9,
    "timestamp": 1_700_000_000.25,
    "freq": 2.0,
    "active": 3,
    "processed": 4,
    "loadavg": [0.5, 0.25, 0.125],
    "sw_ident": "py-celery",
    "sw_ver": "5.7.0",
    "sw_sys": "Linux",
}
INTEGERS = ("pid", "clock", "retries", "active", "processed")
NUMBERS = ("runtime", "timestamp", "freq")

#: What a field may hold in place of what it should.
ODD: dict[str, Any] = {
    "true": True,
    "false": False,
    "a whole number": 5,
    "a whole float": 5.0,
    "a float": 5.5,
    "a negative number": -5,
    "zero": 0,
    "a huge number": 10**30,
    "a huge float": 1e300,
    "a number beyond all": 10**400,
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
    "digits": "5",
    "a number as text": "5.5",
    "a huge number as text": "1e999",
    "text": "some text",
    "no text": "",
    "NaN as text": "NaN",
    "a lone surrogate": "\ud800",
    "an empty list": [],
    "a list": [1, "x"],
    "a list of NaN": [math.nan],
    "an empty object": {},
    "an object": {"a": [1]},
}


class Decoding:
    """An EventDecoder, and what it left out and refused."""

    def __init__(self, *accept: str) -> None:
        self.omitted: list[str] = []
        self.refused: list[str] = []
        self.decoder = EventDecoder(
            accept,
            1 << 20,
            1 << 16,
            lambda reason, _: self.refused.append(reason),
            lambda field, _: self.omitted.append(field),
        )


def decode_all_ways(event: dict[str, Any]) -> list[tuple[list[Event], list[str], list[str]]]:
    """Decode an event alone, in a batch, and by other serializers; each time with what was omitted and refused."""
    answers = []
    alone, text = json.dumps(event), json.dumps([event])
    for body in (alone, alone.encode(), text, text.encode()):
        decoding = Decoding()
        answers.append((decoding.decoder.decode(body), decoding.omitted, decoding.refused))
    for name in ("msgpack", "yaml"):
        try:
            content_type, encoding, packed = dumps([event], name)
        except Exception:  # what it has no words for
            continue
        decoding = Decoding(content_type)
        answers.append((decoding.decoder.decode(packed, content_type, encoding), decoding.omitted, decoding.refused))
    return answers


def plain(event: Event) -> dict[str, Any]:
    """List the fields of an event, without what was omitted."""
    return {field: getattr(event, field) for field in Event.__struct_fields__}


def check_one_odd_field(event: dict[str, Any], field: str, value: Any) -> None:
    (whole,) = Decoding().decoder.decode(json.dumps(event))
    subject = "uuid" if event["type"].startswith("task-") else "hostname"
    for events, omitted, refused in decode_all_ways({**event, field: value}):
        if field == subject and refused:
            assert events == []
            continue
        assert refused == []
        (got,) = events
        assert plain(got) | {field: None} == plain(whole) | {field: None}
        if omitted:
            assert omitted == [field]
            assert isinstance(got, PartialEvent)
            assert got.omitted == (field,)
            assert getattr(got, field) is None
        else:
            assert type(got) is Event
            assert getattr(got, field) is not None
        msgspec.json.decode(msgspec.json.encode(plain(got)), type=Event)  # what taskmon takes for granted


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize(("event", "field"), [(e, f) for e in (TASK, WORKER) for f in e if f != "type"])
def test_every_odd_value_of_every_field(event: dict[str, Any], field: str, value: Any) -> None:
    check_one_odd_field(event, field, value)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(st.sampled_from([TASK, WORKER]), st.data(), VALUES)
def test_one_odd_field_leaves_the_others_as_they_are(event: dict[str, Any], data: st.DataObject, value: Any) -> None:
    check_one_odd_field(event, data.draw(st.sampled_from([field for field in event if field != "type"])), value)


def convert(field: str, value: Any, event: dict[str, Any] = TASK | WORKER | {"type": "task-received"}) -> Any:
    """Give what becomes of one field; "left out" for nothing."""
    ((events, omitted, refused), *others) = decode_all_ways({**event, field: value})
    assert not refused
    assert all(str(other) == str((events, omitted, refused)) for other in others)
    return "left out" if omitted == [field] else getattr(events[0], field)


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize(
    ("value", "result"),
    [
        (3.0, 3),
        ("3", 3),
        ("3.0", 3),
        ("-3", -3),
        (3.5, "left out"),
        ("3.5", "left out"),
        (True, "left out"),
        ("", "left out"),
        (" 3", "left out"),
        ("٣", "left out"),
        ("1_0", "left out"),
        ("0x3", "left out"),
        (2**63, "left out"),
        (math.nan, "left out"),
        ([3], "left out"),
    ],
)
def test_whole_numbers(field: str, value: Any, result: Any) -> None:
    converted = convert(field, value)
    assert (converted, type(converted)) == (result, type(result))


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize(
    ("value", "result"),
    [
        (3, 3.0),
        ("3", 3.0),
        ("3.25", 3.25),
        ("325e-2", 3.25),
        (True, "left out"),
        ("soon", "left out"),
        ("inf", "left out"),
        (1e300, "left out"),
        (math.inf, "left out"),
        ({}, "left out"),
    ],
)
def test_numbers(field: str, value: Any, result: Any) -> None:
    converted = convert(field, value)
    assert (converted, type(converted)) == (result, type(result))


@pytest.mark.parametrize("value", [0, -1, -0.0, 1e-9, 3600.5, 86_400, 1e15, "1e15", "0", math.nan, math.inf, "often"])
def test_an_absurd_frequency_of_heartbeats(value: Any) -> None:
    assert convert("freq", value, WORKER) == "left out"


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize(
    ("value", "result"),
    [(5, "5"), (5.5, "5.5"), (True, "left out"), (math.nan, "left out"), ([], "left out"), ("\ud800", "left out")],
)
def test_texts(field: str, value: Any, result: str) -> None:
    assert convert(field, value) == result


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ([1, "0.5"], [1.0, 0.5]),
        ([], []),
        ([None], "left out"),
        ([[1]], "left out"),
        ([True], "left out"),
        ([0.5] * 17, "left out"),
        ("0.5", "left out"),
        ({}, "left out"),
    ],
)
def test_load_averages(value: Any, result: Any) -> None:
    assert convert("loadavg", value) == result


@pytest.mark.parametrize(
    ("value", "result"), [(1, True), (0, False), ("1", True), (2, "left out"), ("no", "left out")]
)
def test_flags(value: Any, result: Any) -> None:
    assert convert("requeue", value) == result


def test_bytes_and_dates_of_other_serializers() -> None:
    when = datetime(2026, 1, 31, 13, 30, tzinfo=UTC)
    content_type, encoding, body = dumps([{**TASK, "eta": when, "name": b"tasks.add", "args": b"\xff"}], "yaml")
    decoding = Decoding(content_type)
    (event,) = decoding.decoder.decode(body, content_type, encoding)
    assert (event.eta, event.name, event.args) == ("2026-01-31T13:30:00+00:00", "tasks.add", None)
    assert decoding.omitted == ["args"]


def test_several_odd_fields_are_all_named() -> None:
    decoding = Decoding()
    (event,) = decoding.decoder.decode(json.dumps([{**TASK, "name": [], "args": {}, "pid": "x"}]))
    assert isinstance(event, PartialEvent)
    assert sorted(event.omitted) == sorted(decoding.omitted) == ["args", "name", "pid"]


def test_no_sender_can_name_what_was_omitted() -> None:
    (event,) = Decoding().decoder.decode(json.dumps([{**TASK, "omitted": ["state"], "retries": 1.0}]))
    assert type(event) is Event


def test_an_odd_event_among_good_ones() -> None:
    decoding = Decoding()
    good, odd = json.dumps(TASK), json.dumps({**TASK, "retries": {}})
    events = decoding.decoder.decode(f"[{good}, {odd}, {good}]")
    assert [event.retries for event in events] == [1, None, 1]
    assert decoding.omitted == ["retries"]
