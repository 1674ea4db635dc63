"""Bearer tokens, of which only a digest is stored."""

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..auth import Role, User, authorization, client_of
from ..errors import InvalidArgument, NotAuthenticated
from ..settings import TOKEN_LINE
from .throttle import Throttle

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"tm_([0-9a-f]{8})_[0-9a-f]{40}_([0-9a-f]{8})")


class _Stored(NamedTuple):
    user: User
    digest: bytes
    expires: float
    until: str


class TokenAuthenticator:
    """`Authorization: Bearer tm_<id>_<secret>_<checksum>`; what is stored of a token is one line.

    The line is `tm_<id>:<SHA-256 of the whole token, hex>:<role>:<name>`, and where the token shall end
    `:<date>`, as in `tm_0123abcd:…:viewer:grafana:2030-12-31`; from 0:00 UTC of that date on it is refused.
    With `leave_others` a Bearer that does not begin as taskmon's do is left to other authenticators.
    """

    kind = "token"
    challenge: str | None = 'Bearer realm="taskmon"'
    client_limit = 10

    def __init__(
        self, lines: Iterable[str], *, leave_others: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._leave_others = leave_others
        self._tokens = dict(map(_read_line, lines))
        self._clock = clock
        self._throttle = Throttle()

    def authenticate(self, request: "HTTPServerRequest") -> User | None:
        """Give the token's user; a right token is never throttled."""
        header = authorization(request)
        if header is None:
            return None
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = rest.strip(" ")
        if self._leave_others and not token.startswith("tm_"):
            return None
        match = _TOKEN.fullmatch(token)
        stored = self._tokens.get(match[1]) if match else None
        if stored is None or not hmac.compare_digest(stored.digest, hashlib.sha256(token.encode()).digest()):
            self._refuse(client_of(request), match)
        if stored.expires <= self._clock():
            raise NotAuthenticated(f"The token ended on {stored.until}")
        return stored.user

    def close(self) -> None:
        """Do nothing: there are no threads."""

    def _refuse(self, client: str, match: re.Match[str] | None) -> NoReturn:
        self._throttle.check(client, self.client_limit)
        self._throttle.failed(client)
        logger.warning("Wrong bearer token from %s", client)
        if match is None:
            raise NotAuthenticated("The bearer token is none of taskmon's")
        if match[2] != _checksum(match[0][:-9]):
            raise NotAuthenticated("The bearer token is damaged: its checksum is wrong")
        raise NotAuthenticated("The bearer token is not known here")


def new_token(name: str, role: Role, expires: date | None = None) -> tuple[str, str]:
    """Make a token: the token itself, to be shown once, and the line to put into the configuration."""
    token_id = secrets.token_hex(4)
    body = f"tm_{token_id}_{secrets.token_hex(20)}"
    token = f"{body}_{_checksum(body)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    line = f"tm_{token_id}:{digest}:{role}:{name}" + (f":{expires.isoformat()}" if expires else "")
    if not TOKEN_LINE.fullmatch(line):
        raise InvalidArgument("name", "must be 1 to 64 letters, digits or . _ @ -", name)
    return token, line


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _read_line(line: str) -> tuple[str, _Stored]:
    match = TOKEN_LINE.fullmatch(line)
    if match is None:
        raise ValueError("not a line of `taskmon token`")
    user = User(match["name"], Role.parse(match["role"]), "token")
    until = match["expires"] or ""
    expires = datetime.fromisoformat(until).replace(tzinfo=UTC).timestamp() if until else math.inf
    return match["id"], _Stored(user, bytes.fromhex(match["digest"]), expires, until)
