"""Who a proxy says is there in a signed assertion. Event loop only; needs PyJWT."""

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..auth import User, client_of
from ..errors import AssertionRefused
from ..settings import is_name
from ..settings.proxies import Preset
from .identity import check_spelling, make_user, split_groups
from .roles import Roles

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

CACHE_SECONDS: Final = 60.0
_MAX_CACHED: Final = 1024
_OWN_TOKEN: Final = "tm_"


class Verifier(Protocol):
    """Gives the claims of a JWT."""

    async def verify(self, token: str, client: str = "") -> dict[str, Any]:
        """Return the claims; raise AssertionRefused, or Unavailable without a key. `client` pays for look-ups."""
        ...

    def close(self) -> None:
        """Let connections go."""
        ...


class AssertionAuthenticator:
    """Believes what is signed, whoever brings it; `names` says in which header and which claims.

    In `Authorization` a token of taskmon's is left to those who know it. An assertion that was right is known again
    for 60 s by its digest.
    """

    kind = "proxy"
    challenge: str | None = None

    def __init__(
        self, verifier: Verifier, names: Preset, roles: Roles, *, clock: Callable[[], float] = time.time
    ) -> None:
        assert names.jwt is not None
        self._verifier, self._names, self._roles = verifier, names, roles
        self._header = names.jwt
        self.reads_bearer = names.jwt.lower() == "authorization"
        self._aliases = frozenset((names.jwt.lower(),))
        self._clock = clock
        self._cache: dict[bytes, tuple[User, float]] = {}

    def authenticate(self, request: "HTTPServerRequest") -> User | Awaitable[User] | None:
        """Give the user that an assertion names, None where there is none."""
        check_spelling(request.headers, self._aliases)
        values = request.headers.get_list(self._header)
        if len(values) > 1:
            raise AssertionRefused(f"{self._header} came more than once")
        token = self._token(values[0]) if values else None
        if token is None:
            return None
        key = hashlib.sha256(token.encode()).digest()
        known = self._cache.get(key)
        if known is not None and known[1] > self._clock():
            return known[0]
        return self._check(key, token, client_of(request))

    def close(self) -> None:
        """Let connections go."""
        self._verifier.close()

    def _token(self, value: str) -> str | None:
        if not self.reads_bearer:
            return value
        scheme, _, token = value.partition(" ")
        token = token.strip(" ")
        return token if scheme.lower() == "bearer" and not token.startswith(_OWN_TOKEN) else None

    async def _check(self, key: bytes, token: str, client: str) -> User:
        claims = await self._verifier.verify(token, client)
        user = self._to_user(claims)
        self._cache.pop(key, None)
        until = min(self._clock() + CACHE_SECONDS, float(claims["exp"]))
        self._cache[key] = user, until
        if len(self._cache) > _MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        return user

    def _to_user(self, claims: Mapping[str, Any]) -> User:
        names = self._names
        name = claims.get(names.user_claim)
        if not isinstance(name, str) or not is_name(name):
            raise AssertionRefused(f"The assertion is refused: its {names.user_claim} is no name")
        address = claims.get(names.email_claim)
        if not isinstance(address, str) or not self._is_verified(claims):
            address = None
        return make_user(name, address, _groups(claims.get(names.groups_claim)), self._roles)

    def _is_verified(self, claims: Mapping[str, Any]) -> bool:
        """Tell whether an address counts: some proxies vouch for it, others must have been told that it is theirs."""
        verified = claims.get("email_verified", self._names.vouches)
        return verified is True or (self._names.signer is not None and verified == "true")


def _groups(value: object) -> list[str]:
    if isinstance(value, str):
        return split_groups(value)
    return [group for group in value if isinstance(group, str)] if isinstance(value, list) else []
