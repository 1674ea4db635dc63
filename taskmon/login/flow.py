"""Login: from the link to the session, whoever the provider is. Event loop only; knows no pages."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from ..auth import User, client_of
from ..credentials.sessions import Identity, Sessions
from ..credentials.throttle import Throttle
from ..errors import LoginFailed, PermissionDenied, TaskmonError, Unavailable
from .addresses import Front, local_path
from .attempts import Attempts
from .provider import ERRORS, Provider

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

#: Failures of one client in a minute of those that cost the provider a request.
CLIENT_LIMIT: Final = 30
_MAX_COOKIE_LENGTH: Final = 4096

Query = Mapping[str, list[bytes]]


class Begun(NamedTuple):
    """Where to send the browser, and the Set-Cookie to send along."""

    url: str
    set_cookie: str


class Finished(NamedTuple):
    """Who logged in, the Set-Cookie of their session, and the path to go on to."""

    user: User
    identity: Identity
    set_cookie: str
    next: str


class Login:
    """Sends people to the provider and receives them back; what their identity allows is the sessions' to say."""

    def __init__(self, provider: Provider, attempts: Attempts, sessions: Sessions, front: Front) -> None:
        self._provider = provider
        self._attempts = attempts
        self._sessions = sessions
        self._front = front
        self._throttle = Throttle()

    @property
    def provider(self) -> str:
        """How people call the provider."""
        return self._provider.name

    @property
    def forget(self) -> str:
        """The Set-Cookie that ends an attempt in the browser."""
        return self._attempts.cookie.clear()

    async def begin(self, request: "HTTPServerRequest", following: str, *, choose: bool = False) -> Begun:
        """Begin an attempt that leads on to `following`, if that is a path of ours; raise Unavailable."""
        attempt, cookie = self._attempts.begin(local_path(following, self._front.base), client_of(request))
        url = await self._provider.authorize(attempt, self._front.redirect_uri, choose=choose)
        return Begun(url, cookie)

    async def finish(self, request: "HTTPServerRequest", query: Query) -> Finished:
        """Take back an attempt, which is used up first, and begin a session.

        Raises LoginFailed, PermissionDenied for whom nothing is allowed, Unavailable, and TooManyRequests.
        """
        client = client_of(request)
        self._throttle.check(client, CLIENT_LIMIT)
        attempt = self._attempts.take(request, _only(query, "state"))
        self._check_issuer(query)
        self._check_error(query)
        code = _only(query, "code")
        try:
            identity = await self._provider.identify(code, attempt, self._front.redirect_uri)
            user, cookie = self._sessions.begin(identity)
        except TaskmonError:
            self._throttle.failed(client)
            raise
        self._sessions.end(request)
        return Finished(user, identity, cookie, attempt.next)

    def close(self) -> None:
        """Let connections go; no call may follow."""
        self._provider.close()

    def _check_issuer(self, query: Query) -> None:
        """Refuse an answer that says it comes from somebody else, or does not say where it must (RFC 9207)."""
        if ("iss" in query or self._provider.confirms_issuer) and _only(query, "iss") != self._provider.issuer:
            raise LoginFailed("The answer is that of another provider")

    def _check_error(self, query: Query) -> None:
        if "error" not in query:
            return
        error = _only(query, "error")
        name = self._provider.name
        if error == "access_denied":
            raise PermissionDenied(f"The login was declined, by you or by {name}")
        if error in ("server_error", "temporarily_unavailable"):
            raise Unavailable(name, f"it answered {error}")
        # Anybody can write this URL: nothing of it is repeated but what is known.
        raise LoginFailed(f"{name} answered {error if error in ERRORS else 'an error that is not known here'}")


def _only(query: Query, name: str) -> str:
    values = query.get(name, [])
    text = values[0].decode("ascii", "replace") if len(values) == 1 else ""
    if not 0 < len(text) <= _MAX_COOKIE_LENGTH or not text.isascii() or not text.isprintable():
        raise LoginFailed(f"The answer must bring exactly one {name}")
    return text
