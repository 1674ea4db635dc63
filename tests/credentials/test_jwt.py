"""An assertion is believed only when everything about it is as it must be."""

import base64
import hashlib
import hmac
import json
import logging
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from issuer import Key, claims

from taskmon.credentials.jwt import ALGORITHMS, MAX_TOKEN, JwtVerifier
from taskmon.errors import AuthenticationFailed, InvalidArgument

EC, RSA, ED = Key("ec"), Key("rsa", "RS256"), Key("ed", "EdDSA")
WEAK = Key("weak", "RS256", 1024)
KEYS = {key.kid: key for key in (EC, RSA, ED, WEAK)}


class Known:
    """Keys that are there already."""

    async def find(self, header: dict[str, Any]) -> jwt.PyJWK:
        key = KEYS.get(header.get("kid"))
        if key is None:
            raise AuthenticationFailed("unknown key")
        return jwt.PyJWK(key.jwk, key.algorithm)

    def close(self) -> None:
        pass


def verifier(**more: Any) -> JwtVerifier:
    given = {"issuer": "https://issuer.example.com", "audience": "taskmon", "algorithms": ("ES256", "RS256", "EdDSA")}
    return JwtVerifier(Known(), **given | more)


def raw(header: Any, payload: Any, signature: bytes = b"x" * 64) -> str:
    def part(value: Any) -> str:
        plain = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(plain).decode().rstrip("=")

    return f"{part(header)}.{part(payload)}.{part(signature)}"


@pytest.mark.parametrize("key", [EC, RSA, ED], ids=lambda key: key.algorithm)
async def test_right_assertion(key: Key) -> None:
    found = await verifier().verify(key.sign(claims(email="ann@example.com")))
    assert (found["sub"], found["email"]) == ("ann", "ann@example.com")


async def test_one_of_several_audiences() -> None:
    assert await verifier().verify(EC.sign(claims(aud=["other", "taskmon"])))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": "https://issuer.example.com/"}, "issuer is another"),
        ({"iss": None}, "has no iss"),
        ({"iss": ["https://issuer.example.com"]}, "issuer is another|malformed"),
        ({"aud": "taskmon2"}, "another audience"),
        ({"aud": None}, "has no aud|another audience"),
        ({"aud": []}, "has no aud|another audience"),
        ({"aud": {"taskmon": 1}}, "another audience|malformed"),
        ({"exp": None}, "has no exp"),
        ({"exp": range(-61, 0)}, "expired"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": 1e400}, "malformed"),
        ({"exp": {}}, "malformed"),
        ({"exp": 10**400}, "exp is no time"),
        ({"exp": 1e300}, "exp is no time"),
        ({"exp": True}, "expired|exp is no time"),
        ({"iat": None}, "has no iat"),
        ({"iat": range(120, 121)}, "not valid yet"),
        ({"nbf": range(120, 121)}, "not valid yet"),
        ({"sub": None}, "has no sub"),
        ({"sub": 5}, "malformed"),
        ({"sub": ""}, "sub is empty"),
    ],
)
async def test_wrong_claims(changed: dict[str, Any], reason: str) -> None:
    # A range stands for so many seconds from now. PyJWT itself would not sign some of these.
    now = int(time.time())
    changed = {name: now + value.start if isinstance(value, range) else value for name, value in changed.items()}
    token = jwt.api_jws.encode(json.dumps(claims(**changed)).encode(), EC.private, "ES256", headers={"kid": "ec"})
    with pytest.raises(AuthenticationFailed, match=reason):
        await verifier().verify(token)


async def test_a_minute_of_leeway() -> None:
    now = claims()["iat"]
    assert await verifier().verify(EC.sign(claims(exp=now - 30, nbf=now + 30, iat=now + 30)))


async def test_a_signature_that_is_not_right() -> None:
    token = EC.sign(claims())
    header, payload, signature = token.split(".")
    other = EC.sign(claims(sub="eve")).split(".")
    for wrong in (f"{header}.{other[1]}.{signature}", f"{header}.{payload}.{other[2]}", f"{header}.{payload}.AAAA"):
        with pytest.raises(AuthenticationFailed, match=r"signature is wrong|malformed"):
            await verifier().verify(wrong)
    with pytest.raises(AuthenticationFailed, match="signature is wrong"):
        await verifier().verify(Key("ec").sign(claims()))


async def test_only_the_algorithms_that_are_allowed() -> None:
    with pytest.raises(AuthenticationFailed, match="algorithm is not among"):
        await verifier(algorithms=("RS256",)).verify(EC.sign(claims()))
    none = raw({"alg": "none", "typ": "JWT"}, claims())
    # The public key as the secret of an HMAC: the oldest trick there is.
    signing = raw({"alg": "HS256", "kid": "rsa"}, claims()).rpartition(".")[0]
    public = json.dumps(RSA.jwk).encode()
    forged = base64.urlsafe_b64encode(hmac.digest(public, signing.encode(), hashlib.sha256)).decode().rstrip("=")
    for token in (none, none.rpartition(".")[0] + ".", f"{signing}.{forged}", raw({"alg": ["ES256"]}, {})):
        with pytest.raises(AuthenticationFailed, match=r"algorithm is not among|no JWT"):
            await verifier().verify(token)


@pytest.mark.parametrize("algorithms", [(), ("HS256",), ("none",), ("RS256", "HS512"), ("rs256",)])
def test_algorithms_that_may_not_be_allowed(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="algorithms must be among"):
        verifier(algorithms=algorithms)
    assert not {"HS256", "HS384", "HS512", "none"} & ALGORITHMS


async def test_a_key_of_another_algorithm() -> None:
    token = jwt.encode(claims(), RSA.private, "RS256", headers={"kid": "ec"})
    with pytest.raises(AuthenticationFailed, match="refused"):
        await verifier().verify(token)


async def test_a_short_key_is_not_believed() -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = WEAK.sign(claims())
    with pytest.raises(AuthenticationFailed, match="malformed"):
        await verifier().verify(token)


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_access_tokens_are_no_assertions(typ: str) -> None:
    with pytest.raises(AuthenticationFailed, match="access token"):
        await verifier().verify(EC.sign(claims(), typ=typ))


async def test_headers_that_ask_for_more() -> None:
    for header in ({"crit": ["b64"], "b64": False}, {"crit": []}, {"kid": 5}, {"kid": None}):
        with pytest.raises(AuthenticationFailed, match="not known here"):
            await verifier().verify(raw({"alg": "ES256", **header}, claims()))


async def test_length() -> None:
    fill = "x" * 3000
    assert await verifier().verify(EC.sign(claims(fill=fill)))
    token = EC.sign(claims(fill=fill * 2))
    assert len(token) > MAX_TOKEN
    with pytest.raises(AuthenticationFailed, match="longer than 8 KiB"):
        await verifier().verify(token)


def test_nothing_raises_anything_else(caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    headers = st.fixed_dictionaries(
        {}, optional={"alg": st.sampled_from(["ES256", "RS256", "none"]) | json_values, "kid": json_values}
    )
    parts = st.builds(raw, headers | json_values | st.binary(max_size=20), json_values, st.binary(max_size=80))
    signed = st.dictionaries(st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "sub", "jti"]), json_values).map(
        lambda changed: jwt.api_jws.encode(
            json.dumps(claims() | changed).encode(), EC.private, "ES256", headers={"kid": "ec"}
        )
    )

    with asyncio.Runner() as runner:

        @given(st.text(max_size=60) | parts | signed | st.text("abc.=_-", max_size=60))
        def check(token: str) -> None:
            try:
                assert runner.run(verifier().verify(token))["sub"]
            except AuthenticationFailed as exc:
                assert str(exc).isprintable()

        caplog.set_level(logging.DEBUG)
        check()
