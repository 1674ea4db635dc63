"""The login and the sessions that the settings ask for; refuses at the start what lets in too many, or nobody."""

import logging
import secrets
from importlib.util import find_spec
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ..auth import Role
from ..credentials.roles import Admission, Roles
from ..credentials.sessions import Identity, Sessions
from ..errors import InvalidSetting
from ..settings import Settings
from .addresses import find_front
from .attempts import Attempts
from .flow import Login
from .github import GITHUB, GitHubProvider
from .provider import Provider

logger = logging.getLogger(__name__)

_NAMES: Final = {"google": "Google", "gitlab": "GitLab", "okta": "Okta"}
_ISSUERS: Final = {"google": "https://accounts.google.com", "gitlab": "https://gitlab.com", "github": GITHUB}
#: Issuers where anybody can have an account.
_OPEN: Final = frozenset(
    (
        *_ISSUERS.values(),
        "https://appleid.apple.com",
        "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
        "https://www.facebook.com",
        "https://www.linkedin.com/oauth",
    )
)
_NEEDS_PROVIDER: Final = ("auth", "oauth2_key", "oauth2_secret", "oauth2_redirect_uri")


class LoginParts(NamedTuple):
    """Where people log in: the login itself, and the sessions that it begins."""

    login: Login
    sessions: Sessions


def build_login(settings: Settings) -> LoginParts | None:
    """Make what the settings ask for; None where nobody logs in, InvalidSetting where it cannot work."""
    kind = settings.auth_provider or ("oidc" if settings.oidc_issuer else None)
    if kind is None:
        given = next((name for name in _NEEDS_PROVIDER if getattr(settings, name)), None)
        if given is not None:
            raise InvalidSetting("auth_provider", f"must be given with --{given.replace('_', '-')}")
        return None
    if settings.oauth2_key is None:
        raise InvalidSetting("oauth2_key", "must be given where people log in: the client id from the provider")
    # What Flower calls the base URL of Okta may have the path of its endpoints at the end.
    end = {"github": "/", "okta": "/oauth2"}.get(kind, "")
    issuer = (settings.oidc_issuer or _ISSUERS.get(kind, "")).removesuffix(end)
    if not issuer:
        raise InvalidSetting("oidc_issuer", f"must be given with --auth-provider {kind}")
    front = find_front(settings)
    roles = Roles(settings.roles, None if settings.default_role == "none" else Role.parse(settings.default_role))
    _check_bounds(settings, issuer, roles)
    admission = Admission(roles, settings.auth)
    provider = _make_provider(settings, kind, issuer, roles)
    keys = list(settings.cookie_secret) or [secrets.token_urlsafe(32)]
    if not settings.cookie_secret:
        logger.info("Sessions end with this process, as there is no --cookie-secret")

    def role_of(who: Identity) -> Role | None:
        # Another provider may have vouched for a session that outlived a change of the configuration.
        return admission.role_of(who.groups, who.address) if who.issuer == issuer else None

    sessions = Sessions(keys, role_of, secure=front.secure)
    login = Login(provider, Attempts(keys, secure=front.secure), sessions, front)
    return LoginParts(login, sessions)


def _check_bounds(settings: Settings, issuer: str, roles: Roles) -> None:
    """Refuse what would let in everybody who has an account anywhere, or nobody at all."""
    if issuer.rstrip("/") == GITHUB and settings.oidc_hosted_domain:
        raise InvalidSetting("oidc_hosted_domain", "is for Google; GitHub's organisations are groups for --roles")
    if roles.default is None:
        if not settings.roles:
            raise InvalidSetting("default_role", "must not be none where no rule of --roles lets anybody in")
    elif issuer.rstrip("/") in _OPEN and not settings.auth and not settings.oidc_hosted_domain:
        raise InvalidSetting(
            "auth", f"must say who may log in, or --default-role none: everybody can have an account at {issuer}"
        )


def _make_provider(settings: Settings, kind: str, issuer: str, roles: Roles) -> Provider:
    key, ca_certs = settings.oauth2_key or "", settings.provider_ca_certs
    if kind == "github":
        if settings.oauth2_secret is None:
            raise InvalidSetting("oauth2_secret", "must be given with --auth-provider github")
        return GitHubProvider(key, settings.oauth2_secret, roles.groups, url=issuer, ca_certs=ca_certs)
    if find_spec("jwt") is None:
        raise InvalidSetting("auth_provider", "needs PyJWT for this provider: pip install 'celery-taskmon[oidc]'")
    from .openid import Client, OpenIdProvider

    client = Client(
        key,
        settings.oauth2_secret,
        settings.oidc_scope,
        settings.oidc_groups_claim,
        roles.groups,
        settings.oidc_hosted_domain,
    )
    return OpenIdProvider(_NAMES.get(kind) or urlsplit(issuer).netloc, issuer, client, ca_certs)
