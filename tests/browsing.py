"""What a browser does with links, redirects and cookies, over real sockets; and taskmon behind a pretended proxy.

A URL of `https://taskmon.example.com` goes to taskmon's own port over HTTP, as a proxy that ends TLS would send it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urljoin, urlsplit

from providers import CALLBACK, CLIENT, SECRET, FakeGitHub, FakeOpenId, Server
from serving import Served, serving
from tls import make_certificates
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

PUBLIC = "https://taskmon.example.com"
SESSION, ATTEMPT = "__Host-taskmon", "__Host-taskmon-login"


@dataclass
class Page:
    """Where a browser has come to, and how."""

    url: str
    response: HTTPResponse
    trail: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        return self.response.code

    @property
    def text(self) -> str:
        return self.response.body.decode()


class Browser:
    """Keeps cookies by host as the rules for `__Host-` say, and follows redirects, ten at the most."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.jar: dict[str, dict[str, str]] = {}
        self._client = SimpleAsyncHTTPClient(force_instance=True)

    @property
    def cookies(self) -> dict[str, str]:
        """Those of taskmon."""
        return self.jar.setdefault(str(urlsplit(PUBLIC).hostname), {})

    async def go(self, url: str, method: str = "GET", follow: bool = True, **headers: str) -> Page:
        """Go somewhere, and on to where one is sent."""
        page = await self._fetch(urljoin(PUBLIC, url), method, headers)
        trail = [page.url]
        while follow and page.status in (301, 302, 303, 307, 308):
            assert len(trail) < 10, trail
            page = await self._fetch(urljoin(page.url, page.response.headers["Location"]), "GET", headers)
            trail.append(page.url)
        page.trail = trail
        return page

    async def _fetch(self, url: str, method: str, headers: dict[str, str]) -> Page:
        parts = urlsplit(url)
        cookies = self.jar.setdefault(str(parts.hostname), {})
        sent = {"Accept": "text/html", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        real = url.partition("#")[0]
        if parts.netloc == urlsplit(PUBLIC).netloc:
            real = f"http://127.0.0.1:{self._port}{parts.path}" + (f"?{parts.query}" if parts.query else "")
            sent["Host"] = parts.netloc
        request = HTTPRequest(
            real,
            method=method,
            body="" if method in ("POST", "PUT") else None,
            headers=sent,
            follow_redirects=False,
            ca_certs=str(make_certificates().authority),
        )
        response = await self._client.fetch(request, raise_error=False)
        for line in response.headers.get_list("Set-Cookie"):
            self._keep(cookies, line)
        return Page(url, response)

    def _keep(self, cookies: dict[str, str], line: str) -> None:
        ((name, morsel),) = SimpleCookie(line).items()
        assert morsel["httponly"], line
        assert morsel["samesite"] == "Lax", line
        assert morsel["path"] == "/", line
        if name.startswith("__Host-"):
            assert morsel["secure"] and not morsel["domain"], line
        assert len(line) < 4096
        if morsel["max-age"] == "0":
            cookies.pop(name, None)
        else:
            cookies[name] = morsel.value

    def close(self) -> None:
        self._client.close()


@dataclass
class Scene:
    """A taskmon, its provider, and a browser."""

    served: Served
    provider: Any
    browser: Browser

    async def log_in(self, path: str = "/login") -> Page:
        """Log in, and give where that ends."""
        return await self.browser.go(path)

    async def callback(self, path: str = "/login") -> str:
        """Go to the provider, and give the URL that it sends the browser back to, without going there."""
        begun = await self.browser.go(path, follow=False)
        assert begun.status == 303, begun.text
        granted = await self.browser.go(begun.response.headers["Location"], follow=False)
        return str(granted.response.headers["Location"])


@asynccontextmanager
async def _scene(server: Server, options: dict[str, Any]) -> AsyncIterator[Scene]:
    async with server.serving():
        settings = {
            "public_url": PUBLIC,
            "oidc_issuer": server.url,
            "oauth2_key": CLIENT,
            "oauth2_secret": SECRET,
            "provider_ca_certs": make_certificates().authority,
            **options,
        }
        async with serving(**settings) as served:
            browser = Browser(served.port)
            try:
                yield Scene(served, server, browser)
            finally:
                browser.close()


def openid_scene(**options: Any) -> Any:
    """Run a taskmon where people log in with an OpenID provider."""
    return _scene(FakeOpenId(), options)


def github_scene(**options: Any) -> Any:
    """Run a taskmon where people log in with GitHub."""
    return _scene(FakeGitHub(), {"auth_provider": "github", **options})


assert CALLBACK.startswith(PUBLIC)
