"""Attempts to log in: what of each must come back, in a signed cookie that counts once. Event loop only."""

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from ..credentials.sessions import Cookie
from ..credentials.signing import ReplayGuard, Sealer
from ..errors import AuthenticationFailed, LoginFailed

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

LIFETIME: Final = 600.0

#: Attempts that are used up are remembered by the address at which they began, in so many parts, and so many in each:
#: what one address uses up makes taskmon forget no attempt of others.
PARTS: Final = 1_024
ATTEMPTS_PER_PART: Final = 500

_SLACK: Final = 60.0  # a clock may be set back a little


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One attempt; `next` was checked, `began` is in epoch seconds, `part` is by the address where it began."""

    state: str
    nonce: str
    verifier: str
    next: str
    began: float
    part: int = 0

    @property
    def challenge(self) -> str:
        """Give the PKCE challenge of the verifier, by S256."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return urlsafe_b64encode(digest).decode().rstrip("=")


_decode: Final = msgspec.json.Decoder(Attempt).decode
_encode: Final = msgspec.json.Encoder().encode


class Attempts:
    """Begins attempts and takes them back, each one once and within 10 min."""

    def __init__(self, keys: list[str], *, secure: bool, clock: Callable[[], float] = time.time) -> None:
        self._sealer = Sealer(keys, "login")
        self._clock = clock
        self._spent = [ReplayGuard(LIFETIME, ATTEMPTS_PER_PART, clock) for _ in range(PARTS)]
        self.cookie = Cookie("taskmon-login", secure=secure)

    def begin(self, following: str, client: str = "") -> tuple[Attempt, str]:
        """Return a new attempt and its Set-Cookie; `following` is the checked path to go on to."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, following, self._clock(), hash(client) % PARTS)
        return attempt, self.cookie.set(self._sealer.seal(_encode(attempt)), LIFETIME)

    def take(self, request: "HTTPServerRequest", state: str) -> Attempt:
        """Give the attempt that this state and the request's cookie belong to; from then on it is used up."""
        attempt = self._read(request)
        if not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise LoginFailed("It belongs to another attempt to log in, perhaps in another tab")
        if not -_SLACK <= self._clock() - attempt.began < LIFETIME:
            raise LoginFailed("It took longer than 10 minutes")
        spent = self._spent[attempt.part % PARTS]
        if spent.holds(attempt.state, attempt.began):
            raise LoginFailed("This attempt was used already")
        spent.add(attempt.state, attempt.began)
        return attempt

    def _read(self, request: "HTTPServerRequest") -> Attempt:
        try:
            text = self.cookie.read(request)
        except AuthenticationFailed as exc:
            raise LoginFailed(str(exc)) from exc
        if not text:
            raise LoginFailed("The browser brought no cookie of an attempt to log in; it must accept cookies")
        content = self._sealer.open(text)
        try:
            attempt = _decode(content) if content else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            attempt = None
        if attempt is None:
            raise LoginFailed("The cookie of the attempt to log in is none of this taskmon's")
        return attempt
