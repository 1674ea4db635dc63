"""The headers of answers: those that stand on every one, and those that let pages of listed origins read them."""

import time
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

from tornado.httputil import HTTPHeaders, HTTPServerRequest, format_timestamp

from ..request_ids import HEADER
from ..settings import Settings

#: What browsers offer to pages, and no page of taskmon uses.
_UNUSED_FEATURES: Final = ("camera", "display-capture", "geolocation", "microphone", "payment", "usb")

#: On every answer: it is data for one user, no page to embed, and not to be guessed at.
HEADERS: Final = {
    "Server": "taskmon",
    "Content-Type": "application/json; charset=UTF-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED_FEATURES),
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_HSTS: Final = "max-age=31536000"
_PREFLIGHT_SECONDS: Final = "600"

Standing = tuple[tuple[str, str], ...]


def standing_headers(settings: Settings) -> Standing:
    """Give the headers of every answer; browsers keep to HTTPS where the public URL is one."""
    secure = (settings.public_url or "").startswith("https://")
    return (*HEADERS.items(), *((("Strict-Transport-Security", _HSTS),) if secure else ()))


def fresh_headers(standing: Iterable[tuple[str, str]], request_id: str) -> HTTPHeaders:
    """Give the headers of a new answer. They go in as Tornado keeps them: checking them each time costs too much."""
    headers = HTTPHeaders()
    fields = headers._as_list
    for name, value in standing:
        fields[name] = [value]
    fields[HEADER] = [request_id]
    fields["Date"] = [date(int(time.time()))]
    return headers


@lru_cache(maxsize=2)
def date(second: int) -> str:
    """Write a time as HTTP does."""
    return format_timestamp(second)


def allow_origin(request: HTTPServerRequest, headers: HTTPHeaders, origins: Collection[str]) -> bool:
    """Let a page of a listed origin read the answer, and tell whether it comes from one."""
    headers.add("Vary", "Origin")
    origin = request.headers.get("Origin", "")
    if origin not in origins:
        return False
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = f"Retry-After, WWW-Authenticate, {HEADER}"
    return True


def is_preflight(request: HTTPServerRequest) -> bool:
    """Tell whether a browser asks beforehand, without credentials, what a page may ask."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def answer_preflight(headers: HTTPHeaders) -> None:
    """Allow all methods, with a token; nothing that a browser would add by itself.

    The answer is the same for every path: no credentials have come, so it must not say which routes there are.
    """
    headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, OPTIONS"
    headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
    headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS


def has_body(headers: HTTPHeaders) -> bool:
    """Whether a request with these headers has a body that is to be read."""
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"
