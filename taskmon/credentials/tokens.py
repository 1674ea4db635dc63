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
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from ..auth import Role, User, authorization, client_of
from ..errors import AuthenticationFailed, InvalidArgument, InvalidSetting, MalformedCredentials
from ..settings import TOKEN_LINE
from .throttle import RateLimit, Throttle
from .token_file import StoredToken, TokenFile
from .token_use import TokenUse

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"tm_([0-9a-f]{8})_[0-9a-f]{40}_([0-9a-f]{8})")


_LOOK_EVERY: Final = 1.0
#: Seconds before the end of a token from which on each start says so.
_SOON: Final = 14 * 86_400.0


class _Stored(NamedTuple):
    user: User
    digest: bytes
    expires: float
    until: str
    rate_limit: str | None = None
    in_file: bool = False


class TokenAuthenticator:
    """`Authorization: Bearer tm_<id>_<secret>_<checksum>`; what is stored of a token is one line.

    The line is `tm_<id>:<SHA-256 of the whole token, hex>:<role>:<name>`, and where the token shall end
    `:<date>`, as in `tm_0123abcd:…:viewer:grafana:2030-12-31`; from 0:00 UTC of that date on it is refused.
    The tokens of `file` are read again within a second of a change; when they were used last is written into it. A
    token may make as many requests as its own rate limit says, else as `rate_limit`. With `leave_others` a Bearer
    that does not begin as taskmon's do is left to other authenticators.
    """

    kind = "token"
    challenge: str | None = 'Bearer realm="taskmon"'
    client_limit = 10

    def __init__(
        self,
        lines: Iterable[str],
        file: TokenFile | None = None,
        *,
        leave_others: bool = False,
        rate_limit: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._leave_others = leave_others
        self._configured = dict(map(_read_line, lines))
        self._tokens = self._configured
        self._clock = clock
        self._throttle = Throttle()
        self._rate_limit = rate_limit
        self._rates: dict[str, RateLimit] = {}
        self._file = file
        self._use = TokenUse(file, clock) if file is not None else None
        self._look_again = 0.0
        self._version: tuple[int, ...] = ()
        if file is not None:
            self._version = file.version()
            self._tokens = self._with_file(file)
        self._say_what_ends()

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
        if self._file is not None and self._clock() >= self._look_again:
            self._read_again(self._file)
        match = _TOKEN.fullmatch(token)
        stored = self._tokens.get(match[1]) if match else None
        if stored is None or not hmac.compare_digest(stored.digest, hashlib.sha256(token.encode()).digest()):
            self._refuse(client_of(request), match)
        if stored.expires <= self._clock():
            raise AuthenticationFailed(f"The token ended {stored.until}")
        assert match is not None
        self._check_rate(match[1], stored)
        if stored.in_file and self._use is not None:
            self._use.note(f"tm_{match[1]}")
        return stored.user

    def reload(self) -> str | None:
        """Read the file of --token-file again."""
        if self._file is None:
            return None
        self._version = ()
        self._read_again(self._file)
        return "--token-file"

    def close(self) -> None:
        """Write when tokens were used last."""
        if self._use is not None:
            self._use.close()

    def _check_rate(self, token_id: str, stored: _Stored) -> None:
        """Raise TooManyRequests for a request too many."""
        rate = stored.rate_limit or self._rate_limit
        if rate is None:
            return
        limit = self._rates.get(token_id)
        if limit is None or limit.rate != rate:
            limit = self._rates[token_id] = RateLimit(rate)
        limit.take(stored.user.name)

    def _say_what_ends(self) -> None:
        """Log which tokens end soon: by default they all do at some time."""
        now = self._clock()
        for token_id, stored in self._tokens.items():
            if 0 < stored.expires - now < _SOON:
                logger.info("The token tm_%s (%s) ends %s", token_id, stored.user.name, stored.until)

    def _with_file(self, file: TokenFile) -> dict[str, _Stored]:
        return {token.id.removeprefix("tm_"): _from_file(token) for token in file.read()} | self._configured

    def _read_again(self, file: TokenFile) -> None:
        """Read the file once it has changed; while it breaks a rule, what was read last counts."""
        self._look_again = self._clock() + _LOOK_EVERY
        version = file.version()
        if version == self._version:
            return
        self._version = version
        try:
            tokens = self._with_file(file)
        except InvalidSetting as exc:
            logger.error("The tokens are not read again: %s", exc)
            return
        if tokens != self._tokens:  # else only their last use has changed
            self._tokens = tokens
            self._rates = {token_id: rate for token_id, rate in self._rates.items() if token_id in tokens}
            logger.info("The tokens were read again: %d", len(tokens))

    def _refuse(self, client: str, match: re.Match[str] | None) -> NoReturn:
        self._throttle.check(client, self.client_limit)
        self._throttle.failed(client)
        logger.warning("Wrong bearer token from %s", client)
        if match is None:
            raise MalformedCredentials("The bearer token is none of taskmon's")
        if match[2] != _checksum(match[0][:-9]):
            raise MalformedCredentials("The bearer token is damaged: its checksum is wrong")
        raise AuthenticationFailed("The bearer token is not known here")


def make_token() -> tuple[str, str, str]:
    """Make a token: itself, its id and its digest."""
    token_id = f"tm_{secrets.token_hex(4)}"
    body = f"{token_id}_{secrets.token_hex(20)}"
    token = f"{body}_{_checksum(body)}"
    return token, token_id, hashlib.sha256(token.encode()).hexdigest()


def new_token(name: str, role: Role, expires: date | None = None) -> tuple[str, str]:
    """Make a token: the token itself, to be shown once, and the line to put into the configuration."""
    token, token_id, digest = make_token()
    line = f"{token_id}:{digest}:{role}:{name}" + (f":{expires.isoformat()}" if expires else "")
    if not TOKEN_LINE.fullmatch(line):
        raise InvalidArgument("name", "must be 1 to 64 letters, digits or . _ @ -", name)
    return token, line


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _read_line(line: str) -> tuple[str, _Stored]:
    match = TOKEN_LINE.fullmatch(line)
    if match is None:
        raise ValueError("not a line of `taskmon token`")
    user = User(match["name"], Role.parse(match["role"]), "token", credential=f"tm_{match['id']}")
    until = match["expires"] or ""
    expires = datetime.fromisoformat(until).replace(tzinfo=UTC).timestamp() if until else math.inf
    return match["id"], _Stored(user, bytes.fromhex(match["digest"]), expires, f"on {until}")


def _from_file(token: StoredToken) -> _Stored:
    ends = [end for end in (token.expires, token.revoked) if end is not None]
    until = f"on {min(ends):%Y-%m-%d at %H:%M} UTC" if ends else ""
    if token.revoked is not None and token.revoked == min(ends):
        until = f"when it was revoked {until}"
    role = Role.parse(token.role)
    if token.scopes:
        # With a role below viewer, everything that hides arguments from some hides them here.
        role = Role.VIEWER if "read" in token.scopes else Role.LIMITED
    user = User(token.name, role, "token", scopes=token.scopes, credential=token.id)
    expires = min(ends).timestamp() if ends else math.inf
    return _Stored(user, bytes.fromhex(token.sha256), expires, until, token.rate_limit, in_file=True)
