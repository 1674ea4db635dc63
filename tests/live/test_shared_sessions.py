"""Sessions that are ended on one taskmon are over on all that share its history in PostgreSQL, and stay so."""

from secrets import token_urlsafe

import pytest
from browsing import SESSION, Scene, openid_scene
from click.testing import CliRunner
from databases import PostgresServer
from patience import PATIENCE
from tornado.gen import sleep

from taskmon.cli import main
from taskmon.history.postgres import PostgresDatabase


async def status(scene: Scene, cookie: str) -> int:
    scene.browser.cookies[SESSION] = cookie
    return (await scene.browser.go("/api/whoami")).status


async def until_refused(scene: Scene, cookie: str) -> None:
    for _ in range(int(PATIENCE * 10)):
        if await status(scene, cookie) == 401:
            return
        await sleep(0.1)
    raise AssertionError("the session goes on")


async def test_sessions_end_on_all_that_share_a_history(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"cookie_secret": (token_urlsafe(32),), "history": postgres.url("history")}
    async with openid_scene(**same) as one:
        issuer = one.provider.url
        async with openid_scene(oidc_issuer=issuer, **same) as other:
            await one.log_in()
            out = one.browser.cookies[SESSION]
            assert await status(other, out) == 200
            assert (await one.browser.go("/logout", "POST")).status == 200
            await until_refused(other, out)
            await one.log_in()
            revoked = one.browser.cookies[SESSION]
            assert await status(other, revoked) == 200
            monkeypatch.setenv("TASKMON_HISTORY", postgres.url("history"))
            result = CliRunner().invoke(main, ["session", "revoke", "ann@example.com"])
            assert result.exit_code == 0, result.output
            for scene in (one, other):
                await until_refused(scene, revoked)
    async with openid_scene(oidc_issuer=issuer, **same) as again:
        for cookie in (out, revoked):
            assert await status(again, cookie) == 401
