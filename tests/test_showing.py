"""What is hidden stays hidden, whichever way one asks: in an object, a listing, a result, a worker, a search."""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Headers, Served, event, make_app, serving

from taskmon.auth import ROLES, Role
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting
from taskmon.http.masker import Masker
from taskmon.http.redaction import HIDDEN, Showing, load_function
from taskmon.masking import MASK
from taskmon.monitor.search import parse_search
from taskmon.records import Task
from taskmon.settings import Settings

MASKER = Masker(Settings().mask_keys)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("{'password': 'x1'}", "{'password': ***}"),
        ("{'user': 'ann', 'password': 'x1', 'n': 1}", "{'user': 'ann', 'password': ***, 'n': 1}"),
        ("{'PASSWORD': \"x1\"}", "{'PASSWORD': ***}"),
        ('{"db_password": "a\\"x1", "n": 2}', '{"db_password": ***, "n": 2}'),
        ("{'a': {'api-key': 'x1'}}", "{'a': {'api-key': ***}}"),
        ("{'accessToken': b'x1', 'max_tokens': 5}", "{'accessToken': ***, 'max_tokens': 5}"),
        ("{'secret': ['x1', {'a': 'x1)'}], 'b': 2}", "{'secret': ***, 'b': 2}"),
        ("{'secret': 51, 'b': 2}", "{'secret': ***, 'b': 2}"),
        ("{'secret': None}", "{'secret': ***}"),
        ("({'token': 'x1'},)", "({'token': ***},)"),
        ("Config(user='a', password=SecretStr('x1'), n=1)", "Config(user='a', password=***, n=1)"),
        ('\'{\\"password\\": \\"x1\\", \\"n\\": 1}\'', '\'{\\"password\\": ***, \\"n\\": 1}\''),
        ("{'password': 'x1 and the rest is cut...", "{'password': ***"),
        ("{'secret': {'a': 'x1'", "{'secret': ***"),
        ("password=x1&user=ann", "password=***&user=ann"),
        ("{'Authorization': 'Bearer x1'}", "{'Authorization': ***}"),
        ("('a', 'b')", "('a', 'b')"),
        ("{'tokens': 1, 'secretary': 2}", "{'tokens': 1, 'secretary': ***}"),
        ("", ""),
        (None, None),
    ],
)
def test_masking_of_texts(text: str | None, masked: str | None) -> None:
    assert MASKER.text(text) == masked
    if text == masked:
        assert MASKER.text(text) is text
    if text and "x1" in text:
        assert "x1" not in str(MASKER.text(text + " " * 2000))


@given(st.text(max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    assert isinstance(MASKER.text(text), str)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)))
def test_the_value_of_a_secret_key_is_never_left(value: Any) -> None:
    secret = "s3cr3tv4lue"
    nested = {"a": [value, {"password": [value, secret]}], "b": {"api_key": {"x": secret}}}
    assert secret not in str(MASKER.text(repr(nested)))
    assert secret not in str(MASKER.text(json.dumps(nested)))
    assert secret not in repr(MASKER.value(nested))


@given(
    st.lists(
        st.sampled_from(["apiKey", "password", "a", ": 1, ", "'", "=x ", "SECRET", "_-", "accessTOKEN"]), max_size=12
    )
)
def test_a_text_that_is_passed_over_has_nothing_to_mask(parts: list[str]) -> None:
    for patterns in (Settings().mask_keys, ("*",), ("a*",), ("*api-key", "*_*")):
        masker = Masker(patterns)
        assert masker.text("".join(parts)) == masker._mask("".join(parts))


def test_masking_of_values() -> None:
    assert MASKER.value({"password": {"a": 1}, "b": [{"token": 1, 5: "secret=x"}]}) == {
        "password": MASK,
        "b": [{"token": MASK, 5: "secret=***"}],
    }
    nothing = Masker(())
    assert nothing.value({"password": 1}) == {"password": 1}
    assert nothing.text("{'password': 'x'}") == "{'password': 'x'}"


def task(**fields: Any) -> Task:
    return Task(**{"uuid": "a", "args": "('x1',)", "kwargs": "{'n': 1}", "result": "'x1'", **fields})


def test_who_sees_arguments() -> None:
    for least, seen in ((Role.VIEWER, 3), (Role.OPERATOR, 2), (None, 0)):
        showing = Showing(MASKER, least)
        plain = task()
        shown = [showing.show(plain, role) for role in ROLES]
        assert [one is plain for one in shown] == [False] * (3 - seen) + [True] * seen
        for one in shown[: 3 - seen]:
            assert [getattr(one, name) for name in HIDDEN] == [None] * 5
        assert plain.args == "('x1',)"
        assert showing.show(plain, Role.LIMITED).args is None, "a token that may read:no-args"


@pytest.mark.parametrize(
    ("text", "raw", "hidden", "masked"),
    [
        ("x1zzz", False, False, False),
        ("args:x1y", True, False, True),
        ("x1y", True, False, True),
        ("hunter2", True, False, False),
        ("kwargs:hunter2", True, False, False),
        ("kwargs:password=hunter2", True, False, False),
        ("name:add", True, True, True),
        ("name:add -hunter2", False, True, True),
        ("name:add -x1y", False, True, False),
        ("name:add OR hunter2", True, True, True),
        ('"***" OR hunter2', True, False, False),
        ('("***" OR hunter2) -nope', True, False, False),
        ("\"'password': *\" OR hunter2", True, False, False),
        ("-hunter2", False, True, True),
        ("-hunter2 OR nope", False, True, True),
        ("-kwargs:password=hunter2 name:add", False, True, True),
        ("", True, True, True),
    ],
)
def test_a_search_does_not_tell_what_is_hidden(text: str, raw: bool, hidden: bool, masked: bool) -> None:
    one = task(name="add", args="('x1y',)", kwargs="{'password': 'hunter2'}")
    search = parse_search(text)
    assert search.matches(one) is raw
    assert Showing(MASKER, None).restrict(search, Role.VIEWER).matches(one) is hidden
    assert Showing(MASKER, Role.VIEWER).restrict(search, Role.VIEWER).matches(one) is masked


PIECES = ["hunter2", "other", "***", "x1y", "'password': *", "name:add", "kwargs:password=hunter2", "args:x1y"]
ASKED = st.lists(
    st.tuples(st.sampled_from([" ", " OR ", " -", " OR -"]), st.sampled_from(PIECES)), min_size=1, max_size=5
)


@given(ASKED)
def test_no_search_tells_two_secrets_apart(asked: list[tuple[str, str]]) -> None:
    text = "".join(f'{sign}"{piece}"' if ":" not in piece or "'" in piece else sign + piece for sign, piece in asked)
    search = parse_search(text.removeprefix(" OR ").strip())
    for showing in (Showing(MASKER, Role.VIEWER), Showing(MASKER, None), Showing(MASKER, Role.VIEWER, cover)):
        guarded = showing.restrict(search, Role.VIEWER)
        told = {
            guarded.matches(task(name="add", args="('x1y',)", kwargs=f"{{'password': '{secret}'}}"))
            for secret in ("hunter2", "other", "x1y")
        }
        assert len(told) == 1


def cover(task: Task) -> Task:
    task.args = "x1y"
    return task


def test_what_a_worker_says_of_its_tasks() -> None:
    raw = msgspec.Raw(
        b'[{"id":"a","args":["x1"],"kwargs":{"password":"x1","n":1},"request":{"kwargs":"{\'token\': 1}"}}]'
    )
    shown = Showing(MASKER, Role.OPERATOR).inspected({"active": raw}, Role.OPERATOR)
    assert msgspec.json.decode(shown["active"]) == [
        {"id": "a", "args": ["x1"], "kwargs": {"password": MASK, "n": 1}, "request": {"kwargs": "{'token': ***}"}}
    ]
    hidden = Showing(MASKER, Role.OPERATOR).inspected({"active": raw}, Role.VIEWER)
    assert msgspec.json.decode(hidden["active"]) == [
        {"id": "a", "args": None, "kwargs": None, "request": {"kwargs": None}}
    ]


CONF = {
    "timezone": "UTC",
    "broker_url": "redis://:***@host/0",
    "my_hook": "https://hooks.slack.com/services/T/B/x1",
    "jwt_pem": "-----BEGIN PRIVATE KEY-----x1",
    "beat_scheduler": "celery.beat:PersistentScheduler",
    "beat_schedule": {
        "nightly": {"task": "app.add", "schedule": 5.0, "args": ["plain"], "kwargs": {"pin": 51}, "options": {}},
        "odd": "<ScheduleEntry: odd app.add(plain)>",
    },
    "worker_concurrency": {"odd": "plain"},
}


def test_what_a_worker_says_of_its_configuration() -> None:
    answers = {"conf": msgspec.Raw(msgspec.json.encode(CONF))}

    def conf(least: Role | None, role: Role) -> Any:
        return msgspec.json.decode(Showing(MASKER, least).inspected(answers, role)["conf"])

    for least in (None, Role.VIEWER, Role.OPERATOR):
        for role in (Role.VIEWER, Role.OPERATOR):
            assert conf(least, role) == {"timezone": "UTC", "beat_scheduler": "celery.beat:PersistentScheduler"}
    masked = CONF | {"my_hook": "https://hooks.slack.com/***", "jwt_pem": MASK}
    entries = masked["beat_schedule"]
    assert isinstance(entries, dict)
    shown = {"nightly": entries["nightly"] | {"kwargs": {"pin": MASK}}, "odd": entries["odd"]}
    assert conf(Role.VIEWER, Role.ADMIN) == masked | {"beat_schedule": shown}
    hidden = {"nightly": {"task": "app.add", "schedule": 5.0}, "odd": None}
    assert conf(None, Role.ADMIN) == masked | {"beat_schedule": hidden}


def test_what_a_worker_says_of_its_statistics_and_queues() -> None:
    stats = {
        "total": {"app.add": 5, "odd": "x1"},
        "pid": 7,
        "broker": {"transport": "redis", "userid": "x1", "transport_options": {"a": "x1"}, "hostname": "h"},
        "pool": {"max-concurrency": 4, "processes": [1, 2], "writes": {"total": 5, "odd": "x1"}, "odd": "x1"},
        "more": "x1",
    }
    queues = [{"name": "q", "exchange": {"name": "e", "arguments": None}, "queue_arguments": {"x-ttl": 5, "y": "x1"}}]
    answers = {"stats": stats, "active_queues": queues}
    raws = {name: msgspec.Raw(msgspec.json.encode(answer)) for name, answer in answers.items()}
    showing = Showing(MASKER, Role.VIEWER)
    shown = {name: msgspec.json.decode(raw) for name, raw in showing.inspected(raws, Role.VIEWER).items()}
    assert shown["stats"] == {
        "total": {"app.add": 5},
        "pid": 7,
        "broker": {"transport": "redis", "hostname": "h"},
        "pool": {"max-concurrency": 4, "processes": [1, 2], "writes": {"total": 5}},
    }
    exchange = {"name": "e", "arguments": None}
    assert shown["active_queues"] == [{"name": "q", "exchange": exchange, "queue_arguments": {"x-ttl": 5}}]
    assert {name: msgspec.json.decode(raw) for name, raw in showing.inspected(raws, Role.ADMIN).items()} == answers


# Over HTTP


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


async def fill(served: Served) -> None:
    served.apply(
        event("task-received", "a", name="app.add", args="('plain',)", kwargs="{'password': 'hunter2'}"),
        event("task-succeeded", "a", at=1_700_000_001.0, result="{'token': 'hunter2'}"),
    )


async def test_every_way_out(tmp_path: Path) -> None:
    viewer, viewer_line = new_token("viewer", Role.VIEWER)
    operator, operator_line = new_token("operator", Role.OPERATOR)
    async with serving(token=(viewer_line, operator_line), show_args="operator") as served:
        await fill(served)
        for path in ("/api/task/info/a", "/api/tasks", "/api/task/tree/a"):
            for token, plain in ((viewer, False), (operator, True)):
                answer = await served.get(path, bearer(token))
                assert answer.status == 200
                assert b"hunter2" not in answer.body
                assert (b"plain" in answer.body) is (plain and "tree" not in path)
        for search, token, found in (
            ("plain", viewer, 0),
            ("plain", operator, 1),
            ("hunter2", operator, 0),
            ("name:app", viewer, 1),
            ("name:app+-plain", viewer, 1),
        ):
            answer = await served.get(f"/api/tasks?search={search}", bearer(token))
            assert len(answer.json()) == found, (search, token)


@pytest.mark.parametrize("show_args", ["none", "operator"])
@pytest.mark.parametrize(
    "asked", ["kwargs:\"'password': 'h\"", "kwargs:password=hunter2", "exception:hunter2", "hunter2"]
)
async def test_revoking_does_not_tell_what_is_hidden(show_args: str, asked: str) -> None:
    token, line = new_token("operator", Role.OPERATOR)
    headers = bearer(token) | {"Content-Type": "application/json"}
    async with serving(token=line, show_args=show_args) as served:
        served.apply(
            event(
                "task-retried", "a", name="app.add", kwargs="{'password': 'hunter2'}", exception="E(pin='hunter2')"
            ),
            event("task-received", "b", name="app.add", kwargs="{'n': 1}"),
        )
        for search, found in ((asked, []), (f"name:app -{asked}", ["a", "b"]), (f"name:app OR {asked}", ["a", "b"])):
            body = json.dumps({"search": search, "dry_run": True}).encode()
            answer = await served.request("POST", "/api/tasks/revoke", headers, body)
            assert sorted(answer.json()["matched"]) == found, search
            listed = await served.get(f"/api/tasks?search={quote(search)}", bearer(token))
            assert sorted(listed.json()) == found, search


async def test_a_retry_does_not_tell_what_is_hidden(memory_broker: str) -> None:
    token, line = new_token("operator", Role.OPERATOR)
    for show_args in ("none", "operator"):
        async with serving(make_app(memory_broker), token=line, show_args=show_args) as served:
            said = set()
            for task_id, args in (
                ("a", "(<Card hunter2>,)"),
                ("b", "('hunter2...')"),
                ("c", None),
                ("d", "(<Key: a>,)"),
            ):
                served.apply(
                    event("task-received", task_id, name="app.add", args=args, kwargs="{}", queue="celery"),
                    event("task-failed", task_id, exception="E('hunter2')"),
                )
                answer = await served.request("POST", f"/api/task/retry/{task_id}", bearer(token))
                assert answer.status == 409
                assert b"hunter2" not in answer.body
                said.add(answer.error["message"])
            assert len(said) == (1 if show_args == "none" else 3)


async def test_errors_of_tasks_are_hidden_and_masked_as_arguments_are() -> None:
    viewer, viewer_line = new_token("viewer", Role.VIEWER)
    operator, operator_line = new_token("operator", Role.OPERATOR)
    async with serving(token=(viewer_line, operator_line), show_args="operator") as served:
        lines = "line 1\n    connect('redis://:hunter2@host/0', password='hunter2')\nBad: hunted"
        served.apply(event("task-failed", "a", name="app.add", exception="Bad('Bearer hunter2.x')", traceback=lines))
        for path in ("/api/task/info/a", "/api/tasks"):
            body = (await served.get(path, bearer(operator))).json()
            body = body.get("a", body)
            assert body["exception"] == "Bad('Bearer ***')"
            assert body["traceback"] == "line 1\n    connect('redis://:***@host/0', password=***)\nBad: hunted"
            body = (await served.get(path, bearer(viewer))).json()
            body = body.get("a", body)
            assert (body["exception"], body["traceback"]) == (None, None)


async def test_findings_that_depend_on_hidden_texts_are_not_told() -> None:
    token, line = new_token("viewer", Role.VIEWER)
    for show_args, told in (("viewer", True), ("operator", False)):
        async with serving(token=line, show_args=show_args) as served:
            served.apply(event("task-received", "a", name="app.add", args="('secret', ...)", kwargs="{}"))
            found = (await served.get("/api/diagnostics", bearer(token))).json()["findings"]
            assert ("arguments-shortened" in {one["code"] for one in found}) is told


async def test_results(memory_broker: str) -> None:
    viewer, line = new_token("viewer", Role.VIEWER)
    app = make_app(memory_broker, result_backend="cache+memory://")
    app.backend.store_result("masked", {"token": "hunter2", "n": 1}, "SUCCESS")
    app.backend.store_result("bad", ValueError("x"), "FAILURE", traceback="x\n  login(password='hunter2')")
    async with serving(app, token=line) as served:
        answer = await served.get("/api/task/result/masked", bearer(viewer))
        assert answer.json()["result"] == {"token": MASK, "n": 1}
        body = (await served.get("/api/task/result/bad", bearer(viewer))).json()
        assert body["traceback"] == "x\n  login(password=***)"
    async with serving(app, token=line, show_args="none") as served:
        body = (await served.get("/api/task/result/masked", bearer(viewer))).json()
        assert body["result"] is None
        assert "--show-args" in body["reason"]
        body = (await served.get("/api/task/result/bad", bearer(viewer))).json()
        assert (body["result"], body["traceback"]) == (None, None)


FUNCTIONS = """
def hide(task):
    task.args = "(hidden)"
    task.result = 5
    return task

def fail(task):
    raise RuntimeError("hunter2")

def forget(task):
    task.args = "(hidden)"

number = 5
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_showing.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_showing", raising=False)
    return "my_showing"


async def test_a_function_of_ones_own(functions: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(format_task=f"{functions}:hide") as served:
        await fill(served)
        for body in ((await served.get("/api/task/info/a")).json(), (await served.get("/api/tasks")).json()["a"]):
            assert (body["args"], body["kwargs"], body["result"]) == ("(hidden)", "{'password': ***}", "5")
        assert served.state.get("a").args == "('plain',)"
        assert (await served.get("/api/tasks?search=plain")).json() == {}
        assert not (await served.get("/api/tasks?search=name:app+-hidden")).json()
    for name in ("fail", "forget"):
        async with serving(format_task=f"{functions}.{name}") as served:
            await fill(served)
            body = (await served.get("/api/task/info/a")).json()
            assert (body["args"], body["kwargs"], body["result"]) == (None, None, None)
    assert "--format-task fails (RuntimeError)" in caplog.text
    assert "--format-task fails (it gives no task back)" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("path", ["my_showing:nothing", "my_showing:number", "no_such_module:x"])
def test_functions_that_are_none(functions: str, path: str) -> None:
    with pytest.raises(InvalidSetting, match="--format-task"):
        load_function(path)
