"""Logging in with an OpenID provider that behaves, over real sockets with a browser's cookies."""

from pathlib import Path
from secrets import token_urlsafe
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import ATTEMPT, PUBLIC, SESSION, Browser, Page, openid_scene
from issuer import Key
from providers import CALLBACK, CLIENT, Answer
from serving import serving

from taskmon.auth import Role
from taskmon.credentials.tokens import new_token

ME = "/login?next=/api/whoami"


def me(page: Page) -> dict[str, object]:
    """Read what `/api/whoami` answers."""
    import json

    assert page.status == 200, page.text
    assert page.url == f"{PUBLIC}/api/whoami"
    body: dict[str, object] = json.loads(page.text)
    return body


async def test_logging_in_and_out() -> None:
    async with openid_scene(roles=("operator=address:ann@example.com",)) as scene:
        home = await scene.browser.go("/")
        assert home.status == 401
        assert '<a class="button" href="/login">Log in with localhost:' in home.text
        body = me(await scene.log_in(ME))
        ends = body.pop("session_ends")
        assert isinstance(ends, float)
        assert body == {
            "name": "ann@example.com",
            "role": "operator",
            "authenticated_by": "session",
            "issuer": scene.provider.url,
            "subject": "1001",
            "email": "ann@example.com",
            "groups": [],
        }
        assert set(scene.browser.cookies) == {SESSION}
        home = await scene.browser.go("/")
        assert home.status == 200
        assert "<h1>ann@example.com</h1>" in home.text
        cookie = scene.browser.cookies[SESSION]
        out = await scene.browser.go("/logout", "POST")
        assert (out.status, scene.browser.cookies) == (200, {})
        scene.browser.cookies[SESSION] = cookie
        assert (await scene.browser.go("/api/whoami")).status == 401


async def test_what_the_provider_is_asked() -> None:
    async with openid_scene() as scene:
        begun = await scene.browser.go("/login", follow=False)
        asked = parse_qs(urlsplit(begun.response.headers["Location"]).query)
        assert asked["redirect_uri"] == [CALLBACK]
        assert asked["scope"] == ["openid email profile"]
        assert asked["client_id"] == [CLIENT]
        assert asked["code_challenge_method"] == ["S256"]
        for name in ("state", "nonce", "code_challenge"):
            (value,) = asked[name]
            assert len(value) >= 43
        again = await scene.browser.go("/login", follow=False)
        other = parse_qs(urlsplit(again.response.headers["Location"]).query)
        assert not {*asked["state"], *asked["nonce"], *asked["code_challenge"]} & {
            *other["state"],
            *other["nonce"],
            *other["code_challenge"],
        }
        assert "prompt" not in asked
        choosing = await scene.browser.go("/login?account=choose", follow=False)
        assert "prompt=select_account" in choosing.response.headers["Location"]


async def test_a_login_comes_back_to_where_flower_had_it() -> None:
    async with openid_scene(public_url=None, oauth2_redirect_uri=f"{PUBLIC}/login") as scene:
        assert me(await scene.log_in(ME))["subject"] == "1001"
        assert (await scene.browser.go("/login?state=x")).status == 400


async def test_behind_a_proxy_that_strips_the_path() -> None:
    async with openid_scene(public_url=f"{PUBLIC}/mon") as scene:
        begun = await scene.browser.go("/login?next=/mon/api/whoami", follow=False)
        location = begun.response.headers["Location"]
        assert parse_qs(urlsplit(location).query)["redirect_uri"] == [f"{PUBLIC}/mon/login/callback"]
        granted = await scene.browser.go(location, follow=False)
        back = granted.response.headers["Location"].replace(f"{PUBLIC}/mon", PUBLIC)
        done = await scene.browser.go(back, follow=False)
        assert (done.status, done.response.headers["Location"]) == (303, "/mon/api/whoami")
        home = await scene.browser.go("/")
        assert 'action="/mon/logout"' in home.text


async def test_a_prefix() -> None:
    async with openid_scene(public_url=f"{PUBLIC}/mon", url_prefix="/mon") as scene:
        assert (await scene.log_in("/mon/login")).url == f"{PUBLIC}/mon/"
        assert (await scene.browser.go("/mon")).status == 200


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({}, "viewer"),
        ({"groups": ["ops", "x"]}, "admin"),
        ({"groups": "ops"}, "admin"),
        ({"groups": ["Ops", "ops,x", " ops", {"ops": 1}, None, 5]}, "viewer"),
        ({"groups": {"ops": True}}, "viewer"),
        ({"email": "Bob@EXAMPLE.org"}, "operator"),
        ({"email": "bob@sub.example.org"}, "viewer"),
    ],
)
async def test_groups_and_addresses_become_roles(claims: dict[str, object], role: str) -> None:
    async with openid_scene(roles=("admin=group:ops", "operator=domain:example.org")) as scene:
        scene.provider.claims |= claims
        assert me(await scene.log_in(ME))["role"] == role


async def test_groups_below_a_path() -> None:
    async with openid_scene(roles=("admin=group:ops",), oidc_groups_claim="realm_access.roles") as scene:
        scene.provider.claims["realm_access"] = {"roles": ["ops"]}
        assert me(await scene.log_in(ME))["groups"] == ["ops"]
        scene.provider.claims["realm_access"] = ["ops"]
        assert me(await scene.log_in(ME))["groups"] == []


@pytest.mark.parametrize("verified", [False, None, "true", 1, "absent"])
async def test_an_address_counts_only_when_it_is_verified(verified: object) -> None:
    async with openid_scene(roles=("admin=address:ann@example.com",)) as scene:
        scene.provider.claims["email_verified"] = verified
        if verified == "absent":
            del scene.provider.claims["email_verified"]
        # Another document that says so does not help.
        scene.provider.userinfo = {"email_verified": True}
        body = me(await scene.log_in(ME))
        assert (body["role"], body["email"], body["name"]) == ("viewer", None, "1001")


async def test_what_the_id_token_lacks_is_in_the_userinfo() -> None:
    async with openid_scene(roles=("admin=group:ops",)) as scene:
        scene.provider.claims = {"sub": "1001"}
        scene.provider.userinfo = {"email": "ann@example.com", "email_verified": True, "groups": ["ops"]}
        body = me(await scene.log_in(ME))
        assert (body["role"], body["email"]) == ("admin", "ann@example.com")
        scene.provider.userinfo = {"sub": "1002", "groups": ["ops"]}
        page = await scene.log_in()
        assert page.status == 400
        assert "different people" in page.text
        scene.provider.answers["/userinfo"] = Answer({}, 403)
        assert (await scene.log_in()).status == 503


async def test_who_may_log_in() -> None:
    async with openid_scene(auth=("ann@example.com", "*@example.org"), roles=("operator=group:ops",)) as scene:
        assert me(await scene.log_in(ME))["role"] == "viewer"
        for claims in ({"email": "bob@example.com"}, {"email_verified": False}, {"email": "ann@sub.example.org"}):
            with_these = {"sub": "1002", "email": "ann@example.com", "email_verified": True, **claims}
            scene.provider.claims = with_these
            scene.browser.cookies.clear()
            page = await scene.log_in()
            assert page.status == 403
            assert 'href="/login?account=choose"' in page.text
            assert not scene.browser.cookies
        scene.provider.claims = {"sub": "1003", "groups": ["ops"]}
        assert me(await scene.log_in(ME))["role"] == "operator"


async def test_without_a_default_only_those_of_the_rules_come_in() -> None:
    async with openid_scene(roles=("viewer=group:ops",), default_role="none") as scene:
        page = await scene.log_in()
        assert page.status == 403
        assert "ann@example.com may not use taskmon" in page.text


async def test_a_workspace_domain() -> None:
    async with openid_scene(oidc_hosted_domain=("example.com",)) as scene:
        begun = await scene.browser.go("/login", follow=False)
        assert "hd=example.com" in begun.response.headers["Location"]
        for domain in (None, "example.org", ["example.com"], "Example.com"):
            scene.provider.claims["hd"] = domain
            page = await scene.log_in()
            assert page.status == 400
            assert "no organisation that may log in" in page.text
        scene.provider.claims["hd"] = "example.com"
        assert me(await scene.log_in(ME))["subject"] == "1001"


async def test_keys_of_the_provider_rotate() -> None:
    async with openid_scene() as scene:
        await scene.log_in()
        scene.provider.keys.insert(0, Key("second"))
        # The unknown kid would be fetched a minute later: old keys go on until then.
        scene.provider.forge = lambda claims: scene.provider.keys[1].sign(claims)
        assert me(await scene.log_in(ME))["subject"] == "1001"


async def test_a_public_client_has_no_secret() -> None:
    async with openid_scene(oauth2_secret=None) as scene:
        scene.provider.secret = None
        assert me(await scene.log_in(ME))["subject"] == "1001"


async def test_a_secret_goes_into_the_form_where_the_provider_wants_it_there() -> None:
    async with openid_scene() as scene:
        scene.provider.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
        assert me(await scene.log_in(ME))["subject"] == "1001"


async def test_a_second_login_ends_the_first_session() -> None:
    async with openid_scene() as scene:
        await scene.log_in()
        first = scene.browser.cookies[SESSION]
        await scene.log_in()
        assert scene.browser.cookies[SESSION] != first
        scene.browser.cookies[SESSION] = first
        assert (await scene.browser.go("/api/whoami")).status == 401


async def test_a_session_goes_on_elsewhere_with_the_same_secret() -> None:
    secret, fresh = token_urlsafe(32), token_urlsafe(32)
    async with openid_scene(cookie_secret=(secret,)) as scene:
        await scene.log_in()
        cookie, issuer = scene.browser.cookies[SESSION], scene.provider.url
    for keys, status in (((fresh, secret), 200), ((fresh,), 401), ((), 401)):
        async with openid_scene(cookie_secret=keys, oidc_issuer=issuer) as scene:
            scene.browser.cookies[SESSION] = cookie
            assert (await scene.browser.go("/api/whoami")).status == status


async def test_ended_sessions_stay_ended_after_a_restart(tmp_path: Path) -> None:
    token, line = new_token("admin", Role.ADMIN)
    same = {"cookie_secret": (token_urlsafe(32),), "session_file": tmp_path / "sessions", "token": line}
    bearer = {"Authorization": f"Bearer {token}"}
    cookies = []
    async with openid_scene(**same) as scene:
        issuer = scene.provider.url
        await scene.log_in()
        cookies.append(scene.browser.cookies[SESSION])
        assert (await scene.browser.go("/logout", "POST")).status == 200
        await scene.log_in()
        cookies.append(scene.browser.cookies[SESSION])
        scene.browser.cookies.clear()
        revoke = "/api/session/revoke"
        assert (await scene.served.request("POST", revoke, bearer, b"{}")).status == 400
        answer = await scene.served.request("POST", revoke, bearer, b'{"user": "ANN@example.com"}')
        assert (answer.status, answer.json()) == (200, {"message": "Ended all sessions of 'ANN@example.com'"})
    async with openid_scene(**{"oidc_issuer": issuer, **same}) as scene:
        for cookie in cookies:
            scene.browser.cookies[SESSION] = cookie
            assert (await scene.browser.go("/api/whoami")).status == 401


async def test_without_a_provider_there_is_no_session_to_end() -> None:
    token, line = new_token("admin", Role.ADMIN)
    async with serving(token=line) as served:
        headers = {"Authorization": f"Bearer {token}"}
        answer = await served.request("POST", "/api/session/revoke", headers, b'{"user": "ann"}')
        assert answer.status == 409
        assert "no provider is set up" in answer.error["message"]


async def test_a_session_ends_where_the_settings_no_longer_allow_it() -> None:
    same = {"cookie_secret": (token_urlsafe(32),)}
    async with openid_scene(**same) as scene:
        await scene.log_in()
        cookie, issuer = scene.browser.cookies[SESSION], scene.provider.url
    for options, status in (
        ({}, 200),
        ({"auth": ("ann@example.com",)}, 200),
        ({"auth": ("bob@example.com",)}, 401),
        ({"roles": ("viewer=group:ops",), "default_role": "none"}, 401),
        ({"oidc_issuer": "https://else.example.com"}, 401),
    ):
        async with openid_scene(**{"oidc_issuer": issuer, **same, **options}) as scene:
            scene.browser.cookies[SESSION] = cookie
            assert (await scene.browser.go("/api/whoami")).status == status, options


async def test_a_listener_without_sessions_has_no_login() -> None:
    async with openid_scene(token=(new_token("t", Role.VIEWER)[1],), listen=("127.0.0.1:0,auth=token",)) as scene:
        for path, method in (("/login", "GET"), ("/login/callback?code=x&state=y", "GET")):
            assert (await scene.browser.go(path, method)).status == 404
        page = await scene.browser.go("/")
        assert page.status == 401
        assert "/login" not in page.text
        scene.browser.cookies[SESSION] = "wrong"
        assert (await scene.browser.go("/api/tasks")).status == 401
    async with openid_scene(listen=("127.0.0.1:0,auth=session",)) as scene:
        assert me(await scene.log_in(ME))["subject"] == "1001"
        assert (await scene.browser.go("/api/tasks", Authorization="Bearer x")).status == 401


async def test_the_api_never_redirects() -> None:
    async with openid_scene() as scene:
        for headers in ({}, {"Accept": "text/html"}, {"Sec_Fetch_Mode": "navigate"}):
            for path in ("/api/tasks", "/metrics", "/api/whoami", "/nothing"):
                page = await scene.browser.go(path, **headers)
                assert page.status == 401
                assert page.response.headers["Content-Type"].startswith("application/json")
                assert page.trail == [f"{PUBLIC}{path}"]


async def test_a_wrong_session_is_wrong_whatever_else_there_is() -> None:
    async with openid_scene(anonymous_role="viewer") as scene:
        assert (await scene.browser.go("/api/whoami")).status == 200
        scene.browser.cookies[SESSION] = "wrong"
        assert (await scene.browser.go("/api/whoami")).status == 401
        page = await scene.browser.go("/")
        assert page.status == 401
        assert not scene.browser.cookies
        page = await scene.browser.go("/")
        assert page.status == 200
        assert 'href="/login"' in page.text


async def test_a_page_with_a_link_asks_for_no_password() -> None:
    async with openid_scene(basic_auth=("user:pass",)) as scene:
        page = await scene.browser.go("/")
        assert page.response.headers.get_list("WWW-Authenticate") == ['Bearer realm="taskmon"']
        api = await scene.browser.go("/api/tasks")
        assert len(api.response.headers.get_list("WWW-Authenticate")) == 2


async def test_where_only_tokens_are_set_up_the_page_says_how_to_get_in() -> None:
    from serving import serving

    async with serving() as served:
        home = await served.get("/", anonymous=True)
        assert home.status == 401
        assert b"A browser cannot send a token" in home.body
        assert b"/login" not in home.body


async def test_without_a_provider_nobody_logs_in() -> None:
    from serving import serving

    async with serving(basic_auth=("user:pass",)) as served:
        for method, path in (("GET", "/login"), ("GET", "/login/callback?code=x&state=y")):
            answer = await served.request(method, path)
            assert answer.status == 404
        home = await served.get("/")
        assert home.status == 401
        assert len(home.all("WWW-Authenticate")) == 2
        assert b"/login" not in home.body
        assert b"--basic-auth" not in home.body
        headers = {"Authorization": "Basic dXNlcjpwYXNz"}
        assert (await served.request("POST", "/logout", headers)).status == 404
        home = await served.get("/", headers)
        assert home.status == 200
        assert b"/logout" not in home.body


async def test_logging_out_needs_a_session_and_no_other_site_can() -> None:
    async with openid_scene(read_only=True) as scene:
        assert (await scene.browser.go("/logout", "POST")).status == 401
        await scene.log_in()
        assert (await scene.browser.go("/logout")).status == 405
        page = await scene.browser.go(
            "/logout", "POST", Sec_Fetch_Site="cross-site", Origin="https://else.example.org"
        )
        assert page.status == 403
        assert (await scene.browser.go("/api/whoami")).status == 200
        assert (await scene.browser.go("/logout", "POST", Sec_Fetch_Site="same-origin")).status == 200
        assert not scene.browser.cookies


async def test_an_answer_takes_no_session_away_that_did_not_come_along() -> None:
    async with openid_scene() as scene:
        for path, method in (("/login", "GET"), ("/logout", "POST"), ("/", "GET"), ("/login/callback", "GET")):
            page = await scene.browser.go(path, method, follow=False)
            assert not any(line.startswith(f"{SESSION}=") for line in page.response.headers.get_list("Set-Cookie"))


async def test_the_login_is_not_served_under_other_names() -> None:
    async with openid_scene() as scene:
        for path in ("/login", "/login/callback?code=x&state=y", "/"):
            answer = await scene.served.request("GET", path, {"Host": "else.example.com"})
            assert answer.status == 421
            assert answer.header("Location") is None
            assert answer.header("Set-Cookie") is None or "Max-Age=0" in str(answer.header("Set-Cookie"))


async def test_pages_are_strict() -> None:
    async with openid_scene() as scene:
        await scene.log_in()
        for path in ("/", "/login?state=x"):
            page = await scene.browser.go(path)
            policy = page.response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "script-src" not in policy
            assert "<script" not in page.text
            assert page.response.headers["Cache-Control"] == "no-store"
            assert page.response.headers["X-Content-Type-Options"] == "nosniff"
            assert page.response.headers["Referrer-Policy"] == "no-referrer"


async def test_what_a_provider_says_is_escaped() -> None:
    name = "<b>&\"'</b>"
    async with openid_scene(default_role="none", roles=("viewer=group:x",)) as scene:
        scene.provider.claims = {"sub": name}
        page = await scene.log_in()
        assert page.status == 403
        assert "<b>" not in page.text
        assert "&lt;b&gt;&amp;&quot;&#x27;&lt;/b&gt; may not" in page.text.replace("&#39;", "&#x27;")


async def test_an_attempt_belongs_to_the_browser_in_which_it_began() -> None:
    async with openid_scene() as scene:
        back = await scene.callback()
        other = Browser(scene.served.port)
        page = await other.go(back)
        assert page.status == 400
        assert "no cookie of an attempt" in page.text
        other.close()
        assert ATTEMPT in scene.browser.cookies
        assert (await scene.browser.go(back)).status == 200
