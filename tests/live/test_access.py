"""A real nginx in front, as docs/authentication.md has it, and a real browser that another site wants to use."""

import asyncio
import json
import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import find_program
from chromium import Chromium
from patience import PATIENCE
from ports import free_port
from processes import Process
from serving import Served, repository, serving
from tls import make_certificates
from tornado.web import Application, RequestHandler

PEOPLE = {
    "ann": {
        "X-Auth-Request-User": "ann",
        "X-Auth-Request-Email": "ann@example.com",
        "X-Auth-Request-Groups": "dev,ops",
    },
    "bob": {"X-Auth-Request-User": "bob"},
    "nobody": {},
}


class Authenticator(RequestHandler):
    """Says of a request by its cookie who it comes from, as oauth2-proxy does."""

    def get(self) -> None:
        who = self.get_cookie("who")
        if self.request.path == "/oauth2/auth":
            self.set_status(202 if who in PEOPLE else 401)
            for name, value in PEOPLE.get(who or "", {}).items():
                self.set_header(name, value)
        else:
            self.finish("please log in")


def nginx_config(directory: Path, port: int, authenticator: int, socket: Path) -> str:
    """Make the configuration of the documentation run here: other ports, other paths, nothing else."""
    text = (repository() / "docs" / "authentication.md").read_text(encoding="utf-8")
    (server,) = re.findall(r"^```nginx\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    files = make_certificates()
    for written, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/nginx/taskmon.pem": str(files.certificate),
        "/etc/nginx/taskmon.key": str(files.key),
        "127.0.0.1:4180": f"127.0.0.1:{authenticator}",
        "/run/taskmon/taskmon.sock": str(socket),
    }.items():
        assert written in server
        server = server.replace(written, here)
    temporary = "\n".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    return (
        f"{user} daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}\n{server}\n}}\n"
    )


@asynccontextmanager
async def behind_nginx(directory: Path) -> AsyncIterator[tuple[Served, int]]:
    program = find_program("nginx")
    if program is None:
        pytest.skip("nginx is not installed (package nginx-light)")
    path, port = directory / "taskmon.sock", free_port()
    judge = Application([(".*", Authenticator)], log_function=lambda _: None).listen(0, "127.0.0.1")
    (listening,) = judge._sockets.values()
    config = directory / "nginx.conf"
    config.write_text(nginx_config(directory, port, listening.getsockname()[1], path))
    nginx = Process(
        [program, "-c", str(config), "-e", "stderr"], directory=directory, log=directory / "nginx.log", environment={}
    )
    options = {"proxy_preset": "nginx-auth-request", "public_url": "https://taskmon.example.com"}
    async with serving(unix_socket=path, roles="admin=group:ops", **options) as served:
        try:
            nginx.start()
            await asyncio.to_thread(
                nginx.wait_until, lambda: (directory / "nginx.pid").exists(), timeout=PATIENCE, what="nginx serves"
            )
            yield served, port
        finally:
            await asyncio.to_thread(nginx.stop)
            judge.stop()
            await judge.close_all_connections()


async def ask(port: int, path: str, who: str | None, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Ask nginx as a browser with that person's cookie would."""
    files = make_certificates()
    tls = ssl.create_default_context(cafile=files.authority)
    given = {"Host": "taskmon.example.com", **({"Cookie": f"who={who}"} if who else {}), **headers}
    request = urllib.request.Request(f"https://localhost:{port}{path}", headers=given, method=method)

    def send() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=tls) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    status, body = await asyncio.to_thread(send)
    return status, json.loads(body) if body.startswith(b"{") else body


async def test_behind_nginx_with_auth_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskmon.audit")
    async with behind_nginx(tmp_path) as (_, port):
        status, me = await ask(port, "/api/whoami", "ann")
        assert (status, me["name"], me["role"], me["email"]) == (200, "ann", "admin", "ann@example.com")
        assert me["authenticated_by"] == "proxy"
        assert (await ask(port, "/api/whoami", "bob"))[1]["role"] == "viewer"

        for lie in (
            {"X-Auth-Request-User": "ann", "X-Auth-Request-Groups": "ops"},
            {"X_Auth_Request_Groups": "ops"},
            {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "ops", "Remote-Groups": "ops"},
            {"Authorization": "Basic YW5uOng="},
        ):
            status, me = await ask(port, "/api/whoami", "bob", **lie)
            assert (status, me["name"], me["role"]) == (200, "bob", "viewer"), lie
        assert (await ask(port, "/api/whoami", "bob", **{"X.Auth.Request.Groups": "ops"}))[0] in (200, 400, 401)

        assert (await ask(port, "/api/whoami", None))[1] == b"please log in"
        assert (await ask(port, "/api/whoami", None, **{"X-Auth-Request-User": "ann"}))[1] == b"please log in"
        assert (await ask(port, "/api/whoami", "nobody"))[0] == 401

        assert (await ask(port, "/api/tasks/revoke", "bob", "POST"))[0] == 403
        assert (await ask(port, "/api/tasks/revoke", "ann", "POST"))[0] == 400
        assert (await ask(port, "/api/tasks/revoke", "ann", "POST", Origin="https://evil.example"))[0] == 403
        own = {"Origin": "https://taskmon.example.com", "X-Forwarded-For": "192.0.2.66"}
        assert (await ask(port, "/api/tasks/revoke", "ann", "POST", **own))[0] == 400
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "taskmon.audit"]
    assert [line["user"] for line in lines] == ["bob", "ann", "ann", "ann"]
    assert {line["client"] for line in lines} == {"127.0.0.1"}
    assert lines[1]["address"] == "ann@example.com"


ATTACK = """<!doctype html><iframe name="hidden"></iframe>
<form id="form" target="hidden" method="post" action="TARGET?workername=w">
<input name="ratelimit" value="1/s"></form>
<script>
window.attack = async () => {
  const said = [];
  document.getElementById("form").submit();
  for (const options of [
    {method: "POST", mode: "no-cors", credentials: "include"},
    {method: "POST", mode: "no-cors", body: "ratelimit=1/s", headers: {"Content-Type": "text/plain"}},
    {method: "POST", body: new URLSearchParams({ratelimit: "1/s"})},
    {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}},
    {method: "GET"},
  ]) {
    try { const answer = await fetch("TARGET", options); said.push(answer.type + answer.status); }
    catch (error) { said.push(error.name); }
  }
  navigator.sendBeacon("TARGET", new URLSearchParams({ratelimit: "1/s"}));
  return said;
};
</script>"""


async def test_a_page_of_another_site_changes_and_reads_nothing(
    chromium: Chromium, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can connect is an operator here, so that only the page's being elsewhere can stop it."""
    caplog.set_level(logging.INFO, "taskmon.audit")
    async with AsyncExitStack() as stack, serving(anonymous_role="operator") as served, chromium.page() as tab:
        target = f"http://127.0.0.1:{served.port}/api/task/rate-limit/app.add"

        class Page(RequestHandler):
            def get(self) -> None:
                self.finish(ATTACK.replace("TARGET", target))

        elsewhere = Application([("/", Page)], log_function=lambda _: None).listen(0, "127.0.0.1")
        (listening,) = elsewhere._sockets.values()
        stack.push_async_callback(elsewhere.close_all_connections)
        stack.callback(elsewhere.stop)
        await tab.go(f"http://localhost:{listening.getsockname()[1]}/")
        said = await tab.ask("window.attack()")
        assert said == ["TypeError"] * 5  # Cross-Origin-Resource-Policy withholds even what a page cannot read

        def lines() -> list[dict[str, Any]]:
            return [json.loads(record.getMessage()) for record in caplog.records if record.name == "taskmon.audit"]

        async with asyncio.timeout(PATIENCE):
            while len(lines()) < 5:
                await asyncio.sleep(0.02)
        assert {(line["decision"], line["status"]) for line in lines()} == {("refused", 403)}
