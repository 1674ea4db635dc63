"""Who a trusted proxy says is there, in headers of its own. Event loop only."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..auth import User, authorization, client_of, is_trusted, printable
from ..errors import AuthenticationFailed, MalformedCredentials
from ..settings import is_name
from .identity import check_spelling, make_user, read_groups, read_single
from .roles import Roles

if TYPE_CHECKING:
    from tornado.httputil import HTTPHeaders, HTTPServerRequest

logger = logging.getLogger(__name__)

_WARN_EVERY: Final = 60.0
_MAX_KNOWN: Final = 1024


class ProxyAuthenticator:
    """Believes the headers that one proxy sends, from peers that are trusted; one name each, no fallback list.

    From others they are ignored, and logged once a minute. A trusted peer that names nobody is refused.
    """

    kind = "proxy"
    challenge: str | None = None

    def __init__(
        self,
        user: str,
        email: str | None,
        groups: str | None,
        roles: Roles,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._user, self._email, self._groups, self._roles = user, email, groups, roles
        self._names = frozenset(name.lower() for name in (user, email, groups) if name)
        self._listed = tuple(dict.fromkeys(name for name in (user, email, groups) if name))
        self._known: dict[tuple[str, ...], User] = {}
        self._clock = clock
        self._warn_after = float("-inf")

    def authenticate(self, request: "HTTPServerRequest") -> User | None:
        """Give the user that a trusted proxy names; raise AuthenticationFailed where it does not name exactly one."""
        headers = request.headers
        if not is_trusted(request):
            self._watch(request)
            return None
        # Whoever checks a Bearer is asked before; Basic may be what the proxy itself asked for.
        if (authorization(request) or "").lower().split()[:1] == ["bearer"]:
            raise AuthenticationFailed(
                "The bearer token beside the proxy's headers is checked by no option; send none"
            )
        check_spelling(headers, self._names)
        values = [headers.get_list(name) for name in self._listed]
        key = tuple(["\0".join(value) for value in values])
        known = self._known.get(key)
        if known is not None:
            return known
        user = self._read(headers)
        if user is None and authorization(request) is not None:
            return None
        if user is None:
            raise AuthenticationFailed("The proxy says nobody's name")
        if len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[key] = user
        return user

    def close(self) -> None:
        """Do nothing: there are no threads."""

    def _read(self, headers: "HTTPHeaders") -> User | None:
        name = read_single(headers, self._user)
        if name is not None and not is_name(name):
            raise MalformedCredentials(f"{self._user} has a comma, which no name may have")
        address = read_single(headers, self._email) if self._email else None
        groups = read_groups(headers, self._groups) if self._groups else []
        return make_user(name, address, groups, self._roles) if name is not None else None

    def _watch(self, request: "HTTPServerRequest") -> None:
        """Log a stranger who says a name as a proxy would, at most once a minute."""
        for name in self._listed:
            if name in request.headers and self._clock() >= self._warn_after:
                self._warn_after = self._clock() + _WARN_EVERY
                value = printable(request.headers.get_list(name)[0])
                logger.warning(
                    "%s is no trusted proxy and sends %s: %s; it is ignored", client_of(request), name, value
                )
