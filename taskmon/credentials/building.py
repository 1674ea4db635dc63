"""The authenticators that the settings ask for, in the order in which they are asked."""

from ..auth import AnonymousAuthenticator, Authenticator, Role
from ..settings import Settings
from .basic import BasicAuthenticator
from .sessions import Sessions
from .tokens import TokenAuthenticator, new_token
from .vouching import build_proxy


def build_authenticators(
    settings: Settings, sessions: Sessions | None = None
) -> tuple[tuple[Authenticator, ...], str | None]:
    """Make what the settings ask for; where they ask for nothing, also an admin token to be printed once."""
    generated, lines = None, settings.token
    proxy = build_proxy(settings)
    if not (settings.basic_auth or settings.token or settings.anonymous_role or sessions or proxy):
        generated, line = new_token("generated", Role.ADMIN)
        lines = (line,)
    # A proxy may send a Bearer of its own along: then only what looks like taskmon's is judged here.
    authenticators: list[Authenticator] = [TokenAuthenticator(lines, leave_others=proxy is not None)]
    if settings.basic_auth:
        authenticators.insert(0, BasicAuthenticator(settings.basic_auth))
    if sessions is not None:
        authenticators.append(sessions)
    if proxy is not None:
        authenticators.append(proxy)
    if settings.anonymous_role:
        authenticators.append(AnonymousAuthenticator(Role.parse(settings.anonymous_role)))
    return tuple(authenticators), generated
