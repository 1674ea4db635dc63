"""The tests of handlers run on pytest-tornado: `serving` asks with its `http_client` what its `http_server` serves.

The `app` of that server is the application of the Taskmon that is being served, so no test starts a server itself.
"""

import pytest
import serving
from serving import Headers, Response, Served
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httputil import HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.web import Application

from taskmon.app import Taskmon
from taskmon.routes import make_application

#: Seconds for a request: a test ends before.
_NEVER = 1000.0


class Mounted(HTTPServerConnectionDelegate):
    """The application of whichever Taskmon is being served: one at a time."""

    def __init__(self) -> None:
        self.application: Application | None = None

    def start_request(self, server_conn: object, request_conn: object) -> HTTPMessageDelegate:
        """Hand a request to the application, from a client that is no trusted proxy."""
        assert self.application is not None, "nothing is served"
        request_conn.context.trusted = False  # as taskmon's own server says it
        return self.application.start_request(server_conn, request_conn)  # type: ignore[arg-type]


class Fetched(Served):
    """Asks with the client of pytest-tornado. What is sent as raw bytes goes to taskmon's own listener."""

    def __init__(self, taskmon: Taskmon, client: AsyncHTTPClient, base_url: str) -> None:
        super().__init__(taskmon)
        self._client = client
        self._base_url = base_url

    async def request(
        self, method: str, target: str, headers: Headers | None = None, body: bytes = b"", anonymous: bool = False
    ) -> Response:
        """Ask; `target` goes out as it is, non-ASCII characters in UTF-8."""
        asked = HTTPRequest(
            self._base_url + target,
            method,
            # Without one, the client would call the body of a POST a form.
            {"Host": "localhost", "Content-Type": "", **({} if anonymous else self.credentials), **(headers or {})},
            body or None,
            **{"connect_timeout": _NEVER, "request_timeout": _NEVER},
            **{"follow_redirects": False, "decompress_response": False, "allow_nonstandard_methods": True},
        )
        answer = await self._client.fetch(asked, raise_error=False)
        if answer.code == 599:  # no answer at all
            answer.rethrow()
        got = list(answer.headers.get_all())
        head = "".join(f"{name}: {value}\r\n" for name, value in got)
        raw = f"HTTP/1.1 {answer.code} {answer.reason}\r\n{head}\r\n".encode() + answer.body
        return Response(answer.code, got, answer.body, raw)


@pytest.fixture
def app() -> Mounted:
    """What pytest-tornado's `http_server` serves."""
    return Mounted()


@pytest.fixture(autouse=True)
def on_pytest_tornado(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `serving` serve by pytest-tornado in every test that is a coroutine."""
    if request.node.get_closest_marker("gen_test") is None:
        return
    app, client, base_url = map(request.getfixturevalue, ("app", "http_client", "base_url"))
    client.max_clients = 1000

    def mount(taskmon: Taskmon) -> Served:
        app.application = make_application(taskmon.services)
        return Fetched(taskmon, client, base_url)

    monkeypatch.setattr(serving, "make_served", mount)
