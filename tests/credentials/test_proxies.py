"""Identity headers: only from whom we trust, exactly one value, exactly that name; groups become roles."""

import asyncio
import logging
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Headers, Response, Served, close, parse, serving

from taskmon import routes
from taskmon.auth import Role
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting
from taskmon.http.base import ApiHandler
from taskmon.settings.proxies import PRESETS

PROXY: dict[str, Any] = {
    "proxy_preset": "oauth2-proxy",
    "trusted_proxies": "127.0.0.1",
    "roles": ("admin=group:ops", "operator=address:ann@example.com", "operator=domain:dev.example.com"),
}


class Who(ApiHandler):
    """GET `/who`: says who asks."""

    def get(self) -> None:
        user = self.current_user
        self.answer({"user": user.name, "role": str(user.role), "authenticated_by": user.method})


@pytest.fixture(autouse=True)
def _route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "ROUTES", [*routes.ROUTES, ("/who", Who)])


ANN = {"X-Forwarded-User": "ann", "X-Forwarded-Email": "ann@example.com"}


async def whoami(served: Served, headers: Headers) -> dict[str, Any]:
    answer = await served.get("/who", headers, anonymous=True)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.json()
    return body


async def raw(served: Served, lines: str) -> Response:
    """Send header lines as they are."""
    head = f"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n"
    return parse(await served.send(head.encode()))


@pytest.mark.parametrize(
    ("more", "role"),
    [
        ({}, "operator"),
        ({"X-Forwarded-Email": "ANN@Example.com"}, "operator"),
        ({"X-Forwarded-Email": "bob@example.com"}, "viewer"),
        ({"X-Forwarded-Email": "bob@dev.example.com"}, "operator"),
        ({"X-Forwarded-Email": "bob@sub.dev.example.com"}, "viewer"),
        ({"X-Forwarded-Groups": "ops"}, "admin"),
        ({"X-Forwarded-Groups": "dev, ops ,x"}, "admin"),
        ({"X-Forwarded-Groups": "Ops,ops2,xops,o p s"}, "operator"),
        ({"X-Forwarded-Groups": ""}, "operator"),
    ],
)
async def test_who_may_do_what(more: Headers, role: str) -> None:
    async with serving(**PROXY) as served:
        assert served.taskmon.generated_token is None
        found = await whoami(served, {**ANN, **more})
        assert (found["user"], found["role"], found["authenticated_by"]) == ("ann", role, "proxy")


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.user])
async def test_presets(name: str) -> None:
    preset = PRESETS[name]
    assert preset.user
    options = PROXY | {"proxy_preset": name}
    async with serving(**options) as served:
        sent = {preset.user: "ann@example.com", **({preset.groups: "ops"} if preset.groups else {})}
        found = await whoami(served, {**sent, preset.email or "X": "ann@example.com"})
        assert (found["user"], found["role"]) == ("ann@example.com", "admin" if preset.groups else "operator")
        others = {
            header for other in PRESETS.values() for header in (other.user, other.email, other.groups) if header
        }
        foreign = dict.fromkeys(others - {preset.user, preset.email, preset.groups}, "ann@example.com")
        assert (await served.get("/who", foreign)).status == 401


async def test_names_in_other_scripts() -> None:
    async with serving(**PROXY) as served:
        latin = await served.send(b"GET /who HTTP/1.0\r\nHost: localhost\r\nX-Forwarded-User: \xc5sa\r\n\r\n")
        assert parse(latin).status == 401
        assert (await whoami(served, {"X-Forwarded-User": "Åsa Öberg"}))["user"] == "Åsa Öberg"
        answer = await raw(served, "X-Forwarded-User: ann\r\n")
        assert answer.json()["user"] == "ann"


async def test_nobody_whom_no_rule_names() -> None:
    async with serving(**PROXY, default_role="none") as served:
        assert (await whoami(served, ANN))["role"] == "operator"
        answer = await served.get("/who", {"X-Forwarded-User": "eve"})
        assert answer.status == 403
        assert answer.error["message"] == "eve has no role here"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "says nobody's name"),
        ("X-Forwarded-Email: ann@example.com\r\n", "says nobody's name"),
        ("X-Auth-Request-User: ann\r\n", "says nobody's name"),
        ("X-Forwarded-Preferred-Username: ann\r\n", "says nobody's name"),
        ("X-Forwarded-User:\r\n", "X-Forwarded-User is empty"),
        ("X-Forwarded-User: ann\r\nX-Forwarded-Email: \r\n", "X-Forwarded-Email is empty"),
        ("X-Forwarded-User: ann\r\nX-Forwarded-User: ann\r\n", "came more than once"),
        ("X-Forwarded-User: ann\r\nx-forwarded-user: eve\r\n", "came more than once"),
        ("X-Forwarded-User: ann\r\nX-Forwarded-Email: a@b\r\nX-Forwarded-Email: c@d\r\n", "came more than once"),
        ("X-Forwarded-User: ann\r\nX-Forwarded-Groups: a\r\nX-Forwarded-Groups: ops\r\n", "came more than once"),
        ("X-Forwarded-User: ann\r\nX_Forwarded_User: eve\r\n", "another spelling"),
        ("X-Forwarded-User: ann\r\nX.Forwarded.User: eve\r\n", "another spelling"),
        ("X-Forwarded-User: ann\r\nX-Forwarded_Groups: ops\r\n", "another spelling"),
        ("x_forwarded_user: eve\r\n", "another spelling"),
        (f"X-Forwarded-User: {'a' * 257}\r\n", "longer than 256"),
        ("X-Forwarded-User: an\tn\r\n", "no plain text"),
        ("X-Forwarded-User: an\x85n\r\n", "no plain text"),
        ("X-Forwarded-User: an\u2028n\r\n", "no plain text"),
    ],
)
async def test_what_is_refused(lines: str, message: str) -> None:
    async with serving(**PROXY) as served:
        answer = await raw(served, lines)
        assert answer.status == 401
        assert message in answer.error["message"]
        assert (await raw(served, f"X-Forwarded-User: {'a' * 256}\r\n")).status == 200


async def test_headers_of_a_stranger_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    options = PROXY | {"trusted_proxies": "10.0.0.0/8"}
    async with serving(**options) as served:
        for _ in range(3):
            answer = await served.get("/who", {**ANN, "X-Forwarded-For": "10.0.0.1"})
            assert answer.status == 401
            assert answer.error["message"] == "Credentials are needed"
    logged = [record.getMessage() for record in caplog.records if "no trusted proxy" in record.getMessage()]
    assert logged == ["127.0.0.1 is no trusted proxy and sends X-Forwarded-User: ann; it is ignored"]


async def test_over_a_unix_socket(tmp_path: Any) -> None:
    path = tmp_path / "taskmon.sock"
    options = {"proxy_preset": "authelia", "roles": "admin=group:ops", "unix_socket": path}
    async with serving(**options) as served:
        found = await whoami(served, {"Remote-User": "ann", "Remote-Groups": "ops", "Remote-Email": "a@b.c"})
        assert (found["user"], found["role"]) == ("ann", "admin")
        assert (await served.get("/who", ANN)).status == 401


async def test_a_proxy_beside_tokens() -> None:
    token, line = new_token("ci", Role.VIEWER)
    async with serving(**PROXY, token=line, basic_auth="bob:pass") as served:
        assert (await whoami(served, {"Authorization": f"Bearer {token}"}))["user"] == "ci"
        assert (await whoami(served, {"Authorization": f"Bearer {token}", **ANN}))["user"] == "ci"
        for wrong in ("Bearer tm_x", f"Bearer {token}0", "Basic !", "Bearer junk", "bearer eyJ.x.y", "Bearer "):
            assert (await served.get("/who", {"Authorization": wrong, **ANN})).status == 401
        for wrong in ("Bearer eyJ.x.y", "Digest x", ""):
            assert (await served.get("/who", {"Authorization": wrong})).status == 401


async def test_a_bearer_that_no_option_checks_is_refused_beside_an_identity(tmp_path: Any) -> None:
    path = tmp_path / "taskmon.sock"
    listen = ("127.0.0.1:0,auth=proxy", f"unix:{path},auth=token")
    async with serving(**PROXY, listen=listen) as served:
        assert (await whoami(served, ANN))["user"] == "ann"
        for wrong in ("Bearer junk", "bearer a.b.c", "Bearer", "BEARER\tjunk"):
            assert (await served.get("/who", {"Authorization": wrong, **ANN})).status == 401


@pytest.mark.parametrize(
    "name",
    [b"ann,bob", b"ann, bob", b"an\xffn", b"\xc3", b"ann\x85", b"ann\x7f", "ann\u0085".encode(), b"\xed\xa0\x80"],
)
async def test_names_that_are_none(name: bytes) -> None:
    async with serving(**PROXY) as served:
        head = b"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-User: " + name + b"\r\n\r\n"
        assert parse(await served.send(head)).status in (400, 401)
        assert (
            await served.get("/who", {"Authorization": "Basic " + b64encode(name + b":x").decode()})
        ).status == 401
        good = b"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-User: \xc3\xbc\r\n\r\n"
        assert parse(await served.send(good)).json()["user"] == "ü"


async def test_each_listener_its_ways(tmp_path: Any) -> None:
    token, line = new_token("ci", Role.VIEWER)
    path = tmp_path / "taskmon.sock"
    challenges: list[str] = []
    listen = ("127.0.0.1:0,auth=token", f"unix:{path},auth=proxy")
    async with serving(listen=listen, proxy_preset="oauth2-proxy", token=line) as served:

        async def over_unix(lines: str) -> int:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(f"GET /api/tasks HTTP/1.0\r\n{lines}\r\n".encode())
            answer = parse(await reader.read())
            challenges[:] = answer.all("WWW-Authenticate")
            await close(writer)
            return answer.status

        bearer = f"Authorization: Bearer {token}"
        assert (await served.get("/api/tasks", {"Authorization": f"Bearer {token}"})).status == 200
        assert (await served.get("/api/tasks", ANN)).status == 401
        assert await over_unix(f"Host: localhost\r\n{bearer}\r\n") == 401
        assert challenges == ['Login realm="taskmon"']
        assert await over_unix("Host: localhost\r\nX-Forwarded-User: ann\r\n") == 200


async def test_a_page_elsewhere_cannot_use_the_proxys_identity() -> None:
    async with serving(**PROXY, public_url="https://mon.example.com") as served:
        for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            answer = await served.request("POST", "/api/tasks/revoke", {**ANN, **foreign}, b"{}")
            assert answer.status == 403
        own = {"Origin": "https://mon.example.com", "Host": "localhost"}
        assert (await served.request("POST", "/api/tasks/revoke", {**ANN, **own}, b"{}")).status == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy_preset": "oauth2-proxy"}, "--trusted-proxies must name the proxy"),
        ({"proxy_user_header": "X-User"}, "--trusted-proxies must name the proxy"),
        ({"proxy_groups_header": "X-Groups", "trusted_proxies": "10.0.0.1"}, "--proxy-user-header must name"),
        (PROXY | {"anonymous_role": "viewer"}, "--anonymous-role must not be on a listener with proxy"),
        ({"proxy_preset": "nginx"}, "--proxy-preset must be"),
        ({"proxy_user_header": "X_User"}, "--proxy-user-header must be the name of a header"),
    ],
)
async def test_settings_that_are_not_enough(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        async with serving(**options):
            pass


async def test_a_header_of_ones_own() -> None:
    options = {"proxy_user_header": "X-Remote-Person", "trusted_proxies": "127.0.0.0/8"}
    async with serving(**options) as served:
        assert (await whoami(served, {"x-remote-person": "ann"}))["user"] == "ann"


async def test_many_people_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.credentials.proxies._MAX_KNOWN", 2)
    async with serving(**PROXY) as served:
        for name in ("a", "b", "c", "a", "c"):
            assert (await whoami(served, {"X-Forwarded-User": name}))["user"] == name


def test_any_headers_give_a_user_or_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    names = st.sampled_from(["X-Forwarded-User", "x-forwarded-email", "X-Forwarded-Groups", "X_Forwarded_User"])
    values = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), max_size=20)

    with asyncio.Runner() as runner:

        async def ask(lines: str) -> Response:
            return await raw(served, lines)

        context = serving(**PROXY)
        served = runner.run(context.__aenter__())

        @given(st.lists(st.tuples(names, values), max_size=4))
        def check(pairs: list[tuple[str, str]]) -> None:
            answer = runner.run(ask("".join(f"{name}: {value}\r\n" for name, value in pairs)))
            assert answer.status in (200, 400, 401)
            if answer.status == 200:
                assert answer.json()["user"].isprintable()

        check()
        runner.run(context.__aexit__(None, None, None))
