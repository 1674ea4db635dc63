"""Provider: who vouches for people, and what is the same for all of them. Event loop only; no flow in here."""

from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from ..credentials.https_fetch import Document, Fetcher
from ..credentials.sessions import Identity
from ..errors import LoginFailed, Unavailable
from .attempts import Attempt

T = TypeVar("T")

_MAX_URL = 2048
#: The errors of OAuth 2 and OpenID Connect that may come from a token endpoint or by the browser.
ERRORS = frozenset(
    (
        *("access_denied", "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "server_error"),
        *("temporarily_unavailable", "unauthorized_client", "unsupported_grant_type", "unsupported_response_type"),
        *("account_selection_required", "consent_required", "interaction_required", "login_required"),
        *("bad_verification_code", "incorrect_client_credentials", "redirect_uri_mismatch"),
    )
)


class Provider(Protocol):
    """Vouches for people; `name` is how pages call it, `issuer` half of the identity of everybody it knows."""

    name: str
    issuer: str
    confirms_issuer: bool

    async def authorize(self, attempt: Attempt, redirect_uri: str, *, choose: bool) -> str:
        """Give the URL to send a browser to, with `choose` to choose an account; raise Unavailable."""
        ...

    async def identify(self, code: str, attempt: Attempt, redirect_uri: str) -> Identity:
        """Exchange the code and say who it is; raise LoginFailed or Unavailable."""
        ...

    def close(self) -> None:
        """Let connections go; no call may follow."""
        ...


class _Error(msgspec.Struct):
    error: str


class Tokens(msgspec.Struct):
    """What a token endpoint answers, as far as it matters here."""

    access_token: str = ""
    id_token: str = ""


def authorization_url(endpoint: str, parameters: dict[str, str]) -> str:
    """Add parameters to an authorization endpoint, which may have some already."""
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}"


async def exchange(
    fetcher: Fetcher, name: str, endpoint: str, form: dict[str, str], headers: dict[str, str] | None = None
) -> Tokens:
    """Exchange a code for tokens; raise LoginFailed for a no, Unavailable for nonsense."""
    sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
    document = await fetcher.ask(endpoint, method="POST", body=urlencode(form), headers=sent)
    try:
        error = msgspec.json.decode(document.body, type=_Error).error
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        error = None
    if error is not None or document.status != 200:
        raise LoginFailed(f"{name} did not accept the login: {error if error in ERRORS else document.status}")
    return read(name, document, Tokens)


def read(name: str, document: Document, shape: type[T]) -> T:
    """Read a document of JSON; raise Unavailable for one of another shape, without a word of it."""
    try:
        return msgspec.json.decode(document.body, type=shape)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise Unavailable(name, "its answer cannot be read") from exc


async def ask_with_token(fetcher: Fetcher, name: str, url: str, access_token: str) -> Document:
    """Ask in the name of somebody who just logged in; raise Unavailable where the token is none or is not taken."""
    if not access_token.isascii() or not access_token.isprintable() or not 0 < len(access_token) <= 8192:
        raise Unavailable(name, "it gave no access token")
    document = await fetcher.ask(url, headers={"Authorization": f"Bearer {access_token}"})
    if document.status == 401 or document.status == 429:
        raise Unavailable(name, f"it answered {document.status}")
    return document


def is_endpoint(url: Any) -> bool:
    """Tell whether a URL of a provider's may be used: https, a host, no user, no fragment."""
    if not isinstance(url, str) or len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.scheme == "https" and parts.hostname and "@" not in parts.netloc and "#" not in url) and (
            parts.port != 0
        )
    except ValueError:
        return False
