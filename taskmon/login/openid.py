"""Any provider of OpenID Connect, found by its discovery document. Event loop only; needs PyJWT."""

import asyncio
import base64
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus

import msgspec

from ..credentials.https_fetch import Fetcher
from ..credentials.jwks import JwksCache
from ..credentials.jwt import ALGORITHMS, JwtVerifier
from ..credentials.sessions import Identity
from ..errors import AuthenticationFailed, LoginFailed, Unavailable
from .attempts import Attempt
from .claims import check_hosted_domain, check_id_token, has_claim, read_groups, read_subject, read_verified_address
from .provider import ask_with_token, authorization_url, exchange, is_endpoint, read

_FRESH: Final = 3600.0
_PAUSE: Final = 2.0
_WELL_KNOWN: Final = "/.well-known/openid-configuration"


class Client(NamedTuple):
    """What taskmon is to the provider, and what it wants to know; no secret where it is a public client."""

    key: str
    secret: str | None
    scope: str = "openid email profile"
    groups_claim: str = "groups"
    groups: Collection[str] = ()
    hosted_domains: Collection[str] = ()


class _Metadata(msgspec.Struct):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None
    authorization_response_iss_parameter_supported: bool = False


class _Found(NamedTuple):
    metadata: _Metadata
    verifier: JwtVerifier
    until: float


class OpenIdProvider:
    """Asks the issuer where to go, sends people there, and believes what its signed ID token says of them."""

    def __init__(
        self,
        name: str,
        issuer: str,
        client: Client,
        ca_certs: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.issuer = issuer
        self.confirms_issuer = False
        self._client = client
        self._ca_certs = ca_certs
        self._clock = clock
        self._fetcher = Fetcher(name, ca_certs)
        self._keys: JwksCache | None = None
        self._keys_url = ""
        self._found: _Found | None = None
        self._next_try = float("-inf")
        self._failure = Unavailable(name, "it was not asked yet")
        self._finding = asyncio.Lock()

    async def authorize(self, attempt: Attempt, redirect_uri: str, *, choose: bool) -> str:
        """Give the URL to send a browser to, with `choose` to choose an account; raise Unavailable."""
        metadata = (await self._discover()).metadata
        parameters = {
            "response_type": "code",
            "client_id": self._client.key,
            "redirect_uri": redirect_uri,
            "scope": self._client.scope,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        if choose:
            parameters["prompt"] = "select_account"
        if len(self._client.hosted_domains) == 1:
            (parameters["hd"],) = self._client.hosted_domains
        return authorization_url(metadata.authorization_endpoint, parameters)

    async def identify(self, code: str, attempt: Attempt, redirect_uri: str) -> Identity:
        """Exchange the code and say who it is; raise LoginFailed or Unavailable."""
        found = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": attempt.verifier,
        }
        headers = self._authenticate(found.metadata, form)
        tokens = await exchange(self._fetcher, self.name, found.metadata.token_endpoint, form, headers)
        try:
            claims = await found.verifier.verify(tokens.id_token)
        except AuthenticationFailed as exc:
            raise LoginFailed(f"The answer of {self.name} is not believed. {exc}") from exc
        check_id_token(claims, self._client.key, attempt.nonce)
        check_hosted_domain(claims, self._client.hosted_domains)
        return await self._describe(claims, found.metadata, tokens.access_token)

    def close(self) -> None:
        """Let connections go; no call may follow."""
        self._fetcher.close()
        if self._keys is not None:
            self._keys.close()

    def _authenticate(self, metadata: _Metadata, form: dict[str, str]) -> dict[str, str]:
        """Give the headers that prove which client this is, or put the proof into the form."""
        key, secret = self._client.key, self._client.secret
        ways = metadata.token_endpoint_auth_methods_supported
        if secret is not None and (ways is None or "client_secret_basic" in ways):
            credentials = f"{quote_plus(key)}:{quote_plus(secret)}".encode()
            return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}
        form["client_id"] = key
        if secret is not None:
            form["client_secret"] = secret
        return {}

    async def _describe(self, claims: dict[str, Any], metadata: _Metadata, access_token: str) -> Identity:
        """Say who it is, after a look at the userinfo too, where something is missing that matters."""
        subject = read_subject(claims)
        documents = [claims]
        claim = self._client.groups_claim
        missing = "email" not in claims or (self._client.groups and not has_claim(claims, claim))
        if missing and metadata.userinfo_endpoint is not None and access_token:
            documents.append(await self._ask_userinfo(metadata.userinfo_endpoint, access_token, subject))
        addresses = [address for address in map(read_verified_address, documents) if address]
        groups = {group for one in documents for group in read_groups(one, claim, self._client.groups)}
        address = addresses[0] if addresses else None
        return Identity(self.issuer, subject, address or subject, address, tuple(sorted(groups)))

    async def _ask_userinfo(self, url: str, access_token: str, subject: str) -> dict[str, Any]:
        document = await ask_with_token(self._fetcher, self.name, url, access_token)
        if document.status != 200:
            raise Unavailable(self.name, f"its userinfo answered {document.status}")
        info = read(self.name, document, dict[str, Any])
        if info.get("sub") != subject:
            raise LoginFailed(f"The answers of {self.name} speak of different people")
        return info

    async def _discover(self) -> _Found:
        """Give what discovery found, an hour old at the most; an older one while there is no newer.

        All who wait hear of the same failure, and for 2 s those who come after it, too.
        """
        async with self._finding:
            found = self._found
            if found is not None and self._clock() < found.until:
                return found
            if self._clock() >= self._next_try:
                try:
                    self._found = await self._read_discovery()
                    return self._found
                except Unavailable as exc:
                    self._failure, self._next_try = exc, self._clock() + _PAUSE
            if found is None:
                raise Unavailable(self._failure.what, self._failure.reason)
            return found

    async def _read_discovery(self) -> _Found:
        document = await self._fetcher.get(self.issuer.rstrip("/") + _WELL_KNOWN)
        metadata = read(self.name, document, _Metadata)
        if metadata.issuer != self.issuer:
            raise Unavailable(self.name, "its discovery document is that of another issuer than --oidc-issuer")
        used = [metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri]
        if metadata.userinfo_endpoint is not None:
            used.append(metadata.userinfo_endpoint)
        if not all(map(is_endpoint, used)):
            raise Unavailable(self.name, "its discovery document names what is no https URL")
        if self._keys is None or self._keys_url != metadata.jwks_uri:
            if self._keys is not None:
                self._keys.close()
            self._keys, self._keys_url = JwksCache(metadata.jwks_uri, self._ca_certs), metadata.jwks_uri
        self.confirms_issuer = metadata.authorization_response_iss_parameter_supported
        verifier = JwtVerifier(self._keys, issuer=self.issuer, audience=self._client.key, algorithms=ALGORITHMS)
        return _Found(metadata, verifier, self._clock() + _FRESH)
