"""The Tornado application: which handler answers which path. Event loop only."""

import logging
import re
from collections.abc import Collection, Sequence
from string import punctuation
from typing import Any
from urllib.parse import quote

from tornado import web
from tornado.httputil import HTTPServerRequest
from tornado.routing import URLSpec

from .base import UnknownRoute
from .headers import standing_headers
from .services import Services

log = logging.getLogger(__name__)

Route = tuple[str, type[web.RequestHandler]]


class Application(web.Application):
    """Serves `routes` below the URL prefix, and those of the `probes` among them without it too."""

    def __init__(self, services: Services, routes: Sequence[Route], probes: Collection[str]) -> None:
        prefix = re.escape(services.settings.url_prefix)
        given = {"services": services}
        specs = [URLSpec(prefix + path.rstrip("/") + "/?", handler, given) for path, handler in routes]
        if prefix:
            specs += [URLSpec(path + "/?", handler, given) for path, handler in routes if path in probes]
        super().__init__(
            list[Any](specs),
            default_handler_class=UnknownRoute,
            default_handler_args=given,
            log_function=_log_request,
            standing_headers=standing_headers(services.settings),
        )

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Escape letters outside ASCII, which curl sends as UTF-8: Tornado would take each byte for a letter."""
        if not request.path.isascii():
            request.path = quote(request.path, safe=punctuation, encoding="latin-1")
        return super().find_handler(request, **kwargs)


def _log_request(handler: web.RequestHandler) -> None:
    """Log a request at level DEBUG, without its query string, which may hold secrets."""
    if log.isEnabledFor(logging.DEBUG):
        request = handler.request
        log.debug(
            "%d %s %.200r in %.1f ms",
            handler.get_status(),
            request.method,
            request.path,
            1000 * request.request_time(),
        )
