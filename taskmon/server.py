"""The HTTP server: its limits, the Tornado application, and where it listens. Event loop only."""

import logging
import re
import socket
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from .api.base import UnknownRoute
from .routes import PROBES, ROUTES
from .services import Services

log = logging.getLogger(__name__)

_MAX_HEADERS: Final = 16 * 1024
_BODY_TIMEOUT: Final = 15.0
_IDLE_TIMEOUT: Final = 60.0


class Server(HTTPServer):
    """An HTTP server that takes so many connections and no more; the next one is closed at once."""

    most: int

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection, or refuse it."""
        if len(self._connections) >= self.most:
            stream.close()
            return
        super().handle_stream(stream, address)


def make_server(services: Services) -> Server:
    """Make the server of the application, with its limits."""
    server = Server(
        make_application(services),
        max_header_size=_MAX_HEADERS,
        max_body_size=services.settings.max_body,
        body_timeout=_BODY_TIMEOUT,
        idle_connection_timeout=_IDLE_TIMEOUT,
    )
    server.most = services.settings.max_connections
    return server


def make_application(services: Services) -> Application:
    """Make the Tornado application: the routes, each with the services."""
    prefix = re.escape(services.settings.url_prefix)
    given = {"services": services}
    routes = [URLSpec(prefix + path + "/?", handler, given) for path, handler in ROUTES]
    if prefix:
        routes += [URLSpec(path + "/?", handler, given) for path, handler in ROUTES if path in PROBES]
    return Application(
        routes,
        default_handler_class=UnknownRoute,
        default_handler_args=given,
        log_function=_log_request,
        cross_origin_protection=True,
    )


def _log_request(handler: RequestHandler) -> None:
    """Log a request at level debug, without its query string: that may hold what is nobody's business."""
    if log.isEnabledFor(logging.DEBUG):
        request = handler.request
        log.debug(
            "%d %s %.200r in %.1f ms",
            handler.get_status(),
            request.method,
            request.path,
            1000 * request.request_time(),
        )


def location(listening: socket.socket) -> str:
    """Write where a socket listens as a host and a port that can be connected to from here."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
