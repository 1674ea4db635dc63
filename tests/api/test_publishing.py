"""The endpoints that publish tasks and answer results, over a real socket; the worker is played by the tests."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from celery.backends.cache import _DUMMY_CLIENT_CACHE
from kombu import Connection, Queue
from patience import PATIENCE
from serving import AWAY, Response, Served, event, make_app, serving, silent_server
from waiting import eventually, given_time

from taskmon.api import publishing as module
from taskmon.cluster.blocking_pool import Deadline

PUBLISHING = ("apply", "async-apply", "send-task")


def make_project(broker: str = "memory://", backend: str | None = "cache+memory://", **conf: Any) -> Celery:
    """Make an app with the tasks `add` and `shout`."""
    app = make_app(broker, result_backend=backend, **conf)

    def add(x: int, y: int = 0) -> int:
        raise AssertionError("no task is run here")

    app.task(add, name="shop.add", shared=False)
    app.task(add, name="shop.shout", shared=False, ignore_result=True)
    return app


@asynccontextmanager
async def serving_shop(app: Celery, **options: Any) -> AsyncIterator["Shop"]:
    """Serve an app's tasks."""
    _DUMMY_CLIENT_CACHE.clear()  # the results that `cache+memory://` has, of the whole process
    async with serving(app, **options) as served:
        yield Shop(served, app)


class Shop:
    """A running taskmon, and the worker behind it."""

    def __init__(self, served: Served, app: Celery) -> None:
        self.served = served
        self.app = app

    async def post(self, path: str, body: object = None, **more: Any) -> Response:
        """Ask with POST; a body that is no bytes goes as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await self.served.request("POST", path, body=data, **more)

    async def post_text(self, path: str, text: str, form: bool) -> Response:
        """Ask with POST; the arguments stand in a form, or in the query string."""
        text = quote(text, safe="=&")
        if not form:
            return await self.served.request("POST", f"{path}?{text}")
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.served.request("POST", path, headers, text.encode())

    def take(self, queue: str = "celery") -> Any:
        """Take a message as a worker does, None when there is none."""
        with Connection("memory://") as connection:
            return Queue(queue)(connection.default_channel).get(no_ack=True)

    def finish(self, task_id: str, result: Any = 3, state: str = "SUCCESS", **more: Any) -> None:
        """Store a result as a worker does."""
        self.app.backend.store_result(task_id, result, state, **more)


async def test_apply_answers_the_result(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        asked = asyncio.create_task(shop.post("/api/task/apply/shop.add", {"args": [1], "kwargs": {"y": 2}}))
        messages: list[Any] = []
        await eventually(lambda: messages.append(shop.take()) or messages[-1])
        message = messages[-1]
        assert (message.headers["task"], message.payload[:2]) == ("shop.add", [[1], {"y": 2}])
        shop.finish(message.headers["id"], 3)
        answer = await asked
        assert answer.status == 200
        assert answer.json() == {"task-id": message.headers["id"], "state": "SUCCESS", "result": 3}


async def test_apply_answers_a_failure(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        asked = asyncio.create_task(shop.post("/api/task/apply/shop.add", {"args": [1], "task_id": "mine"}))
        await eventually(lambda: shop.take())
        shop.finish("mine", ValueError("no stock"), "FAILURE", traceback="Traceback …")
        assert (await asked).json() == {
            "task-id": "mine",
            "state": "FAILURE",
            "result": "ValueError('no stock')",
            "traceback": "Traceback …",
        }
        again = await shop.post("/api/task/apply/shop.add", {"args": [1], "task_id": "mine"})
        assert (again.status, shop.take()) == (409, None)
        assert "task_id" in again.error["message"]


async def test_apply_does_not_wait_for_ever(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        for target, body in (
            ("/api/task/apply/shop.add?timeout=0.1", {"args": [1]}),
            ("/api/task/apply/shop.add", {"args": [1], "timeout": 0.1}),
            ("/api/task/apply/shop.add?timeout=50", {"args": [1], "timeout": "0.1"}),
            ("/api/task/apply/shop.add?timeout=0", {"args": [1], "timeout": None}),
        ):
            answer = await shop.post(target, body)
            assert answer.status == 504
            assert answer.error["task-id"] == shop.take().headers["id"]
            assert answer.error["state"] == "PENDING"
            assert "published" in answer.error["message"]


@asynccontextmanager
async def slow_results(shop: Shop, seconds: float) -> AsyncIterator[None]:
    """Keep the thread that reads results busy for so long."""
    go = threading.Event()
    asyncio.get_running_loop().call_later(seconds, go.set)
    busy = asyncio.create_task(shop.served.taskmon.monitor.results._lane.call(go.wait, PATIENCE))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        go.set()
        await busy


async def test_a_request_that_asks_two_services_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []

    async def ask(seconds: float) -> Response:
        monkeypatch.setattr(module, "Deadline", partial(Deadline, seconds))
        async with serving_shop(app) as shop, slow_results(shop, seconds / 10):
            began = time.monotonic()
            answer = await shop.post("/api/task/apply/shop.add", {"args": [1]})
            took.append(time.monotonic() - began)
            assert answer.status == 503
            return answer

    with silent_server() as port:
        app = make_project(f"redis://127.0.0.1:{port}/0", "cache+memory://")
        answer = await given_time(ask, lambda answer: "The broker" in answer.error["message"])
    assert "The broker" in answer.error["message"], "results were read, and the broker had what was left"
    assert took[-1] < PATIENCE, "and not what it has alone"


async def test_a_slow_result_backend_does_not_hold_up_publishing(
    monkeypatch: pytest.MonkeyPatch, memory_broker: str
) -> None:
    monkeypatch.setattr(module, "Deadline", partial(Deadline, 0.2))
    async with serving_shop(make_project()) as shop, slow_results(shop, 10):
        answer = await shop.post("/api/task/async-apply/shop.add", {"args": [1]})
        assert (answer.status, answer.json()) == (200, {"task-id": shop.take().headers["id"]})


async def test_nobody_waits_for_a_result_that_is_ignored(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        answer = await shop.post("/api/task/apply/shop.shout", {"args": [1]})
        assert answer.json() == {"task-id": shop.take().headers["id"], "state": "PENDING", "result": None}


@pytest.mark.parametrize("route", ["async-apply", "send-task"])
async def test_publishing_answers_at_once(route: str, memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        answer = await shop.post(f"/api/task/{route}/shop.add", {"args": [1]})
        assert answer.json() == {"task-id": shop.take().headers["id"], "state": "PENDING"}
        shop.finish("mine")
        answer = await shop.post(f"/api/task/{route}/shop.add", {"args": [1], "task_id": "mine"})
        assert answer.json() == {"task-id": "mine", "state": "SUCCESS"}
        bare = await shop.post(
            f"/api/task/{route}/shop.add" + "/", {"args": [1]}, headers={"Content-Type": "text/plain"}
        )
        assert bare.status == 200


async def test_without_a_result_backend(memory_broker: str) -> None:
    async with serving_shop(make_project(backend=None)) as shop:
        answer = await shop.post("/api/task/async-apply/shop.add", {"args": [1]})
        assert answer.json() == {"task-id": shop.take().headers["id"]}
        for asked in (
            await shop.post("/api/task/apply/shop.add", {"args": [1]}),
            await shop.post("/api/task/abort/a"),
            await shop.served.get("/api/task/result/a"),
        ):
            assert asked.status == 503
            assert "none is configured" in asked.error["message"]
            assert asked.header("Retry-After")
        assert shop.take() is None


async def test_unknown_names(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        for route in ("apply", "async-apply"):
            answer = await shop.post(f"/api/task/{route}/shop.nope", {"args": [1]})
            assert (answer.status, answer.error["message"]) == (404, "Unknown task name 'shop.nope'")
        assert shop.take() is None
        assert (await shop.post("/api/task/send-task/shop.nope", {"args": [1]})).status == 200
        assert shop.take().headers["task"] == "shop.nope"


BAD = [
    (b"{", "The body must be a JSON object"),
    (b"[1]", "The body must be a JSON object"),
    (b"5", "The body must be a JSON object"),
    (b'"x"', "The body must be a JSON object"),
    (b"\xff", "The body must be a JSON object"),
    (b'{"args": [NaN]}', "The body must be a JSON object"),
    (b'{"args": ' + b"[" * 100 + b"]" * 100 + b"}", "The body may be nested 100 levels deep"),
    (b'{"kwargs": ' + b'{"x": ' * 450 + b"1" + b"}" * 451, "The body may be nested 100 levels deep"),
    (b'{"countdown": 1e400}', "The body must be a JSON object"),
    ({"args": {}}, "args must be an array"),
    ({"args": None}, "args must be an array"),
    ({"args": "12"}, "args must be an array"),
    ({"kwargs": []}, "kwargs must be an object"),
    ({"eta": "tomorrow"}, "eta must be a time"),
    ({"expires": "tomorrow"}, "expires must be a time"),
    ({"expires": -1}, "expires must be a number"),
    ({"countdown": -1}, "countdown must be a number"),
    ({"countdown": "nan"}, "countdown must be a number"),
    ({"queue": "a b"}, "queue must be"),
    ({"kwarg": {}}, "kwarg is no argument of this route; did you mean kwargs?"),
    *(
        ({option: 1}, f"{option} is no argument of this route")
        for option in (
            *("serializer", "compression", "headers", "link", "link_error", "connection", "producer", "router"),
            *("reply_to", "shadow", "retry_policy", "chord", "group_id", "root_id", "parent_id", "time_limit"),
            *("soft_time_limit", "ignore_result", "add_to_parent", "declare", "delivery_mode", "stamped_headers"),
        )
    ),
]


@pytest.mark.parametrize("route", PUBLISHING)
async def test_what_is_wrong_is_named_and_nothing_is_published(route: str, memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        for body, message in BAD:
            answer = await shop.post(f"/api/task/{route}/shop.add", body)
            assert answer.status == 400, body
            assert answer.error["message"].startswith(message)
        for pair, message in BAD_TEXTS.items():
            for form in (True, False):
                answer = await shop.post_text(f"/api/task/{route}/shop.add", pair, form)
                assert (answer.status, answer.error["message"].startswith(message)) == (400, True), pair
        assert shop.take() is None


#: What is wrong in a form or a query string.
BAD_TEXTS = {
    "args=": "args must be JSON",
    "args=1,2": "args must be JSON",
    "args=1": "args must be an array",
    "args=" + "[" * 200 + "]" * 200: "args ",
    "kwargs={'a':1}": "kwargs must be JSON",
    "kwargs=[1]": "kwargs must be an object",
    'kwargs={"a":1,"\\u0061":2}': "kwargs must not have a key twice, as it has 'a'",
    'args=[{"b":{"c":1,"c":2}}]': "args must not have a key twice, as it has 'c'",
    "priority=high": "priority must be a whole number",
    "retry=perhaps": "retry must be true or false",
    "task_id=": "task_id must be",
    "arg=[1]": "arg is no argument of this route; did you mean args?",
}


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize("route", ["async-apply", "send-task"])
async def test_a_form_or_a_query_string_with_json_in_it(memory_broker: str, route: str, form: bool) -> None:
    async with serving_shop(make_project()) as shop:
        text = 'args=[1]&kwargs={"y":"a b"}&priority=3&retry=no&task_id=mine&queue=celery'
        answer = await shop.post_text(f"/api/task/{route}/shop.add", text, form)
        assert (answer.status, answer.json()["task-id"]) == (200, "mine")
        message = shop.take()
        assert (message.payload[0], message.payload[1]) == ([1], {"y": "a b"})
        assert message.properties["priority"] == 3


async def test_what_curl_calls_a_form_is_json_all_the_same(memory_broker: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with serving_shop(make_project()) as shop:
        body = b'{"args": ["a=b&c"], "kwargs": {"y": "1=1"}}'
        assert (await shop.post("/api/task/async-apply/shop.add", body, headers=form)).status == 200
        assert shop.take().payload[:2] == [["a=b&c"], {"y": "1=1"}]


@pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "61", "soon", "1e99", True, [], 61, -1])
async def test_a_bad_timeout(timeout: Any, memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        answers = [await shop.post("/api/task/apply/shop.add", {"args": [1], "timeout": timeout})]
        if isinstance(timeout, str):
            answers.append(await shop.post(f"/api/task/apply/shop.add?timeout={timeout}", {"args": [1]}))
            answers.append(await shop.served.get(f"/api/task/result/a?timeout={timeout}"))
        for answer in answers:
            assert answer.status == 400
            assert answer.error["message"].startswith("timeout must be a number of seconds from 0 to 60")
        assert shop.take() is None


async def test_only_apply_takes_a_timeout(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        for route in ("async-apply", "send-task"):
            assert (await shop.post(f"/api/task/{route}/shop.add", {"args": [1], "timeout": 1})).status == 400
        assert shop.take() is None


async def test_the_result_of_a_task(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        result = "/api/task/result/a"
        assert (await shop.served.get(result)).json() == {"task-id": "a", "state": "PENDING"}
        shop.finish("a", {"pid": 1}, "STARTED")
        assert (await shop.served.get(result + "?timeout=0.1")).json() == {"task-id": "a", "state": "STARTED"}
        asked = asyncio.create_task(shop.served.get(result + "?timeout=20"))
        await asyncio.sleep(0.05)
        shop.finish("a", [1.5, None, "é"])
        assert (await asked).json() == {"task-id": "a", "state": "SUCCESS", "result": [1.5, None, "é"]}
        assert (await shop.served.get(result + "?timeout=")).json()["result"] == [1.5, None, "é"]
        shop.finish("b", {float("nan"): float("inf"), "x": "\ud800"})
        assert (await shop.served.get("/api/task/result/b")).json()["result"] == {"NaN": None, "x": "\\ud800"}


async def test_a_pickle_is_answered_with_a_reason(tmp_path: Path) -> None:
    app = make_project(AWAY, f"file://{tmp_path}", result_serializer="pickle", accept_content=["pickle", "json"])
    async with serving_shop(app) as shop:
        shop.finish("a", {1, 2})
        assert (await shop.served.get("/api/task/result/a")).json() == {
            "task-id": "a",
            "state": "SUCCESS",
            "result": None,
            "reason": "it is stored as a pickle, which taskmon never loads",
        }


async def test_abort(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        answer = await shop.post("/api/task/abort/some")
        assert (answer.status, answer.json()) == (200, {"message": "Aborted 'some'"})
        assert (await shop.served.get("/api/task/result/some")).json()["state"] == "ABORTED"
        shop.finish("done")
        answer = await shop.post("/api/task/abort/done")
        assert (answer.status, answer.error["message"]) == (409, "The task is finished: its state is SUCCESS")
        assert (await shop.post("/api/task/abort/some", {"x": 1})).status == 400


async def info(shop: Shop, task_id: str) -> dict[str, Any]:
    body: dict[str, Any] = (await shop.served.get(f"/api/task/info/{task_id}")).json()
    return body


SENT = {"name": "shop.add", "args": "(1,)", "kwargs": "{}", "queue": "other"}


async def test_a_retry_leaves_a_trace(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        shop.served.apply(event("task-sent", "a", **SENT), event("task-failed", "a", exception="E()"))
        assert ((await info(shop, "a"))["retried_as"], (await info(shop, "a"))["retry_of"]) == (None, None)
        new = (await shop.post("/api/task/retry/a")).json()["task-id"]
        shop.served.apply(event("task-sent", new, **SENT))
        assert ((await info(shop, "a"))["retried_as"], (await info(shop, new))["retry_of"]) == (new, "a")
        listed = (await shop.served.get("/api/tasks")).json()
        assert (listed["a"]["retried_as"], listed[new]["retry_of"]) == (new, "a")
        again = await shop.post("/api/task/retry/a")
        assert (again.status, new in again.error["message"], "again=1" in again.error["message"]) == (409, True, True)
        newer = (await shop.post("/api/task/retry/a?again=1")).json()["task-id"]
        assert (await info(shop, "a"))["retried_as"] == newer != new
        assert (await info(shop, new))["retry_of"] == "a"
        shop.served.apply(event("task-failed", new, exception="E()"))
        assert (await shop.post(f"/api/task/retry/{new}")).status == 200  # a retry may be retried
        assert [shop.take("other") is not None for _ in range(4)] == [True, True, True, False]


async def test_an_orphaned_task_can_be_retried(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        shop.served.apply(event("task-sent", "a", **SENT), event("task-started", "a"))
        assert (await shop.post("/api/task/retry/a")).status == 409
        shop.served.state.reconciled.orphan("a")
        answer = await shop.post("/api/task/retry/a")
        assert (answer.status, shop.take("other").headers["id"]) == (200, answer.json()["task-id"])
        assert (await info(shop, "a"))["retried_as"] == answer.json()["task-id"]


@pytest.mark.parametrize("again", ["0", "1"])
async def test_a_task_that_is_retried_by_many_at_once_is_published_once(memory_broker: str, again: str) -> None:
    async with serving_shop(make_project(backend=None)) as shop:
        shop.served.apply(event("task-sent", "a", **SENT), event("task-failed", "a", exception="E()"))
        go = threading.Event()
        busy = asyncio.create_task(shop.served.taskmon.monitor.publisher._lane.call(go.wait, PATIENCE))
        await asyncio.sleep(0)
        asked = [asyncio.create_task(shop.post(f"/api/task/retry/a?again={again}")) for _ in range(10)]
        await eventually(lambda: sum(one.done() for one in asked) == 9)
        go.set()
        await busy
        assert sorted([(await one).status for one in asked]) == [200] + 9 * [409]
        assert [shop.take("other") is not None for _ in range(2)] == [True, False]


async def test_a_retry_that_was_refused_may_be_asked_for_again(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        for _ in range(2):
            assert (await shop.post("/api/task/retry/a")).status == 404
        shop.served.apply(event("task-sent", "a", **SENT | {"args": "(...,)"}), event("task-failed", "a"))
        for _ in range(2):
            assert "cut" in (await shop.post("/api/task/retry/a")).error["message"]
        assert (await shop.post("/api/task/retry/a?again=perhaps")).status == 400


#: Ids that are odd, and all the same ids.
ODD_IDS = ["a/b", "../x", "a\\b", "a b", " ", ".", "a\nb", "ü—x", "%2F", "a?b#c", "x" * 1024, "é" * 1024]
NO_IDS = ["a\0b", "x" * 1025]


@pytest.mark.parametrize("task_id", [*ODD_IDS, *NO_IDS], ids=lambda one: ascii(one[:9]))
async def test_one_rule_for_ids_in_all_routes(memory_broker: str, task_id: str) -> None:
    wrong = task_id in NO_IDS
    in_path = 404 if "\0" in task_id else 400
    path = quote(task_id, safe="")
    async with serving_shop(make_project()) as shop:
        gets = {"info": 404, "tree": 404, "result": 200}
        stored = task_id in (".", "ü—x", "%2F", "a?b#c")  # what can be a key of Memcached
        posts = {"abort": 200 if stored else 409, "retry": 404, "revoke": 200}
        for route, status in gets.items():
            answer = await shop.served.get(f"/api/task/{route}/{path}")
            assert answer.status == (in_path if wrong else status), route
            assert in_path == 400 or answer.error["reason"].startswith("impossible")
        for route, status in posts.items():
            answer = await shop.post(f"/api/task/{route}/{path}")
            assert answer.status == (in_path if wrong else status), route
        for name in ("root_id", "parent_id"):
            assert (await shop.served.get(f"/api/tasks?{name}={path}")).status == (400 if wrong else 200)
        assert (await shop.post("/api/tasks/revoke", {"ids": [task_id]})).status == (400 if wrong else 200)
        answer = await shop.post("/api/task/async-apply/shop.add", {"args": [1], "task_id": task_id})
        assert answer.status == (400 if wrong else 200)
        assert wrong or shop.take().headers["id"] == task_id


async def test_retry(memory_broker: str) -> None:
    async with serving_shop(make_project()) as shop:
        sent = {"name": "shop.add", "args": "(1,)", "kwargs": "{'y': 2}", "queue": "other"}
        shop.served.apply(event("task-sent", "a", **sent), event("task-failed", "a", exception="E()"))
        answer = await shop.post("/api/task/retry/a")
        message = shop.take("other")
        assert (answer.status, answer.json()) == (200, {"task-id": message.headers["id"], "state": "PENDING"})
        assert message.headers["id"] != "a"
        assert message.payload[:2] == [[1], {"y": 2}]
        shop.served.apply(
            event("task-received", "runs", name="shop.add", args="()", kwargs="{}"),
            event("task-received", "odd", name="shop.add", args="(<object>,)", kwargs="{}"),
            event("task-succeeded", "odd"),
        )
        for task_id, why in (("runs", "not finished"), ("odd", "no literals")):
            answer = await shop.post(f"/api/task/retry/{task_id}")
            assert (answer.status, why in answer.error["message"]) == (409, True)
        answer = await shop.post("/api/task/retry/never")
        assert (answer.status, "reason" in answer.error) == (404, True)
        assert shop.take() is None
        assert shop.take("other") is None


async def test_roles(memory_broker: str) -> None:
    async with serving_shop(make_project(), anonymous_role="viewer") as shop:
        for path in (*(f"{route}/shop.add" for route in PUBLISHING), "abort/a", "retry/a"):
            assert (await shop.post(f"/api/task/{path}", {})).status == 403
        assert (await shop.served.get("/api/task/result/a")).status == 200
        assert shop.take() is None
    async with serving_shop(make_project(), anonymous_role="operator") as shop:
        assert (await shop.post("/api/task/send-task/any", {})).status == 200


async def test_the_broker_is_away() -> None:
    async with serving_shop(make_project(AWAY)) as shop:
        for route in PUBLISHING:
            answer = await shop.post(f"/api/task/{route}/shop.add", {"args": [1]})
            assert (answer.status, answer.header("Retry-After")) == (503, "1")
            assert "broker" in answer.error["message"]
            assert b"wrong-horse" not in answer.raw


async def test_the_result_backend_is_away(memory_broker: str) -> None:
    async with serving_shop(make_project(backend=AWAY)) as shop:
        answer = await shop.post("/api/task/apply/shop.add", {"args": [1]})
        assert (answer.status, shop.take()) == (503, None)
        assert b"wrong-horse" not in answer.raw
        answer = await shop.post("/api/task/async-apply/shop.add", {"args": [1]})
        assert answer.json() == {"task-id": shop.take().headers["id"]}


async def test_the_result_backend_goes_while_apply_waits(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError("gone")

    async with serving_shop(make_project()) as shop:
        source = shop.served.taskmon.monitor.results._source

        async def ask(seconds: float) -> Response:
            path = f"/api/task/apply/shop.add?timeout={min(seconds, 60)}"
            asked = asyncio.create_task(shop.post(path, {"args": [1]}))
            messages: list[Any] = []
            await eventually(lambda: messages.append(shop.take()) or messages[-1])
            with monkeypatch.context() as broken:
                broken.setattr(source, "read", fail)
                answer = await asked
            assert answer.status == 504
            assert answer.error["task-id"] == messages[-1].headers["id"]
            return answer

        answer = await given_time(ask, lambda answer: "gone" in answer.error["message"])
        assert "gone" in answer.error["message"]
