"""Asks an identity provider over HTTPS: no redirects, at most 256 KiB, 5 s in all. Event loop only."""

import logging
import ssl
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tornado.httpclient import HTTPError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPInputError
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError, SimpleAsyncHTTPClient

from ..errors import InvalidSetting, Unavailable

logger = logging.getLogger(__name__)

MAX_DOCUMENT: Final = 256 * 1024
TIMEOUT: Final = 5.0
_MAX_HEADERS: Final = 16 * 1024
_MAX_CONCURRENT: Final = 4


class Document(NamedTuple):
    """What a provider answered, whatever its status."""

    status: int
    headers: HTTPHeaders
    body: bytes


class Fetcher:
    """Asks one provider; its certificate is signed by an authority of the system, or of `ca_certs` (a PEM file)."""

    def __init__(self, who: str, ca_certs: Path | None = None) -> None:
        self._who = who
        try:
            self._tls = ssl.create_default_context(cafile=ca_certs)
        except (OSError, ValueError) as exc:
            raise InvalidSetting("provider_ca_certs", "must be a file of certificates in PEM", str(ca_certs)) from exc
        self._client = SimpleAsyncHTTPClient(
            force_instance=True, max_clients=_MAX_CONCURRENT, max_body_size=MAX_DOCUMENT, max_header_size=_MAX_HEADERS
        )

    async def ask(
        self, url: str, *, method: str = "GET", body: str | None = None, headers: dict[str, str] | None = None
    ) -> Document:
        """Give the answer, also of 4xx; raise Unavailable for anything that is no answer, a redirect or 5xx.

        Neither the URL's query nor a body is ever in an error or in the log: they may hold secrets.
        """
        if urlsplit(url).scheme != "https":
            raise Unavailable(self._who, "it is only asked over https")
        request = HTTPRequest(
            url,
            method=method,
            body=body,
            headers={"Accept": "application/json", **(headers or {})},
            user_agent="taskmon",
            follow_redirects=False,
            connect_timeout=TIMEOUT,
            request_timeout=TIMEOUT,
            decompress_response=False,
            ssl_options=self._tls,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (HTTPError, HTTPInputError, OSError, ValueError) as exc:
            raise Unavailable(self._who, _reason(exc)) from exc
        if response.code >= 500 or 300 <= response.code < 400:
            raise Unavailable(self._who, f"it answered {response.code}")
        return Document(response.code, response.headers, response.body)

    async def get(self, url: str) -> Document:
        """Give a document; raise Unavailable for everything but 200."""
        document = await self.ask(url)
        if document.status != 200:
            raise Unavailable(self._who, f"it answered {document.status}")
        return document

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPTimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(error, HTTPStreamClosedError):
        return "it closed the connection, or its answer is too large"
    if isinstance(error, HTTPError):
        return f"it answered {error.code}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"its answer is no HTTP ({type(error).__name__})"
