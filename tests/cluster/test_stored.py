"""What is stored becomes a Result: the right one of what is sound, a harmless one of anything else."""

import json
import pickle
import sys
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.backends import base
from hypothesis import given
from hypothesis import strategies as st

from taskmon.cluster import result_decoding
from taskmon.cluster.result_decoding import LARGEST, UNKNOWN, Result, make_plain, read_stored
from taskmon.http.masker import Masker
from taskmon.http.serializers import encode
from taskmon.nesting import MAX_DEPTH

JSON = "application/json"
PICKLE = "application/x-python-serialize"

_loaded: list[str] = []


def load(what: str) -> str:
    """Tell the test that a pickle was loaded."""
    _loaded.append(what)
    return what


class Bomb:
    """Whoever unpickles this is seen."""

    def __reduce__(self) -> Any:
        return load, ("boom",)


class Costly(Exception):
    """An exception whose making would show."""

    def __init__(self, *args: object) -> None:
        _loaded.append("made")
        super().__init__(*args)


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Any:
    """Fail a test in which a pickle was loaded, or a stored exception made."""
    _loaded.clear()
    yield
    assert not _loaded


def meta(**fields: Any) -> dict[str, Any]:
    """Make what Celery stores."""
    return {"status": "SUCCESS", "result": None, "traceback": None, "children": [], **fields}


def read(content: Any, content_type: str = JSON) -> Result:
    """Read it as JSON, unless it is bytes."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    result = read_stored("a", data, content_type, "utf-8")
    assert result.task_id == "a"
    encode(result.value)
    return result


def test_a_result() -> None:
    assert read(meta(result={"x": [1, 2.5, None, True, "é"]})) == Result(
        "a", "SUCCESS", {"x": [1, 2.5, None, True, "é"]}
    )


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "PROGRESS", "ABORTED"])
def test_a_task_that_is_not_ready_has_no_result(state: str) -> None:
    result = read(meta(status=state, result={"exc_type": "X", "pid": 1}, traceback="T"))
    assert result == Result("a", state)
    assert not result.ready


@pytest.mark.parametrize(
    ("stored_exception", "text"),
    [
        ({"exc_type": "ValueError", "exc_message": ["no stock"], "exc_module": "builtins"}, "ValueError('no stock')"),
        ({"exc_type": "E", "exc_message": ["a", 2], "exc_module": "x"}, "E('a', 2)"),
        ({"exc_type": "E", "exc_message": [], "exc_module": "x"}, "E()"),
        ({"exc_type": "E", "exc_message": "text", "exc_module": "x"}, "E('text')"),
        ({"exc_type": "Outer.Inner", "exc_message": [1], "exc_module": "x"}, "Inner(1)"),
        ({"exc_type": "E"}, "E('')"),
        ({"exc_type": 5}, {"exc_type": 5}),
        ("a text", "a text"),
        (None, None),
    ],
)
def test_a_failure_is_the_text_of_its_exception(stored_exception: Any, text: Any) -> None:
    result = read(meta(status="FAILURE", result=stored_exception, traceback="Traceback …"))
    assert result == Result("a", "FAILURE", text, "Traceback …")


def test_the_text_of_an_exception_is_celerys() -> None:
    app = Celery(set_as_current=False, backend="cache+memory://")
    for exc in (ValueError("it's"), KeyError("a", 1), ZeroDivisionError(), OSError(2, "No such file")):
        prepared = app.backend.prepare_exception(exc, "json")
        restored = app.backend.exception_to_python(dict(prepared))
        assert read(meta(status="FAILURE", result=prepared)).value == repr(restored)


def test_the_class_of_an_exception_is_neither_imported_nor_made(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "taskmon_nowhere.py").write_text("class E(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module, kind in (("taskmon_nowhere", "E"), (__name__, "Costly"), ("os", "system")):
        exception = {"exc_type": kind, "exc_message": ["x"], "exc_module": module}
        assert read(meta(status="FAILURE", result=exception)).value == f"{kind}('x')"
    assert "taskmon_nowhere" not in sys.modules


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "STARTED"])
def test_a_pickle_is_told_by_its_state_and_never_loaded(protocol: int, state: str) -> None:
    result = read(pickle.dumps(meta(status=state, result=Bomb()), protocol), PICKLE)
    assert (result.state, result.value) == (state, None)
    assert "pickle" in (result.reason or "")
    assert result.ready == (state != "STARTED")


def test_a_pickle_under_another_name() -> None:
    data = pickle.dumps(meta(result=Bomb()))
    assert read(data, JSON) == Result("a", "SUCCESS", reason="it is stored as a pickle, which taskmon never loads")
    for kind in ("application/data", "application/text", "", "application/x-other"):
        result = read(pickle.dumps(meta(result=Bomb()), 0), kind)
        assert (result.state, result.ready, result.value) == (UNKNOWN, True, None)
        assert "does not read" in (result.reason or "")


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x04", b"garbage", pickle.dumps({"status": Bomb()}), pickle.dumps({"status": "x y"})]
)
def test_a_pickle_whose_state_cannot_be_told(data: bytes) -> None:
    assert read(data, PICKLE).state == UNKNOWN


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"5", b'"x"', b'{"status": 5}', b'{"status": ""}', b"{}"])
def test_what_is_no_result_is_unknown(content: bytes) -> None:
    result = read(content)
    assert (result.state, result.ready, result.value) == (UNKNOWN, True, None)
    assert result.reason


def test_yaml_and_msgpack_are_read_where_they_are_installed() -> None:
    for module, content, kind in (
        ("yaml", b"status: SUCCESS\nresult: [1]", "application/x-yaml"),
        ("msgpack", b"\x82\xa6status\xa7SUCCESS\xa6result\x91\x01", "application/x-msgpack"),
    ):
        expected = Result("a", "SUCCESS", [1]) if find_spec(module) else Result("a", UNKNOWN)
        result = read(content, kind)
        assert (result.state, result.value) == (expected.state, expected.value)


def test_what_is_no_json_comes_as_its_repr() -> None:
    date = {"__type__": "datetime", "__value__": "2026-01-31T12:00:00+00:00"}
    assert "datetime.datetime(2026, 1, 31" in read(meta(result=[1, date])).value
    for value in ({1, 2}, b"x", [1, {"a": {3}}], {(1, 2): 3}, {None: 1}, {True: 1}):
        assert make_plain(value) == repr(value)
    assert make_plain({5: (1, 2)}) == {"5": [1, 2]}


def test_numbers_and_texts_that_json_does_not_have() -> None:
    result = read(b'{"status": "SUCCESS", "result": [NaN, Infinity, -Infinity, 1e999, "\\ud800", {"\\udfff": 1}]}')
    assert result.value == [None, None, None, None, "\\ud800", {"\\udfff": 1}]
    assert read(meta(result=10**40)).value == 10**40
    assert "nested too deep" in (read(meta(result=int("9" * 4000))).reason or "")


def test_what_is_too_deep_or_too_large(monkeypatch: Any) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    for content in (json.dumps(meta(result=deep)).encode(), b'{"status":' + b"[" * 100_000):
        assert read_stored("a", content, JSON, "utf-8").state in ("SUCCESS", UNKNOWN)
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(result_decoding._Unreadable):
        make_plain(itself)
    monkeypatch.setattr(result_decoding, "_MAX_VALUES", 10)
    result = read(meta(result=list(range(20))))
    assert (result.state, result.reason) == ("SUCCESS", "it has more than 10 values")
    assert "larger than 8 MiB" in (read(b" " * (LARGEST + 1)).reason or "")


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_no_result_is_nested_deeper_than_who_shows_it_can_follow(wrap: Callable[[Any], Any]) -> None:
    masker = Masker(["password"])
    value: Any = 1
    for depth in range(1, 700):
        value = wrap(value)
        result = read(meta(result=value))
        assert result.state == "SUCCESS"
        assert (result.reason is None) == (depth <= MAX_DEPTH)
        masker.value(result.value)


@pytest.mark.skipif(not hasattr(base, "COMPRESSED_PAYLOAD_MAGIC"), reason="this Celery compresses no results")
def test_what_is_compressed_is_read_within_bounds() -> None:
    def compress(data: bytes) -> bytes:
        return base.COMPRESSED_PAYLOAD_MAGIC + b"application/x-gzip\0" + zlib.compress(data)

    assert read(compress(json.dumps(meta(result=5)).encode())).value == 5
    for data in (
        compress(b" " * (LARGEST + 1)),
        base.COMPRESSED_PAYLOAD_MAGIC,
        base.COMPRESSED_PAYLOAD_MAGIC + b"x\0y",
    ):
        assert "compressed" in (read(data).reason or "")
    plain = json.dumps(meta(result=6)).encode()
    assert read_stored("a", zlib.compress(plain), JSON, "utf-8", "application/x-gzip").value == 6


def test_a_text_is_as_good_as_bytes() -> None:
    assert read_stored("a", json.dumps(meta(result="é"), ensure_ascii=False), JSON, "utf-8").value == "é"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.sampled_from(["SUCCESS", "FAILURE", "REVOKED"]))
def test_any_json_can_be_sent_out(value: Any, state: str) -> None:
    read(meta(status=state, result=value, traceback=value))


@given(st.binary(max_size=200), st.sampled_from([JSON, PICKLE, "application/x-msgpack", "application/data"]))
def test_anything_stored_gives_a_result(data: bytes, content_type: str) -> None:
    assert read(data, content_type).state


@pytest.mark.parametrize(
    ("stored_time", "expected"),
    [
        ("2023-11-14T22:13:20.500000+00:00", 1_700_000_000.5),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000.0),
        ("2023-11-14T22:13:20", 1_700_000_000.0),
        (None, None),
        ("yesterday", None),
        (1_700_000_000, None),
        ("1900-01-01T00:00:00", None),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139.0),
        ("0001-01-01T00:00:00+23:59", None),
    ],
)
def test_when_a_task_finished(stored_time: Any, expected: float | None) -> None:
    for state in ("SUCCESS", "FAILURE"):
        payload = json.dumps(meta(status=state, date_done=stored_time)).encode()
        assert read_stored("a", payload, JSON, "utf-8").finished == expected


def test_a_date_of_a_serializer_that_has_dates() -> None:
    result = read_stored("a", b"status: SUCCESS\ndate_done: 2023-11-14 22:13:20\n", "application/x-yaml", "utf-8")
    assert result.finished == 1_700_000_000.0
