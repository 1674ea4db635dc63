"""Verifies signed assertions (JWT): by whom, for whom, until when, with which key. Event loop only; needs PyJWT."""

import re
from collections.abc import Collection
from typing import Any, Final, Protocol

import jwt
import msgspec
from jwt.types import Options

from ..errors import AssertionRefused, InvalidArgument
from ..times import MAX_EPOCH

MAX_TOKEN: Final = 8 * 1024
LEEWAY: Final = 60.0

#: What may be allowed: signatures by a key of which we hold the public half only.
ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)

_REQUIRED: Final = ("exp", "iat", "sub")
_ACCESS_TOKENS: Final = frozenset(("at+jwt", "application/at+jwt"))
_FORM = re.compile(r"[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+")
_decode_header = msgspec.json.Decoder(dict[str, Any]).decode


class Keys(Protocol):
    """Where the public keys come from."""

    async def find(self, header: dict[str, Any]) -> jwt.PyJWK | Any:
        """Give the key that a JWT's header asks for; raise AssertionRefused for none, Unavailable without any."""
        ...

    def close(self) -> None:
        """Let connections go."""
        ...


class JwtVerifier:
    """Says what a JWT claims, once everything about it is as it must be.

    `issuer` and `audience` are compared exactly; `algorithms` are names out of ALGORITHMS.
    """

    def __init__(self, keys: Keys, *, issuer: str, audience: str, algorithms: Collection[str]) -> None:
        check_algorithms(algorithms)
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = sorted(algorithms)
        self._options: Options = {"require": [*_REQUIRED, "iss", "aud"], "enforce_minimum_key_length": True}

    async def verify(self, token: str, client: str = "") -> dict[str, Any]:
        """Return the claims; raise AssertionRefused, or Unavailable while there is no key to verify with.

        Beyond the signature: exp, iat and sub are there, iss and aud are ours, 60 s of leeway; a token for
        somebody else's API (`at+jwt`) and one over 8 KiB are refused.
        """
        header = read_header(token, self._algorithms)
        key = await self._keys.find(header)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[header["alg"]],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY,
                options=self._options,
            )
        # What PyJWT does not wrap: numbers that are none (OverflowError), texts that are not UTF-8, and the like.
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as exc:
            raise AssertionRefused(f"The assertion is refused: {reason(exc)}") from exc
        if not claims["sub"]:
            raise AssertionRefused("The assertion is refused: its sub is empty")
        check_time(claims["exp"])
        return claims

    def close(self) -> None:
        """Let the connections of the keys go."""
        self._keys.close()


def read_header(token: str, algorithms: Collection[str]) -> dict[str, Any]:
    """Give the header of a JWT before its signature is known to be right; raise AssertionRefused."""
    if len(token) > MAX_TOKEN:
        raise AssertionRefused(f"The assertion is longer than {MAX_TOKEN // 1024} KiB")
    if not token.isascii() or not _FORM.fullmatch(token):
        raise AssertionRefused("The assertion is no JWT")
    try:
        header = _decode_header(jwt.utils.base64url_decode(token.partition(".")[0]))
    except (ValueError, msgspec.DecodeError, RecursionError) as exc:
        raise AssertionRefused("The assertion is no JWT") from exc
    if header.get("alg") not in algorithms:
        raise AssertionRefused("The assertion is refused: its algorithm is not among those allowed")
    if str(header.get("typ", "")).lower() in _ACCESS_TOKENS:
        raise AssertionRefused("The assertion is refused: it is an access token, and says nothing of who asks")
    if "crit" in header or not isinstance(header.get("kid", ""), str):
        raise AssertionRefused("The assertion is refused: its header asks for what is not known here")
    return header


def check_time(exp: object) -> None:
    """Raise AssertionRefused unless this is a moment that a clock can show: PyJWT takes a number of any length."""
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not 0 < exp < MAX_EPOCH:
        raise AssertionRefused("The assertion is refused: its exp is no time")


def check_algorithms(algorithms: Collection[str]) -> None:
    """Raise InvalidArgument unless all of them are among those that may be allowed, and there is one."""
    if not algorithms or not ALGORITHMS.issuperset(algorithms):
        raise InvalidArgument("algorithms", f"must be among {', '.join(sorted(ALGORITHMS))}", ",".join(algorithms))


def reason(error: BaseException) -> str:
    """Say why a JWT is refused, without a word of what it holds."""
    told = {
        jwt.ExpiredSignatureError: "it has expired",
        jwt.ImmatureSignatureError: "it is not valid yet",
        jwt.InvalidIssuerError: "its issuer is another",
        jwt.InvalidAudienceError: "it is meant for another audience",
        jwt.InvalidSignatureError: "its signature is wrong",
    }
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no {error.claim}"
    return next((text for kind, text in told.items() if isinstance(error, kind)), "it is malformed")
