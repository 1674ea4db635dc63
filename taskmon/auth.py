"""Who asks: roles, users, and the small classes that tell a user from the headers of a request.

`authenticate` runs on the event loop; passwords are hashed in two threads of this module's own. An
authenticator answers with a User, with None (not mine), or raises (mine and wrong): wrong credentials never
fall back to another kind.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import math
import re
import secrets
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

from msgspec import Struct

from .errors import InvalidArgument, NotAuthenticated, TooManyRequests, Unavailable
from .settings import SCRYPT_HASH, TOKEN_LINE, Settings

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

logger = logging.getLogger(__name__)

MAX_HEADER: Final = 1024
MAX_NAME_IN_LOG: Final = 128
CACHE_SECONDS: Final = 60.0
HASH_THREADS: Final = 2
HASHES_WAITING: Final = 30
_TOKEN = re.compile(r"tm_([0-9a-f]{8})_[0-9a-f]{40}_([0-9a-f]{8})")


class Role(IntEnum):
    """What a user may do; a higher role may all that a lower one may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @classmethod
    def parse(cls, text: str) -> "Role":
        """Read viewer, operator or admin; raise InvalidArgument."""
        try:
            return cls[text.upper()]
        except KeyError:
            raise InvalidArgument("role", "must be viewer, operator or admin", text) from None

    def __str__(self) -> str:
        return self.name.lower()


class User(Struct, frozen=True):
    """Somebody who asks; `method` is how they were known: basic, token or anonymous."""

    name: str
    role: Role
    method: str


class Authenticator(Protocol):
    """Knows one kind of credentials; `challenge` is what WWW-Authenticate says of it."""

    challenge: str | None

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User] | None:
        """Give the user, or None where the credentials are of another kind; raise where they are wrong."""
        ...

    def close(self) -> None:
        """Let threads go; no call may follow."""
        ...


class Throttle:
    """Count failures by key and refuse a key that has too many in a window; the oldest keys are forgotten."""

    def __init__(
        self, window: float = 60.0, most_keys: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._most_keys = most_keys
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def check(self, key: str, limit: int) -> None:
        """Raise TooManyRequests when this key has failed `limit` times in its window."""
        count, ends = self._failures.get(key, (0, 0.0))
        wait = ends - self._clock()
        if count >= limit and wait > 0:
            raise TooManyRequests("Too many failed attempts to log in", math.ceil(wait))

    def failed(self, key: str) -> None:
        """Count one failure; the first one opens the window."""
        now = self._clock()
        count, ends = self._failures.pop(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + self._window
        self._failures[key] = (count + 1, ends)
        while len(self._failures) > self._most_keys:
            del self._failures[next(iter(self._failures))]


# --- passwords


class _Scrypt(NamedTuple):
    log_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def make(cls, password: str, log_n: int = 14, r: int = 8, p: int = 1) -> "_Scrypt":
        salt = secrets.token_bytes(16)
        return cls(log_n, r, p, salt, _scrypt(password.encode(), salt, log_n, r, p))

    @classmethod
    def parse(cls, match: re.Match[str]) -> "_Scrypt":
        return cls(int(match[1]), int(match[2]), int(match[3]), _unpadded(match[4]), _unpadded(match[5]))

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(self.digest, _scrypt(password, self.salt, self.log_n, self.r, self.p))


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    n = 1 << log_n
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=256 * r * (n + p), dklen=32)


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def hash_password(password: str) -> str:
    """Hash a password for `--basic-auth user:<hash>`.

    The form is `$scrypt$ln=14,r=8,p=1$<salt>$<digest>`, both in base64 without padding; others write it too.
    """
    log_n, r, p, salt, digest = _Scrypt.make(password)
    ends = (base64.b64encode(part).decode().rstrip("=") for part in (salt, digest))
    return f"$scrypt$ln={log_n},r={r},p={p}${'$'.join(ends)}"


def hash_passwords(settings: Settings) -> Settings:
    """Give the same settings with a hash in place of every plain password."""
    users = (entry.partition(":") for entry in settings.basic_auth)
    hashed = tuple(
        f"{name}:{password if SCRYPT_HASH.fullmatch(password) else hash_password(password)}"
        for name, _, password in users
    )
    return replace(settings, basic_auth=hashed)


class BasicAuthenticator:
    """HTTP Basic; entries are user:password or user:hash, and every user is an admin, as in Flower.

    A header that was right is known again for 60 s by a keyed digest of it, so that polling costs no hashing.
    After that it is hashed again, but never throttled: others' failures lock nobody out who was in before.
    """

    challenge: str | None = 'Basic realm="taskmon", charset="UTF-8"'
    client_limit = 10
    user_limit = 30

    def __init__(
        self,
        entries: Iterable[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        waiting: int = HASHES_WAITING,
        most_cached: int = 1024,
    ) -> None:
        self._hashes = {name: _read_hash(secret) for name, _, secret in (e.partition(":") for e in entries)}
        # Unknown users cost what known ones do: their password is compared with this.
        self._nobody = next(iter(self._hashes.values()))._replace(digest=secrets.token_bytes(32))
        self._clock = clock
        self._throttle = Throttle(clock=clock)
        self._key = secrets.token_bytes(32)
        self._cache: dict[bytes, tuple[User, float]] = {}
        self._most_cached = most_cached
        self._running: dict[bytes, asyncio.Task[User]] = {}
        self._slots = threading.BoundedSemaphore(HASH_THREADS + waiting)
        self._pool = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="password")

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User] | None:
        """Give the user at once from the cache, else after hashing; see the class for what is throttled."""
        header = _authorization(request)
        if header is None or header[:6].lower() != "basic ":
            return None
        if len(header) > MAX_HEADER or not header.isascii():
            raise NotAuthenticated("The Basic credentials are malformed")
        key = hashlib.blake2b(header.encode(), key=self._key, digest_size=16).digest()
        known = self._cache.get(key)
        if known is not None and known[1] > self._clock():
            return known[0]
        return self._check(request, key, header, throttled=known is None)

    def close(self) -> None:
        """Let the threads go; what waits to be hashed is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, request: "HTTPServerRequest", key: bytes, header: str, *, throttled: bool) -> Awaitable[User]:
        client = _client(request)
        if throttled:
            self._throttle.check(f"client {client}", self.client_limit)
        parsed = _parse_basic(header)
        if parsed is None:
            self._throttle.failed(f"client {client}")
            raise NotAuthenticated("The Basic credentials are malformed")
        name, password = parsed
        if throttled:
            self._throttle.check(f"user {name[:MAX_NAME_IN_LOG]}", self.user_limit)
        task = self._running.get(key)
        if task is None:
            hashing = self._hash(name, password)
            task = asyncio.get_running_loop().create_task(self._finish(key, name, client, hashing))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        # Many requests may wait for one hash, and one of them going away must not end it for the others.
        return asyncio.shield(task)

    def _hash(self, name: str, password: bytes) -> "Future[bool]":
        if not self._slots.acquire(blocking=False):
            raise Unavailable("the check of passwords", "too many are waiting")
        try:
            hashing = self._pool.submit(self._hashes.get(name, self._nobody).matches, password)
        except RuntimeError as exc:
            raise Unavailable("the check of passwords", "taskmon is stopping") from exc
        hashing.add_done_callback(lambda _: self._slots.release())
        return hashing

    async def _finish(self, key: bytes, name: str, client: str, hashing: "Future[bool]") -> User:
        matches = await asyncio.wrap_future(hashing)
        if not matches or name not in self._hashes:
            self._throttle.failed(f"client {client}")
            self._throttle.failed(f"user {name[:MAX_NAME_IN_LOG]}")
            logger.warning("Wrong password for user %s from %s", printable(name), client)
            raise NotAuthenticated("The user name or the password is wrong")
        user = User(name, Role.ADMIN, "basic")
        self._cache.pop(key, None)
        self._cache[key] = (user, self._clock() + CACHE_SECONDS)
        if len(self._cache) > self._most_cached:
            del self._cache[next(iter(self._cache))]
        return user

    def _forget(self, key: bytes, done: "asyncio.Task[User]") -> None:
        del self._running[key]
        # Asking for the exception keeps asyncio from logging it when everybody who waited went away.
        _ = done.cancelled() or done.exception()


def _read_hash(secret: str) -> _Scrypt:
    match = SCRYPT_HASH.fullmatch(secret)
    return _Scrypt.parse(match) if match else _Scrypt.make(secret)


def _parse_basic(header: str) -> tuple[str, bytes] | None:
    """Take an ASCII header apart strictly: canonical base64 of UTF-8 with a colon; None for anything else."""
    coded = header[6:].strip(" ").encode()
    try:
        plain = base64.b64decode(coded, validate=True)
        name, colon, password = plain.decode().partition(":")
    except ValueError:
        return None
    return (name, password.encode()) if colon and base64.b64encode(plain) == coded else None


# --- tokens


class _Stored(NamedTuple):
    user: User
    digest: bytes
    expires: float
    until: str


class TokenAuthenticator:
    """`Authorization: Bearer tm_<id>_<secret>_<checksum>`; what is stored of a token is one line.

    The line is `tm_<id>:<SHA-256 of the whole token, hex>:<role>:<name>`, and where the token shall end
    `:<date>`, as in `tm_0123abcd:…:viewer:grafana:2030-12-31`; from 0:00 UTC of that date on it is refused.
    """

    challenge: str | None = 'Bearer realm="taskmon"'
    client_limit = 10

    def __init__(self, lines: Iterable[str], *, clock: Callable[[], float] = time.time) -> None:
        self._tokens = dict(map(_read_line, lines))
        self._clock = clock
        self._throttle = Throttle()

    def authenticate(self, request: "HTTPServerRequest") -> User | None:
        """Give the token's user; a right token is never throttled."""
        header = _authorization(request)
        if header is None:
            return None
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = rest.strip(" ")
        match = _TOKEN.fullmatch(token)
        stored = self._tokens.get(match[1]) if match else None
        if stored is None or not hmac.compare_digest(stored.digest, hashlib.sha256(token.encode()).digest()):
            self._refuse(_client(request), match)
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


# --- all of them


class AnonymousAuthenticator:
    """Gives a role to those who come without credentials, and never to those who come with wrong ones."""

    challenge: str | None = None

    def __init__(self, role: Role) -> None:
        self._user = User("anonymous", role, "anonymous")

    def authenticate(self, request: "HTTPServerRequest") -> User | None:
        """Give the anonymous user unless there is an Authorization header."""
        return self._user if _authorization(request) is None else None

    def close(self) -> None:
        """Do nothing: there are no threads."""


class Authentication:
    """Asks the authenticators in order; `challenges` are the values of WWW-Authenticate for a 401."""

    def __init__(self, authenticators: Iterable[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)
        self.challenges = tuple(a.challenge for a in self._authenticators if a.challenge)

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User]:
        """Give the user, or an awaitable of it while a password is hashed.

        Either may raise NotAuthenticated, TooManyRequests and Unavailable, and nothing else.
        """
        for authenticator in self._authenticators:
            answer = authenticator.authenticate(request)
            if answer is not None:
                return answer
        if _authorization(request) is None:
            raise NotAuthenticated("Credentials are needed")
        raise NotAuthenticated("Credentials of this kind are not accepted")

    def close(self) -> None:
        """Close every authenticator."""
        for authenticator in self._authenticators:
            authenticator.close()


def build_authenticators(settings: Settings) -> tuple[tuple[Authenticator, ...], str | None]:
    """Make what the settings ask for; where they ask for nothing, also an admin token to be printed once."""
    generated, lines = None, settings.token
    if not (settings.basic_auth or settings.token or settings.anonymous_role):
        generated, line = new_token("generated", Role.ADMIN)
        lines = (line,)
    authenticators: list[Authenticator] = [TokenAuthenticator(lines)]
    if settings.basic_auth:
        authenticators.insert(0, BasicAuthenticator(settings.basic_auth))
    if settings.anonymous_role:
        authenticators.append(AnonymousAuthenticator(Role.parse(settings.anonymous_role)))
    return tuple(authenticators), generated


def printable(name: str) -> str:
    """Make a name of a stranger fit for a line of the log: cut, and control characters escaped."""
    cut = name[:MAX_NAME_IN_LOG]
    return cut if cut.isprintable() else ascii(cut)[1:-1][:MAX_NAME_IN_LOG]


def _authorization(request: "HTTPServerRequest") -> str | None:
    """Give the header's only value; Tornado would join repeated ones by a comma, so they are refused here."""
    values = request.headers.get_list("Authorization")
    if not values:
        return None
    if len(values) > 1:
        raise NotAuthenticated("The Authorization header must be given once")
    return values[0]


def _client(request: "HTTPServerRequest") -> str:
    """Give the address that failures are counted by: for IPv6 its /64, which one client has to itself."""
    text = str(request.remote_ip)
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return printable(text)
    if not isinstance(address, IPv6Address):
        return text
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
