"""No secret is ever in the log, whatever the level, and no answer is ever 500, whatever a request says."""

import asyncio
import base64
import json
import logging
from secrets import token_urlsafe
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from issuer import Issuer, Key, claims
from patience import PATIENCE
from serving import AWAY, parse, serving
from tls import make_certificates

from taskmon.auth import Role
from taskmon.credentials.tokens import new_token
from taskmon.settings import Settings, load_settings

KEY = Key("one")
SECRETS = ("s3cret-password", "wrong-horse", "wrong-password", "hunter2")


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"ann:{password}".encode()).decode()


async def test_no_secret_is_in_the_log_at_level_debug(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    caplog.set_level(logging.DEBUG)
    token, line = new_token("ci", Role.ADMIN)
    assertion = KEY.sign(claims())
    async with Issuer(KEY).serving() as issuer:
        options = {
            "broker": AWAY,
            "basic_auth": "ann:s3cret-password",
            "token": line,
            "debug": True,
            "proxy_jwt_header": "X-Assertion",
            "proxy_jwt_issuer": "https://issuer.example.com",
            "proxy_jwt_audience": "taskmon",
            "proxy_jwks_url": issuer.jwks,
            "provider_ca_certs": make_certificates().authority,
        }
        loaded = load_settings(
            {}, {f"TASKMON_{name.upper()}": str(value) for name, value in options.items()}, tmp_path
        )
        logging.getLogger("test").debug("%r %s", loaded.settings, loaded.notes)
        async with serving(**options) as served:
            for headers in (
                {"Authorization": basic("s3cret-password")},
                {"Authorization": basic("wrong-password")},
                {"Authorization": f"Bearer {token}"},
                {"Authorization": f"Bearer {token[:-1]}x"},
                {"X-Assertion": assertion},
                {"X-Assertion": assertion[:-9] + "AAAAAAAA"},
                {"Cookie": "__Host-taskmon=hunter2; taskmon=hunter2"},
            ):
                for method, path in (("GET", "/api/tasks?search=hunter2"), ("POST", "/api/task/send-task/app.add")):
                    body = json.dumps({"kwargs": {"password": "hunter2"}}).encode() if method == "POST" else b""
                    answer = await served.request(
                        method, path, {"Host": "localhost", **headers}, body, anonymous=True
                    )
                    assert answer.status in (200, 401, 403, 503), (headers, answer.body)
            await served.send(
                f"GET /x HTTP/1.1\r\nAuthorization: {basic('s3cret-password')}\r\nbroken\r\n\r\n".encode()
            )
    assert "200 GET" in caplog.text
    for secret in (*SECRETS, token, token.split("_")[2], line.split(":")[1], assertion.split(".")[2]):
        assert secret not in caplog.text
    assert basic("s3cret-password")[6:] not in caplog.text


header = st.sampled_from(
    [
        *("Host", "Authorization", "Cookie", "Origin", "Sec-Fetch-Site", "X-Forwarded-For", "X-Forwarded-User"),
        *("X-Forwarded-Groups", "X-Forwarded-Email", "Content-Type", "Content-Encoding", "Content-Length", "Expect"),
        *("Accept", "X_Forwarded_User", "Access-Control-Request-Method"),
    ]
)
value = st.one_of(
    st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=30),
    st.sampled_from(
        [
            *("localhost", "[::1]:80", "127.0.0.1:x", "a,b", "evil.example", "cross-site", "null", "gzip"),
            *("Basic YTpi", "Basic \x80", "Bearer tm_", "Bearer x.y.z", "bearer  ", "application/json; charset=x"),
            *("multipart/form-data", "100-continue", "2", "-1", "9" * 30, "1, 1", "http://localhost"),
        ]
    ),
)
lines = st.lists(st.tuples(header, value), max_size=6)
path = st.sampled_from(
    ["/api/tasks", "/api/tasks/revoke", "/api/whoami", "/", "/login", "/login/callback", "/logout"]
)


def test_no_headers_make_anything_but_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    options = {
        "proxy_preset": "oauth2-proxy",
        "trusted_proxies": "127.0.0.1",
        "basic_auth": "a:b",
        "cors_origins": "https://dash.example.com",
        "token": new_token("x", Role.VIEWER)[1],
    }
    with asyncio.Runner() as runner:
        context = serving(**options)
        served = runner.run(context.__aenter__())
        one_user = st.just([("Host", "localhost"), ("X-Forwarded-User", "ann")])

        @settings(phases=(Phase.explicit, Phase.generate))
        @given(st.sampled_from(["GET", "POST", "OPTIONS", "PUT", "HEAD"]), path, one_user | st.just([]), lines)
        @example("POST", "/api/tasks/revoke", [("Host", "localhost"), ("X-Forwarded-User", "ann")], [])
        def check(method: str, target: str, known: list[tuple[str, str]], more: list[tuple[str, str]]) -> None:
            head = "".join(f"{name}: {text}\r\n" for name, text in [*known, *more])
            raw = f"{method} {target} HTTP/1.0\r\n{head}\r\n".encode("utf-8", "replace")
            raw = raw.replace(b"\r\n\r\n", b"\r\n\r\n{}", 1) if method == "POST" else raw
            answer = runner.run(asyncio.wait_for(served.send(raw), PATIENCE))
            if answer:
                assert 200 <= parse(answer.partition(b"HTTP/1.1 100 Continue\r\n\r\n")[2] or answer).status < 500

        check()
        runner.run(context.__aexit__(None, None, None))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("query", ["token", "access_token", "authorization", "api_key"])
async def test_credentials_in_a_url_are_none(query: str) -> None:
    token, line = new_token("ci", Role.ADMIN)
    async with serving(token=line) as served:
        for target in (f"/api/tasks?{query}={token}", f"/api/tasks?{query}=Bearer%20{token}"):
            assert (await served.get(target, anonymous=True)).status == 401


def test_settings_show_no_secret() -> None:
    _, line = new_token("ci", Role.ADMIN)
    cookie_secret = f"hunter2{token_urlsafe(32)}"
    shown = repr(Settings(basic_auth="ann:hunter2", token=line, broker=AWAY, cookie_secret=cookie_secret))
    for secret in ("hunter2", line.split(":")[1], "wrong-horse"):
        assert secret not in shown
