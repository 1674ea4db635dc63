"""Logging in with GitHub: the numeric id, the verified primary address, organisations and teams."""

import json
from typing import Any

import pytest
from browsing import PUBLIC, SESSION, github_scene
from providers import Answer

ME = "/login?next=/api/whoami"
EVERYBODY = {"auth": ("*@example.com",)}
GROUPS = {"roles": ("viewer=group:acme", "admin=group:acme/ops"), "default_role": "none"}


async def test_logging_in() -> None:
    async with github_scene(**EVERYBODY) as scene:
        page = await scene.log_in(ME)
        assert page.url == f"{PUBLIC}/api/whoami"
        body = json.loads(page.text)
        del body["session_ends"]
        assert body == {
            "name": "ann@example.com",
            "role": "viewer",
            "authenticated_by": "session",
            "issuer": scene.provider.url,
            "subject": "4242",
            "email": "ann@example.com",
            "groups": [],
        }
        assert scene.provider.scopes == ["read:user", "user:email"]
        home = await scene.browser.go("/")
        assert "Logged in with GitHub" in home.text


@pytest.mark.parametrize(
    "emails",
    [
        [],
        [{"email": "ann@example.com", "primary": True, "verified": False}],
        [{"email": "ann@example.com", "primary": False, "verified": True}],
        [{"email": "ann@else.example.org", "primary": True, "verified": True}],
        [{"email": "ann@example.com@else.example.org", "primary": True, "verified": True}],
        [{"email": "ann @example.com", "primary": True, "verified": True}],
    ],
)
async def test_only_the_verified_primary_address_counts(emails: list[dict[str, Any]]) -> None:
    async with github_scene(**EVERYBODY) as scene:
        scene.provider.emails = emails
        page = await scene.log_in()
        assert page.status == 403
        assert not scene.browser.cookies


@pytest.mark.parametrize(
    ("memberships", "role"),
    [
        ({}, None),
        ({"/user/memberships/orgs/acme": "active"}, "viewer"),
        ({"/user/memberships/orgs/acme": "pending"}, None),
        ({"/orgs/acme/teams/ops/memberships/ann": "active"}, "admin"),
        ({"/orgs/acme/teams/ops/memberships/ann": "pending", "/user/memberships/orgs/acme": "active"}, "viewer"),
        ({"/user/memberships/orgs/Acme": "active"}, None),
    ],
)
async def test_organisations_and_teams_are_groups(memberships: dict[str, str], role: str | None) -> None:
    async with github_scene(**GROUPS) as scene:
        scene.provider.memberships = memberships
        page = await scene.log_in(ME)
        assert scene.provider.scopes == ["read:user", "user:email", "read:org"]
        if role is None:
            assert page.status == 403
        else:
            assert f'"role":"{role}"' in page.text


async def test_groups_that_are_none_of_githubs_are_not_asked_for() -> None:
    roles = ("admin=group:../user?x=/ops", "admin=group:../..", "viewer=group:a b", "viewer=group:/celery/admin")
    async with github_scene(roles=roles, default_role="none") as scene:
        assert (await scene.log_in()).status == 403
        assert not [path for path in scene.provider.asked if "memberships" in path]
        assert "read:org" not in scene.provider.scopes


@pytest.mark.parametrize(
    ("path", "answer", "status"),
    [
        ("/login/oauth/access_token", Answer({"error": "bad_verification_code"}), 400),
        ("/login/oauth/access_token", Answer({"error": "bad_verification_code"}, 500), 503),
        ("/login/oauth/access_token", Answer({}), 503),
        ("/login/oauth/access_token", Answer({"access_token": "a b\r\nX: y"}), 503),
        ("/api/v3/user", Answer({"id": "4242", "login": "ann"}), 503),
        ("/api/v3/user", Answer({"id": True, "login": "ann"}), 503),
        ("/api/v3/user", Answer({"id": 0, "login": "ann"}), 400),
        ("/api/v3/user", Answer({"id": 1, "login": "ann\n"}), 400),
        ("/api/v3/user", Answer({}, 401), 503),
        ("/api/v3/user", Answer({}, 403), 503),
        ("/api/v3/user/emails", Answer({}), 503),
        ("/api/v3/user/emails", Answer([], 404), 503),
        ("/api/v3/user/memberships/orgs/acme", Answer({}, 500), 503),
        ("/api/v3/user/memberships/orgs/acme", Answer({}, 429), 503),
        ("/api/v3/user/memberships/orgs/acme", Answer({}, 418), 503),
        ("/api/v3/user/memberships/orgs/acme", Answer("active"), 503),
        ("/api/v3/user/memberships/orgs/acme", Answer({}, 302, {"Location": "https://localhost:1"}), 503),
    ],
)
async def test_answers_that_are_none(path: str, answer: Answer, status: int) -> None:
    async with github_scene(**GROUPS) as scene:
        scene.provider.memberships = {"/orgs/acme/teams/ops/memberships/ann": "active"}
        scene.provider.answers[path] = answer
        page = await scene.log_in()
        assert page.status == status, page.text
        assert 'href="/login">Try again</a>' in page.text
        assert SESSION not in scene.browser.cookies


async def test_choosing_an_account() -> None:
    async with github_scene(**EVERYBODY) as scene:
        begun = await scene.browser.go("/login?account=choose", follow=False)
        assert "prompt=select_account" in begun.response.headers["Location"]


def test_github_itself() -> None:
    from taskmon.login.github import GITHUB, GitHubProvider

    provider = GitHubProvider("key", "secret")
    assert (provider.issuer, provider._api) == (GITHUB, "https://api.github.com")
    provider.close()
