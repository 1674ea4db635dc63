"""What the settings ask for, Flower's among them, and what is refused at the start."""

import logging
import secrets
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmon.credentials.roles import Admission, Roles
from taskmon.errors import InvalidSetting
from taskmon.login.addresses import CALLBACKS, base_path, find_front
from taskmon.login.factory import build_login
from taskmon.settings import Settings, load_settings

OIDC: dict[str, Any] = {
    "public_url": "https://mon.example.com",
    "oidc_issuer": "https://id.example.com",
    "oauth2_key": "key",
    "oauth2_secret": "a secret that nobody sees",
}


def build(**options: Any) -> Any:
    entrance = build_login(Settings(**(OIDC | options)))
    if entrance is not None:
        entrance.login.close()
    return entrance


@pytest.mark.parametrize(
    ("options", "provider"),
    [
        ({}, "id.example.com"),
        ({"auth_provider": "oidc"}, "id.example.com"),
        ({"auth_provider": "okta"}, "Okta"),
        ({"auth_provider": "gitlab", "oidc_issuer": "https://git.example.com"}, "GitLab"),
        ({"auth_provider": "gitlab", "oidc_issuer": None, "auth": ("@example.com",)}, "GitLab"),
        ({"auth_provider": "google", "oidc_issuer": None, "oidc_hosted_domain": ("example.com",)}, "Google"),
        ({"auth_provider": "github", "oidc_issuer": None, "auth": ("ann@example.com",)}, "GitHub"),
        ({"auth_provider": "github", "oidc_issuer": "https://git.example.com/"}, "GitHub"),
        ({"oauth2_secret": None}, "id.example.com"),
    ],
)
def test_providers(options: dict[str, Any], provider: str) -> None:
    assert build(**options).login.provider == provider


def test_without_one_there_is_no_login() -> None:
    assert build_login(Settings()) is None
    assert build_login(Settings(cookie_secret=(secrets.token_urlsafe(32),), roles=("admin=group:ops",))) is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"oauth2_key": None}, "--oauth2-key must be given"),
        ({"public_url": None}, "--public-url must be given where people log in"),
        ({"public_url": "http://mon.example.com"}, "--public-url must begin with https://"),
        ({"oauth2_redirect_uri": "http://mon.example.com/login"}, "--oauth2-redirect-uri must begin with https://"),
        ({"oauth2_redirect_uri": "https://mon.example.com/"}, "--oauth2-redirect-uri must end in"),
        (
            {"oauth2_redirect_uri": "https://else.example.com/login"},
            "--oauth2-redirect-uri must begin with the --pub",
        ),
        (
            {"oauth2_redirect_uri": "https://mon.example.com/x/login"},
            "--oauth2-redirect-uri must begin with the --pub",
        ),
        ({"oidc_issuer": None, "auth_provider": "okta"}, "--oidc-issuer must be given with --auth-provider okta"),
        ({"oidc_issuer": None, "auth_provider": "google"}, "--auth must say who may log in"),
        ({"oidc_issuer": "https://accounts.google.com"}, "--auth must say who may log in"),
        ({"oidc_issuer": None, "auth_provider": "github"}, "--auth must say who may log in"),
        ({"oidc_issuer": None, "auth_provider": "gitlab"}, "--auth must say who may log in"),
        (
            {"oidc_issuer": None, "auth_provider": "github", "oidc_hosted_domain": ("a.org",)},
            "--oidc-hosted-domain is",
        ),
        ({"auth_provider": "github", "oauth2_secret": None}, "--oauth2-secret must be given"),
        ({"default_role": "none"}, "--default-role must not be none"),
        ({"oidc_issuer": None, "auth": ("ann@example.com",)}, "--auth-provider must be given with --auth"),
        ({"oidc_issuer": None}, "--auth-provider must be given with --oauth2-key"),
        ({"provider_ca_certs": Path("/nowhere.pem")}, "--provider-ca-certs must be"),
        ({"auth_provider": "myspace"}, "--auth-provider must be google, github"),
        ({"oidc_issuer": "http://id.example.com"}, "--oidc-issuer must be a URL that begins with https://"),
        ({"oidc_issuer": "https://id.example.com?x=1"}, "--oidc-issuer must be"),
        ({"oidc_scope": "email"}, "--oidc-scope must be scopes"),
        ({"oidc_groups_claim": "a b"}, "--oidc-groups-claim must be"),
        ({"cookie_secret": ("short",)}, "--cookie-secret must be at least 32 bytes long"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        build(**options)
    assert str(caught.value).startswith(sentence)
    assert "nobody sees" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.login.factory.find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match=r"pip install 'celery-taskmon\[oidc\]'"):
        build()
    assert build(auth_provider="github", oidc_issuer="https://git.example.com")


def test_without_a_secret_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    build(cookie_secret=(secrets.token_urlsafe(32),))
    assert not caplog.records
    build()
    assert caplog.messages == ["Sessions end with this process, as there is no --cookie-secret"]


def test_no_secret_shows_in_the_settings() -> None:
    hidden = secrets.token_urlsafe(32)
    shown = repr(Settings(**OIDC, cookie_secret=(hidden,)))
    assert hidden not in shown
    assert "nobody sees" not in shown


# Flower's options


def test_variables_of_flower_are_enough(tmp_path: Path) -> None:
    environ = {
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
        "FLOWER_AUTH": r".*@example\.com|bob@example.org",
        "FLOWER_OAUTH2_KEY": "key",
        "FLOWER_OAUTH2_SECRET": "secret",
        "FLOWER_OAUTH2_REDIRECT_URI": "https://flower.example.com/login",
        "FLOWER_COOKIE_SECRET": secrets.token_urlsafe(32),
    }
    settings = load_settings({}, environ, tmp_path).settings
    assert settings.auth == ("@example.com", "bob@example.org")
    entrance = build_login(settings)
    assert entrance is not None
    assert entrance.login.provider == "GitHub"
    assert entrance.sessions.cookie.name == "__Host-taskmon"
    entrance.login.close()


@pytest.mark.parametrize(
    ("environ", "issuer"),
    [
        ({"FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler"}, "https://github.com"),
        ({"FLOWER_AUTH_PROVIDER": "github", "FLOWER_GITHUB_OAUTH_DOMAIN": "github.com"}, "https://github.com"),
        (
            {
                "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
                "FLOWER_GITHUB_OAUTH_DOMAIN": "g.org",
            },
            "https://g.org",
        ),
        (
            {
                "FLOWER_AUTH_PROVIDER": "flower.views.auth.GitLabLoginHandler",
                "FLOWER_GITLAB_OAUTH_DOMAIN": "g.org",
            },
            "https://g.org",
        ),
        ({"FLOWER_AUTH_PROVIDER": "google", "FLOWER_GITLAB_OAUTH_DOMAIN": "x"}, "https://accounts.google.com"),
        (
            {"FLOWER_AUTH_PROVIDER": "okta", "FLOWER_OAUTH2_OKTA_BASE_URL": "https://o.example.com/oauth2"},
            "https://o.example.com",
        ),
        (
            {"FLOWER_AUTH_PROVIDER": "okta", "FLOWER_OAUTH2_OKTA_BASE_URL": "https://o.example.com/oauth2/default"},
            "https://o.example.com/oauth2/default",
        ),
    ],
)
def test_where_flower_finds_a_provider(environ: dict[str, str], issuer: str, tmp_path: Path) -> None:
    flags = {
        "oauth2_key": "key",
        "oauth2_secret": "x",
        "public_url": "https://mon.example.com",
        "auth": "a@example.com",
    }
    entrance = build_login(load_settings(flags, environ, tmp_path).settings)
    assert entrance is not None
    assert entrance.login._provider.issuer == issuer
    entrance.login.close()


def test_a_restriction_of_flower_is_not_lost(tmp_path: Path) -> None:
    environ = {
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GitLabLoginHandler",
        "FLOWER_GITLAB_AUTH_ALLOWED_GROUPS": "ops",
    }
    with pytest.raises(InvalidSetting, match="--roles must say who may come in"):
        load_settings({}, environ, tmp_path)
    assert load_settings({"roles": ("viewer=group:ops",)}, environ, tmp_path).settings.roles


@pytest.mark.parametrize(
    ("handler", "name"),
    [("GoogleAuth2", "google"), ("Github", "github"), ("GitLab", "gitlab"), ("Okta", "okta")],
)
def test_handlers_of_flower(handler: str, name: str) -> None:
    assert Settings(auth_provider=f"flower.views.auth.{handler}LoginHandler").auth_provider == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("ann@example.com", ("ann@example.com",)),
        ("Ann@Example.com, bob@example.org", ("ann@example.com", "bob@example.org")),
        ("ann@example.com|bob@example.org", ("ann@example.com", "bob@example.org")),
        (r"ann\.b@example\.com", ("ann.b@example.com",)),
        (r"^.*@example\.com$", ("@example.com",)),
        (".*@example.com", ("@example.com",)),
        (".+@example.com", ("@example.com",)),
        ("*@example.com", ("@example.com",)),
        ("@example.com", ("@example.com",)),
        ("ann+x@example.com", ("ann+x@example.com",)),
    ],
)
def test_patterns_of_flower(text: str, allowed: tuple[str, ...]) -> None:
    settings = Settings(auth=text)  # type: ignore[arg-type]
    assert settings.auth == allowed
    assert Settings(auth=settings.auth).auth == allowed


@pytest.mark.parametrize(
    "text",
    [
        *(".*", "*", "ann", "a.*@example.com", "(ann|bob)@example.com", "[ab]@example.com", "ann@.*"),
        *(r"ann@example\.(com|org)", "ann?@example.com", "a{2}@example.com", r"\w+@example.com"),
        *("a@b@example.com", "ann@ex ample.com", "é@example.com"),
    ],
)
def test_other_patterns_are_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="--auth must list addresses"):
        Settings(auth=(text,))


@given(st.from_regex(r"[a-z.+*\\\[\]()|?^$]{1,8}@[a-z.\\*]{1,8}", fullmatch=True), st.emails())
def test_what_is_taken_lets_in_no_more_than_it_says(text: str, address: str) -> None:
    try:
        allowed = Settings(auth=text).auth  # type: ignore[arg-type]
    except InvalidSetting:
        return
    let_in = Admission(Roles((), default=None), allowed)
    assert let_in.role_of([], address) is None
    for entry in allowed:
        assert entry.count("@") == 1
        assert not set("*\\[](){}|?^$") & set(entry)


# Where browsers reach it


@pytest.mark.parametrize(
    ("options", "uri", "base", "secure"),
    [
        ({"public_url": "https://x.org"}, "https://x.org/login/callback", "", True),
        ({"public_url": "https://x.org/mon/"}, "https://x.org/mon/login/callback", "/mon", True),
        ({"oauth2_redirect_uri": "https://x.org/mon/login"}, "https://x.org/mon/login", "/mon", True),
        ({"public_url": "http://localhost:5555"}, "http://localhost:5555/login/callback", "", False),
        ({"public_url": "http://127.0.0.1:5555"}, "http://127.0.0.1:5555/login/callback", "", False),
        ({"public_url": "http://[::1]:5555"}, "http://[::1]:5555/login/callback", "", False),
        (
            {"public_url": "https://X.org", "oauth2_redirect_uri": "https://x.org/login"},
            "https://x.org/login",
            "",
            True,
        ),
    ],
)
def test_the_front(options: dict[str, Any], uri: str, base: str, secure: bool) -> None:
    front = find_front(Settings(**options))
    assert front == (uri, base, secure)
    assert base_path(Settings(**options)) == base


def test_the_base_without_a_login() -> None:
    assert base_path(Settings(url_prefix="/mon")) == "/mon"
    assert base_path(Settings(url_prefix="/mon", oauth2_redirect_uri="https://x.org/odd")) == "/mon"
    assert all(path.startswith("/login") for path in CALLBACKS)
