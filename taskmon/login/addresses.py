"""Where a login begins, where it comes back to, and where it leads on to: paths and URLs. Pure."""

import re
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ..errors import InvalidSetting
from ..settings import Settings

#: Where a provider may send people back to; Flower's is the second.
CALLBACKS: Final = ("/login/callback", "/login")
_MAX_LENGTH: Final = 1024
_PATH = re.compile(r"/|(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)+/?")
_QUERY = re.compile(r"[!\"$-\[\]-~]*")
_DOTS = re.compile(r"(?i)(?:\.|%2e){1,2}")
_SLASHES = re.compile(r"(?i)%(?:2f|5c|0[0-9a-f]|1[0-9a-f]|7f)")


class Front(NamedTuple):
    """How browsers reach taskmon: `base` is the path before every route, `secure` says whether it is over HTTPS."""

    redirect_uri: str
    base: str
    secure: bool


def find_front(settings: Settings) -> Front:
    """Read how browsers reach taskmon; raise InvalidSetting where a login could not work that way."""
    uri, public = settings.oauth2_redirect_uri, settings.public_url
    if uri is None and public is None:
        raise InvalidSetting("public_url", "must be given where people log in, or --oauth2-redirect-uri")
    uri = uri or f"{public}{CALLBACKS[0]}"
    option = "oauth2_redirect_uri" if settings.oauth2_redirect_uri else "public_url"
    parts = urlsplit(uri)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise InvalidSetting(option, "must begin with https:// where people log in, but for this very machine", uri)
    callback = next((path for path in CALLBACKS if parts.path.endswith(path)), None)
    if callback is None:
        raise InvalidSetting(option, f"must end in {' or '.join(CALLBACKS)}", uri)
    base = parts.path.removesuffix(callback)
    if public is not None and (f"{parts.scheme}://{parts.netloc}{base}").lower() != public.lower():
        raise InvalidSetting(option, f"must begin with the --public-url, {public}", uri)
    return Front(uri, base, parts.scheme == "https")


def base_path(settings: Settings) -> str:
    """Give the path before every route as browsers see it; a proxy may have taken it off."""
    if settings.public_url is not None:
        return urlsplit(settings.public_url).path
    if settings.oauth2_redirect_uri is not None:
        path = urlsplit(settings.oauth2_redirect_uri).path
        return next((path.removesuffix(end) for end in CALLBACKS if path.endswith(end)), settings.url_prefix)
    return settings.url_prefix


def local_path(text: str, base: str) -> str:
    """Give a path of this taskmon, with its query, as it came; for anything else the first page."""
    path, _, query = text.partition("?")
    inside = path == base or path.startswith(f"{base}/")
    if len(text) <= _MAX_LENGTH and inside and _PATH.fullmatch(path) and _QUERY.fullmatch(query):
        pieces = path.split("/")
        leads_back = path.removeprefix(base).startswith(("/login", "/logout"))
        if not leads_back and not _SLASHES.search(path) and not any(map(_DOTS.fullmatch, pieces)):
            return text
    return f"{base}/"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
