"""An issuer of JWTs as a server on loopback, over TLS: it behaves, and misbehaves when told."""

import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tls import make_certificates
from tornado.web import Application, RequestHandler

NOW = int(time.time())


class Key:
    """A private key with its id; `jwk` is its public half."""

    def __init__(self, kid: str | None, algorithm: str = "ES256", size: int = 2048) -> None:
        self.kid, self.algorithm = kid, algorithm
        kinds: dict[str, tuple[Any, Any]] = {
            "E": (ECAlgorithm, lambda: ec.generate_private_key(ec.SECP256R1())),
            "R": (RSAAlgorithm, lambda: rsa.generate_private_key(65537, size)),
        }
        kind, make = (
            kinds[algorithm[0]] if algorithm != "EdDSA" else (OKPAlgorithm, ed25519.Ed25519PrivateKey.generate)
        )
        self.private = make()
        self.jwk: dict[str, Any] = json.loads(kind.to_jwk(self.private.public_key()))
        self.jwk |= {"use": "sig", "alg": algorithm} | ({"kid": kid} if kid is not None else {})

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        given = {"kid": self.kid, **headers} if self.kid is not None else headers
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers=given)


def claims(**more: Any) -> dict[str, Any]:
    """Give claims that are right, save for what is said otherwise; None takes one out."""
    now = int(time.time())
    all_of_them = {"iss": "https://issuer.example.com", "aud": "taskmon", "sub": "ann", "iat": now, "exp": now + 300}
    return {name: value for name, value in (all_of_them | more).items() if value is not None}


class Issuer:
    """Answers `/keys` with `body`, `status` and `headers`, which a test may change; counts questions."""

    def __init__(self, *keys: Key) -> None:
        self.body: Any = {"keys": [key.jwk for key in keys]}
        self.status, self.headers = 200, {"Cache-Control": "max-age=3600"}
        self.asked: list[str] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        self.url = ""

    @property
    def jwks(self) -> str:
        return f"{self.url}/keys"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Issuer"]:
        issuer = self

        class Answer(RequestHandler):
            async def get(self) -> None:
                issuer.asked.append(self.request.path)
                if issuer.before is not None:
                    await issuer.before()
                self.set_status(issuer.status)
                for name, value in issuer.headers.items():
                    self.set_header(name, value)
                body = issuer.body
                self.finish(body if isinstance(body, bytes) else json.dumps(body))

        files = make_certificates()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(files.certificate, files.key)
        application = Application([(".*", Answer)], log_function=lambda _: None)
        server = application.listen(0, "127.0.0.1", ssl_options=tls)
        (listening,) = server._sockets.values()
        self.url = f"https://localhost:{listening.getsockname()[1]}"
        try:
            yield self
        finally:
            server.stop()
            await server.close_all_connections()
