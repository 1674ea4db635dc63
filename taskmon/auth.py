"""Who asks: roles, users, and who tells a user from a request. Event loop only; no network.

An authenticator answers with a User, with None (not mine), or raises (mine and wrong): wrong credentials never
fall back to another kind.
"""

from collections.abc import Awaitable, Collection, Iterable
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from msgspec import Struct

from .errors import AuthenticationFailed, InvalidArgument, InvalidSetting, MalformedCredentials, NoCredentials
from .trusted_proxies import key_of

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

MAX_NAME_IN_LOG: Final = 128
_NO_WAY: Final = 'Login realm="taskmon"'


class Role(IntEnum):
    """What a user may do; a higher role may all that a lower one may."""

    LIMITED = 0  # what a token has that may do nothing but what its scopes say
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @classmethod
    def parse(cls, text: str) -> "Role":
        """Read viewer, operator or admin; raise InvalidArgument."""
        for role in ROLES:
            if str(role) == text.lower():
                return role
        raise InvalidArgument("role", "must be viewer, operator or admin", text)

    def __str__(self) -> str:
        return self.name.lower()


#: The roles that can be given.
ROLES: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)


class User(Struct, frozen=True):
    """Somebody who asks; `method` is how they were known: basic, token, session, proxy or anonymous.

    `set_cookie` is the Set-Cookie that keeps their session alive, where one is due; `address` is their e-mail
    address, where a proxy says it; `scopes` are those of a token that has some, and may do nothing else;
    `credential` is the id of the token, as `taskmon token list` shows it, or the first characters of
    the session's key.
    """

    name: str
    role: Role
    method: str
    set_cookie: str | None = None
    address: str | None = None
    scopes: tuple[str, ...] = ()
    credential: str | None = None

    def may_read(self) -> bool:
        """Whether the scopes, if there are any, allow what a viewer may read."""
        return not self.scopes or "read" in self.scopes or "read:no-args" in self.scopes

    def may_scrape(self) -> bool:
        """Whether they allow the metrics."""
        return self.may_read() or "metrics" in self.scopes

    def may_publish(self, task_name: str) -> bool:
        """Whether they allow to publish a task of this name: `publish:shop.*` allows all that begin with `shop.`."""
        patterns = (scope.removeprefix("publish:") for scope in self.scopes if scope.startswith("publish:"))
        return not self.scopes or any(fnmatchcase(task_name, each.replace("[", "[[]")) for each in patterns)


class Authenticator(Protocol):
    """Knows one kind of credentials, `kind` by name; `challenge` is what WWW-Authenticate says of it."""

    kind: str
    challenge: str | None

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User] | None:
        """Give the user, or None where the credentials are of another kind; raise where they are wrong."""
        ...

    def close(self) -> None:
        """Let threads go; no call may follow."""
        ...


@runtime_checkable
class Reloadable(Protocol):
    """An authenticator that reads a file."""

    def reload(self) -> str | None:
        """Read the file again, and name it; None where there is none."""


class AnonymousAuthenticator:
    """Gives a role to those who come without credentials, and never to those who come with wrong ones."""

    kind = "anonymous"
    challenge: str | None = None

    def __init__(self, role: Role) -> None:
        self._user = User("anonymous", role, "anonymous")

    def authenticate(self, request: "HTTPServerRequest") -> User | None:
        """Give the anonymous user unless there is an Authorization header."""
        return self._user if authorization(request) is None else None

    def close(self) -> None:
        """Do nothing: there are no threads."""


class Authentication:
    """Asks the authenticators in order; `challenges` are the values of WWW-Authenticate for a 401."""

    def __init__(self, authenticators: Iterable[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)
        # A 401 must name a way, also where nothing that a client could send by itself is asked for.
        self.challenges = tuple(a.challenge for a in self._authenticators if a.challenge) or (_NO_WAY,)

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User]:
        """Give the user, or an awaitable of it while a password is hashed.

        Either may raise AuthenticationFailed, TooManyRequests and Unavailable, and nothing else.
        """
        for authenticator in self._authenticators:
            answer = authenticator.authenticate(request)
            if answer is not None:
                return answer
        if authorization(request) is None:
            raise NoCredentials("Credentials are needed")
        raise AuthenticationFailed("Credentials of this kind are not accepted")

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of credentials that are asked for."""
        return frozenset(authenticator.kind for authenticator in self._authenticators)

    def only(self, kinds: Collection[str]) -> "Authentication":
        """Give one that asks only these kinds; raise InvalidSetting for one that is not set up."""
        for kind in sorted(kinds):
            if kind not in self.kinds:
                raise InvalidSetting("listen", f"has a listener with auth={kind}, and that is not set up")
        return Authentication(a for a in self._authenticators if a.kind in kinds)

    def reload(self) -> list[str]:
        """Have those that read files read them again, and name the files."""
        reloadable = (each for each in self._authenticators if isinstance(each, Reloadable))
        return [name for each in reloadable if (name := each.reload())]

    def close(self) -> None:
        """Close every authenticator."""
        for authenticator in self._authenticators:
            authenticator.close()


def printable(name: str) -> str:
    """Make a name of a stranger fit for a line of the log: cut, and control characters escaped."""
    cut = name[:MAX_NAME_IN_LOG]
    return cut if cut.isprintable() else ascii(cut)[1:-1][:MAX_NAME_IN_LOG]


def authorization(request: "HTTPServerRequest") -> str | None:
    """Give the header's only value; Tornado would join repeated ones by a comma, so they are refused here."""
    values = request.headers.get_list("Authorization")
    if not values:
        return None
    if len(values) > 1:
        raise MalformedCredentials("The Authorization header must be given once")
    return values[0]


def client_of(request: "HTTPServerRequest") -> str:
    """Give the address that failures are counted by: for IPv6 its /64, which one client has to itself."""
    return printable(key_of(str(request.remote_ip)))


def is_trusted(request: "HTTPServerRequest") -> bool:
    """Tell whether a request comes over a connection of a proxy of ours."""
    return bool(request.connection.context.trusted)  # type: ignore[union-attr]
