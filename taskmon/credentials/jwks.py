"""Public keys of an issuer: its JWKS, fetched when needed, and kept. Event loop only; needs PyJWT."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec

from ..errors import AssertionRefused, Unavailable
from .https_fetch import Document, Fetcher

logger = logging.getLogger(__name__)

MIN_CACHE_SECONDS: Final = 600.0
MAX_CACHE_SECONDS: Final = 86_400.0
#: So long after a fetch no other is made, whatever is asked for.
PAUSE: Final = 60.0
_MAX_KEYS: Final = 100
_PAUSE_WITHOUT_KEYS: Final = 5.0
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})")
_FAMILIES: Final = {"R": "RSA", "P": "RSA", "E": "EC"}


class _Jwk(msgspec.Struct):
    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None


class _Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


_decode_set = msgspec.json.Decoder(_Jwks).decode
_decode_known = msgspec.json.Decoder(_Jwk).decode
_decode_key = msgspec.json.Decoder(dict[str, Any]).decode


class JwksCache:
    """The keys of one JWKS; fetched at the first question, then every 10 min to 24 h, as its Cache-Control says.

    An unknown kid makes it fetch at most once a minute, so does a failure; old keys stay when a fetch fails.
    """

    def __init__(
        self, url: str, ca_certs: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetcher = Fetcher("The issuer's key set", ca_certs)
        self._clock = clock
        self._keys: list[tuple[_Jwk, dict[str, Any]]] = []
        self._ready: dict[tuple[str | None, str], jwt.PyJWK] = {}
        self._stale = -1.0
        self._next_fetch = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, header: dict[str, Any]) -> jwt.PyJWK:
        """Give the key of a JWT's header; raise AssertionRefused for an unknown one, Unavailable without any key."""
        kid, algorithm = header.get("kid"), str(header.get("alg"))
        if self._clock() >= self._stale:
            await self._fetch()
        key = self._ready.get((kid, algorithm)) or self._choose(kid, algorithm)
        if key is None:
            await self._fetch()
            key = self._choose(kid, algorithm)
        if key is not None:
            return key
        if not self._keys:
            raise Unavailable("The issuer's key set", "no key could be fetched", retry_after=self._wait())
        raise AssertionRefused("The assertion is refused: it is signed by an unknown key")

    def close(self) -> None:
        """Let the connection go; no call may follow."""
        if self._fetching is not None:
            self._fetching.cancel()
        self._fetcher.close()

    def _choose(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Find the one key that fits; a JWT without a kid is taken only where there is no choice."""
        found = [jwk for known, jwk in self._keys if _fits(known, algorithm) and (kid is None or known.kid == kid)]
        if len(found) != 1:
            return None
        try:
            key = jwt.PyJWK(found[0], algorithm)
        except (jwt.PyJWTError, ValueError, TypeError) as exc:
            logger.warning("A key of %s cannot be used: %s", self._url, type(exc).__name__)
            return None
        self._ready[kid, algorithm] = key
        return key

    async def _fetch(self) -> None:
        """Fetch the set unless that was done a moment ago; all who ask meanwhile wait for the same fetch."""
        if self._fetching is None:
            if self._clock() < self._next_fetch:
                return
            self._next_fetch = self._clock() + PAUSE
            self._fetching = asyncio.create_task(self._read())
            self._fetching.add_done_callback(self._done)
        # One of those who wait going away must not end it for the others.
        await asyncio.shield(self._fetching)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._fetching = None
        _ = task.cancelled() or task.exception()

    async def _read(self) -> None:
        try:
            document = await self._fetcher.get(self._url)
            keys = _parse(document.body)
        except (Unavailable, ValueError) as exc:
            logger.warning("The keys of %s could not be fetched: %s", self._url, exc)
            if not self._keys:
                self._next_fetch = self._clock() + _PAUSE_WITHOUT_KEYS
            return
        self._keys, self._ready = keys, {}
        self._stale = self._clock() + _lifetime(document)

    def _wait(self) -> int:
        return max(1, int(self._next_fetch - self._clock()))


def _parse(body: bytes) -> list[tuple[_Jwk, dict[str, Any]]]:
    """Read a key set, and pass over what is no key for signatures; raise ValueError where there is none."""
    try:
        raws = _decode_set(body).keys
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ValueError("it is no JWKS") from exc
    keys = []
    for raw in raws[:_MAX_KEYS]:
        try:
            known = _decode_known(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        if known.use in (None, "sig") and known.kty in ("RSA", "EC", "OKP"):
            keys.append((known, _decode_key(raw)))
    if not keys:
        raise ValueError("it holds no key for signatures")
    return keys


def _fits(key: _Jwk, algorithm: str) -> bool:
    return key.kty == _FAMILIES.get(algorithm[:1] if algorithm != "EdDSA" else "", "OKP") and (
        key.alg is None or key.alg == algorithm
    )


def _lifetime(document: Document) -> float:
    match = _MAX_AGE.search(document.headers.get("Cache-Control", "").lower())
    return min(MAX_CACHE_SECONDS, max(MIN_CACHE_SECONDS, float(match[1]) if match else 0.0))
