"""What a request says of a task becomes a Call, or an InvalidArgument that names what is wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmon.cluster.publish_options import Call, PublishOptions, parse_call
from taskmon.errors import InvalidArgument
from taskmon.parameters import parse_seconds

OPTIONS = PublishOptions.__struct_fields__

BERLIN = ZoneInfo("Europe/Berlin")


def parse(**body: Any) -> Call:
    """Parse a body for the task `shop.charge`, in Berlin."""
    return parse_call("shop.charge", body, BERLIN)


def test_nothing_said() -> None:
    call = parse()
    assert (call.name, call.args, call.kwargs, call.options, call.retry) == ("shop.charge", [], {}, {}, True)
    assert len(call.task_id) == 36
    assert parse().task_id != call.task_id


def test_everything_said() -> None:
    call = parse(
        args=[1, {"a": None}],
        kwargs={"b": 2},
        countdown=2.5,
        expires=60,
        queue="payments.eu-1:x@y",
        exchange="e",
        routing_key="a.b",
        priority=9,
        task_id="mine",
        retry=False,
    )
    assert (call.args, call.kwargs, call.retry, call.task_id) == ([1, {"a": None}], {"b": 2}, False, "mine")
    assert call.options == {
        "countdown": 2.5,
        "expires": 60.0,
        "queue": "payments.eu-1:x@y",
        "exchange": "e",
        "routing_key": "a.b",
        "priority": 9,
    }


def test_null_is_not_given() -> None:
    assert parse(**dict.fromkeys(set(OPTIONS) - {"args", "kwargs"})).options == {}


@pytest.mark.parametrize("option", ["eta", "expires"])
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31 13:30:00.250000", datetime(2026, 1, 31, 12, 30, 0, 250000, UTC)),
        ("2026-07-31 13:30:00", datetime(2026, 7, 31, 11, 30, tzinfo=UTC)),
        ("2026-01-31 13:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31T13:30:00+05:00", datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        ("2026-01-31T13:30:00Z", datetime(2026, 1, 31, 13, 30, tzinfo=UTC)),
    ],
)
def test_dates(option: str, text: str, moment: datetime) -> None:
    parsed = parse(**{option: text}).options[option]
    assert abs(parsed - moment) < timedelta(milliseconds=1)
    assert parsed.tzinfo is UTC


def test_a_number_is_since_1970_for_eta_and_from_now_for_the_others() -> None:
    for value in (1769862600, 1769862600.0, "1769862600"):
        assert parse(eta=value).options == {"eta": datetime(2026, 1, 31, 12, 30, tzinfo=UTC)}
    assert parse(expires="60").options == {"expires": 60.0}
    assert parse(countdown="1e2").options == {"countdown": 100.0}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("args", value) for value in (None, {}, "x", 1, False)),
        *(("kwargs", value) for value in (None, [], "x", 1, False)),
        *(
            ("eta", value)
            for value in (
                "soon",
                "",
                [],
                {},
                True,
                "2026-02-30 10:00",
                1e300,
                -5,
                "-5",
                10**30,
                "9999-12-31T23:59:59-12:00",
            )
        ),
        *(("countdown", value) for value in ("soon", "", [], True, -1, "-1", 1e300, 10**400, "nan", "inf", "1e999")),
        *(("expires", value) for value in ("soon", "", [], True, -1, "-1", 1e300, "nan", "inf", "2026-02-30 10:00")),
        *(("queue", value) for value in ("", "a b", "a\u3000b", "a\u200bb", "x" * 256, "é" * 200, 5, [], "a\n")),
        *(("exchange", value) for value in (" \n", "a\nb", "x" * 256, 5, {})),
        *(("routing_key", value) for value in ("", "a\0b", "x" * 256, 5, {})),
        *(("priority", value) for value in (-1, 256, 1.5, "1", True, [])),
        *(("task_id", value) for value in ("", "a\0b", "x" * 1025, 5, ["a"])),
        *(("retry", value) for value in (0, "yes", [])),
    ],
)
def test_what_breaks_a_rule_is_named(option: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse(**{option: value})
    assert error.value.argument == option
    assert str(error.value).startswith(f"{option} must")
    assert len(str(error.value)) < 300


def test_eta_and_countdown_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="countdown must not be given together with eta"):
        parse(eta="2026-01-31 13:30", countdown=5)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb"])
def test_a_bad_name(name: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_call(name, {}, UTC)


def test_seconds() -> None:
    assert parse_seconds("timeout", "2.5", 60) == 2.5
    assert parse_seconds("timeout", 60, 60) == 60
    with pytest.raises(InvalidArgument, match="timeout must be a number of seconds from 0 to 60, not '61'"):
        parse_seconds("timeout", 61, 60)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(OPTIONS), values))
def test_anything_is_a_call_or_names_an_argument(body: dict[str, Any]) -> None:
    try:
        parse(**body)
    except InvalidArgument as error:
        assert error.argument in body


def test_the_empty_exchange_is_the_default_one() -> None:
    assert parse(exchange="").options == {"exchange": ""}
