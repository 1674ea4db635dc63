"""Sessions: who logged in, in a signed cookie of the browser's. Event loop only.

Nothing of a session is kept but which ones were ended (ended_sessions.py). What a user may do is decided anew at
every request.
"""

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from ..auth import Role, User, authorization
from ..errors import AuthenticationFailed, MalformedCredentials, PermissionDenied
from ..settings import is_name
from .ended_sessions import MAX_SESSION_SECONDS, EndedSessions
from .signing import MAX_COOKIE_LENGTH, Sealer

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

IDLE: Final = 3600.0
#: A session that was used is written anew no more often than this.
RENEW_AFTER: Final = 60.0
_SLACK: Final = 60.0  # a clock may be set back a little


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Somebody, as an issuer knows them: who they are is issuer and subject, nothing else.

    `address` is there only where the issuer says that it is theirs; `groups` are those that the rules name.
    """

    issuer: str
    subject: str
    name: str
    address: str | None = None
    groups: tuple[str, ...] = ()


#: Characters of a session's key that name it in the audit log.
_ID_CHARACTERS: Final = 8


class Session(msgspec.Struct, frozen=True, array_like=True):
    """A session: `began` and `seen` are in epoch seconds."""

    key: str
    identity: Identity
    began: float
    seen: float


_decode: Final = msgspec.json.Decoder(Session).decode
_encode: Final = msgspec.json.Encoder().encode


class Cookie:
    """A cookie of taskmon's: only for this host, for no script, and not sent along by other sites' requests.

    With `secure` its name begins with `__Host-`, which browsers take only from this very host over HTTPS.
    """

    def __init__(self, name: str, *, secure: bool) -> None:
        self.name = f"__Host-{name}" if secure else name
        self._attributes = f"Path=/; {'Secure; ' if secure else ''}HttpOnly; SameSite=Lax"

    def set(self, value: str, seconds: float) -> str:
        """Give the value of Set-Cookie."""
        return f"{self.name}={value}; Max-Age={max(0, int(seconds))}; {self._attributes}"

    def clear(self) -> str:
        """Give the value of Set-Cookie that makes a browser forget it."""
        return self.set("", 0)

    def read(self, request: "HTTPServerRequest") -> str | None:
        """Give its value, None where there is none; raise AuthenticationFailed where there are several."""
        values = self._values(request)
        if len(values) > 1:
            raise MalformedCredentials(f"The cookie {self.name} came more than once")
        return values[0] if values else None

    def came(self, request: "HTTPServerRequest") -> bool:
        """Tell whether it came along, whatever its value."""
        return bool(self._values(request))

    def _values(self, request: "HTTPServerRequest") -> list[str]:
        pairs = [pair.partition("=") for line in request.headers.get_list("Cookie") for pair in line.split(";")]
        return [value.strip() for name, _, value in pairs if name.strip() == self.name]


class Sessions:
    """Begins, knows and ends sessions: 1 h without a request ends one, and 8 h do in any case.

    `role_of` says what somebody may do at this moment, None for nothing at all.
    """

    kind = "session"
    challenge: str | None = None

    def __init__(
        self,
        keys: list[str],
        role_of: Callable[[Identity], Role | None],
        *,
        secure: bool,
        clock: Callable[[], float] = time.time,
        ended: EndedSessions | None = None,
    ) -> None:
        self._sealer = Sealer(keys, "session")
        self._role_of = role_of
        self._clock = clock
        self.ended = EndedSessions(clock=clock) if ended is None else ended
        self.cookie = Cookie("taskmon", secure=secure)

    def begin(self, identity: Identity) -> tuple[User, str]:
        """Give the user and the Set-Cookie of a new session; raise PermissionDenied for whom nothing is allowed."""
        if not is_name(identity.name):
            raise PermissionDenied("The name that the provider gives is longer than 256 characters, or has a comma")
        now = self._clock()
        session = Session(secrets.token_urlsafe(16), identity, now, now)
        user = self.to_user(session)
        if user is None:
            raise PermissionDenied(f"{identity.name} may not use taskmon")
        sealed = self._write(session, now)
        if len(sealed) > MAX_COOKIE_LENGTH:
            raise PermissionDenied(f"{identity.name} is in too many of the groups that --roles names")
        return user, sealed

    def authenticate(self, request: "HTTPServerRequest") -> User | None:
        """Give the session's user, None without a session; raise AuthenticationFailed for one that is over.

        A request with an Authorization header is judged by that alone.
        """
        session = self.find(request) if authorization(request) is None else None
        if session is None:
            return None
        user = self.to_user(session)
        if user is None:
            raise AuthenticationFailed("Whose session this is may no longer use taskmon")
        now = self._clock()
        if now - session.seen < RENEW_AFTER:
            return user
        renewed = self._write(msgspec.structs.replace(session, seen=now), now)
        return msgspec.structs.replace(user, set_cookie=renewed)

    def find(self, request: "HTTPServerRequest") -> Session | None:
        """Give the session of a request, None without one; raise AuthenticationFailed for one that is over."""
        text = self.cookie.read(request)
        if text is None:
            return None
        content = self._sealer.open(text)
        try:
            session = _decode(content) if content else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            # Signed by us and not readable: another version of taskmon wrote it.
            session = None
        if session is None or not self._lasts(session):
            raise AuthenticationFailed("The session is over, or none of this taskmon's; log in again")
        return session

    def end(self, request: "HTTPServerRequest") -> Session | None:
        """End the session of a request for good, and give it; None where there is none to end."""
        try:
            session = self.find(request)
        except AuthenticationFailed:
            return None
        if session is not None:
            self.ended.end(session.key, session.began)
        return session

    def to_user(self, session: Session) -> User | None:
        """Give whose session it is, with the role they have at this moment; None where that is none."""
        role = self._role_of(session.identity)
        if role is None:
            return None
        return User(session.identity.name, role, "session", credential=session.key[:_ID_CHARACTERS])

    def ends(self, session: Session) -> float:
        """Give the moment in epoch seconds when a session ends in any case."""
        return session.began + MAX_SESSION_SECONDS

    def close(self) -> None:
        """Do nothing: there are no threads."""

    def _lasts(self, session: Session) -> bool:
        now = self._clock()
        in_time = now - session.began < MAX_SESSION_SECONDS and -_SLACK <= now - session.seen < IDLE
        who = session.identity
        return in_time and not self.ended.holds(session.key, session.began, (who.name, who.subject, who.address))

    def _write(self, session: Session, now: float) -> str:
        return self.cookie.set(self._sealer.seal(_encode(session)), min(IDLE, self.ends(session) - now))
