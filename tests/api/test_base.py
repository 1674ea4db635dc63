"""What happens to every request: methods, hosts, credentials, errors and headers are the same on all routes."""

import asyncio
import base64
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from unittest.mock import ANY
from urllib.parse import quote

import pytest
from msgspec import Meta
from msgspec.structs import asdict
from serving import Headers, Response, Served, close, event, make_app, parse, serving

from taskmon import routes
from taskmon.api.tasks import TaskTypes
from taskmon.auth import Role, User
from taskmon.credentials.passwords import hash_password
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting, PermissionDenied, TooManyRequests, Unavailable, WorkerTimeout
from taskmon.http.arguments import MAX_ARGUMENTS
from taskmon.http.base import ApiHandler
from taskmon.http.headers import HEADERS
from taskmon.parameters import Parameters
from taskmon.routes import API, PROBES
from taskmon.settings import Settings

#: Routes that read, and what they answer to an admin while the broker is away.
ROUTES = {
    "/api/task/info/known": 200,
    "/api/task/info/unknown": 404,
    "/api/tasks": 200,
    "/api/task/types": 200,
    "/metrics": 200,
    "/healthcheck": 200,
    "/readyz": 503,
}
CLOSED = [path for path in ROUTES if path not in PROBES]
EVERY_CLOSED = [path.replace("(.+?)", "x") for path, _ in API if path not in PROBES]
EVERYWHERE = pytest.mark.parametrize("prefix", ["", "/mon"])


@asynccontextmanager
async def serving_one_task(**options: Any) -> AsyncIterator[Served]:
    async with serving(**options) as served:
        served.apply(event("task-received", "known", name="tasks.add"))
        yield served


def check_headers(answer: Response) -> None:
    """Insist on the headers that belong on every answer."""
    for name, value in HEADERS.items():
        if name != "Content-Type":
            assert answer.header(name) == value, f"{name} of {answer.raw[:200]!r}"
    assert answer.header("Date")
    assert answer.header("ETag") is None
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    if answer.body and answer.status >= 400:
        assert answer.error


def basic(user: str, password: str) -> Headers:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# Methods


@EVERYWHERE
async def test_get_head_and_options(prefix: str) -> None:
    async with serving_one_task(url_prefix=prefix) as served:
        for path, status in ROUTES.items():
            for end in ("", "/", "?x=1", "/?x=1"):
                target = prefix + path + end
                got = await served.get(target)
                assert got.status == status, target
                assert got.body
                check_headers(got)

                head = await served.request("HEAD", target)
                assert head.status == status
                assert head.body == b""
                check_headers(head)
                changing = {"Date", "X-Request-Id", *(["Content-Length"] if path == "/metrics" else [])}
                assert [h for h in head.headers if h[0] not in changing] == [
                    h for h in got.headers if h[0] not in changing
                ]
                assert int(head.header("Content-Length") or 0) > 0

                options = await served.request("OPTIONS", target)
                assert (options.status, options.header("Allow"), options.body) == (204, "GET, HEAD, OPTIONS", b"")
                assert options.header("Content-Type") is None
                check_headers(options)


@EVERYWHERE
async def test_methods_that_are_not_allowed(prefix: str) -> None:
    async with serving_one_task(url_prefix=prefix) as served:
        for path in ROUTES:
            for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "FOO", "get"):
                answer = await served.request(method, prefix + path)
                assert answer.status == 405, (method, path)
                assert answer.header("Allow") == "GET, HEAD, OPTIONS"
                assert answer.error["message"] == "Method Not Allowed"
                check_headers(answer)


@EVERYWHERE
async def test_routes_that_do_not_exist(prefix: str) -> None:
    paths = [
        "//",
        "/api",
        "/api/",
        "/api/task",
        "/api/task/info",
        "/api/task/info/",
        "/api/taskss",
        "/Api/tasks",
    ]
    async with serving_one_task(url_prefix=prefix) as served:
        for path in [*paths, "/api/tasks//", "/api/../api/tasks", "/api/tasks;x", "/api/tasks%2F", "/api/%FF"]:
            for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"):
                answer = await served.request(method, (prefix + path) or "/")
                assert answer.status == 404, (method, path)
                check_headers(answer)
                assert method == "HEAD" or answer.error["message"] == "There is no such route"


# Credentials


WRONG = [
    {"Authorization": "Bearer tm_00000000_" + "0" * 40 + "_00000000"},
    {"Authorization": "Bearer"},
    {"Authorization": "Digest x"},
    {"Authorization": "x"},
    {"Authorization": ""},
    {"Authorization": "Basic !!!"},
    basic("user", "password"),
]


@EVERYWHERE
async def test_strangers_cannot_tell_routes_apart(prefix: str) -> None:
    def without_time(answer: Response) -> bytes:
        return re.sub(rb"(Date|X-Request-Id): [^\r]+", b"", answer.raw)

    paths = ["/api/task/info/x", "/api/task/info/%FF", "/api/task/info/" + "x" * 2000, "/api/workers", "/api/tasks/"]
    methods = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "FOO", "get")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    origin = {"Origin": "https://dash.example.com"}
    preflight = origin | {"Access-Control-Request-Method": "PUT"}
    async with serving_one_task(url_prefix=prefix, cors_origins=origin["Origin"]) as served:
        for method in methods:
            for headers in ({}, origin, preflight, form):
                answers = {
                    without_time(await served.request(method, prefix + path, headers, anonymous=True))
                    for path in [*paths, "/api/task/revoke/x", "/unheard-of", "/api/task/info/"]
                }
                assert len(answers) == 1, (method, headers)
                status = 204 if method == "OPTIONS" and headers is preflight else 401
                assert answers.pop().startswith(f"HTTP/1.1 {status} ".encode()), (method, headers)


@EVERYWHERE
async def test_nobody_comes_in_without_credentials(prefix: str) -> None:
    async with serving_one_task(url_prefix=prefix) as served:
        for path in [*EVERY_CLOSED, "/api/unheard-of"]:
            for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT"):
                answer = await served.request(method, prefix + path, anonymous=True)
                assert answer.status == 401, (method, path)
                assert answer.all("WWW-Authenticate") == ['Bearer realm="taskmon"']
                assert method == "HEAD" or answer.error["message"] == "Credentials are needed"
                check_headers(answer)


@EVERYWHERE
async def test_health_answers_need_no_credentials(prefix: str) -> None:
    async with serving_one_task(url_prefix=prefix) as served:
        for path in PROBES:
            for method in ("GET", "HEAD", "OPTIONS"):
                for headers in ({}, {"Host": "elsewhere.example"}, WRONG[0]):
                    answer = await served.request(method, prefix + path, headers, anonymous=True)
                    assert answer.status in (200, 204, 503)
                    check_headers(answer)


@pytest.mark.parametrize("headers", WRONG)
async def test_wrong_credentials(headers: Headers) -> None:
    async with serving_one_task() as served:
        for path in (*CLOSED, "/unheard-of"):
            answer = await served.get(path, headers)
            assert answer.status == 401
            assert answer.all("WWW-Authenticate") == ['Bearer realm="taskmon"']
            assert "password" not in answer.raw.decode()
            check_headers(answer)


async def test_passwords_and_tokens() -> None:
    token, line = new_token("grafana", Role.VIEWER)
    hashed = f"hashed:{hash_password('open sesame')}"
    async with serving_one_task(basic_auth=("plain:pass:word", hashed), token=(line,)) as served:
        assert served.taskmon.generated_token is None
        good = [basic("plain", "pass:word"), basic("hashed", "open sesame"), {"Authorization": f"Bearer {token}"}]
        for headers in good:
            assert (await served.get("/unheard-of", headers)).status == 404
            assert (await served.get("/api/tasks", headers)).status == 200
        for headers in (basic("plain", "wrong"), basic("nobody", "pass:word"), {"Authorization": "Basic x"}, {}):
            answer = await served.get("/api/task/info/known", headers)
            assert answer.status == 401
            assert answer.all("WWW-Authenticate") == [
                'Basic realm="taskmon", charset="UTF-8"',
                'Bearer realm="taskmon"',
            ]
            check_headers(answer)
        assert (await served.get("/unheard-of", basic("plain", "wrong"))).status == 401


async def test_too_many_wrong_credentials() -> None:
    async with serving_one_task() as served:
        answers = [await served.get("/api/tasks", WRONG[0]) for _ in range(12)]
        assert [answer.status for answer in answers[:10]] == [401] * 10
        last = answers[-1]
        assert last.status == 429
        assert 0 < int(last.header("Retry-After") or 0) <= 60
        check_headers(last)
        assert (await served.get("/api/tasks")).status == 200


async def test_an_open_taskmon() -> None:
    async with serving_one_task(anonymous_role="viewer") as served:
        for path in CLOSED:
            assert (await served.get(path)).status == ROUTES[path]
        answer = await served.get("/api/tasks", WRONG[0])
        assert answer.status == 401


async def test_two_authorization_headers() -> None:
    async with serving_one_task() as served:
        lines = f"Authorization: {served.credentials['Authorization']}\r\n" * 2
        raw = await served.send(
            f"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode()
        )
        answer = parse(raw)
        assert answer.status == 401
        assert "once" in answer.error["message"]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_role_that_is_too_low(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    user = User("eve", Role.VIEWER, "basic")

    async def later() -> User:
        return user

    monkeypatch.setattr(TaskTypes, "role", Role.ADMIN)
    async with serving_one_task() as served:
        monkeypatch.setattr(
            type(served.taskmon.services.authentication), "authenticate", lambda *_: later() if waits else user
        )
        answer = await served.get("/api/task/types")
        assert answer.status == 403
        assert answer.error["message"] == "This needs the role admin, and eve is viewer"
        check_headers(answer)
        assert (await served.get("/api/tasks")).status == 200


# Requests that would change something


class ChangeParameters(Parameters):
    """Some arguments."""

    terminate: Annotated[bool, Meta(description="A flag.")] = False
    signal: Annotated[str | None, Meta(description="A text.")] = None
    n: Annotated[float | None, Meta(le=10, description="Some seconds.")] = None


class Change(ApiHandler):
    path = "/change/{what}"
    summary = "Answers the arguments it was given"
    role = Role.OPERATOR
    parameters = ChangeParameters

    def post(self, what: str) -> None:
        self.answer({name: value for name, value in asdict(self.parse_parameters()).items() if value is not None})


class Late(ApiHandler):
    path = "/late"
    summary = "A worker that does not answer"

    def get(self) -> None:
        raise WorkerTimeout("celery@w1 did not answer within 1 s", task_id="a")


@asynccontextmanager
async def serving_changes(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Served]:
    monkeypatch.setattr(routes, "ROUTES", [*routes.ROUTES, (r"/change/(.+?)", Change), (r"/late", Late)])
    async with serving_one_task(**options) as served:
        yield served


JSON, FORM = {"Content-Type": "application/json"}, {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("query", "headers", "body", "expected"),
    [
        ("", {}, b"", {}),
        ("?n=1&signal=%20x%20", {}, b"", {"n": 1, "signal": " x "}),
        ("?n=&terminate=%20&signal=", {}, b"", {}),
        ("", FORM, b"n=1&signal=a%26b&n=2", {"n": 2, "signal": "a&b"}),
        ("?n=1", FORM, b"n=2", {"n": 2}),
        ("", JSON, b'{"n": 1, "terminate": true, "signal": "\xc3\xa4"}', {"n": 1, "terminate": True, "signal": "ä"}),
        ("", {}, b'{"n": "1.5", "terminate": 0}', {"n": 1.5}),
        ("?n=1", JSON, b'{"n": 2}', {"n": 2}),
        ("?n=1", JSON, b'{"n": null, "signal": null}', {"n": 1}),
    ],
)
async def test_arguments_of_a_change(
    monkeypatch: pytest.MonkeyPatch, query: str, headers: Headers, body: bytes, expected: dict[str, str]
) -> None:
    async with serving_changes(monkeypatch) as served:
        answer = await served.request("POST", f"/change/x{query}", headers, body)
        assert answer.status == 200, answer.body
        assert answer.json() == {"terminate": False} | expected
        check_headers(answer)


@pytest.mark.parametrize(
    ("query", "headers", "body", "message"),
    [
        ("?terminat=1", {}, b"", "terminat is no argument of this route; did you mean terminate?"),
        ("?zzz=1", {}, b"", "zzz is no argument of this route; known are n, signal, terminate"),
        ("", JSON, b"[]", "The body must be a JSON object"),
        ("", JSON, b"{", "The body must be a JSON object"),
        ("", JSON, b'{"n": NaN}', "The body must be a JSON object"),
        ("", JSON, b"\xff", "The body must be a JSON object"),
        ("", JSON, b"[" * 100_000, "The body must be a JSON object"),
        ("", JSON, b'{"n": 1, "n": 1}', "The body must not have a key twice, as it has 'n'"),
        ("", JSON, b'{"signal": "a", "s\\u0069gnal": "b"}', "The body must not have a key twice"),
        ("", JSON, b'{"signal": [{"a": {"b": 1, "b": 2}}]}', "The body must not have a key twice, as it has 'b'"),
        ("", JSON, b'{"n": [1]}', "n must be "),
        ("", JSON, b'{"n": {"a": 1}}', "n must be "),
        ("", JSON, b'{"n": true}', "n must be "),
        ("", JSON, b'{"signal": 1}', "signal must be a text"),
        ("", JSON, b'{"terminate": []}', "terminate must be a text, a number or a boolean"),
        ("", FORM, b"n=%FF", "n must be UTF-8"),
        ("?n=%FF", JSON, b"", "n must be UTF-8"),
        ("", FORM, b"&".join(b"a%d=1" % n for n in range(101)), "The request may have 100 arguments at the most"),
        ("", JSON, b'{"' + b"x" * 500 + b'": 1}', "x" * 80 + " is no argument"),
    ],
)
async def test_bad_arguments_of_a_change(
    monkeypatch: pytest.MonkeyPatch, query: str, headers: Headers, body: bytes, message: str
) -> None:
    async with serving_changes(monkeypatch) as served:
        answer = await served.request("POST", f"/change/x{query}", headers, body)
        assert answer.status == 400
        assert answer.error["message"].startswith(message)
        assert len(answer.error["message"]) < 300
        check_headers(answer)


async def test_methods_of_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_changes(monkeypatch) as served:
        for method in ("GET", "HEAD", "PUT"):
            answer = await served.request(method, "/change/x")
            assert (answer.status, answer.header("Allow")) == (405, "POST, OPTIONS")
        assert (await served.request("OPTIONS", "/change/x")).header("Allow") == "POST, OPTIONS"


async def test_nothing_changes_when_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_changes(monkeypatch, read_only=True) as served:
        answer = await served.request("POST", "/change/x")
        assert answer.status == 403
        assert "--read-only" in answer.error["message"]
        check_headers(answer)
        assert (await served.request("POST", "/change/x", anonymous=True)).status == 401
        assert (await served.get("/api/tasks")).status == 200
        assert (await served.request("OPTIONS", "/change/x")).status == 204


async def test_changes_are_audited(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskmon.audit")
    token, line = new_token("eve", Role.VIEWER)
    async with serving_changes(monkeypatch, token=line, basic_auth="user:password") as served:
        await served.get("/api/tasks", basic("user", "password"))
        await served.request("POST", "/change/a%0Ab?signal=confidential&n=1", basic("user", "password"))
        await served.request("POST", "/change/b", {"Authorization": f"Bearer {token}"})
        await served.request("POST", "/change/c")
        await served.request("POST", "/change/" + "d" * 500, basic("user", "password"))
    records = [record for record in caplog.records if record.name == "taskmon.audit"]
    first, second, third, fourth = [json.loads(record.getMessage()) for record in records]
    assert first.pop("time").endswith("Z")
    assert first.pop("request_id")
    assert first == {
        "user": "user", "authenticated_by": "basic", "client": "127.0.0.1", "action": "Change",
        "target": "/change/a\nb", "role": "admin", "what": "a\nb",
        "parameters": {"signal": "confidential", "n": "1"}, "decision": "allowed", "outcome": "done", "status": 200,
    }  # fmt: skip
    assert (second["user"], second["decision"], second["status"]) == ("eve", "refused", 403)
    assert (third["user"], third["authenticated_by"], third["status"]) == ("", "none", 401)
    assert "parameters" not in third
    assert fourth["target"] == "/change/" + "d" * 500
    assert second["credential"] == line[:11]
    assert token not in caplog.text


async def test_what_the_audit_log_says_of_arguments(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskmon.audit")
    call = {"kwargs": {"password": "hunter2", "n": 1}, "args": ["x" * 2000], "queue": "mail", "hunter2": 1}
    path = "/api/task/send-task/app.add"
    for options, shown in (
        ({}, {"args": ANY, "kwargs": {"password": "***", "n": 1}, "queue": "mail"}),
        ({"show_args": "none"}, {"args": "(hidden)", "kwargs": "(hidden)", "queue": "mail"}),
    ):
        caplog.clear()
        async with serving(**options) as served:
            await served.request("POST", path, JSON, json.dumps(call).encode())
            await served.request("POST", path, JSON, b"hunter2")
        first, second = [json.loads(record.getMessage()) for record in caplog.records if "audit" in record.name]
        assert first["parameters"] == shown
        assert len(str(first["parameters"]["args"])) < 1100
        assert (first["status"], first["outcome"], second["parameters"]) == (400, "refused", {})
        assert "hunter2" not in caplog.text


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return what the audit log says of what has happened, and forget it."""
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "taskmon.audit"]
    caplog.clear()
    return [line for line in lines if line["outcome"] != "intended"]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
async def test_the_audit_log_reads_a_body_as_the_handler_does(
    caplog: pytest.LogCaptureFixture, memory_broker: str, content_type: str | None
) -> None:
    caplog.set_level(logging.INFO, "taskmon.audit")
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps({"args": [1, 2], "kwargs": {"api_key": "hunter2", "n": None}}).encode()
    token, line = new_token("eve", Role.VIEWER)
    async with serving(make_app(memory_broker), token=line, basic_auth="user:password") as served:
        for credentials, status in ((basic("user", "password"), 200), ({"Authorization": f"Bearer {token}"}, 403)):
            path = "/api/task/send-task/proj.add?queue=celery"
            answer = await served.request("POST", path, headers | credentials, body)
            (said,) = audited(caplog)
            assert (answer.status, said["status"], said["task_name"]) == (status, status, "proj.add")
            masked = {"args": [1, 2], "kwargs": {"api_key": "***", "n": None}, "queue": "celery"}
            assert said["parameters"] == masked
            assert said.get("new_task_id") == (answer.json()["task-id"] if status == 200 else None)
        form = {"Content-Type": "application/x-www-form-urlencoded"} | basic("user", "password")
        await served.request("POST", path, form, b'args=[1,2]&kwargs={"api_key":"hunter2"}')
        assert audited(caplog)[0]["parameters"]["kwargs"] == {"api_key": "***"}
        await served.request("POST", path, form, b'args=[1,2]&kwargs={"api_key":"hunter2"')
        assert audited(caplog)[0]["parameters"]["kwargs"] == "(unreadable)"
        many = ["a/b", "x" * 300]
        await served.request("POST", "/api/tasks/revoke", form, json.dumps({"ids": many}).encode())
        assert audited(caplog)[0]["status"] == 400  # a form is no JSON here
        await served.request(
            "POST", "/api/tasks/revoke", JSON | basic("user", "password"), json.dumps({"ids": many}).encode()
        )
        assert audited(caplog)[0]["task_ids"] == many


async def test_a_worker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_changes(monkeypatch) as served:
        answer = await served.get("/late")
        assert answer.status == 504
        assert answer.error == {"status": 504, "message": "celery@w1 did not answer within 1 s", "task-id": "a"}
        check_headers(answer)


# Hosts


GOOD_HOSTS = [
    *("localhost", "LOCALHOST:5555", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:5555", "192.168.1.5", "10.0.0.1:1"),
    *("mon.example.org", "MON.example.org:443", "public.example.org"),
]
BAD_HOSTS = [
    *(
        "evil.example",
        "evil.example:5555",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "1.2.3",
        "",
        "example.org",
    ),
    *("sub.mon.example.org", "localhost@evil.example", "[::1", "2130706433", "localhost evil"),
]


async def test_hosts() -> None:
    async with serving_one_task(allowed_hosts="mon.example.org", public_url="https://public.example.org/x") as served:
        for host in GOOD_HOSTS:
            assert (await served.get("/api/tasks", {"Host": host})).status == 200, host
        own = Served(served.taskmon)  # whose server refuses what cannot be a host, before any handler
        for host in BAD_HOSTS:
            for path in ("/api/tasks", "/metrics", "/unheard-of"):
                raw = await own.get(path, {"Host": host}, anonymous=True)
                assert raw.status in (400, 421), host
                check_headers(raw)
                if raw.status == 400:  # what cannot be a host at all
                    assert raw.error["message"] == "The request is not valid HTTP"
                else:
                    assert "--allowed-hosts" in raw.error["message"]
                    assert f"'{host.split(':')[0].lower()[:80]}" in raw.error["message"]
        assert (await served.get("/healthcheck", {"Host": "evil.example"})).status == 200


async def test_a_refused_host_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_one_task() as served:
        for host in ("one.example", "one.example", "two.example"):
            answer = await served.get("/api/tasks", {"Host": f"{host}:5555"})
            assert answer.error["message"] == f"The host name '{host}' is not served here: add it to --allowed-hosts"
    lines = [record.getMessage() for record in caplog.records if "not served here" in record.getMessage()]
    assert len(lines) == 1
    assert "'one.example'" in lines[0]
    assert "--allowed-hosts" in lines[0]
    assert "127.0.0.1" in lines[0]


async def test_a_foreign_host_is_refused_before_credentials_are_looked_at() -> None:
    async with serving_one_task() as served:
        answer = await served.get("/api/tasks", {"Host": "evil.example", **WRONG[0]})
        assert answer.status == 421
        assert answer.header("WWW-Authenticate") is None


# Errors


class Secret(Exception):
    """Tells what nobody outside should hear."""


async def test_what_nobody_raised_on_purpose(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: TaskTypes) -> None:
        self.set_header("X-Half", "done")
        self.write("half an answer")
        raise Secret("the key is under the mat")

    monkeypatch.setattr(TaskTypes, "get", fail)
    async with serving_one_task() as served:
        answer = await served.get("/api/task/types?q=confidential")
        assert answer.status == 500
        assert answer.error == {"status": 500, "message": "Internal Server Error"}
        assert answer.header("X-Half") is None
        check_headers(answer)
        assert (await served.get("/api/tasks")).status == 200
    (record,) = [record for record in caplog.records if record.name == "taskmon.http.base"]
    assert record.getMessage() == "GET '/api/task/types' failed"
    assert record.exc_info is not None
    assert "confidential" not in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (PermissionDenied("not you"), 403, None),
        (TooManyRequests("slowly", 7), 429, "7"),
        (Unavailable("The well", "dry", 9), 503, "9"),
    ],
)
async def test_what_was_raised_on_purpose(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, status: int, retry_after: str
) -> None:
    def fail(self: TaskTypes) -> None:
        raise error

    monkeypatch.setattr(TaskTypes, "get", fail)
    async with serving_one_task() as served:
        caplog.set_level(logging.INFO, "taskmon")
        answer = await served.get("/api/task/types")
    assert (answer.status, answer.header("Retry-After")) == (status, retry_after)
    assert answer.error == {"status": status, "message": str(error)}
    check_headers(answer)
    assert not [record for record in caplog.records if record.name.startswith("taskmon.api")]


@pytest.mark.parametrize(
    "query",
    [
        "limit=x", "limit=-1", "limit=1.5", "limit=1e3", "limit=99999999999999999999", "offset=-1", "sort_by=uuid",
        "sort_by=--name", "sort_by=%C3%A4", "received_start=yesterday", "received_end=2026-13-01%2000:00",
        "started_start=NaN", "started_end=1e400", "search=a", "search=NOT%20abc", "search=%28abc", "search=%22abc",
        "limit=%00", "sort_by=%3Cscript%3E", "limit=" + "9" * 5000,
    ],
)  # fmt: skip
async def test_bad_arguments(query: str) -> None:
    argument, _, value = query.partition("=")
    async with serving_one_task() as served:
        answer = await served.get(f"/api/tasks?{query}")
        assert answer.status == 400
        assert answer.error["message"].startswith(f"{argument} ")
        assert len(answer.error["message"]) < 600
        if argument != "search" and re.fullmatch(r"[\w.-]{1,80}", value):
            assert answer.error["message"].endswith(f", not '{value}'")
        check_headers(answer)


@pytest.mark.parametrize("query", ["taskname=%FF", "%FF=1&taskname=%C3%28", "search=%ED%A0%80", "workername=%C0%80"])
async def test_arguments_that_are_no_utf_8(query: str) -> None:
    async with serving_one_task() as served:
        answer = await served.get(f"/api/tasks?{query}")
        assert answer.status == 400
        assert answer.error["message"].endswith("must be UTF-8")


async def test_many_arguments() -> None:
    async with serving_one_task() as served:
        some, too_many = (("&".join(f"a{n}=1" for n in range(count))) for count in (MAX_ARGUMENTS, MAX_ARGUMENTS + 1))
        assert (await served.get(f"/api/tasks?{some}")).status == 200
        answer = await served.get(f"/api/tasks?{too_many}")
        assert answer.status == 400
        check_headers(answer)


async def test_the_last_of_an_argument_counts_and_unknown_ones_do_not() -> None:
    async with serving_one_task() as served:
        assert (await served.get("/api/tasks?limit=0&limit=1&colour=red&=&&%20=x")).json().keys() == {"known"}
        assert (await served.get("/api/tasks?limit=1&limit=0")).json() == {}


async def test_an_answer_is_never_html() -> None:
    nasty = quote("<script>alert(1)</script>", safe="")
    async with serving_one_task() as served:
        for path in (
            f"/api/task/info/{nasty}",
            f"/api/tasks?sort_by={nasty}",
            f"/{nasty}",
            f"/api/tasks?search={nasty}(",
        ):
            answer = await served.get(path)
            assert answer.status in (400, 404)
            assert answer.header("Content-Type") == "application/json; charset=UTF-8"
            assert answer.header("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        ("multipart/form-data", b"x"),
        ("application/x-www-form-urlencoded", b"%FF=%FF&" * 100),
        ("application/json", b"{"),
    ],
)
async def test_bodies_that_make_no_sense(content_type: str, body: bytes) -> None:
    async with serving_one_task() as served:
        for method in ("POST", "GET"):
            answer = await served.request(method, "/api/tasks", {"Content-Type": content_type}, body)
            assert answer.status in (200, 400, 405, 415)
            check_headers(answer)


async def test_a_connection_is_used_again() -> None:
    async with serving_one_task() as served:
        reader, writer = await served.connect()
        head = f"Host: localhost\r\nAuthorization: {served.credentials['Authorization']}\r\n"
        for method, path in (("GET", "/api/tasks"), ("HEAD", "/api/tasks"), ("GET", "/x"), ("OPTIONS", "/metrics")):
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        writer.write(f"GET /api/task/types HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
        raw = await reader.read()
        await close(writer)
    assert re.findall(rb"HTTP/1\.1 (\d+)", raw) == [b"200", b"200", b"404", b"204", b"200"]
    assert json.loads(raw.rpartition(b"\r\n\r\n")[2]) == {"task-types": ["tasks.add"]}


async def test_many_at_once() -> None:
    async with serving_one_task() as served:
        answers = await asyncio.gather(*(served.get("/api/tasks") for _ in range(50)))
        assert {answer.status for answer in answers} == {200}


# Browsers


async def test_pages_of_listed_origins() -> None:
    origin, other = "https://dash.example.com", "https://evil.example.com"
    async with serving_one_task(cors_origins=origin) as served:
        for path, status in (("/api/tasks", 200), ("/unheard-of", 404), ("/api/tasks?limit=x", 400)):
            answer = await served.get(path, {"Origin": origin})
            assert answer.status == status
            assert answer.header("Access-Control-Allow-Origin") == origin
            assert answer.header("Vary") == "Origin"
            assert answer.header("Access-Control-Allow-Credentials") is None
            for stranger in (other, "null", origin + ":444", origin.upper()):
                answer = await served.get(path, {"Origin": stranger})
                assert answer.header("Access-Control-Allow-Origin") is None
                assert answer.header("Vary") == "Origin"
        denied = await served.get("/api/tasks", {"Origin": origin}, anonymous=True)
        assert denied.status == 401
        assert denied.header("Access-Control-Allow-Origin") == origin


async def test_what_a_page_of_a_listed_origin_may_ask() -> None:
    origin = "https://dash.example.com"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with serving_one_task(cors_origins=origin) as served:
        for path in ("/api/tasks/revoke", "/api/tasks", "/api/task/info/%FF", "/metrics", "/unheard-of", "/"):
            answer = await served.request("OPTIONS", path, {"Origin": origin, **asks}, anonymous=True)
            assert (answer.status, answer.body, answer.header("Allow")) == (204, b"", None)
            assert answer.header("Access-Control-Allow-Methods") == "GET, HEAD, POST, OPTIONS"
            assert answer.header("Access-Control-Allow-Headers") == "Authorization, Content-Type"
        for headers in ({"Origin": "https://evil.example.com", **asks}, asks, {"Origin": origin}):
            answer = await served.request("OPTIONS", "/api/tasks/revoke", headers, anonymous=True)
            assert answer.status == 401
            assert answer.header("Access-Control-Allow-Methods") is None
    async with serving_one_task() as served:
        answer = await served.request("OPTIONS", "/api/tasks/revoke", {"Origin": origin, **asks}, anonymous=True)
        assert answer.status == 401


@pytest.mark.parametrize(
    "origins", ["*", "https://*.example.com", "https://a.example.com/x", "a.example.com", "null"]
)
def test_origins_that_are_not_listed(origins: str) -> None:
    with pytest.raises(InvalidSetting, match="--cors-origins must be exact origins"):
        Settings(cors_origins=origins)


SAME, NONE = {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example.com"},
    {"Origin": "null"},
    {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "cross-site"},
]


async def test_who_is_asked_whether_a_change_comes_from_another_site() -> None:
    token, line = new_token("ci", Role.OPERATOR)
    options = {"basic_auth": "ann:pass", "token": line, "public_url": "https://mon.example.com/x"}
    bearer, password = {"Authorization": f"Bearer {token}"}, basic("ann", "pass")
    async with serving_one_task(**options) as served:
        for foreign in FOREIGN:
            for ambient in (password, {**bearer, "Cookie": "x=y"}):
                answer = await served.request("POST", "/api/tasks/revoke", {**ambient, **foreign}, b"{}")
                assert answer.status == 403
                assert "another site" in answer.error["message"]
            assert (await served.request("POST", "/api/tasks/revoke", {**bearer, **foreign}, b"{}")).status == 400
            assert (await served.request("POST", "/api/tasks/revoke", foreign, b"{}")).status == 401
            assert (await served.get("/api/tasks", {**password, **foreign})).status == 200
        for own in ({}, SAME, NONE, {"Origin": "http://localhost"}, {"Origin": "https://mon.example.com"}):
            assert (await served.request("POST", "/api/tasks/revoke", {**password, **own}, b"{}")).status == 400
    async with serving_one_task(anonymous_role="operator") as served:
        for foreign in FOREIGN:
            assert (await served.request("POST", "/api/tasks/revoke", foreign, b"{}")).status == 403


async def test_browsers_keep_to_https_where_the_public_url_is_one() -> None:
    for url, expected in (("https://mon.example.com", "max-age=31536000"), ("http://mon.example.com", None)):
        async with serving_one_task(public_url=url) as served:
            for answer in (
                await served.get("/api/tasks"),
                await served.get("/x", anonymous=True),
                await served.get("/healthcheck"),
                parse(await served.send(b"broken\r\n\r\n")),
            ):
                assert answer.header("Strict-Transport-Security") == expected
