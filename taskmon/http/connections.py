"""HTTP connections and their bounds: how many, how long they may be silent, how much they may send. Event loop only.

Tornado would close a connection that breaks a bound, or answer without a body; here each refusal is JSON.
"""

import logging
import socket
import ssl
from asyncio import CancelledError, Future, sleep, timeout
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final, Protocol

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    parse_request_start_line,
)
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError

from .acceptor import Acceptor
from .headers import has_body

log = logging.getLogger(__name__)

MAX_HEADERS: Final = 16 * 1024
IDLE_TIMEOUT: Final = 60.0
BODY_TIMEOUT: Final = 15.0
#: So long a client may take nothing of what is sent to it.
WRITE_TIMEOUT: Final = 30.0

_END_OF_HEAD: Final = rb"\r?\n\r?\n"
_LINGER: Final = 1.0
_LINGER_BYTES: Final = 4 << 20
_CHUNK: Final = 65_536


class Context(_HTTPRequestContext):
    """What is known of the other end.

    `trusted` says that it is a proxy of ours, `authenticated` that a request on this connection had credentials.
    """

    trusted = False
    authenticated = False


class Refusal(Protocol):
    """Makes the whole answer to what is no request, of which the head is known where it could be read."""

    def __call__(
        self,
        status: int,
        message: str,
        context: Context | None = None,
        start: RequestStartLine | None = None,
        headers: HTTPHeaders | None = None,
    ) -> bytes: ...


class _Bounded:
    """A stream that answers a head that is too long before Tornado closes it."""

    socket: Any
    too_long: Callable[[], bytes] | None = None
    _read_max_bytes: int | None

    def _check_max_bytes(self, delimiter: Any, size: int) -> None:
        if self.too_long and self._read_max_bytes is not None and size > self._read_max_bytes:
            answer, self.too_long = self.too_long(), None
            with suppress(OSError):
                self.socket.send(answer)
                # What is unread when the socket closes would reset the connection, and the answer were lost.
                for _ in range(_LINGER_BYTES // _CHUNK):
                    if not self.socket.recv(_CHUNK):
                        break
        super()._check_max_bytes(delimiter, size)  # type: ignore[misc]


class _Stream(_Bounded, IOStream):
    pass


class _TlsStream(_Bounded, SSLIOStream):
    pass


class Silent(Protocol):
    """A connection that may have to make room."""

    def make_room(self) -> None:
        """Close it."""


class Limits:
    """How many connections there may be in all, and of one client; one for all listeners.

    One more takes the place of the oldest that is idle and has never had credentials, and where there are too many in
    all, of the one that has been awaited longest, for its next request or the rest of a body. Opening many keeps no
    other out.
    """

    def __init__(self, most: int, most_per_client: int) -> None:
        self.most = most
        self.most_per_client = most_per_client
        self._open = 0
        self._by_client: dict[str, int] = {}
        self._silent: dict[Silent, str] = {}
        self._awaited: dict[Silent, None] = {}

    def __len__(self) -> int:
        return self._open

    def take(self, client: str | None) -> bool:
        """Count one more, or say that it is one too many; a `client` of None is only counted in all."""
        mine = self._by_client.get(client, 0) if client is not None else 0
        if client is not None and mine >= self.most_per_client:
            if not self._push_out(client):
                return False
        elif self._open >= self.most and not self.make_room():
            return False
        self._open += 1
        if client is not None:
            self._by_client[client] = mine + 1
        return True

    def note_silent(self, connection: Silent, client: str) -> None:
        """Take note of an idle connection that has had no credentials yet; it may have to make room."""
        self._silent[connection] = client

    def note_head(self, connection: Silent) -> None:
        """Note that a connection has asked for something."""
        self._silent.pop(connection, None)

    def note_awaited(self, connection: Silent) -> None:
        """Note that a connection is to send its next request, or the rest of one."""
        self._awaited[connection] = None

    def note_request(self, connection: Silent) -> None:
        """Note that a connection is in use, or closed."""
        self._silent.pop(connection, None)
        self._awaited.pop(connection, None)

    def make_room(self) -> bool:
        """Close the connection that is missed least; False where all are in use."""
        return self._push_out(None) or self._close(next(iter(self._awaited), None))

    def _push_out(self, client: str | None) -> bool:
        """Close the idle connection without credentials that is oldest, one of this client if there is one named."""
        named = (connection for connection, its in self._silent.items() if client is None or its == client)
        return self._close(next(named, None))

    def _close(self, connection: Silent | None) -> bool:
        if connection is None:
            return False
        self.note_request(connection)
        connection.make_room()
        return True

    def give_back(self, client: str | None) -> None:
        """Count one less."""
        self._open -= 1
        if client is not None:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]


class Server(HTTPServer):
    """An HTTP server whose connections have bounds; `set_bounds` must follow its constructor."""

    def set_bounds(
        self,
        limits: Limits,
        refusal: Refusal,
        *,
        max_body: int,
        trusts: Callable[[int, str], bool],
        key_of: Callable[[str], str],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Say what the bounds are; `trusts` knows proxies by socket family and address, `key_of` tells clients."""
        self.limits, self.refusal, self.max_body = limits, refusal, max_body
        self.trusts, self.key_of, self.tls = trusts, key_of, tls
        self.conn_params.max_body_size = max_body
        self.conn_params.max_header_size = MAX_HEADERS

    def _refuse_head(self) -> bytes:
        return self.refusal(431, f"The headers are longer than {MAX_HEADERS // 1024} KiB")

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these sockets."""
        for listening in sockets:
            acceptor = Acceptor(listening, self._handle_connection, self.limits.make_room)
            self._sockets[listening.fileno()] = listening
            self._handlers[listening.fileno()] = acceptor.stop

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        context = _context(connection, address, self.tls)
        context.trusted = self.trusts(connection.family, context.remote_ip)
        client = None if context.trusted else self.key_of(context.remote_ip)
        if not self.limits.take(client):
            connection.close()
            return
        try:
            stream = _open(connection, self.tls)
        except OSError:
            self.limits.give_back(client)
            connection.close()
            return
        stream.too_long = self._refuse_head
        served = ServerConnection(stream, self.conn_params, context)
        served.server, served.client = self, client
        if client is not None:
            self.limits.note_silent(served, client)
        self._connections.add(served)
        served.start_serving(self)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection."""
        super().on_close(server_conn)
        assert isinstance(server_conn, ServerConnection)
        self.limits.note_request(server_conn)
        self.limits.give_back(server_conn.client)

    def sweep(self, now: float) -> None:
        """End the connections that are silent for too long; to be called about every second, with the loop's time."""
        for served in list(self._connections):
            assert isinstance(served, ServerConnection)
            served.check(now)


class ServerConnection(HTTP1ServerConnection):
    """One connection, from its opening to its end: requests one after the other."""

    server: Server
    client: str | None
    _deadline: float = 0.0
    _reading_body = False
    _written: tuple[int, float] = (-1, 0.0)
    _request: "Connection | None" = None

    @property
    def _now(self) -> float:
        return self.stream.io_loop.time()

    def expect(self, *, body: bool) -> None:
        """Expect the rest of a head, or of a body, within its time."""
        self._reading_body = body
        self._deadline = self._now + (BODY_TIMEOUT if body else IDLE_TIMEOUT)
        limits = self.server.limits
        limits.note_awaited(self)
        if not body and self.client is not None and not self.context.authenticated:  # type: ignore[attr-defined]
            limits.note_silent(self, self.client)

    def make_room(self) -> None:
        """Close it, for another."""
        self.stream.close()

    def expect_nothing(self) -> None:
        """Let the handler take its time."""
        self._deadline = 0.0
        self.server.limits.note_request(self)

    def check(self, now: float) -> None:
        """Close it when its time is over, or when the client takes nothing of what is sent to it."""
        if self._deadline and now > self._deadline:
            if self._reading_body and self._request is not None and not self.stream.closed():
                text = f"The body did not come within {BODY_TIMEOUT:g} s"
                self.stream.write(self._request.refusal(408, text))
            self.stream.close()
        elif self.stream.writing():
            done = self.stream._total_write_done_index
            if done != self._written[0]:
                self._written = done, now
            elif now - self._written[1] > WRITE_TIMEOUT:
                log.info("%s takes nothing of its answer: its connection is closed", self.context)
                self.stream.close()

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        try:
            while await self._serve(delegate):
                # Whoever sends many requests at once must let others have their turn.
                await sleep(0)
        finally:
            delegate.on_close(self)

    async def _serve(self, delegate: HTTPServerConnectionDelegate) -> bool:
        connection = Connection(self.stream, False, self.params, self.context)
        connection.served = self
        self._request = connection
        request = delegate.start_request(self, connection)
        try:
            return await connection.read_response(request)
        except (StreamClosedError, UnsatisfiableReadError, CancelledError):
            return False
        # What a handler's constructor raises: it must cost this connection only.
        except Exception:
            log.exception("A request of %s failed", self.context)
            connection.close()
            return False


class Connection(HTTP1Connection):
    """One request and its answer."""

    served: ServerConnection
    _awaits_body = False

    async def _read_message(self, delegate: HTTPMessageDelegate) -> bool:
        """Read a request and wait for its answer; False when the connection is over."""
        reading = False
        stream = self.stream  # a handler that breaks an answer off takes it away
        try:
            self.served.expect(body=False)
            head = await stream.read_until_regex(_END_OF_HEAD, max_bytes=MAX_HEADERS)
            self.served.server.limits.note_head(self.served)
            if head.count(b"\n") != head.count(b"\r\n"):
                raise HTTPInputError("a line of the head ends in a bare LF")
            start, headers = self._parse_headers(head)
            request = parse_request_start_line(start)
            self._request_start_line, self._request_headers = request, headers
            if request.version != "HTTP/1.1" and "Transfer-Encoding" in headers:
                raise HTTPInputError("only HTTP/1.1 has Transfer-Encoding")
            self._disconnect_on_finish = not self._can_keep_alive(request, headers)
            body = self._read_body(0, headers, delegate) if has_body(headers) else None
            admitted = delegate.headers_received(request, headers)
            reading = True
            if body is not None and not await self._receive_body(headers, body, admitted):
                reading = False
                return False
            self._read_finished = True
            reading = False
            self.served.expect_nothing()
            delegate.finish()
            if not self._finish_future.done() and not self.stream.closed():
                self.stream.set_close_callback(self._on_connection_close)
                await self._finish_future
            return not stream.closed()
        except HTTPInputError as exc:
            await self._refuse(str(exc))
            return False
        finally:
            if reading:
                delegate.on_connection_close()
            self._clear_callbacks()

    async def _receive_body(
        self, headers: HTTPHeaders, body: Awaitable[None], admitted: Awaitable[None] | None
    ) -> bool:
        """Read a body once its head is admitted; False where that was refused: then the body is not taken."""
        self.served.expect_nothing()
        keeps_alive, self._disconnect_on_finish = not self._disconnect_on_finish, True
        self._awaits_body = True
        if admitted is not None:
            await admitted
        if self._write_finished:
            if isinstance(body, Coroutine):
                body.close()
            await self._finish_future
            await self._linger()
            self.close()
            return False
        self._awaits_body, self._disconnect_on_finish = False, not keeps_alive
        self.served.expect(body=True)
        if headers.get("Expect", "").lower() == "100-continue":
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await body
        return True

    def _finish_request(self, future: "Future[None] | None") -> None:
        """End an answer; the connection stays for a moment while a body comes that is not taken."""
        if self._awaits_body:
            if not self._finish_future.done():
                self._finish_future.set_result(None)
        else:
            super()._finish_request(future)

    def refusal(self, status: int, text: str) -> bytes:
        """Return the answer to what cannot become a request, or no longer."""
        make = self.served.server.refusal
        return make(status, text, self.context, self._request_start_line, self._request_headers)  # type: ignore[arg-type]

    async def _refuse(self, reason: str) -> None:
        """Answer what is no request, or one with too large a body, then close."""
        self.served.expect_nothing()
        status, text = 400, "The request is not valid HTTP"
        if "too long" in reason or "too large" in reason:
            status, text = 413, f"The body is larger than {self.served.server.max_body:,} bytes (--max-body)"
        elif "Invalid query string" in reason:
            text = "The query string cannot be read, or it has too many arguments"
        await self.stream.write(self.refusal(status, text))
        await self._linger()
        self.close()

    async def _linger(self) -> None:
        """Take what still comes for a moment: a close with bytes unread would reset the connection."""
        if self.stream.closed():  # the client has left, and there is no socket any more
            return
        if self.served.client is not None:
            self.served.server.limits.note_silent(self.served, self.served.client)
        with suppress(StreamClosedError, TimeoutError, OSError):
            if not isinstance(self.stream, SSLIOStream):
                self.stream.socket.shutdown(socket.SHUT_WR)
            left = _LINGER_BYTES
            async with timeout(_LINGER):
                while left > 0:
                    left -= len(await self.stream.read_bytes(_CHUNK, partial=True))


def _context(connection: socket.socket, address: Any, tls: ssl.SSLContext | None) -> Context:
    # Tornado asks the stream for its socket only, and there is no stream yet.
    stream: Any = SimpleNamespace(socket=connection)
    context = Context(stream, address, "https" if tls else "http")
    if connection.family == socket.AF_UNIX:
        context.remote_ip = "unix"
    return context


def _open(connection: socket.socket, tls: ssl.SSLContext | None) -> Any:
    if tls is None:
        return _Stream(connection)
    wrapped = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    return _TlsStream(wrapped, ssl_options=tls)
