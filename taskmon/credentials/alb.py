"""Assertions of an AWS load balancer, which differ from others: a key for each kid, and claims in the header.

Event loop only; needs PyJWT.
"""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt

from ..errors import AssertionRefused, Unavailable
from .https_fetch import Fetcher
from .jwt import LEEWAY, check_time, read_header, reason

#: A client asks for an unknown kid once a minute, and for this many of them; all clients together for _MAX_FETCHES.
PAUSE: Final = 60.0
_PAUSE_AFTER_FAILURE: Final = 5.0
_FETCHES_PER_CLIENT: Final = 10
_MAX_FETCHES: Final = 1_000
_MAX_KEYS: Final = 50
_ALGORITHMS: Final = ["ES256"]
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class AlbVerifier:
    """Says what one load balancer, `signer` by its ARN, claims; `keys` is the URL that a kid is appended to."""

    def __init__(
        self,
        signer: str,
        keys: str,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        ca_certs: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer, self._issuer, self._audience = signer, issuer, audience
        self._url = keys.rstrip("/") + "/"
        self._fetcher = Fetcher("The load balancer's key", ca_certs)
        self._clock = clock
        self._keys: dict[str, str] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self._running: dict[str, asyncio.Task[str]] = {}

    async def verify(self, token: str, client: str = "") -> dict[str, Any]:
        """Return the claims, with the header's exp; raise AssertionRefused, or Unavailable without the key."""
        header = read_header(token, _ALGORITHMS)
        self._check_header(header)
        key = await self._find(header["kid"], client)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                leeway=LEEWAY,
                options={"require": ["sub"], "verify_aud": False, "verify_iss": False},
            )
        # What PyJWT does not wrap, as in jwt.py.
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as exc:
            raise AssertionRefused(f"The assertion is refused: {reason(exc)}") from exc
        if not claims["sub"]:
            raise AssertionRefused("The assertion is refused: its sub is empty")
        return {**claims, "exp": header["exp"]}

    def close(self) -> None:
        """Let the connection go."""
        self._fetcher.close()

    def _check_header(self, header: dict[str, Any]) -> None:
        exp = header.get("exp")
        if exp is None:
            raise AssertionRefused("The assertion is refused: it has no exp")
        check_time(exp)
        if not exp > self._clock() - LEEWAY:
            raise AssertionRefused("The assertion is refused: it has expired")
        if header.get("signer") != self._signer:
            raise AssertionRefused("The assertion is refused: another load balancer signed it")
        if self._issuer is not None and header.get("iss") != self._issuer:
            raise AssertionRefused("The assertion is refused: its issuer is another")
        if self._audience is not None and header.get("client") != self._audience:
            raise AssertionRefused("The assertion is refused: it is meant for another audience")
        if not _UUID.fullmatch(str(header.get("kid"))):
            raise AssertionRefused("The assertion is refused: its kid is none of a load balancer")

    async def _find(self, kid: str, client: str) -> str:
        """Give the key, as PEM; it is fetched once."""
        if kid in self._keys:
            return self._keys[kid]
        if kid not in self._running:
            self._running[kid] = asyncio.create_task(self._fetch(kid, client))
            self._running[kid].add_done_callback(lambda done: self._forget(kid, done))
        # Many requests may wait for one key, and one of them going away must not end it for the others.
        return await asyncio.shield(self._running[kid])

    def _forget(self, kid: str, done: "asyncio.Task[str]") -> None:
        del self._running[kid]
        _ = done.cancelled() or done.exception()

    def _may_fetch(self, kid: str, client: str, now: float) -> bool:
        """Whether a client may ask for a key: half of all requests is for the first one of each client."""
        self._asked = {asked: at for asked, at in self._asked.items() if now - at < PAUSE}
        mine = sum(asked[0] == client for asked in self._asked)
        if (client, kid) in self._asked or mine >= _FETCHES_PER_CLIENT or len(self._asked) >= _MAX_FETCHES:
            return False
        return not mine or len(self._asked) < _MAX_FETCHES // 2

    async def _fetch(self, kid: str, client: str) -> str:
        now = self._clock()
        if not self._may_fetch(kid, client, now):
            raise AssertionRefused("The assertion is refused: it is signed by an unknown key")
        self._asked[client, kid] = now
        try:
            document = await self._fetcher.ask(self._url + kid)
        except Unavailable:
            self._asked[client, kid] = now - PAUSE + _PAUSE_AFTER_FAILURE
            raise
        if document.status != 200 or not document.body.startswith(b"-----BEGIN PUBLIC KEY-----"):
            raise AssertionRefused("The assertion is refused: it is signed by an unknown key")
        self._keys[kid] = document.body.decode("ascii", "replace")
        if len(self._keys) > _MAX_KEYS:
            del self._keys[next(iter(self._keys))]
        return self._keys[kid]
