"""Arguments to a TaskQuery, and a TaskQuery to a check of tasks."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskmon.errors import InvalidArgument, InvalidSearch
from taskmon.monitor.query import MAX_COUNT, TaskQuery, make_filter, parse_query
from taskmon.monitor.search import parse_search
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.parameters import parse_bool, parse_int
from taskmon.records import Task
from taskmon.times import parse_time

#: A busy machine may be slow to draw a first example.
BERLIN = ZoneInfo("Europe/Berlin")
NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC


def make(**fields: Any) -> TaskQuery:
    return TaskQuery(**fields)


def parse(**arguments: str) -> TaskQuery:
    return parse_query(arguments, UTC)


def test_no_arguments() -> None:
    assert parse() == TaskQuery()


@pytest.mark.parametrize(
    ("argument", "field"),
    [
        *[("workername", "worker"), ("taskname", "name")],
        *[("root_id", "root_id"), ("parent_id", "parent_id"), ("queue", "queue"), ("client", "client")],
    ],
)
def test_filters_by_value(argument: str, field: str) -> None:
    assert parse(**{argument: "it's <b> & ü"}) == make(**{field: "it's <b> & ü"})
    assert parse(**{argument: ""}) == TaskQuery()


def test_a_state_is_found_in_any_case() -> None:
    assert parse(state="failure") == parse(state="FAILURE") == make(state="FAILURE")


def test_empty_arguments_count_as_not_given() -> None:
    names = ("limit", "offset", "sort_by", "state", "workername", "received_start", "search")
    assert parse(**dict.fromkeys(names, "")) == TaskQuery()


@pytest.mark.parametrize("argument", ["workername", "taskname", "state"])
def test_all_is_no_filter(argument: str) -> None:
    assert parse(**{argument: "All"}) == TaskQuery()


@pytest.mark.parametrize("argument", ["root_id", "parent_id", "queue"])
def test_all_is_a_value_elsewhere(argument: str) -> None:
    assert parse(**{argument: "All"}) == make(**{argument: "All"})


@pytest.mark.parametrize("argument", ["received_start", "received_end", "started_start", "started_end"])
def test_filters_by_time(argument: str) -> None:
    assert parse(**{argument: "2026-01-01 12:00"}) == make(**{argument: NOON})
    assert parse_query({argument: "2026-01-01 13:00"}, BERLIN) == make(**{argument: NOON})
    assert parse(**{argument: " "}) == TaskQuery()
    with pytest.raises(InvalidArgument, match=rf"^{argument} must be a time .*, not 'yesterday'$"):
        parse(**{argument: "yesterday"})


@pytest.mark.parametrize("key", SORT_KEYS)
def test_every_sort_key_is_a_field_of_a_task(key: str) -> None:
    assert hasattr(Task(uuid="x"), key)
    assert parse(sort_by=key) == TaskQuery(sort_by=key)
    assert parse(sort_by=f"-{key}") == TaskQuery(sort_by=key, descending=True)


@pytest.mark.parametrize("text", ["args", "-", "--name", "Name", " name", "-received ", "__class__"])
def test_unknown_sort_key_lists_the_keys(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(sort_by=text)
    assert caught.value.argument == "sort_by"
    assert caught.value.value == text
    assert all(key in str(caught.value) for key in SORT_KEYS)


def test_page() -> None:
    assert parse(limit="10", offset="20") == TaskQuery(limit=10, offset=20)
    assert parse(limit="0", offset="0") == TaskQuery(limit=0)
    assert parse(limit="", offset="") == TaskQuery()
    assert parse(limit=str(MAX_COUNT)).limit == MAX_COUNT


@pytest.mark.parametrize("argument", ["limit", "offset"])
@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "ten",
        "1.5",
        "1e3",
        "1_0",
        "0x1",
        "١٢",
        "²",
        str(MAX_COUNT + 1),
        "9" * 5000,
        "1 0",
        "inf",
        "\x00",
    ],
)
def test_bad_page_names_argument_rule_and_value(argument: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(**{argument: text})
    assert caught.value.argument == argument
    assert caught.value.value == text
    assert str(caught.value).startswith(f"{argument} must be a whole number from 0 to 1,000,000,000, not '")


def test_search() -> None:
    assert parse(search="mail state:FAILURE") == TaskQuery(search=parse_search("mail state:FAILURE"))
    assert parse(search=" ") == TaskQuery()
    with pytest.raises(InvalidSearch):
        parse(search="ab")


def test_unknown_arguments_are_ignored() -> None:
    assert parse(page="7", _="123", worker="x", name="y") == TaskQuery()


@pytest.mark.parametrize("text", ["y", "yes", "t", "true", "on", "1", "True", "YES", " on "])
def test_true(text: str) -> None:
    assert parse_bool("refresh", text) is True


@pytest.mark.parametrize("text", ["n", "no", "f", "false", "off", "0", "False", "OFF"])
def test_false(text: str) -> None:
    assert parse_bool("refresh", text) is False


@pytest.mark.parametrize("text", ["", "2", "maybe", "truee", "\uff11", "none"])
def test_neither_true_nor_false(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^refresh must be true or false"):
        parse_bool("refresh", text)


def test_int_within_bounds() -> None:
    assert parse_int("n", "1", 1, 5) == 1
    assert parse_int("n", " 005 ", 1, 5) == 5
    assert parse_int("n", "-2", -2, 5) == -2
    for text in ("0", "6", "-1", "", "+3", "- 3"):
        with pytest.raises(InvalidArgument, match=r"^n must be a whole number from 1 to 5, not "):
            parse_int("n", text, 1, 5)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-01-01 12:00", UTC, NOON),
        ("2026-01-01 13:00", BERLIN, NOON),
        ("2026-07-01 14:00", BERLIN, NOON + 181 * 86400),  # summer time
        ("2026-01-01 12:00:01", UTC, NOON + 1),
        ("2026-01-01 12:00:01.25", UTC, NOON + 1.25),
        ("2026-01-01T12:00:01,25", UTC, NOON + 1.25),
        ("2026-01-01T12:00:00.123456789Z", UTC, NOON + 0.123456),
        ("2026-1-1 12:0", UTC, NOON),
        ("2026-01-01T12:00", UTC, NOON),
        ("2026-01-01t12:00:00z", BERLIN, NOON),
        ("2026-01-01T12:00:00Z", BERLIN, NOON),
        ("2026-01-01 12:00 Z", BERLIN, NOON),
        ("2026-01-01T14:00:00+02:00", UTC, NOON),
        ("2026-01-01T14:00:00 02:00", UTC, NOON),  # a + that became a blank
        ("2026-01-01T14:00 0200", UTC, NOON),
        ("2026-01-01 14:00 02", UTC, NOON),
        ("2026-01-01T14:00:00+0200", UTC, NOON),
        ("2026-01-01T14:00:00+02", UTC, NOON),
        ("2026-01-01 14:00:00 +02:00", UTC, NOON),
        ("2026-01-01T08:30:00-03:30", UTC, NOON),
        ("2026-01-01T12:00:00-00:00", BERLIN, NOON),
        ("1767268800", BERLIN, NOON),
        ("1767268800.5", BERLIN, NOON + 0.5),
        ("2026", BERLIN, 2026),
        (" 1767268800 ", BERLIN, NOON),
        ("0", BERLIN, 0),
        ("-1.5", BERLIN, -1.5),
        ("1969-12-31 23:59:59", UTC, -1),
        ("0001-01-01 00:00", timezone(timedelta(hours=23)), -62_135_596_800 - 23 * 3600),
        ("9999-12-31 23:59:59", timezone(timedelta(hours=-23)), 253_402_300_799 + 23 * 3600),
    ],
)
def test_time(text: str, zone: tzinfo, expected: float) -> None:
    assert parse_time("received_start", text, zone) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            " ",
            "now",
            "2026-01-01",
            "12:00",
            "2026-01-01 12",
            "2026/01/01 12:00",
            "01-01-2026 12:00",
        ],
        *["2026-13-01 12:00", "2026-02-30 12:00", "2026-01-01 24:00", "2026-01-01 12:60", "0000-01-01 12:00"],
        *["2026-01-01 12:00:60", "2026-01-01 12:00:00.", "2026-01-01T12:00+24:00", "2026-01-01T12:00+02:60"],
        *["2026-01-01T12:00+2", "2026-01-01T12:00Z02:00", "2026-01-01x12:00", "2026-01-01 12:00 UTC"],
        *[
            "nan",
            "inf",
            "-inf",
            "1e9",
            "1767268800000",
            "253402300800",
            "9" * 400,
            "1.",
            ".5",
            "1_000",
            "--1",
        ],
        *["٢٠٢٦-01-01 12:00", "\uff11767268800", "2026-01-01 12:00\x00", "2026-01-01\n12:00"],
    ],
)
def test_bad_time_names_argument_rule_and_value(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_time("started_end", text, UTC)
    assert caught.value.argument == "started_end"
    assert caught.value.value == text
    assert str(caught.value).startswith("started_end must be a time such as 2026-01-31 13:30, ")


@given(st.datetimes(), st.timezones() | st.just(UTC), st.sampled_from([" ", "T"]))
def test_time_agrees_with_datetime(moment: datetime, zone: tzinfo, separator: str) -> None:
    expected = (moment.replace(tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    assert parse_time("received_start", moment.isoformat(separator), zone) == expected


@given(st.datetimes(timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))))
def test_offset_agrees_with_datetime(moment: datetime) -> None:
    text = moment.isoformat()
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    assert parse_time("received_start", text, BERLIN) == expected
    assert parse_time("received_start", text.replace("+", " "), BERLIN) == expected


ARGUMENTS = [
    *["limit", "offset", "sort_by", "workername", "taskname", "state", "received_start", "received_end"],
    *["started_start", "started_end", "root_id", "parent_id", "queue", "search", "other"],
]


@given(st.dictionaries(st.sampled_from(ARGUMENTS), st.text() | st.text("0123456789 :TZ.,+-", max_size=40)))
@example({"limit": "9" * 100_000})
@example({"received_start": "2026-01-01" + " " * 100_000 + "x"})
@example({"started_end": "-" + "0" * 100_000})
def test_hostile_arguments_raise_nothing_else(arguments: dict[str, str]) -> None:
    try:
        query = parse_query(arguments, BERLIN)
    except InvalidArgument as refusal:
        assert refusal.argument in arguments
    else:
        assert query.limit is None or 0 <= query.limit <= MAX_COUNT
        assert 0 <= query.offset <= MAX_COUNT
        times = (query.received_start, query.received_end, query.started_start, query.started_end)
        assert all(time is None or isfinite(time) for time in times)
        make_filter(query)(Task(uuid="x"))


TASK = Task(
    uuid="abc",
    state="STARTED",
    name="shop.mail",
    worker="celery@one",
    root_id="root",
    parent_id="parent",
    queue="mails",
    client="gen1@web",
    received=100.0,
    started=200.0,
)


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (TaskQuery(), TaskQuery(worker="celery@one", name="shop.mail", state="SUCCESS")),
        (TaskQuery(worker="celery@one"), TaskQuery(worker="celery@ONE")),
        (TaskQuery(name="shop.mail"), TaskQuery(name="shop")),
        (TaskQuery(state="STARTED"), TaskQuery(state="started")),
        (TaskQuery(root_id="root"), TaskQuery(root_id="roo")),
        (TaskQuery(parent_id="parent"), TaskQuery(parent_id="root")),
        (TaskQuery(queue="mails"), TaskQuery(queue="mail")),
        (TaskQuery(client="gen1@web"), TaskQuery(client="gen2@web")),
        (TaskQuery(received_start=100.0), TaskQuery(received_start=100.1)),
        (TaskQuery(received_end=100.0), TaskQuery(received_end=99.9)),
        (TaskQuery(started_start=200.0), TaskQuery(started_start=200.1)),
        (TaskQuery(started_end=200.0), TaskQuery(started_end=199.9)),
        (
            TaskQuery(received_start=50.0, received_end=150.0),
            TaskQuery(received_start=150.0, received_end=50.0),
        ),
        (TaskQuery(search=parse_search("mail")), TaskQuery(search=parse_search("nope"))),
        (TaskQuery(worker="celery@one", name="shop.mail"), TaskQuery(worker="celery@one", name="x")),
        (
            TaskQuery(worker="celery@one", state="STARTED", started_end=300.0, search=parse_search("shop")),
            TaskQuery(worker="celery@one", state="STARTED", started_end=300.0, search=parse_search("nope")),
        ),
    ],
)
def test_filter(found: TaskQuery, missed: TaskQuery) -> None:
    assert make_filter(found)(TASK) is True
    assert make_filter(missed)(TASK) is False


@pytest.mark.parametrize("bound", ["received_start", "received_end", "started_start", "started_end"])
@pytest.mark.parametrize("value", [-1e9, 0.0, 1e10])
def test_a_task_without_the_time_asked_about_does_not_match(bound: str, value: float) -> None:
    assert make_filter(make(**{bound: value}))(Task(uuid="x")) is False


FAILING: dict[str, object] = {
    "worker": "x",
    "name": "x",
    "state": "x",
    "root_id": "x",
    "parent_id": "x",
    "queue": "x",
    "received_start": 1e9,
    "received_end": 0.0,
    "started_start": 1e9,
    "started_end": 0.0,
    "search": parse_search("nope"),
}


@pytest.mark.parametrize("field", FAILING)
def test_only_the_search_can_be_left_out(field: str) -> None:
    query = make(**{field: FAILING[field]})
    assert make_filter(query)(TASK) is False
    assert make_filter(query, with_search=False)(TASK) is (field == "search")


def test_queries_can_be_compared_and_hashed() -> None:
    query = parse(search="mail", state="SUCCESS")
    assert {query: 1}[parse(search="mail", state="SUCCESS")] == 1
