"""The authenticator of the proxy that the settings name, if they name one."""

from urllib.parse import urlsplit

from ..auth import Authenticator, Role
from ..errors import InvalidSetting
from ..settings import Settings
from ..settings.proxies import Preset, complete, region_of
from .proxies import ProxyAuthenticator
from .roles import Roles

_ALB_KEYS = "https://public-keys.auth.elb.{region}.amazonaws.com/"


def build_proxy(settings: Settings) -> Authenticator | None:
    """Make the authenticator; raise InvalidSetting where what the settings say is not enough."""
    options = {
        "user": settings.proxy_user_header,
        "email": settings.proxy_email_header,
        "groups": settings.proxy_groups_header,
        "jwt": settings.proxy_jwt_header,
        "issuer": settings.proxy_jwt_issuer,
        "audience": settings.proxy_jwt_audience,
        "keys": settings.proxy_jwks_url,
        "signer": settings.proxy_jwt_signer,
        "algorithms": settings.proxy_jwt_algorithms,
        "user_claim": settings.proxy_user_claim,
        "email_claim": settings.proxy_email_claim,
        "groups_claim": settings.proxy_groups_claim,
    }
    given = {name: value for name, value in options.items() if value}
    if settings.proxy_preset is None and not given:
        return None
    host = urlsplit(settings.public_url).netloc.rpartition("@")[2] if settings.public_url else None
    names = complete(settings.proxy_preset, given, host)
    default = None if settings.default_role == "none" else Role.parse(settings.default_role)
    roles = Roles(settings.roles, default)
    if names.jwt is not None:
        return _believe_signed(settings, names, roles)
    unix = settings.unix_socket is not None or any(where.unix_socket for where in settings.listen)
    if not settings.trusted_proxies and not unix:
        raise InvalidSetting("trusted_proxies", "must name the proxy, as its headers decide who comes in")
    assert names.user is not None
    return ProxyAuthenticator(names.user, names.email, names.groups, roles)


def _believe_signed(settings: Settings, names: Preset, roles: Roles) -> Authenticator:
    try:
        from .alb import AlbVerifier
        from .assertions import AssertionAuthenticator
        from .jwks import JwksCache
        from .jwt import JwtVerifier
    except ImportError as exc:
        raise InvalidSetting("proxy_jwt_header", "needs the extra oidc: pip install 'celery-taskmon[oidc]'") from exc
    authorities = settings.provider_ca_certs
    if settings.proxy_preset == "aws-alb":
        if names.signer is None:
            raise InvalidSetting("proxy_jwt_signer", "must be the ARN of the load balancer")
        keys = names.keys or _ALB_KEYS.format(region=region_of(names.signer))
        alb = AlbVerifier(names.signer, keys, issuer=names.issuer, audience=names.audience, ca_certs=authorities)
        return AssertionAuthenticator(alb, names, roles)
    assert names.issuer and names.audience and names.keys
    verifier = JwtVerifier(
        JwksCache(names.keys, authorities),
        issuer=names.issuer,
        audience=names.audience,
        algorithms=names.algorithms,
    )
    return AssertionAuthenticator(verifier, names, roles)
