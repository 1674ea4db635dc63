"""Logging in and out with a real browser, over TLS, and another site's attempt to do it for somebody."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from browsing import SESSION
from chromium import Chromium
from ports import free_port
from providers import CLIENT, SECRET, Answer, FakeOpenId
from serving import serving
from tls import make_certificates


@asynccontextmanager
async def taskmon_and_provider() -> AsyncIterator[tuple[str, FakeOpenId]]:
    """Run both; give the URL of taskmon."""
    provider = FakeOpenId()
    port, files = free_port(), make_certificates()
    async with (
        provider.serving(),
        serving(
            port=port,
            certfile=files.certificate,
            keyfile=files.key,
            public_url=f"https://localhost:{port}",
            oidc_issuer=provider.url,
            oauth2_key=CLIENT,
            oauth2_secret=SECRET,
            provider_ca_certs=files.authority,
            roles=("operator=address:ann@example.com",),
        ),
    ):
        yield f"https://localhost:{port}", provider


async def test_a_browser_logs_in_and_out(chromium: Chromium) -> None:
    async with taskmon_and_provider() as (url, provider), chromium.page() as tab:
        await tab.go(f"{url}/")
        assert await tab.ask("document.querySelector('h1').textContent") == "Log in"
        await tab.click("a.button")
        assert await tab.ask("location.href") == f"{url}/"
        assert await tab.ask("document.querySelector('h1').textContent") == "ann@example.com"
        assert await tab.ask("document.cookie") == ""
        cookies = await tab.cookies()
        assert cookies.keys() == {SESSION}
        assert (cookies[SESSION]["secure"], cookies[SESSION]["httpOnly"]) == (True, True)
        assert (cookies[SESSION]["sameSite"], cookies[SESSION]["path"]) == ("Lax", "/")
        await tab.go(f"{url}/api/whoami")
        assert '"role":"operator"' in await tab.ask("document.body.innerText")

        page = f"<form method=post action='{url}/logout'><button>win a prize</button></form>".encode()
        provider.answers["/prize"] = Answer(page, headers={"Content-Type": "text/html"})
        for origin in (provider.url, provider.url.replace("localhost", "127.0.0.1")):  # the same site, and another
            await tab.go(f"{origin}/prize")
            await tab.click("button")
            assert await tab.ask("location.href") == f"{url}/logout"
            assert await tab.ask("document.querySelector('h1').textContent") in ("Forbidden", "Log in")
            assert SESSION in await tab.cookies()

        await tab.go(f"{url}/")
        await tab.click("form button")
        assert await tab.ask("document.querySelector('h1').textContent") == "You are logged out"
        assert await tab.cookies() == {}
        await tab.go(f"{url}/")
        assert await tab.ask("document.querySelector('h1').textContent") == "Log in"
        refused = [complaint for complaint in tab.complaints if "Security Policy" in complaint]
        assert not refused
