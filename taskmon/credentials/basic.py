"""HTTP Basic. Event loop; passwords are hashed in two threads of this module's own."""

import asyncio
import base64
import hashlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..auth import MAX_NAME_IN_LOG, User, authorization, client_of, printable
from ..errors import AuthenticationFailed, MalformedCredentials, Unavailable
from ..settings import is_name
from .passwords import Hash, Password, Scrypt
from .throttle import Throttle
from .users import Users

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

logger = logging.getLogger(__name__)

MAX_HEADER: Final = 1024
CACHE_SECONDS: Final = 60.0
HASH_THREADS: Final = 2
HASHES_WAITING: Final = 30
_NICE: Final = 10
_LOOK_EVERY: Final = 1.0


class BasicAuthenticator:
    """HTTP Basic: users by name, each with the hash of a password and a role; `users` has others when they change.

    A header that was right is known again for 60 s by a keyed digest of it, so that polling costs no hashing.
    After that it is hashed again, but never throttled: others' failures lock nobody out who was in before.
    """

    kind = "basic"
    challenge: str | None = 'Basic realm="taskmon", charset="UTF-8"'
    client_limit = 10
    user_limit = 30

    def __init__(
        self,
        passwords: Mapping[str, Password],
        users: Users | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        waiting: int = HASHES_WAITING,
        most_cached: int = 1024,
    ) -> None:
        self._passwords = passwords
        self._users = users
        self._look_again = 0.0
        self._each_cost = _find_each_cost(passwords)
        self._clock = clock
        self._throttle = Throttle(clock=clock)
        self._key = secrets.token_bytes(32)
        self._cache: dict[bytes, tuple[User, float]] = {}
        self._most_cached = most_cached
        self._running: dict[bytes, asyncio.Task[User]] = {}
        self._slots = threading.BoundedSemaphore(HASH_THREADS + waiting)
        self._pool = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="password", initializer=_give_way)

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User] | None:
        """Give the user at once from the cache, else after hashing; see the class for what is throttled."""
        header = authorization(request)
        if header is None or header[:6].lower() != "basic ":
            return None
        if len(header) > MAX_HEADER or not header.isascii():
            raise MalformedCredentials("The Basic credentials are malformed")
        if self._users is not None and self._clock() >= self._look_again:
            self._read_again(self._users)
        key = hashlib.blake2b(header.encode(), key=self._key, digest_size=16).digest()
        known = self._cache.get(key)
        if known is not None and known[1] > self._clock():
            return known[0]
        return self._check(request, key, header, throttled=known is None)

    def reload(self) -> str | None:
        """Read the file of --htpasswd again."""
        if self._users is None or not self._users.has_file:
            return None
        self._read_again(self._users, anew=True)
        return "--htpasswd"

    def close(self) -> None:
        """Let the threads go; what waits to be hashed is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, request: "HTTPServerRequest", key: bytes, header: str, *, throttled: bool) -> Awaitable[User]:
        client = client_of(request)
        parsed = _parse_basic(header)
        if parsed is None:
            self._throttle.check(f"client {client}", self.client_limit)
            self._throttle.failed(f"client {client}")
            raise MalformedCredentials("The Basic credentials are malformed")
        name, password = parsed
        counted = (f"client {client}", f"user {name[:MAX_NAME_IN_LOG]}") if throttled else ()
        task = self._running.get(key)
        if task is None:
            for limited, limit in zip(counted, (self.client_limit, self.user_limit), strict=False):
                self._throttle.check(limited, limit)
            entry = self._passwords.get(name)
            hashing = self._hash(entry, password)
            task = asyncio.get_running_loop().create_task(self._finish(key, name, client, entry, hashing))
            self._running[key] = task
            self._throttle.begin(*counted)
            task.add_done_callback(lambda done: self._forget(key, counted, done))
        # Many requests may wait for one hash, and one of them going away must not end it for the others.
        return asyncio.shield(task)

    def _read_again(self, users: Users, anew: bool = False) -> None:
        """Take up users that have changed; those who have not stay known by their headers."""
        self._look_again = self._clock() + _LOOK_EVERY
        before = self._passwords
        if users.refresh(anew):
            self._passwords = after = users.passwords
            self._each_cost = _find_each_cost(after)
            same = {name for name in before if before[name] == after.get(name)}
            self._cache = {key: known for key, known in self._cache.items() if known[0].name in same}

    def _hash(self, entry: Password | None, password: bytes) -> "Future[bool]":
        if not self._slots.acquire(blocking=False):
            raise Unavailable("the check of passwords", "too many are waiting")
        try:
            hashing = self._pool.submit(_check_password, entry and entry.hash, self._each_cost, password)
        except RuntimeError as exc:
            raise Unavailable("the check of passwords", "taskmon is stopping") from exc
        hashing.add_done_callback(lambda _: self._slots.release())
        return hashing

    async def _finish(
        self, key: bytes, name: str, client: str, entry: Password | None, hashing: "Future[bool]"
    ) -> User:
        matches = await asyncio.wrap_future(hashing)
        if not matches or entry is None or self._passwords.get(name) != entry:  # it may have changed meanwhile
            self._throttle.failed(f"client {client}")
            self._throttle.failed(f"user {name[:MAX_NAME_IN_LOG]}")
            logger.warning("Wrong password for user %s from %s", printable(name), client)
            raise AuthenticationFailed("The user name or the password is wrong")
        user = User(name, entry.role, "basic")
        self._cache.pop(key, None)
        self._cache[key] = (user, self._clock() + CACHE_SECONDS)
        if len(self._cache) > self._most_cached:
            del self._cache[next(iter(self._cache))]
        return user

    def _forget(self, key: bytes, counted: Iterable[str], done: "asyncio.Task[User]") -> None:
        del self._running[key]
        self._throttle.end(*counted)
        # Asking for the exception keeps asyncio from logging it when everybody who waited went away.
        _ = done.cancelled() or done.exception()


def _find_each_cost(passwords: Mapping[str, Password]) -> tuple[Hash, ...]:
    """Return a hash of each cost that the hashes of users have; without users one that nobody has."""
    found = {entry.hash.cost: entry.hash for entry in passwords.values()}
    return tuple(found.values()) or (Scrypt.make(secrets.token_hex()),)


def _check_password(own: Hash | None, each_cost: Iterable[Hash], password: bytes) -> bool:
    """Whether this is the password of a user; a wrong one takes as long whoever the user is, and if there is none.

    It is compared with a hash of each cost, one of which may be the user's own. Nearly always there is only one.
    """
    if own is not None and own.matches(password):
        return True
    for other in each_cost:
        if own is None or other.cost != own.cost:
            other.matches(password)
    return False


def _give_way() -> None:
    """Let the event loop go before this thread: hashing takes whole cores, and nobody else shall wait for it."""
    # Linux knows a thread as it knows a process; elsewhere this would be for the whole process.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _parse_basic(header: str) -> tuple[str, bytes] | None:
    """Take an ASCII header apart strictly: canonical base64 of UTF-8, a name, a colon; None for anything else."""
    coded = header[6:].strip(" ").encode()
    try:
        plain = base64.b64decode(coded, validate=True)
        name, colon, password = plain.decode().partition(":")
    except ValueError:
        return None
    valid = colon and is_name(name) and base64.b64encode(plain) == coded
    return (name, password.encode()) if valid else None
