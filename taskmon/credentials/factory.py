"""The authenticators that the settings ask for, in the order in which they are asked."""

from ..auth import AnonymousAuthenticator, Authenticator, Role
from ..settings import Settings
from .basic import BasicAuthenticator
from .proxy_factory import build_proxy
from .sessions import Sessions
from .token_file import TokenFile
from .tokens import TokenAuthenticator, new_token
from .users import Users


def build_authenticators(
    settings: Settings, sessions: Sessions | None = None
) -> tuple[tuple[Authenticator, ...], str | None]:
    """Make what the settings ask for; where they ask for nothing, also an admin token to be printed once."""
    generated, lines = None, settings.token
    proxy, users = build_proxy(settings), Users(settings)
    has_users = bool(users.passwords or settings.htpasswd)
    file = TokenFile(settings.token_file) if settings.token_file else None
    if not (has_users or settings.token or file or settings.anonymous_role or sessions or proxy):
        generated, line = new_token("generated", Role.ADMIN)
        lines = (line,)
    # Where a proxy signs a Bearer of its own, only what looks like taskmon's is judged here.
    leave_others = bool(getattr(proxy, "reads_bearer", False))
    authenticators: list[Authenticator] = [
        TokenAuthenticator(lines, file, leave_others=leave_others, rate_limit=settings.token_rate_limit)
    ]
    if has_users:
        authenticators.insert(0, BasicAuthenticator(users.passwords, users))
    if sessions is not None:
        authenticators.append(sessions)
    if proxy is not None:
        authenticators.append(proxy)
    if settings.anonymous_role:
        authenticators.append(AnonymousAuthenticator(Role.parse(settings.anonymous_role)))
    return tuple(authenticators), generated
