"""GitHub, which speaks OAuth 2 and no OpenID Connect: its API says who it is. Event loop only."""

import asyncio
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from ..credentials.https_fetch import Fetcher
from ..credentials.roles import read_address
from ..credentials.sessions import Identity
from ..errors import LoginFailed, Unavailable
from .attempts import Attempt
from .provider import T, ask_with_token, authorization_url, exchange, read

GITHUB: Final = "https://github.com"


# Rules may name groups that are none of GitHub's, for others who come in.
_GROUP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99})?")


class _Account(msgspec.Struct):
    id: int
    login: str


class _Address(msgspec.Struct):
    email: str
    primary: bool
    verified: bool


class _Membership(msgspec.Struct):
    state: str


class GitHubProvider:
    """Believes GitHub's API: the numeric id is who it is, a verified primary address counts as theirs.

    `groups` are organisations, `acme`, and teams, `acme/ops`; only membership in these is asked for.
    """

    name = "GitHub"
    confirms_issuer = False

    def __init__(
        self,
        key: str,
        secret: str,
        groups: Collection[str] = (),
        *,
        url: str = GITHUB,
        ca_certs: Path | None = None,
    ) -> None:
        self.issuer = url
        self._api = "https://api.github.com" if url == GITHUB else f"{url}/api/v3"
        self._key = key
        self._secret = secret
        self._groups = sorted(filter(_GROUP.fullmatch, groups))
        self._fetcher = Fetcher(self.name, ca_certs)

    async def authorize(self, attempt: Attempt, redirect_uri: str, *, choose: bool) -> str:
        """Give the URL to send a browser to, with `choose` to choose an account."""
        parameters = {
            "response_type": "code",
            "client_id": self._key,
            "redirect_uri": redirect_uri,
            "scope": "read:user user:email" + (" read:org" if self._groups else ""),
            "state": attempt.state,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        if choose:
            parameters["prompt"] = "select_account"
        return authorization_url(f"{self.issuer}/login/oauth/authorize", parameters)

    async def identify(self, code: str, attempt: Attempt, redirect_uri: str) -> Identity:
        """Exchange the code and say who it is; raise LoginFailed or Unavailable."""
        form = {
            "grant_type": "authorization_code",
            "client_id": self._key,
            "client_secret": self._secret,
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": attempt.verifier,
        }
        tokens = await exchange(self._fetcher, self.name, f"{self.issuer}/login/oauth/access_token", form)
        account = await self._ask("/user", tokens.access_token, _Account)
        if account.id <= 0 or not account.login.isascii() or not account.login.isprintable():
            raise LoginFailed(f"{self.name} does not say who it is")
        emails = await self._ask("/user/emails?per_page=100", tokens.access_token, list[_Address])
        address = next((read_address(one.email) for one in emails if one.primary and one.verified), None)
        asked = [self._belongs(group, account.login, tokens.access_token) for group in self._groups]
        member = await asyncio.gather(*asked)
        groups = tuple(group for group, found in zip(self._groups, member, strict=True) if found)
        return Identity(self.issuer, str(account.id), address or account.login, address, groups)

    def close(self) -> None:
        """Let connections go; no call may follow."""
        self._fetcher.close()

    async def _belongs(self, group: str, login: str, token: str) -> bool:
        organisation, slash, team = (quote(part, safe="") for part in group.partition("/"))
        path = f"/user/memberships/orgs/{organisation}"
        if slash:
            path = f"/orgs/{organisation}/teams/{team}/memberships/{quote(login, safe='')}"
        document = await ask_with_token(self._fetcher, self.name, self._api + path, token)
        if document.status in (403, 404):  # no member, or an organisation that keeps applications out
            return False
        if document.status != 200:
            raise Unavailable(self.name, f"it answered {document.status}")
        return read(self.name, document, _Membership).state == "active"

    async def _ask(self, path: str, token: str, shape: type[T]) -> T:
        document = await ask_with_token(self._fetcher, self.name, self._api + path, token)
        if document.status != 200:
            raise Unavailable(self.name, f"it answered {document.status}")
        return read(self.name, document, shape)
