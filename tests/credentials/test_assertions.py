"""Signed assertions of proxies: who comes in is what a key of the issuer's signed, and what the roles make of it."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuer import Issuer, Key, claims
from serving import Headers, Response, Served, parse, serving
from tls import make_certificates

from taskmon import routes
from taskmon.auth import Role
from taskmon.credentials.proxy_factory import build_proxy
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting
from taskmon.http.base import ApiHandler
from taskmon.settings import Settings

KEY = Key("one")
RSA = Key("two", "RS256")
ROLES = {"roles": ("admin=group:ops", "operator=address:ann@example.com")}


class Who(ApiHandler):
    """GET `/who`: says who asks."""

    def get(self) -> None:
        user = self.current_user
        self.answer({"user": user.name, "role": str(user.role), "address": user.address})


@pytest.fixture(autouse=True)
def _route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "ROUTES", [*routes.ROUTES, ("/who", Who)])


@asynccontextmanager
async def behind(issuer: Issuer, **options: Any) -> AsyncIterator[Served]:
    """Run a taskmon that trusts what this issuer signs."""
    given = {"proxy_jwks_url": issuer.jwks, "provider_ca_certs": make_certificates().authority, **ROLES, **options}
    async with serving(**given) as served:
        yield served


GENERIC = {
    "proxy_jwt_header": "X-Assertion",
    "proxy_jwt_issuer": "https://issuer.example.com",
    "proxy_jwt_audience": "taskmon",
}


async def ask(served: Served, headers: Headers) -> Response:
    return await served.get("/who", headers, anonymous=True)


async def test_what_is_signed_is_believed() -> None:
    async with Issuer(KEY, RSA).serving() as issuer, behind(issuer, **GENERIC) as served:
        for key in (KEY, RSA):
            for given, role in (
                ({}, "viewer"),
                ({"groups": ["ops"]}, "admin"),
                ({"groups": "dev,ops"}, "admin"),
                ({"groups": {"ops": 1}}, "viewer"),
                ({"groups": [["ops"], 5]}, "viewer"),
                ({"email": "ann@example.com"}, "viewer"),
                ({"email": "ann@example.com", "email_verified": False}, "viewer"),
                ({"email": "ann@example.com", "email_verified": "true"}, "viewer"),
                ({"email": "ann@example.com", "email_verified": True}, "operator"),
                ({"email": ["ann@example.com"], "email_verified": True}, "viewer"),
            ):
                token = key.sign(claims(**given))
                for _ in range(2):
                    answer = await ask(served, {"X-Assertion": token})
                    assert answer.json()["user"] == "ann"
                    assert answer.json()["role"] == role, given
        assert len(issuer.asked) == 1


async def test_what_is_not_signed_for_us_is_refused() -> None:
    async with Issuer(KEY).serving() as issuer, behind(issuer, **GENERIC) as served:
        good = KEY.sign(claims())
        for wrong in (
            KEY.sign(claims(aud="other")),
            KEY.sign(claims(iss="other")),
            KEY.sign(claims(exp=int(time.time()) - 100)),
            KEY.sign(claims(exp=10**400)),
            KEY.sign(claims(iat=-(10**400), exp=10**4000)),
            KEY.sign(claims(sub="ann,bob")),
            KEY.sign(claims(sub="ann\n")),
            Key("one").sign(claims()),
            KEY.sign(claims(), typ="at+jwt"),
            good[:-4] + "AAAA",
            "x",
            "",
            f"Bearer {good}",
        ):
            answer = await ask(served, {"X-Assertion": wrong})
            assert answer.status == 401, wrong
            assert wrong[:20] not in answer.error["message"] or len(wrong) < 2
        for headers in (
            {},
            {"X-Forwarded-User": "ann"},
            {"X_Assertion": good},
            {"X-Assertion": good, "X.Assertion": good},
        ):
            assert (await ask(served, headers)).status == 401
        twice = f"GET /who HTTP/1.0\r\nHost: localhost\r\nX-Assertion: {good}\r\nX-Assertion: {good}\r\n\r\n"
        assert parse(await served.send(twice.encode())).status == 401
        assert (await ask(served, {"X-Assertion": good})).status == 200


async def test_without_keys_it_is_503_and_nobody_comes_in() -> None:
    async with Issuer(KEY).serving() as issuer, behind(issuer, **GENERIC) as served:
        issuer.status = 500
        answer = await ask(served, {"X-Assertion": KEY.sign(claims())})
        assert answer.status == 503
        assert answer.header("Retry-After")


async def test_an_assertion_is_known_again_but_not_longer_than_it_holds() -> None:
    async with Issuer(KEY).serving() as issuer, behind(issuer, **GENERIC) as served:
        (proxy,) = [a for a in served.taskmon.services.authentication._authenticators if a.kind == "proxy"]
        token = KEY.sign(claims(exp=int(time.time()) + 30))
        assert (await ask(served, {"X-Assertion": token})).status == 200
        ((user, until),) = proxy._cache.values()  # type: ignore[attr-defined]
        assert user.name == "ann"
        assert until <= time.time() + 30


async def test_oauth2_proxy_with_the_id_token_in_authorization() -> None:
    token, line = new_token("ci", Role.VIEWER)
    names = {"proxy_jwt_issuer": "https://issuer.example.com", "proxy_jwt_audience": "taskmon"}
    async with (
        Issuer(KEY).serving() as issuer,
        behind(issuer, proxy_preset="oauth2-proxy", token=line, **names) as served,
    ):
        assert (await ask(served, {"Authorization": f"Bearer {KEY.sign(claims())}"})).json()["user"] == "ann"
        assert (await ask(served, {"Authorization": f"Bearer {token}"})).json()["user"] == "ci"
        for wrong in ("Bearer x.y.z", f"Bearer {Key('one').sign(claims())}", f"Bearer {token}0", "Basic eA=="):
            assert (await ask(served, {"Authorization": wrong, "X-Forwarded-User": "ann"})).status == 401
        assert (await ask(served, {"X-Forwarded-User": "ann"})).status == 401
        foreign = {"Authorization": f"Bearer {KEY.sign(claims(groups=['ops']))}", "Sec-Fetch-Site": "cross-site"}
        assert (await served.request("POST", "/api/tasks/revoke", foreign, b"{}")).status == 403


@pytest.mark.parametrize(
    ("preset", "header", "options", "token"),
    [
        (
            "pomerium",
            "X-Pomerium-Jwt-Assertion",
            {"public_url": "https://mon.example.com/x"},
            {"iss": "mon.example.com", "aud": "mon.example.com", "email": "ann@example.com"},
        ),
        (
            "cloudflare-access",
            "Cf-Access-Jwt-Assertion",
            {"proxy_jwt_issuer": "https://team.example.com", "proxy_jwt_audience": "0123", "rsa": True},
            {"iss": "https://team.example.com", "aud": ["0123"], "email": "ann@example.com"},
        ),
        (
            "google-iap",
            "x-goog-iap-jwt-assertion",
            {"proxy_jwt_audience": "/projects/1/global/backendServices/2"},
            {
                "iss": "https://cloud.google.com/iap",
                "aud": "/projects/1/global/backendServices/2",
                "email": "ann@example.com",
            },
        ),
    ],
)
async def test_presets(preset: str, header: str, options: dict[str, Any], token: dict[str, Any]) -> None:
    key = RSA if options.pop("rsa", False) else KEY
    async with Issuer(key).serving() as issuer, behind(issuer, proxy_preset=preset, **options) as served:
        answer = await ask(served, {header: key.sign(claims(**token))})
        assert answer.json() == {"user": "ann@example.com", "role": "operator", "address": "ann@example.com"}
        assert (await ask(served, {header: key.sign(claims(**token, email_verified=False))})).json()[
            "role"
        ] == "viewer"
        assert (await ask(served, {header: key.sign(claims(**{**token, "email": None}))})).status == 401
        assert (await ask(served, {header: key.sign(claims())})).status == 401


def test_where_presets_find_keys() -> None:
    cases = {
        "pomerium": (
            {"public_url": "https://mon.example.com:8443/x"},
            "https://mon.example.com:8443/.well-known/pomerium/jwks.json",
        ),
        "cloudflare-access": (
            {"proxy_jwt_issuer": "https://team.example.com/", "proxy_jwt_audience": "x"},
            "https://team.example.com/cdn-cgi/access/certs",
        ),
        "google-iap": ({"proxy_jwt_audience": "x"}, "https://www.gstatic.com/iap/verify/public_key-jwk"),
    }
    for preset, (options, url) in cases.items():
        proxy: Any = build_proxy(Settings(proxy_preset=preset, **options))
        assert proxy._verifier._keys._url == url
        proxy.close()
    proxy = build_proxy(Settings(proxy_preset="aws-alb", proxy_jwt_signer=ARN))
    assert proxy._verifier._url == "https://public-keys.auth.elb.eu-west-1.amazonaws.com/"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy_jwt_header": "X-A"}, "--proxy-jwt-issuer must be given"),
        ({"proxy_jwt_header": "X-A", "proxy_jwt_issuer": "x"}, "--proxy-jwt-audience must be given"),
        ({"proxy_jwt_header": "X-A", "proxy_jwt_issuer": "x", "proxy_jwt_audience": "y"}, "--proxy-jwks-url must be"),
        ({"proxy_preset": "pomerium"}, "--public-url must be given"),
        ({"proxy_preset": "cloudflare-access"}, "--proxy-jwt-issuer must be given"),
        ({"proxy_preset": "google-iap"}, "--proxy-jwt-audience must be given"),
        ({"proxy_preset": "aws-alb"}, "--proxy-jwt-signer must be the ARN"),
        ({"proxy_jwks_url": "http://keys.example.com"}, "--proxy-jwks-url must be a URL that begins with https"),
        ({"proxy_jwt_algorithms": "HS256"}, "--proxy-jwt-algorithms must be among"),
        ({"proxy_jwt_algorithms": "none"}, "--proxy-jwt-algorithms must be among"),
        ({"proxy_jwt_signer": "arn:aws:s3:x"}, "--proxy-jwt-signer must be the ARN"),
    ],
)
def test_settings_that_are_not_enough(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        build_proxy(Settings(**options))


# AWS load balancers


ARN = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/app/mon/0123456789abcdef"
KID = "12345678-1234-1234-1234-123456789012"


def alb_token(key: Key = KEY, padded: bool = False, payload: dict[str, Any] | None = None, **header: Any) -> str:
    """Sign as a load balancer does: what others have in the claims is in the header."""
    whole = {
        "kid": KID,
        "signer": ARN,
        "iss": "https://issuer.example.com",
        "client": "taskmon",
        "exp": int(time.time()) + 60,
    }
    whole |= header
    body = {"sub": "ann", "email": "ann@example.com", "email_verified": "true"} if payload is None else payload
    token = jwt.api_jws.encode(
        json.dumps(body).encode(), key.private, "ES256", headers={k: v for k, v in whole.items() if v is not None}
    )
    if not padded:
        return token
    head, claimed, _ = (part + "=" * (-len(part) % 4) for part in token.split("."))
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(
        f"{head}.{claimed}".encode(), key.private
    )
    return f"{head}.{claimed}.{jwt.utils.base64url_encode(signature).decode()}=="


def alb_issuer() -> Issuer:
    issuer = Issuer(KEY)
    issuer.body = KEY.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return issuer


ALB = {"proxy_preset": "aws-alb", "proxy_jwt_signer": ARN}


async def test_a_load_balancer() -> None:
    async with alb_issuer().serving() as issuer:
        options = ALB | {"proxy_jwks_url": issuer.url, "proxy_user_claim": "email"}
        async with behind(issuer, **options) as served:
            for token in (alb_token(), alb_token(padded=True)):
                answer = await ask(served, {"x-amzn-oidc-data": token})
                assert answer.json() == {"user": "ann@example.com", "role": "operator", "address": "ann@example.com"}
            assert issuer.asked == [f"/{KID}"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"signer": ARN.replace("mon", "other")}, "another load balancer"),
        ({"signer": None}, "another load balancer"),
        ({"exp": int(time.time()) - 1000}, "has expired"),
        ({"exp": None}, "has no exp"),
        ({"exp": "9999999999"}, "exp is no time"),
        ({"exp": True}, "exp is no time"),
        ({"exp": 10**400}, "exp is no time"),
        ({"iss": "other"}, "issuer is another"),
        ({"client": "other"}, "another audience"),
        ({"kid": "../../x"}, "kid is none"),
        ({"kid": KID + "/"}, "kid is none"),
        ({"kid": None}, "kid is none"),
        ({"payload": {}}, "has no sub"),
        ({"payload": {"sub": ""}}, "sub is empty"),
        ({"payload": {"sub": "ann", "exp": 1}}, "has expired"),
        ({"key": Key(None)}, "signature is wrong"),
    ],
)
async def test_what_a_load_balancer_did_not_sign_for_us(changed: dict[str, Any], message: str) -> None:
    async with alb_issuer().serving() as issuer:
        names = {"proxy_jwt_issuer": "https://issuer.example.com", "proxy_jwt_audience": "taskmon"}
        async with behind(issuer, **(ALB | names | {"proxy_jwks_url": issuer.url})) as served:
            answer = await ask(served, {"X-Amzn-Oidc-Data": alb_token(**changed)})
            assert answer.status == 401
            assert message in answer.error["message"]
            assert (await ask(served, {"X-Amzn-Oidc-Data": alb_token()})).status == 200


async def test_unknown_keys_of_a_load_balancer_cost_few_questions() -> None:
    async with alb_issuer().serving() as issuer:
        async with behind(issuer, **(ALB | {"proxy_jwks_url": issuer.url})) as served:
            issuer.status = 404
            for _ in range(3):
                assert (await ask(served, {"X-Amzn-Oidc-Data": alb_token()})).status == 401
            assert len(issuer.asked) == 1
            for number in range(20):
                kid = f"{number:08d}{KID[8:]}"
                assert (await ask(served, {"X-Amzn-Oidc-Data": alb_token(kid=kid)})).status == 401
            assert len(issuer.asked) == 10
            issuer.status = 500
        async with behind(issuer, **(ALB | {"proxy_jwks_url": issuer.url})) as served:
            assert (await ask(served, {"X-Amzn-Oidc-Data": alb_token()})).status == 503
