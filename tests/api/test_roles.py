"""Every route, every role, read-only or not: who gets past `prepare`, from the table of routes itself."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from serving import Response, Served, serving

from taskmon import routes
from taskmon.auth import ROLES, Role
from taskmon.credentials.tokens import new_token
from taskmon.http.base import ApiHandler
from taskmon.routes import ROUTES

TOKENS = {role: new_token(str(role), role) for role in ROLES}
LINES = tuple(line for _, line in TOKENS.values())
WHO: tuple[Role | None, ...] = (None, *ROLES)


def reach(self: ApiHandler, *args: str) -> None:
    self.set_status(299)
    self.finish(b"{}")


@asynccontextmanager
async def serving_shells(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Served]:
    """Serve the routes as they are, but for what happens once somebody has been let in."""
    shells = []
    for path, handler in ROUTES:
        methods = {method: reach for method in ("get", "post") if method in handler.methods()}
        shells.append((path, type(handler.__name__, (handler,), methods)))
    monkeypatch.setattr(routes, "ROUTES", shells)
    async with serving(token=LINES, **options) as served:
        yield served


def cases() -> list[tuple[str, str, type[ApiHandler]]]:
    found = []
    for path, handler in ROUTES:
        for method in handler.methods():
            found.append((method.upper(), re.sub(r"\(.*?\)", "x", path).replace("\\", ""), handler))
    return found


async def ask(served: Served, method: str, path: str, role: Role | None) -> Response:
    headers = {} if role is None else {"Authorization": f"Bearer {TOKENS[role][0]}"}
    return await served.request(method, path, headers)


def expected(method: str, handler: type[ApiHandler], role: Role | None, read_only: bool) -> int:
    """Say what the rules say, from what the handler declares."""
    if handler.public:
        return 299
    if role is None:
        return 401
    if role < handler.role:
        return 403
    return 403 if method == "POST" and read_only and not handler.allowed_when_read_only else 299


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_matrix(monkeypatch: pytest.MonkeyPatch, read_only: bool) -> None:
    async with serving_shells(monkeypatch, read_only=read_only) as served:
        for method, path, handler in cases():
            for role in WHO:
                answer = await ask(served, method, path, role)
                place = (method, path, role, read_only)
                if handler.public and method == "GET":
                    assert answer.status in (299, 302, 303, 401, 404), place
                    continue
                assert answer.status == expected(method, handler, role, read_only), place


def test_who_may_change_what_is_as_the_rules_say() -> None:
    """The table of the rules, by the paths: a route that moves to another role must be moved here too."""
    operators = r"/api/task/(apply|async-apply|send-task|abort|retry|revoke|timeout|rate-limit)/|/api/tasks/revoke"
    for method, path, handler in cases():
        if method == "POST" and not handler.public and not handler.allowed_when_read_only:
            wanted = Role.OPERATOR if re.match(operators, path) else Role.ADMIN
            assert handler.role is wanted, path
            assert wanted is Role.OPERATOR or path.startswith(("/api/worker/", "/api/session/")), path
        if method == "GET" and not handler.public:
            assert handler.role is Role.VIEWER, path


@pytest.mark.parametrize("role", WHO)
async def test_an_anonymous_role_is_like_a_users(monkeypatch: pytest.MonkeyPatch, role: Role | None) -> None:
    if role is None:
        return
    async with serving_shells(monkeypatch, anonymous_role=str(role)) as served:
        for method, path, handler in cases():
            if not handler.public:
                answer = await ask(served, method, path, None)
                assert answer.status == expected(method, handler, role, False), (method, path)
