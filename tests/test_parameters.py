"""What the document says of an argument is what a request is read by."""

import re
from datetime import UTC
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import Meta, defstruct

from taskmon.errors import InvalidArgument
from taskmon.http.base import ApiHandler
from taskmon.http.openapi import Document
from taskmon.parameters import (
    Argument,
    Parameters,
    Time,
    as_text,
    digits,
    find_arguments,
    matching,
    parse_parameters,
    seconds_pattern,
)
from taskmon.routes import API

#: Every argument of every route, once; those whose rules no schema can tell are left out.
UNTELLABLE = {"search"}
ARGUMENTS = {
    (one.name, one.description): (handler.parameters, one)
    for _, handler in API
    for one in find_arguments(handler.parameters)
    if one.name not in UNTELLABLE
}

VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 5, 60, 61, 255, 256, 10_000, 10_001, 10**9, 10**9 + 1, 10**12, 10**30),
    *(0.0, 1.0, 0.5, 1e-9, 1e-300, 1e300, 2.5, -0.5, 59.999, 60.0, 60.5, 253_402_300_799, 253_402_300_800),
    *("", " ", "0", "1", "5", "60", "61", "59.5", "10000", "10001", "1000000000", "1000000001", "-1", "x"),
    *("true", "FALSE", "Yes", "perhaps", "y", "of", "TERM", "sigkill", "SIGSTOP", "name", "-name", "--name", "args"),
    *("10/m", "10/d", "0.5/s", "2026-01-31 13:30", "2026-01-31T13:30:00+01:00", "2026-04-31", "1969-12-31 00:00"),
    *("0000-01-01 00:00", "2026-00-10 00:00", "a b", "a/b", "a\\b", "x" * 255, "x" * 256, "All", "a.b:c@d-e"),
    *([], [1], ["a"], ["a", "a"], [""], ["x" * 1025], {}, {"a": 1}, [[]], "nan", "inf", "1e400", "٣", "\x00", "ä"),
]


def is_read(argument: Argument, value: Any) -> bool:
    """Tell whether a JSON value is accepted."""
    if value is None and argument.format.is_absent(None):
        return not argument.required
    try:
        argument.parse({argument.name: value}, UTC)
    except InvalidArgument:
        return False
    return True


class _Handler(ApiHandler):
    """Takes one argument."""


def described(parameters: type[Parameters], argument: Argument) -> Draft202012Validator:
    """Give what the document says of a body with this argument alone."""
    declared = {"parameters": parameters, "response_type": str, "post": lambda self: None, "path": "/x"}
    handler = type("Handler", (_Handler,), declared)
    content = Document([handler], "", "1").content["paths"]["/x"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    required = [argument.name] if argument.required else []
    properties = {argument.name: schema["properties"][argument.name]}
    return Draft202012Validator({**schema, "properties": properties, "required": required})


def make(kind: Any, **more: Any) -> type[Parameters]:
    """Return parameters with one argument, x."""
    return defstruct("Made", [("x", kind, None)], bases=(Parameters,), **more)


@pytest.mark.parametrize(("parameters", "argument"), ARGUMENTS.values(), ids=[name for name, _ in ARGUMENTS])
def test_the_schema_accepts_what_is_read_and_nothing_else(parameters: type[Parameters], argument: Argument) -> None:
    schema = described(parameters, argument)
    for value in VALUES:
        assert schema.is_valid({argument.name: value}) == is_read(argument, value), repr(value)
    assert schema.is_valid({}) is not argument.required


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[bool, Meta(description="x")],
        Annotated[int, Meta(ge=1, le=10_000, description="x")],
        Annotated[int | None, Meta(ge=0, le=10**9, description="x")],
        Annotated[float, Meta(le=60, description="x")],
        Annotated[Time, Meta(description="x")],
        Annotated[str | None, Meta(description="x")],
    ],
)
def test_numbers(kind: Any) -> None:
    parameters = make(kind)
    (argument,) = find_arguments(parameters)
    schema = described(parameters, argument)

    @given(SCALARS)
    def check(value: Any) -> None:
        assert schema.is_valid({"x": value}) == is_read(argument, value)

    check()


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_digits(most: int, number: int) -> None:
    assert (re.fullmatch(digits(most), str(number)) is not None) == (number <= most)
    for near in {max(0, most - 1), most, most + 1}:
        assert (re.fullmatch(digits(most), str(near)) is not None) == (near <= most)


def test_the_pattern_of_seconds() -> None:
    for text in ("0", "59.999", "60", "9", "0.5"):
        assert re.fullmatch(seconds_pattern(60), text)
    for text in ("60.1", "61", "100", "", "-1", ".5", "1.", "00"):
        assert not re.fullmatch(seconds_pattern(60), text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (5.0, "5"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (1e-7, "0.000000100"),
        ("ä", "ä"),
    ],
)
def test_a_value_as_it_would_stand_in_a_query_string(value: Any, text: str) -> None:
    assert as_text("x", value) == text


def test_what_has_no_text() -> None:
    for value in ([], {}, None):
        with pytest.raises(InvalidArgument, match="x must be a text, a number or a boolean"):
            as_text("x", value)


class Mixed(Parameters):
    """A number that has a default, and two texts that exclude each other."""

    n: Annotated[int, Meta(ge=1, le=5, description="A number.")] = 3
    q: Annotated[str | None, matching("a", "must be a"), Meta(description="A.")] = None
    p: Annotated[str | None, Meta(description="B.", extra={"excludes": "q"})] = None


class Needed(Parameters):
    """A text that must be given."""

    q: Annotated[str, matching("a", "must be a"), Meta(description="A.")]


def test_defaults_and_what_is_required() -> None:
    assert parse_parameters(Mixed, {}, UTC) == Mixed(n=3)
    assert parse_parameters(Mixed, {"n": " ", "q": "a", "other": 1}, UTC) == Mixed(n=3, q="a")
    for given_text in ({}, {"q": ""}, {"q": None}):
        with pytest.raises(InvalidArgument, match="q must be a, not ''"):
            parse_parameters(Needed, given_text, UTC)


def test_arguments_that_exclude_each_other() -> None:
    assert parse_parameters(Mixed, {"p": "x"}, UTC) == Mixed(p="x")
    with pytest.raises(InvalidArgument, match="p must not be given together with q"):
        parse_parameters(Mixed, {"q": "a", "p": "x"}, UTC)
