"""The documentation is a contract: its examples are run, its tables compared with the code."""

import asyncio
import base64
import configparser
import http.client
import json
import re
import shlex
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import pytest
from celery import Celery
from celery.app.amqp import Queue
from click.testing import CliRunner
from kombu.transport import memory
from patience import PATIENCE
from remote import answering, refusing, saying
from secret_samples import with_secrets
from waiting import wait_until

from taskmon import __version__
from taskmon.api import control as control_routes
from taskmon.api import revoking
from taskmon.api.publishing import DEFAULT_TIMEOUT, MAX_TIMEOUT
from taskmon.app import Taskmon
from taskmon.auth import Role
from taskmon.cli import main
from taskmon.cluster.publish_options import PublishOptions
from taskmon.cluster.republish import find_destination, read_recorded
from taskmon.credentials.tokens import new_token
from taskmon.errors import CommandRefused
from taskmon.http.serializers import encode, task_body, worker_body
from taskmon.login.factory import build_login
from taskmon.monitor.query import Listing
from taskmon.monitor.retries import Retries
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.parameters import find_arguments
from taskmon.records import Event, Task, Worker
from taskmon.routes import PROBES, ROUTES
from taskmon.settings import FLOWER_ONLY, OPTION, OPTIONS, Option, Settings, load_settings
from taskmon.settings.secret_files import FILE_VARIABLES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
OWN_PAGES = [page for page in PAGES if page.name not in ("metrics.md", "performance.md")]
BROKER_AWAY = "<!-- test: the broker is away -->"
REST = "…"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# A taskmon to run the examples against

CHARGE = "5d5a1a35-3a4b-4d2c-9f54-0d6f6a3c2b11"
RECEIPT = "a3f0c1de-6a0e-4c1e-8f0b-1f2f9d0c7e22"
IMPORT = "0b7e9f64-5c0d-4f0a-9f3e-7c1d2e3f4a33"
LATER = "c8d1e2f3-1a2b-4c3d-8e4f-5a6b7c8d9e44"
TEN_O_CLOCK = 1_767_261_600.0  # 2026-01-01T10:00:00Z


def seen_events() -> list[Event]:
    """Give the events of the four tasks that the examples speak of."""
    worker = "celery@web1"
    sent = {"queue": "payments", "exchange": "", "routing_key": "payments", "hostname": "gen4242@web1"}
    charge = {"name": "shop.charge_card", "args": "()", "kwargs": "{'order': 1001, 'amount': 49.5}", "retries": 0}
    rows: list[tuple[str, str, float, dict[str, Any]]] = [
        ("sent", CHARGE, 0.0, {**charge, **sent, "root_id": CHARGE, "parent_id": None, "clock": 100}),
        ("received", CHARGE, 0.25, {**charge, "hostname": worker, "root_id": CHARGE, "clock": 101}),
        ("started", CHARGE, 0.5, {"hostname": worker, "clock": 102}),
        ("succeeded", CHARGE, 2.0, {"hostname": worker, "clock": 104, "runtime": 1.5, "result": "{'paid': 49.5}"}),
        (
            *("received", RECEIPT, 3.0),
            {"hostname": worker, "name": "shop.send_receipt", "root_id": CHARGE, "parent_id": CHARGE},
        ),
        ("started", RECEIPT, 3.1, {"hostname": worker}),
        ("received", IMPORT, 10.0, {"hostname": worker, "name": "shop.import_orders", "kwargs": "{}"}),
        ("failed", IMPORT, 12.0, {"hostname": worker, "exception": "ValueError('line 3: no price')"}),
        ("received", LATER, 15.0, {"hostname": worker, "name": "shop.charge_card"}),
        ("started", LATER, 15.1, {"hostname": worker}),
    ]
    return [
        msgspec.convert({"type": f"task-{kind}", "uuid": uuid, "timestamp": TEN_O_CLOCK + later, **fields}, Event)
        for kind, uuid, later, fields in rows
    ]


WEB1, WEB2 = "celery@web1", "celery@web2"

#: What the worker of the examples answers to inspects.
INSPECTS: dict[str, Any] = {
    "stats": {"total": {"shop.charge_card": 2}, "pid": 4100, "uptime": 86400, "pool": {"max-concurrency": 4}},
    "active_queues": [{"name": "payments", "routing_key": "payments"}, {"name": "reports", "routing_key": "reports"}],
    "registered": ["shop.charge_card", "shop.import_orders", "shop.send_receipt"],
    "conf": {"broker_url": "redis://:horse@redis.example.com:6379/0", "task_default_queue": "payments"},
    "scheduled": [],
    "active": [{"id": RECEIPT, "name": "shop.send_receipt"}, {"id": LATER, "name": "shop.charge_card"}],
    "reserved": [],
    "revoked": [],
}

#: What it replies to commands, in Celery's words.
COMMANDS: dict[str, Any] = {
    "ping": saying({"ok": "pong"}),
    "pool_grow": saying({"ok": "pool will grow"}),
    "pool_shrink": saying({"ok": "pool will shrink"}),
    "pool_restart": refusing("ValueError('Pool restarts not enabled')"),
    "autoscale": saying({"ok": "autoscale now max=8 min=2"}),
    "add_consumer": lambda state, queue: {"ok": f"add consumer {queue}"},
    "cancel_consumer": lambda state, queue: {"ok": f"no longer consuming from {queue}"},
    "time_limit": saying({"ok": "time limits set successfully"}),
    "rate_limit": saying({"ok": "new rate limit set successfully"}),
}


def make_shop() -> Celery:
    """Make the shop's Celery app, on a broker and a result backend in this process."""
    app = Celery("docs", broker="memory://localhost//", backend="cache+memory://", set_as_current=False)
    app.conf.broker_transport_options = {"polling_interval": 0.005}
    app.conf.task_default_queue = "payments"

    def charge_card(order: int, amount: float) -> None:
        raise AssertionError("no task is run here")

    def import_orders(path: str) -> None:
        raise AssertionError("no task is run here")

    app.task(charge_card, name="shop.charge_card", shared=False)
    app.task(import_orders, name="shop.import_orders", shared=False)
    return app


def stock(app: Celery) -> None:
    """Empty the broker, and put there and into the result backend what the examples find."""
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()
    with app.connection_for_write() as connection, connection.SimpleQueue("reports") as reports:
        for _ in range(3):
            reports.put({})
    app.backend.store_result(CHARGE, {"paid": 49.5}, "SUCCESS")
    app.backend.store_result(RECEIPT, None, "STARTED")


class Shop:
    """The worker behind the examples: it answers commands, and charges for order 1002; all else never ends."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._running = ExitStack()
        handlers = {name: saying(answer) for name, answer in INSPECTS.items()}
        self._running.enter_context(answering(app, WEB1, **handlers, **COMMANDS))
        self._thread.start()

    def _work(self) -> None:
        with self._app.connection_for_read() as connection:
            queue = Queue("payments")(connection.default_channel)
            queue.declare()
            while not self._stop.wait(0.005):
                message = queue.get(no_ack=True)
                if message is not None and message.payload[1].get("order") == 1002:
                    paid = message.payload[1]["amount"]
                    self._app.backend.store_result(message.headers["id"], {"paid": paid}, "SUCCESS")

    def close(self) -> None:
        """Stop it."""
        self._stop.set()
        self._thread.join(PATIENCE)
        self._running.close()


#: Who people log in with, in the examples.
PROVIDER: dict[str, Any] = {
    "auth_provider": "github",
    "oauth2_key": "key",
    "oauth2_secret": "secret",
    "oauth2_redirect_uri": "http://localhost:5555/login/callback",
    "auth": ("ann@example.com",),
}


class Running:
    """A taskmon on a loop in a thread of its own; of those that are there at a time, only one has a shop."""

    def __init__(self, with_shop: bool = False, **options: Any) -> None:
        self.token, line = new_token("docs", Role.VIEWER)
        settings = Settings(
            port=0,
            basic_auth=("user:pass",),
            token=(line,),
            inspect_timeout=5000,
            publish_queues=("refunds",),
            **(PROVIDER | options),
        )
        celery_app = make_shop()
        if with_shop:
            stock(celery_app)
        self.shop = Shop(celery_app) if with_shop else None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.taskmon = self.call(self._make(settings, celery_app))
        if with_shop:
            self.call(self.beat())
            wait_until(lambda: WEB1 in self.taskmon.monitor.inspector.inspections, "the worker is inspected")

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(5 * PATIENCE)

    async def _make(self, settings: Settings, celery_app: Celery) -> Taskmon:
        taskmon = Taskmon(settings, celery_app)
        await taskmon.start()
        deadline = self.loop.time() + PATIENCE
        while not taskmon.monitor.broker.connected:
            assert self.loop.time() < deadline
            await asyncio.sleep(0.01)
        taskmon.monitor.state.apply(seen_events())
        return taskmon

    async def apply(self, events: list[Event]) -> None:
        """Apply more events."""
        self.taskmon.monitor.state.apply(events)

    async def beat(self) -> None:
        """Let the worker send a heartbeat; the other one sent its last a minute ago."""
        common = {"type": "worker-heartbeat", "sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}
        beats: list[dict[str, Any]] = [
            {"hostname": WEB1, "pid": 4100, "clock": 120, "active": 2, "processed": 2, "loadavg": [0.5, 0.25, 0.25]},
            {"hostname": WEB2, "pid": 4200, "clock": 90, "active": 0, "processed": 0, "loadavg": [0.0, 0.0, 0.0]},
        ]
        self.taskmon.monitor.state.apply(
            [msgspec.convert(common | beat | {"freq": 2.0, "timestamp": TEN_O_CLOCK + 16}, Event) for beat in beats]
        )
        self.taskmon.monitor.state.workers[WEB2].seen -= 60
        for worker in (WEB1, WEB2):  # by its clock it is the day of the examples
            self.taskmon.monitor.diagnostics.forget(worker)

    async def set_broker(self, connected: bool) -> None:
        """Let it believe that the broker is there, or away."""
        broker = self.taskmon.monitor.broker
        broker.connected, broker.reason = connected, "" if connected else "nothing listens at its address: check"
        broker.summary = "nothing listens at its address"

    async def _stop(self) -> None:
        await self.taskmon.stop()
        # What was cancelled takes a turn or two of the loop to end, and this loop is about to stop.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            _, left = await asyncio.wait(left, timeout=PATIENCE)
        assert not left, left

    def close(self) -> None:
        """Stop it."""
        self.call(self._stop())
        if self.shop is not None:
            self.shop.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running(with_shop=True)
    try:
        yield running
    finally:
        running.close()


# Examples: a block with a curl line, then one with the answer


@dataclass
class Request:
    """What a curl line asks for."""

    url: str = ""
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    shows_head: bool = False
    body: bytes | None = None


def parse_curl(line: str) -> Request:
    """Read the few options of curl that the documentation uses; any other is an error."""
    request, data, into_url = Request(), [], False
    method = ""
    words = iter(shlex.split(line)[1:])
    for word in words:
        match word:
            case "-i":
                request.shows_head = True
            case "-G":
                into_url = True
            case "-s" | "-g":
                pass
            case "-X":
                method = next(words)
            case "-d":
                request.body = next(words).encode()
            case "-u":
                credentials = base64.b64encode(next(words).encode()).decode()
                request.headers["Authorization"] = f"Basic {credentials}"
            case "-H":
                name, _, value = next(words).partition(": ")
                request.headers[name] = value
            case "--data-urlencode":
                name, _, value = next(words).partition("=")
                data.append(f"{name}={quote(value, safe='')}")
            case _:
                assert not word.startswith("-"), f"an option of curl not known here: {word}"
                assert not request.url, "two addresses"
                request.url = word
    assert into_url == bool(data), "--data-urlencode needs -G"
    request.url += "?" + "&".join(data) if data else ""
    if request.body is not None:
        request.headers.setdefault("Content-Type", "application/x-www-form-urlencoded")  # as curl does
    request.method = method or ("GET" if request.body is None else "POST")
    return request


def sorted_labels(text: str) -> set[str]:
    """Give the lines of a text; in those of metrics the labels stand in one order, as it means nothing."""
    return {re.sub(r"{(.*)}", lambda found: str(sorted(found[1].split(","))), line) for line in text.splitlines()}


@dataclass
class Example:
    """A curl line and the answer that the page shows."""

    curl: str
    language: str
    answer: str
    broker_away: bool


_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def find_examples(text: str) -> list[Example]:
    """Find the pairs of blocks."""
    blocks = list(_BLOCK.finditer(text))
    return [
        Example(
            first[2].strip().removeprefix("$ "),
            second[1],
            second[2],
            text[: first.start()].rstrip().endswith(BROKER_AWAY),
        )
        for first, second in pairwise(blocks)
        if first[1] == "console" and first[2].startswith("$ curl ")
    ]


API_EXAMPLES = find_examples(read("docs/api.md"))


def ask(running: Running, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Ask for a path, with the token."""
    url = "http://127.0.0.1:5555" + path
    return send(running, Request(url, method, {"Authorization": "Bearer $TOKEN", **headers}))


def send(running: Running, request: Request) -> tuple[int, http.client.HTTPMessage, str]:
    url = urlsplit(request.url)
    assert url.netloc in ("127.0.0.1:5555", "localhost:5555")
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(running.taskmon.url).port or 0, timeout=PATIENCE)
    path = url.path + (f"?{url.query}" if url.query else "")
    headers = {name: value.replace("$TOKEN", running.token) for name, value in request.headers.items()}
    try:
        connection.request(request.method, path, request.body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_KNOWN_IDS = {CHARGE, RECEIPT, IMPORT, LATER}


def without_chance(value: Any) -> Any:
    """Write alike what differs each time: the moment of the start, new ids, and how long workers may be silent."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-01-01T00:00:00Z", json.dumps(value))
    text = _ID.sub(lambda found: found[0] if found[0] in _KNOWN_IDS else "a-new-id", text)
    return json.loads(re.sub(r"answer within \d+ s", "answer within 1 s", text))


def passes(name: str, shown: Any, real: Any) -> bool:
    """Tell whether a number is a time of now, or an age: these differ each time."""
    if name not in ("timestamp", "last_seen", "age") or not isinstance(shown, float) or not isinstance(real, float):
        return False
    return 0 <= real < 60 if name == "age" else abs(real - time.time()) < 600


def assert_same(shown: Any, real: Any, place: str = "the answer") -> None:
    """Compare JSON; where the page has "…", the real object may have more members."""
    if isinstance(shown, list) and isinstance(real, list):
        assert len(shown) == len(real), place
        for index, (one, other) in enumerate(zip(shown, real, strict=True)):
            assert_same(one, other, f"{place}[{index}]")
        return
    if not isinstance(shown, dict):
        assert type(shown) is type(real), place
        assert shown == real, place
        return
    assert isinstance(real, dict), place
    names = [name for name in shown if name != REST]
    if REST in shown:
        assert set(names) <= set(real), place
    else:
        assert names == list(real), f"{place} has other members, or in another order"
    for name in names:
        if not passes(name, shown[name], real[name]):
            assert_same(shown[name], real[name], f"{place}, {name}")


def test_the_api_page_has_examples_of_every_kind() -> None:
    assert len(API_EXAMPLES) > 10
    assert {example.language for example in API_EXAMPLES} == {"json", "http", "text"}
    assert [example.curl for example in API_EXAMPLES if example.broker_away]


@pytest.mark.parametrize("example", API_EXAMPLES, ids=[f"{n}-{e.language}" for n, e in enumerate(API_EXAMPLES)])
def test_an_example_answers_what_the_page_shows(running: Running, example: Example) -> None:
    request = parse_curl(example.curl)
    running.call(running.beat())
    running.call(running.set_broker(not example.broker_away))
    try:
        status, headers, body = send(running, request)
    finally:
        running.call(running.set_broker(True))
    assert request.shows_head is (example.language == "http")
    if example.language == "text":
        assert status == 200
        assert sorted_labels(example.answer) <= sorted_labels(body)
        return
    shown = example.answer
    expected_status = 200
    if example.language == "http":
        head, _, shown = shown.partition("\n\n")
        first, *lines = head.splitlines()
        expected_status = int(first.split()[1])
        for line in lines:
            name, _, value = line.partition(": ")
            start, rest, _ = value.partition(REST)
            real = headers.get_all(name) or []
            assert any(one.startswith(start) if rest else one == value for one in real), f"{name} is {real}"
    assert status == expected_status
    if not shown:
        assert not body
        return
    if (headers["Content-Type"] or "").startswith("text/html"):
        assert set(shown.splitlines()) <= set(body.splitlines())
        return
    assert_same(without_chance(json.loads(shown)), without_chance(json.loads(body)))


# Differences from Flower that show in every answer


def test_head_is_get_without_the_body(running: Running) -> None:
    status, headers, body = ask(running, "/api/tasks")
    head_status, head_headers, head_body = ask(running, "/api/tasks", "HEAD")
    assert (status, headers["Content-Length"]) == (head_status, head_headers["Content-Length"])
    assert body
    assert not head_body


def test_options_tells_the_methods(running: Running) -> None:
    status, headers, body = ask(running, "/api/tasks", "OPTIONS")
    assert (status, headers["Allow"], body) == (204, "GET, HEAD, OPTIONS", "")
    assert send(running, Request("http://127.0.0.1:5555/api/tasks", "OPTIONS"))[0] == 401


@pytest.mark.parametrize("path", ["/api/tasks", f"/api/task/info/{CHARGE}", "/healthcheck"])
def test_a_slash_at_the_end_changes_nothing(running: Running, path: str) -> None:
    assert ask(running, path)[2] == ask(running, path + "/")[2]


def test_no_answer_may_be_stored_or_read_by_another_site(running: Running) -> None:
    _, headers, _ = ask(running, "/api/tasks", Origin="https://elsewhere.example.com")
    assert headers["Cache-Control"] == "no-store"
    assert not [name for name in headers if name == "Etag" or name.startswith("Access-Control-")]


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example.com"}],
    ids=["fetch metadata", "origin"],
)
def test_a_change_from_another_site_is_refused(running: Running, headers: dict[str, str]) -> None:
    request = parse_curl(f"curl -u user:pass -X POST http://127.0.0.1:5555/api/task/revoke/{LATER}")
    assert send(running, request)[0] == 200
    request.headers |= headers
    status, _, body = send(running, request)
    assert (status, json.loads(body)["error"]["status"]) == (403, 403)


def test_an_unknown_host_is_refused(running: Running) -> None:
    assert ask(running, "/api/tasks", Host="elsewhere.example.com")[0] == 421
    assert ask(running, "/healthcheck", Host="elsewhere.example.com")[0] == 200


def test_arguments_are_taken_as_they_are() -> None:
    name = 'it\'s <b> & "so on"'
    event = msgspec.convert({"type": "task-received", "uuid": "odd", "name": name, "timestamp": 1.0}, Event)
    running = Running()
    try:
        running.call(running.apply([event]))
        assert list(json.loads(ask(running, f"/api/tasks?taskname={quote(name)}")[2])) == ["odd"]
    finally:
        running.close()


def test_probes_answer_without_the_prefix_too() -> None:
    running = Running(url_prefix="/prefix")
    try:
        for path in (*PROBES, *("/prefix" + probe for probe in PROBES), "/prefix/api/tasks"):
            assert ask(running, path)[0] == 200, path
        assert ask(running, "/api/tasks")[0] == 404
    finally:
        running.close()


def test_every_curl_line_of_every_page_asks_for_a_route() -> None:
    lines = [line for page in PAGES for line in re.findall(r"^\$? ?(curl .+)$", page.read_text("utf-8"), re.M)]
    assert len(lines) > 10
    for line in lines:
        request = parse_curl(line)
        path = urlsplit(request.url).path
        found = [handler for route, handler in ROUTES if re.fullmatch(route + "/?", path)]
        assert any(request.method in methods(handler) for handler in found), line


# Tables


def table_rows(text: str) -> list[list[str]]:
    """Give the rows of all tables, with their cells, without the lines under the heads."""
    lines = [line.strip() for line in text.splitlines() if line.lstrip().startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if not set("".join(row)) <= set("-: ")]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def section(text: str, title: str) -> str:
    """Give what stands under a title, up to the next one of the same or a higher rank."""
    rank, _, name = title.partition(" ")
    found = re.search(rf"^{rank} {re.escape(name)}\n(.*?)(?=^#{{1,{len(rank)}}} |\Z)", text, re.M | re.S)
    assert found, title
    return found[1]


def methods(handler: Any) -> list[str]:
    """Give the methods that a handler has."""
    return [method.upper() for method in handler.methods()]


#: How the pages call the parts of paths.
PARTS = {"{task_id}": "<id>", "{task_name}": "<name>", "{hostname}": "<worker>", "{name}": "<name>"}


def written_routes() -> dict[str, Any]:
    """Give the handlers by method and route, written as the pages do: `GET /api/task/info/<id>`."""
    return {
        f"{method} {re.sub('{.*}', lambda part: PARTS[part[0]], handler.path)}": handler
        for _, handler in ROUTES
        for method in methods(handler)
    }


def test_every_route_is_in_the_api_page_and_no_other() -> None:
    text = read("docs/api.md")
    routes = written_routes()
    listed = [row for row in table_rows(text) if re.match(r"\[`(GET|POST) ", row[0])]
    table = {words(row[0])[0]: row[2] for row in listed}
    assert table == {route: "none" if handler.public else str(handler.role) for route, handler in routes.items()}
    titles = re.findall(r"^##+ ((?:GET|POST) .+)$", text, re.M)
    assert [title.replace("&lt;", "<").replace("&gt;", ">") for title in titles] == list(table)


def test_every_route_has_an_example() -> None:
    asked = [parse_curl(example.curl) for example in API_EXAMPLES]
    for path, handler in ROUTES:
        for method in methods(handler):
            found = [one for one in asked if one.method == method and re.fullmatch(path, urlsplit(one.url).path)]
            assert found, f"{method} {path}"


def listed_names(title: str) -> set[str]:
    """Give the names in the first cells of the tables under a title of the API page."""
    return {name for row in table_rows(section(read("docs/api.md"), title)) for name in words(row[0])}


def test_the_options_of_a_task_are_in_the_api_page() -> None:
    assert listed_names("### Options of a task") == {*PublishOptions.__struct_fields__}
    text = section(read("docs/api.md"), "## POST /api/task/apply/&lt;name&gt;")
    assert f"{DEFAULT_TIMEOUT:g} s by default, {MAX_TIMEOUT:g} s at the most" in text


def test_the_signals_are_in_the_api_page() -> None:
    rows = table_rows(section(read("docs/api.md"), "## POST /api/task/revoke/&lt;id&gt;"))
    (row,) = [row for row in rows if row[0] == "`signal`"]
    assert [word for word in words(row[1]) if word.isupper() and not word.startswith("SIG")] == [*revoking.SIGNALS]


def test_the_arguments_of_a_revoke_of_many_are_in_the_api_page() -> None:
    listed = listed_names("## POST /api/tasks/revoke")
    assert listed == {"ids", "dry_run", "terminate", "signal"}
    shared = {*Listing.__struct_fields__}
    assert shared <= listed_names("## GET /api/tasks")
    assert f"{revoking.MAX_REVOKED:,}" in section(read("docs/api.md"), "## POST /api/tasks/revoke")


def test_the_arguments_of_the_worker_commands_are_in_the_api_page() -> None:
    for route, handler in written_routes().items():
        if issubclass(handler, control_routes.WorkerCommand):
            text = section(read("docs/api.md"), f"### {route.replace('<', '&lt;').replace('>', '&gt;')}")
            for one in find_arguments(handler.parameters):
                if one.name != "workername":  # which all of them have
                    assert f"`{one.name}`" in text, route
    assert "`workername`" in section(read("docs/api.md"), "## Worker commands")


def test_the_worker_object_has_the_fields_of_the_api_page() -> None:
    body = worker_body(Worker("w"), {name: msgspec.Raw(b"{}") for name in INSPECTS}, 0.0, 0.0)
    real = json.loads(encode(body))
    assert listed_names("### The worker object") == {*real, *(f"heartbeat.{name}" for name in real["heartbeat"])}


def test_the_reasons_why_a_task_is_not_published_again_are_in_the_api_page() -> None:
    begins = listed_names("## POST /api/task/retry/&lt;id&gt;")
    done = {"uuid": "a", "name": "shop.add", "state": "SUCCESS", "queue": "payments"}
    refused = [
        lambda: find_destination(Task(**done | {"state": "STARTED"})),
        lambda: find_destination(Task(**done | {"name": None})),
        lambda: find_destination(Task(**done | {"queue": "a b"})),
        lambda: read_recorded("args", None),
        lambda: read_recorded("args", "('xx...',)"),
        lambda: read_recorded("args", "(<Order 1001>,)"),
        lambda: retries.begin("a", again=False).__enter__(),
        lambda: retries.begin("b", again=False).__enter__(),
    ]
    retries = Retries()
    retries.note("a", "a2")
    under_way = retries.begin("b", again=False)
    under_way.__enter__()
    seen = set()
    for ask in refused:
        with pytest.raises(CommandRefused) as caught:
            ask()
        (begin,) = [begin for begin in begins if str(caught.value).startswith(begin)]
        seen.add(begin)
    assert seen == begins


def test_the_task_object_has_the_fields_of_the_api_page() -> None:
    rows = table_rows(section(read("docs/api.md"), "### The task object"))[1:]
    listed = [name for row in rows for name in words(row[0])]
    assert sorted(listed) == sorted(json.loads(encode(task_body(Task("x"), []))))


def test_the_arguments_and_sort_keys_are_in_the_api_page() -> None:
    rows = table_rows(section(read("docs/api.md"), "## GET /api/tasks"))
    arguments = {name for row in rows if len(row) == 2 for name in words(row[0]) if re.fullmatch(r"[a-z_]+", name)}
    assert {
        *("limit", "offset", "sort_by", "workername", "taskname", "state", "root_id", "parent_id", "queue"),
        *("received_start", "received_end", "started_start", "started_end", "search"),
    } <= arguments
    sort_by = next(row for row in rows if row[0] == "`sort_by`")
    assert words(sort_by[1])[: len(SORT_KEYS)] == list(SORT_KEYS)


def test_the_reasons_of_a_404_are_in_the_api_page(running: Running) -> None:
    part = section(read("docs/api.md"), "## GET /api/task/info/&lt;id&gt;")
    rows = table_rows(part.partition("### The task object")[0])[1:]
    services, monitor = running.taskmon.services, running.taskmon.monitor
    real = {services.why_unknown(monitor, "evicted"), services.why_unknown(monitor, "never seen")}
    running.call(running.set_broker(False))
    real.add(services.why_unknown(monitor, "never seen"))
    running.call(running.set_broker(True))
    seen, monitor.state.task_events_total = monitor.state.task_events_total, 0
    real.add(services.why_unknown(monitor, "never seen"))
    monitor.state.task_events_total = seen
    real.add(replace(services, history=object()).why_unknown(monitor, "evicted"))
    assert {reason.partition(":")[0] for reason in real} == {words(row[0])[0] for row in rows}


# Options


def documented_options() -> dict[str, list[str]]:
    """Give the row of each option of configuration.md by its flag."""
    rows = table_rows(read("docs/configuration.md"))
    return {words(row[0])[0].split()[0]: row for row in rows if words(row[0]) and words(row[0])[0].startswith("--")}


def test_configuration_lists_every_option_and_no_other() -> None:
    listed = documented_options()
    assert set(listed) == {*(option.flag for option in OPTIONS), "--workdir"}
    assert len(listed) == len([row for row in table_rows(read("docs/configuration.md")) if row[0].startswith("`--")])


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_configuration_describes_an_option_as_it_is(option: Option) -> None:
    flag, variables, key, default, meaning = documented_options()[option.flag]
    names = [option.variable] + ([f"FLOWER_{option.flower.upper()}"] if option.flower else [])
    assert words(variables) == names
    assert words(key) == ([] if option.name == "conf" else [option.name])
    assert words(default) == ([option.default_text] if option.default_text else [])
    assert ("-" + option.short in words(flag)) if option.short else len(words(flag)) == 1
    assert len(meaning) > 15


def test_options_stand_in_the_sections_of_help() -> None:
    text = read("docs/configuration.md")
    for name in dict.fromkeys(option.section for option in OPTIONS):
        flags = {words(row[0])[0] for row in table_rows(section(text, f"### {name}")) if row[0].startswith("`--")}
        assert flags - {"--workdir"} == {option.flag for option in OPTIONS if option.section == name}


def test_configuration_lists_the_options_of_flower_that_are_left_out() -> None:
    text = section(read("docs/configuration.md"), "## Variables of Flower")
    assert {word for word in words(text) if word in FLOWER_ONLY} == set(FLOWER_ONLY)


def test_no_page_names_an_option_or_variable_that_there_is_not() -> None:
    help_text = "".join(
        CliRunner().invoke(main, [*command, "--help"]).output
        for command in (
            [],
            ["token", "rotate"],
            ["session", "revoke"],
            ["demo"],
            ["convert-config"],
            ["token"],
            ["token", "create"],
            ["token", "list"],
            ["hash-password"],
        )
    )
    flags = {*re.findall(r"--[a-z-]+", help_text), *(option.flag for option in OPTIONS)}
    flags |= {f"--no-{option.flag[2:]}" for option in OPTIONS if option.switch}
    others = {"--data-urlencode", "--no-cov", "--hypothesis-profile", "--autoscale"}  # of curl, pytest, celery worker
    others |= {"--basic_auth", "--logging", "--loglevel", "--pidfile"}  # of command lines of Flower
    variables = {*(option.variable for option in OPTIONS), *FILE_VARIABLES}
    for page in [*OWN_PAGES, *EXAMPLES.iterdir()]:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) <= flags | others, page.name
        assert set(re.findall(r"\bTASKMON_[A-Z_]+\b", text)) <= variables, page.name


def test_the_example_file_is_valid_and_shows_defaults(tmp_path: Path) -> None:
    example = EXAMPLES / "taskmon.toml"
    copy = tmp_path / "taskmon.toml"  # a checkout may be writable for a group
    copy.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    loaded = load_settings({"conf": str(copy)}, {}, tmp_path)
    assert loaded.settings.broker
    assert loaded.notes == ()
    commented = re.findall(r"^# (\w+ = .+)$", example.read_text(encoding="utf-8"), re.M)
    keys = {line.partition(" = ")[0] for line in commented} | set(tomllib.loads(example.read_text("utf-8")))
    assert keys == {option.name for option in OPTIONS} - {"conf"}
    for line in commented:
        ((name, value),) = tomllib.loads(line).items()
        if str(value).startswith("file:"):
            assert OPTION[name].secret, line
            continue
        given = load_settings({}, {}, tmp_path).settings
        if getattr(given, name):
            assert getattr(Settings(**{name: value}), name) == getattr(given, name), line
        else:
            Settings(**{name: tuple(value) if isinstance(value, list) else value})


def test_the_toml_blocks_are_valid(tmp_path: Path) -> None:
    blocks = [
        block[2] for page in OWN_PAGES for block in _BLOCK.finditer(page.read_text("utf-8")) if block[1] == "toml"
    ]
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(with_secrets(block, tmp_path), encoding="utf-8")
        load_settings({"conf": str(path)}, {}, tmp_path)


def test_the_configurations_of_providers_are_complete(tmp_path: Path) -> None:
    blocks = _BLOCK.finditer(section(read("docs/authentication.md"), "## Logging in with a provider"))
    names = set()
    for block in blocks:
        if block[1] != "toml":
            continue
        path = tmp_path / "taskmon.toml"
        path.write_text(with_secrets(block[2], tmp_path), encoding="utf-8")
        entrance = build_login(load_settings({"conf": str(path)}, {}, tmp_path).settings)
        assert entrance is not None
        names.add(entrance.login.provider)
        entrance.login.close()
    assert names == {"Google", "GitHub", "id.example.com"}


def test_the_unit_of_systemd_starts_taskmon() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((EXAMPLES / "taskmon.service").read_text(encoding="utf-8"))
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/taskmon")
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    example = (EXAMPLES / "taskmon.toml").read_text(encoding="utf-8")
    assert f'# history = "sqlite:////var/lib/{unit["Service"]["StateDirectory"]}/' in example
    assert f'# unix_socket = "/run/{unit["Service"]["RuntimeDirectory"]}/' in example


def test_the_probes_of_the_pages_are_routes() -> None:
    paths = {path for page in OWN_PAGES for path in re.findall(r"path: (/\w+)", page.read_text(encoding="utf-8"))}
    assert paths == PROBES


def test_what_the_commands_print_has_the_shape_that_configuration_shows() -> None:
    text = read("docs/configuration.md")
    runner = CliRunner()

    def masked(output: str) -> str:
        output = re.sub(r"tm_[0-9a-f]{8}(_[0-9a-f]{40}_[0-9a-f]{8}|_…)", "tm_ID_…", output)
        return re.sub(r"tm_[0-9a-f]{8}:([0-9a-f]{64}|…):", "tm_ID:…:", output).strip()

    printed = runner.invoke(main, ["token", "--name", "grafana", "--expires", "2030-12-31"]).output
    shown = next(block[2] for block in _BLOCK.finditer(text) if "taskmon token --name grafana" in block[2])
    assert masked(shown.partition("\n")[2]) == masked(printed)
    hashed = runner.invoke(main, ["hash-password"], input="pass\n").output
    shown = next(block[2] for block in _BLOCK.finditer(text) if "| taskmon hash-password" in block[2])
    assert shown.partition("\n")[2].split("$")[:3] == hashed.split("$")[:3]


# The other pages


def test_the_layers_of_the_architecture_page_are_those_of_the_linter() -> None:
    contract = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    blocks = [block[2] for block in _BLOCK.finditer(section(read("docs/architecture.md"), "## Layers"))]
    assert blocks[0].split("\n")[:-1] == [layer.replace("taskmon.", "") for layer in contract["layers"]]


def test_the_tree_of_the_architecture_page_is_the_package() -> None:
    block = next(block[2] for block in _BLOCK.finditer(section(read("docs/architecture.md"), "## The tree")))
    listed, folders = set(), list[str]()
    for line in block.splitlines()[1:]:
        indent, name = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        folders = folders[: len(indent) // 2 - 1]
        if name.endswith("/"):
            folders.append(name)
        elif name.endswith(".py"):
            listed.add("".join(folders) + name)
    package = ROOT / "taskmon"
    real = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert listed == {path for path in real if not path.endswith("__init__.py")}


def test_the_routes_of_flower_are_marked_as_they_are() -> None:
    rows = table_rows(section(read("docs/flower-differences.md"), "## Routes"))[1:]
    listed = {kind: {words(row[0])[0] for row in rows if row[1] == kind} for kind in ("yes", "taskmon's own")}
    assert listed["yes"] | listed["taskmon's own"] == set(written_routes())
    assert {row[1] for row in rows} == {"yes", "not yet", "taskmon's own"}


def test_tests_that_the_differences_name_exist() -> None:
    names = set(re.findall(r"`(test_\w+)`", read("docs/flower-differences.md")))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert names <= set(re.findall(r"^ *(?:async )?def (test_\w+)", sources, re.M))


def test_the_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    for page in OWN_PAGES:
        named = re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M)
        assert {first or second for first, second in named} <= targets, page.name
    readme = read("README.md")
    assert "make demo" in readme
    assert "make test" in readme


def test_the_rows_of_a_table_have_the_cells_of_its_head() -> None:
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.M):
            head, *rows = table_rows(table)
            assert {len(row) for row in rows} <= {len(head)}, f"{page.name}: {head}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", text)):
            assert not target.startswith("http"), f"{page.name} links to {target}"
            path, _, anchor = target.partition("#")
            other = page if not path else page.parent / path
            assert other.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(other.read_text(encoding="utf-8")), f"{page.name}: {target}"


def anchors(text: str) -> set[str]:
    """Give the anchors of a page's titles, as the usual renderers make them."""
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.M)
    plain = [title.replace("&lt;", "<").replace("&gt;", ">").lower() for title in titles]
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in plain}


def test_the_change_log_speaks_of_this_version() -> None:
    assert f"## [{__version__}]" in read("CHANGELOG.md")
