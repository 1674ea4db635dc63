"""What proxies that know who asks send of it: presets, which only fill in names that are not given. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import InvalidSetting
from .kinds import matching, read_public_url

HEADER: Final = matching(
    re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}"), "must be the name of a header, such as X-Forwarded-User"
)
CLAIM: Final = matching(re.compile(r"[A-Za-z0-9_.:/-]{1,128}"), "must be the name of a claim, such as email")
#: The algorithms that may be allowed: those whose keys are public.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

_SIGNER = re.compile(
    r"arn:aws[\w-]*:elasticloadbalancing:(?P<region>[a-z0-9-]+):\d+:loadbalancer/app/[\w-]+/[0-9a-f]+"
)


@dataclass(frozen=True)
class Preset:
    """The headers of a proxy, or the header, issuer and claims of what it signs.

    `vouches` says that an address it signs is checked, though it does not say so in `email_verified`.
    """

    user: str | None = None
    email: str | None = None
    groups: str | None = None
    jwt: str | None = None
    issuer: str | None = None
    audience: str | None = None
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    keys: str | None = None
    signer: str | None = None
    user_claim: str = "sub"
    email_claim: str = "email"
    groups_claim: str = "groups"
    vouches: bool = False


#: `{issuer}` and `{host}` stand for the issuer and for the host of the public URL.
PRESETS: Final = {
    "oauth2-proxy": Preset("X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "Authorization"),
    "nginx-auth-request": Preset("X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups"),
    "traefik": Preset("X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups"),
    "authelia": Preset("Remote-User", "Remote-Email", "Remote-Groups"),
    "tailscale": Preset("Tailscale-User-Login", "Tailscale-User-Login"),
    "pomerium": Preset(
        jwt="X-Pomerium-Jwt-Assertion",
        issuer="{host}",
        audience="{host}",
        algorithms=("ES256",),
        keys="https://{host}/.well-known/pomerium/jwks.json",
        user_claim="email",
        vouches=True,
    ),
    "cloudflare-access": Preset(
        jwt="Cf-Access-Jwt-Assertion",
        algorithms=("RS256",),
        keys="{issuer}/cdn-cgi/access/certs",
        user_claim="email",
        vouches=True,
    ),
    "google-iap": Preset(
        jwt="X-Goog-Iap-Jwt-Assertion",
        issuer="https://cloud.google.com/iap",
        algorithms=("ES256",),
        keys="https://www.gstatic.com/iap/verify/public_key-jwk",
        user_claim="email",
        vouches=True,
    ),
    "aws-alb": Preset(jwt="X-Amzn-Oidc-Data", algorithms=("ES256",)),
}

#: The names whose headers only count while nothing is signed, and with which presets that is so.
_SIGNED_ONLY: Final = frozenset(("pomerium", "cloudflare-access", "google-iap", "aws-alb"))


def complete(preset: str | None, given: Mapping[str, Any], host: str | None) -> Preset:
    """Fill in what is not given; raise InvalidSetting for what is missing.

    What is signed goes before headers: where an issuer or a signer is known, `user`, `email` and `groups` are None.
    """
    whole = replace(PRESETS[preset] if preset else Preset(), **given)
    if not _is_signed(preset, whole, "jwt" in given):
        if whole.user is None:
            raise InvalidSetting("proxy_user_header", "must name the header with the user")
        return replace(whole, jwt=None)
    whole = replace(whole, user=None, email=None, groups=None)
    return whole if preset == "aws-alb" else _with_issuer(whole, host)


def _is_signed(preset: str | None, whole: Preset, header_given: bool) -> bool:
    return preset in _SIGNED_ONLY or header_given or bool(whole.jwt and (whole.issuer or whole.keys))


def _with_issuer(whole: Preset, host: str | None) -> Preset:
    names = {"host": host or "", "issuer": ""}
    if "{host}" in f"{whole.issuer}{whole.audience}{whole.keys}" and not host:
        raise InvalidSetting("public_url", "must be given: the proxy signs for its host")
    options = {"issuer": "proxy_jwt_issuer", "audience": "proxy_jwt_audience", "keys": "proxy_jwks_url"}
    for name, option in options.items():
        value = getattr(whole, name)
        if value is None:
            raise InvalidSetting(option, "must be given to check what the proxy signs")
        whole = replace(whole, **{name: value.format(**names) if "{" in value else value})
        names[name] = getattr(whole, name).rstrip("/")
    return whole


def read_https(value: object) -> str:
    """Read the URL of keys: over https only, for who answers it says who comes in."""
    text = read_public_url(value)
    if not text.startswith("https://"):
        raise ValueError("must be a URL that begins with https://")
    return text


def read_algorithm(value: object) -> str:
    """Read an algorithm; those with a shared secret, and none, are not there."""
    if value not in ALGORITHMS:
        raise ValueError(f"must be among {', '.join(ALGORITHMS)}")
    return str(value)


def read_signer(value: object) -> str:
    """Read the ARN of a load balancer."""
    text = str(value).strip()
    if not _SIGNER.fullmatch(text):
        raise ValueError("must be the ARN of the load balancer: arn:aws:elasticloadbalancing:…:loadbalancer/app/…")
    return text


def region_of(signer: str) -> str:
    """Give the region in a load balancer's ARN."""
    match = _SIGNER.fullmatch(signer)
    assert match
    return match["region"]
