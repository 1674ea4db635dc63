"""Requests for the authenticators to judge, and one who knows ann."""

import base64
from collections.abc import Awaitable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any, cast

from tornado.httputil import HTTPHeaders, HTTPServerRequest

from taskmon.auth import Authentication, Authenticator, Role, User
from taskmon.credentials.basic import BasicAuthenticator
from taskmon.credentials.passwords import hash_password, read_passwords
from taskmon.settings import Settings

HASH = hash_password("s3cret")
ANN = User("ann", Role.ADMIN, "basic")


class Clock:
    """A clock that moves when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def request(*authorization: str, client: str | None = "192.0.2.1") -> HTTPServerRequest:
    """Make a request with headers as given, past Tornado's parser: authenticators must not lean on it."""
    headers = HTTPHeaders({"Host": "localhost"})
    if authorization:
        headers._as_list["Authorization"] = list(authorization)
    return cast(HTTPServerRequest, SimpleNamespace(headers=headers, remote_ip=client))


def basic(user: str, password: str, client: str = "192.0.2.1") -> HTTPServerRequest:
    return request("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode(), client=client)


async def ask(authenticator: Authenticator | Authentication, asked: HTTPServerRequest) -> User | None:
    answer = authenticator.authenticate(asked)
    return await answer if isinstance(answer, Awaitable) else answer


@contextmanager
def ann(**options: Any) -> Iterator[BasicAuthenticator]:
    with closing(
        BasicAuthenticator(read_passwords(Settings(basic_auth=(f"ann:{HASH}",))), **options)
    ) as authenticator:
        yield authenticator


def coded(plain: bytes) -> str:
    return base64.b64encode(plain).decode()
