"""The HTTP servers: where they listen, and the Tornado application of each. Event loop only."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from http.client import responses
from typing import Final

from tornado.http1connection import HTTP1ServerConnection
from tornado.httputil import HTTPHeaders, RequestStartLine
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application

from ..errors import InvalidSetting
from ..request_ids import HEADER, take_id
from ..settings import Listener, Settings
from ..trusted_proxies import Peers, key_of
from . import audit
from .acceptor import fit_connections
from .connections import Context, Limits, Server
from .headers import date, standing_headers
from .serializers import encode, error_body
from .services import Services
from .tls import Tls

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))


class Listeners:
    """Every place where taskmon listens: a server each, with its own ways of getting in, and one set of limits."""

    def __init__(self, services: Services, make_application: Callable[[Services], Application]) -> None:
        settings = services.settings
        self._make_application = make_application
        self._limits = Limits(fit_connections(settings.max_connections), settings.max_connections_per_client)
        self._peers = Peers(settings.trusted_proxies)
        self._files: list[tuple[Server, Tls]] = []
        self._servers = [(where, self._make(services, where)) for where in listeners(settings)]
        self._sockets: list[socket.socket] = []

    def start(self) -> list[str]:
        """Listen, and give the URL of each place; raises OSError, and listens nowhere, when one cannot be had."""
        try:
            return [self._open(where, server) for where, server in self._servers]
        except OSError:
            self.stop()
            raise

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets that listen."""
        return self._sockets

    @property
    def connected(self) -> list[HTTP1ServerConnection]:
        """The connections that there are."""
        return [connection for _, server in self._servers for connection in server._connections]

    def reload(self) -> list[str]:
        """Read the certificates again, and name them."""
        for server, files in self._files:
            if files.refresh(anew=True):
                server.tls = files.context
        return ["certificates"] if self._files else []

    def sweep(self) -> None:
        """End connections that are silent for too long, take up new certificates; to be called about every second."""
        for server, files in self._files:
            if files.refresh():
                server.tls = files.context
        now = IOLoop.current().time()
        for _, server in self._servers:
            server.sweep(now)

    def stop(self) -> None:
        """Take no more connections."""
        for where, server in self._servers:
            server.stop()
            if where.unix_socket is not None:
                where.unix_socket.unlink(missing_ok=True)

    async def close_all_connections(self) -> None:
        """Close those that there are."""
        for _, server in self._servers:
            await server.close_all_connections()

    def _make(self, services: Services, where: Listener) -> Server:
        if where.auth is not None:
            services = replace(services, authentication=services.authentication.only(where.auth))
            if "session" not in where.auth:
                services = replace(services, login=None, sessions=None)
        if {"proxy", "anonymous"} <= services.authentication.kinds:
            raise InvalidSetting(
                "anonymous_role", "must not be on a listener with proxy: whom the proxy does not name stays out"
            )
        server = Server(self._make_application(services))
        files = _tls(where, services.settings) if where.tls else None
        server.set_bounds(
            self._limits,
            _Refusals(services.settings, self._peers).make,
            max_body=services.settings.max_body,
            trusts=self._peers.trusts,
            key_of=key_of,
            tls=files.context if files else None,
        )
        if files:
            self._files.append((server, files))
        return server

    def _open(self, where: Listener, server: Server) -> str:
        if where.unix_socket is not None:
            sockets = [bind_unix_socket(str(where.unix_socket), mode=0o660)]
            url = f"http+unix://{where.unix_socket}"
        else:
            sockets = bind_sockets(where.port, where.address)
            url = f"{'https' if where.tls else 'http'}://{location(sockets[0])}"
        server.add_sockets(sockets)
        self._sockets += sockets
        return url


def listeners(settings: Settings) -> tuple[Listener, ...]:
    """Give the places to listen: those of --listen, else the one of --unix-socket, or of --address and --port."""
    if settings.listen:
        return settings.listen
    tls = settings.certfile is not None or settings.keyfile is not None
    if settings.unix_socket is not None:
        return (Listener(unix_socket=settings.unix_socket, tls=tls),)
    return (Listener(address=settings.address, port=settings.port, tls=tls),)


class _Refusals:
    """Writes the answer to what never becomes a request: as JSON, with the headers of every answer."""

    def __init__(self, settings: Settings, peers: Peers) -> None:
        self._headers = standing_headers(settings)
        self._peers = peers

    def make(
        self,
        status: int,
        message: str,
        context: Context | None = None,
        start: RequestStartLine | None = None,
        headers: HTTPHeaders | None = None,
    ) -> bytes:
        """Give the whole answer; leaves a line in the audit log where a change was asked for."""
        body = encode(error_body(status, message))
        proxied = headers if context is not None and context.trusted else None
        request_id = take_id(proxied.get_list(HEADER) if proxied is not None else ())
        fields = [
            *self._headers,
            (HEADER, request_id),
            ("Date", date(int(time.time()))),
            ("Content-Length", str(len(body))),
        ]
        lines = [f"HTTP/1.1 {status} {responses[status]}", *(f"{name}: {value}" for name, value in fields)]
        if start is not None and start.method not in _SAFE:
            self._audit(request_id, start, context, proxied, status)
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
        return head if start is not None and start.method == "HEAD" else head + body

    def _audit(
        self,
        request_id: str,
        start: RequestStartLine,
        context: Context | None,
        proxied: HTTPHeaders | None,
        status: int,
    ) -> None:
        client = context.remote_ip if context is not None else ""
        more = {}
        if proxied is not None:
            more["proxy"] = client
            client = self._peers.client(client, proxied.get_list("X-Forwarded-For"))
        target = start.path.partition("?")[0]
        audit.write(
            request_id=request_id,
            user="",
            method="none",
            client=client,
            action="none",
            target=target,
            status=status,
            **more,
        )


def _tls(where: Listener, settings: Settings) -> Tls:
    """Give the files by which a listener speaks HTTPS, as they are now; raise InvalidSetting for bad ones."""
    own = where.certfile is not None
    certfile, keyfile = (where.certfile, where.keyfile) if own else (settings.certfile, settings.keyfile)
    if certfile is None or keyfile is None:
        raise InvalidSetting("certfile", "and --keyfile must both be given for HTTPS")
    return Tls(certfile, keyfile, where.ca_certs or (None if own else settings.ca_certs))


def location(listening: socket.socket) -> str:
    """Write where a socket listens as a host and a port that can be connected to from here."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
