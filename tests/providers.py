"""An OpenID provider and a GitHub as servers on loopback, over TLS: they behave, and misbehave when told.

Codes count once and for one client, redirect URI and PKCE challenge; people are always logged in as `claims` or
`account` say. What a test puts into `answers` is sent in place of what is right, by path.
"""

import base64
import hashlib
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus, urlencode

from issuer import Key
from tls import make_certificates
from tornado.web import Application, HTTPError, RequestHandler

CLIENT, SECRET = "taskmon-client", "tell+nobody/this secret"
CALLBACK = "https://taskmon.example.com/login/callback"
KEY = Key("first", "RS256")


@dataclass
class Answer:
    """What a provider answers in place of what is right; `before` is awaited first."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[], Awaitable[None]] | None = None


class Server:
    """What both have in common: codes, tokens, and a record of what was asked."""

    authorize_path: str
    token_path: str

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens: set[str] = set()
        self.error: str | None = None
        self.secret: str | None = SECRET

    def grant(self, request: dict[str, str]) -> dict[str, str]:
        """Say what the browser brings back to the redirect URI."""
        assert request["response_type"] == "code"
        assert request["client_id"] == CLIENT
        assert request["code_challenge_method"] == "S256"
        if self.error is not None:
            return {"error": self.error, "state": request["state"]}
        code = secrets.token_urlsafe(16)
        self.codes[code] = request
        return {"code": code, "state": request["state"]}

    def redeem(self, form: dict[str, str], authorization: str | None) -> dict[str, str] | None:
        """Take a code; give what was asked for with it, or None where something does not fit."""
        asked = self.codes.pop(form.get("code", ""), None)
        if authorization is not None:
            name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            given: tuple[Any, Any] = (unquote_plus(name), unquote_plus(secret))
        else:
            given = (form.get("client_id"), form.get("client_secret"))
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            asked is None
            or given != (CLIENT, self.secret)
            or form.get("grant_type") != "authorization_code"
            or form.get("redirect_uri") != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
        ):
            return None
        return asked

    def new_token(self) -> str:
        token = secrets.token_urlsafe(16)
        self.tokens.add(token)
        return token

    def documents(self, path: str, form: dict[str, str], authorization: str | None) -> Any:
        """Give what is right at a path; raise HTTPError."""
        raise NotImplementedError

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run it."""
        server = self

        class Handler(RequestHandler):
            async def get(self) -> None:
                path = self.request.path
                server.asked.append(path)
                form = {name: values[-1].decode() for name, values in self.request.arguments.items()}
                answer = server.answers.get(path)
                if answer is not None:
                    if answer.before is not None:
                        await answer.before()
                    self.set_status(answer.status)
                    for name, value in answer.headers.items():
                        self.set_header(name, value)
                    body = answer.body
                elif path == server.authorize_path:
                    self.redirect(f"{form['redirect_uri']}?{urlencode(server.grant(form))}")
                    return
                else:
                    body = server.documents(path, form, self.request.headers.get("Authorization"))
                self.finish(body if isinstance(body, bytes) else json.dumps(body))

            post = get

        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(make_certificates().certificate, make_certificates().key)
        application = Application([(".*", Handler)], log_function=lambda _: None)
        listening = application.listen(0, "127.0.0.1", ssl_options=tls)
        (sock,) = listening._sockets.values()
        self.url = f"https://localhost:{sock.getsockname()[1]}"
        try:
            yield
        finally:
            listening.stop()
            await listening.close_all_connections()


class FakeOpenId(Server):
    """An OpenID provider; `claims` are of who logs in, `forge` may make another ID token of the right claims."""

    authorize_path = "/authorize"
    token_path = "/token"

    def __init__(self) -> None:
        super().__init__()
        self.keys = [KEY]
        self.claims: dict[str, Any] = {"sub": "1001", "email": "ann@example.com", "email_verified": True}
        self.userinfo: dict[str, Any] = {}
        self.forge: Callable[[dict[str, Any]], str] | None = None
        self.metadata: dict[str, Any] = {}

    def documents(self, path: str, form: dict[str, str], authorization: str | None) -> Any:
        """Give what is right at a path."""
        match path:
            case "/.well-known/openid-configuration":
                return {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "jwks_uri": f"{self.url}/keys",
                    "userinfo_endpoint": f"{self.url}/userinfo",
                    **self.metadata,
                }
            case "/keys":
                return {"keys": [key.jwk for key in self.keys]}
            case "/token":
                asked = self.redeem(form, authorization)
                if asked is None:
                    raise HTTPError(400)
                assert "openid" in asked["scope"].split()
                return {"access_token": self.new_token(), "token_type": "Bearer", "id_token": self.id_token(asked)}
            case "/userinfo" if authorization and authorization.removeprefix("Bearer ") in self.tokens:
                return {"sub": self.claims["sub"], **self.userinfo}
        raise HTTPError(401 if path == "/userinfo" else 404)

    def id_token(self, asked: dict[str, str]) -> str:
        """Sign what is to be said of who logged in."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.claims,
        }
        return self.forge(claims) if self.forge else self.keys[0].sign(claims)


class FakeGitHub(Server):
    """A GitHub, with its API below /api/v3 as on an enterprise's own."""

    authorize_path = "/login/oauth/authorize"
    token_path = "/login/oauth/access_token"

    def __init__(self) -> None:
        super().__init__()
        self.account: dict[str, Any] = {"id": 4242, "login": "ann"}
        self.emails: list[dict[str, Any]] = [
            {"email": "ann@private.example.org", "primary": False, "verified": True},
            {"email": "Ann@Example.com", "primary": True, "verified": True},
        ]
        self.memberships: dict[str, str] = {}
        self.scopes: list[str] = []

    def grant(self, request: dict[str, str]) -> dict[str, str]:
        """Note the scopes."""
        self.scopes = request["scope"].split()
        return super().grant(request)

    def documents(self, path: str, form: dict[str, str], authorization: str | None) -> Any:
        """Give what is right at a path."""
        if path == self.token_path:
            if self.redeem(form, authorization) is None:
                return {"error": "bad_verification_code", "error_description": "The code is incorrect or expired."}
            return {"access_token": self.new_token(), "token_type": "bearer", "scope": ""}
        if not authorization or authorization.removeprefix("Bearer ") not in self.tokens:
            raise HTTPError(401)
        match path.removeprefix("/api/v3"):
            case "/user":
                return self.account
            case "/user/emails":
                return self.emails
            case other if other in self.memberships:
                return {"state": self.memberships[other]}
        raise HTTPError(404)
