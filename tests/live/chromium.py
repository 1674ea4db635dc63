"""A headless Chromium of the tests' own, told what to do over its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from patience import PATIENCE
from processes import Process
from tornado.websocket import WebSocketClientConnection, websocket_connect


class Chromium:
    """A browser with an empty profile that believes every certificate; `page()` opens a tab."""

    def __init__(self, directory: Path) -> None:
        self._profile = directory / "profile"
        # Root needs no-sandbox; the rest keeps it from asking anybody on the network, and small.
        flags = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *(
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
            ),
            *("--ignore-certificate-errors", "--remote-debugging-port=0", f"--user-data-dir={self._profile}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1", "--window-size=900,700"),
        ]
        self._process = Process(
            [self.program() or "", *flags, "about:blank"],
            directory=directory,
            log=directory / "chromium.log",
            environment={**os.environ, "HOME": str(directory)},
        )
        self._port = 0

    @staticmethod
    def program() -> str | None:
        """Give the program, None where it is not installed."""
        return shutil.which("chromium") or shutil.which("chromium-browser")

    def start(self) -> None:
        """Start it and wait until it can be told things."""
        self._process.start()
        told = self._profile / "DevToolsActivePort"
        self._process.wait_until(
            lambda: told.exists() and told.read_text().count("\n"), timeout=PATIENCE, what="Chromium listens"
        )
        self._port = int(told.read_text().split()[0])

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    @asynccontextmanager
    async def page(self) -> AsyncIterator["Tab"]:
        """Open a tab; what a page complains of is in its `complaints`."""
        target = await asyncio.to_thread(self._new_target)
        connection = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 26)
        tab = Tab(connection)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.tell(f"{domain}.enable")
            yield tab
        finally:
            await tab.close()

    def _new_target(self) -> Any:
        with urlopen(
            Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT"), timeout=PATIENCE
        ) as answer:
            return json.load(answer)


class Tab:
    """A tab of a browser."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._loads = 0
        self.complaints: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def tell(self, method: str, **parameters: Any) -> Any:
        """Send a command and give its result."""
        self._number += 1
        answer = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        await self._connection.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        return await answer

    async def go(self, url: str) -> None:
        """Go somewhere, and wait until that page has loaded."""
        before = self._loads
        result = await self.tell("Page.navigate", url=url)
        assert "errorText" not in result, result
        await self._wait_for_load(before)

    async def click(self, selector: str) -> None:
        """Click on what leads to another page, and wait for that."""
        before = self._loads
        await self.ask(f"document.querySelector({json.dumps(selector)}).click()")
        await self._wait_for_load(before)

    async def ask(self, expression: str) -> Any:
        """Give what an expression of JavaScript comes to."""
        result = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def cookies(self) -> dict[str, dict[str, Any]]:
        """Give all cookies of the browser, by name, with their attributes."""
        found = await self.tell("Network.getAllCookies")
        return {cookie["name"]: cookie for cookie in found["cookies"]}

    async def screenshot(self, path: Path) -> None:
        """Write what is to be seen as PNG."""
        picture = await self.tell("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))

    async def close(self) -> None:
        """Leave it, and wait until its connection is closed: the loop may end before that otherwise."""
        self._connection.close()
        await self._reading

    async def _wait_for_load(self, before: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self._loads == before:
                await asyncio.sleep(0.01)

    async def _read(self) -> None:
        while (text := await self._connection.read_message()) is not None:
            message = json.loads(text)
            match message.get("method"):
                case None:
                    answer = self._waiting.pop(message["id"])
                    if "error" in message:
                        answer.set_exception(AssertionError(message["error"]))
                    else:
                        answer.set_result(message["result"])
                case "Page.loadEventFired":
                    self._loads += 1
                case "Log.entryAdded":
                    entry = message["params"]["entry"]
                    self.complaints.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
