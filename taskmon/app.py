"""The composition root: builds what taskmon is made of, starts it, stops it. Nothing here is global."""

import asyncio
import gc
import logging
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from celery import Celery
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from .api.base import ApiHandler, UnknownRoute
from .api.monitor import HealthCheck, Metrics, Ready
from .api.tasks import TaskInfo, Tasks, TaskTypes
from .auth import Authentication, build_authenticators
from .cluster import Cluster, EventEnabler
from .events import BrokerStatus, EventConsumer
from .metrics import Metrics as MetricsRegistry
from .services import Services
from .settings import Settings
from .state import State

log = logging.getLogger(__name__)

ROUTES: Final[list[tuple[str, type[ApiHandler]]]] = [
    (r"/api/task/info/(.+?)", TaskInfo),
    (r"/api/tasks", Tasks),
    (r"/api/task/types", TaskTypes),
    (r"/metrics", Metrics),
    (r"/healthcheck", HealthCheck),
    (r"/readyz", Ready),
]

#: Served without `url_prefix` too: a probe knows nothing of it.
PROBES: Final = {"/healthcheck", "/readyz"}

_MAX_HEADERS: Final = 16 * 1024
_BODY_TIMEOUT: Final = 15.0
_IDLE_TIMEOUT: Final = 60.0
_TIDY_EVERY: Final = 0.05
_PURGE_EVERY: Final = 10.0


class Taskmon:
    """One taskmon: watches the cluster of `celery_app` and serves it as `settings` say. Event loop only.

    `generated_token` is set when nothing else is configured to let anybody in.
    """

    def __init__(self, settings: Settings, celery_app: Celery) -> None:
        self.settings = settings
        self.state = State(settings.max_tasks, settings.max_workers)
        authenticators, self.generated_token = build_authenticators(settings)
        self._enabler = EventEnabler(Cluster(celery_app))
        broker = BrokerStatus()
        metrics = MetricsRegistry(settings.metrics_prefix, settings.task_runtime_metric_buckets, self.state, broker)
        self.state.subscribe(metrics.observe)
        self.state.on_worker_gone(metrics.remove_worker)
        self.state.on_worker_gone(self._enabler.forget)
        self._consumer = EventConsumer(celery_app, settings, broker, self.state.apply, metrics, self._on_connect)
        if settings.enable_events:
            self.state.subscribe(self._enabler.observe)
        self.services = Services(
            settings=settings,
            state=self.state,
            metrics=metrics,
            authentication=Authentication(authenticators),
            broker=broker,
            hosts=_hosts(settings),
            zone=celery_app.timezone,
            started=time.time(),
        )
        self._server = _make_server(self.services)
        self._upkeep: list[asyncio.Task[None]] = []
        self.url = ""

    async def start(self) -> None:
        """Listen, then begin to watch; raises OSError when the address or the socket cannot be had."""
        settings = self.settings
        if settings.unix_socket is not None:
            self._server.add_socket(bind_unix_socket(str(settings.unix_socket), mode=0o660))
            self.url = f"http+unix://{settings.unix_socket}{settings.url_prefix}"
        else:
            sockets = bind_sockets(settings.port, settings.address)
            self._server.add_sockets(sockets)
            self.url = f"http://{_location(sockets[0])}{settings.url_prefix}"
        if settings.public_url is not None:
            self.url = settings.public_url
        self._consumer.start()
        self._upkeep = [
            asyncio.create_task(_every(_TIDY_EVERY, self._tidy)),
            asyncio.create_task(_every(_PURGE_EVERY, self._purge)),
        ]
        log.info("Serving on %s", self.url)

    async def stop(self) -> None:
        """Stop listening, then watching; takes a second at the most, whatever the broker does."""
        self._server.stop()
        for task in self._upkeep:
            task.cancel()
        await self._enabler.stop()
        await self._consumer.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._server.close_all_connections(), timeout=0.3)
        self.services.authentication.close()
        if self.settings.unix_socket is not None:
            self.settings.unix_socket.unlink(missing_ok=True)

    def _on_connect(self) -> None:
        if self.settings.enable_events:
            self._enabler.ask_all()

    def _tidy(self) -> None:
        self.state.tidy()

    def _purge(self) -> None:
        self.state.purge_workers(time.time() - self.settings.purge_offline_workers)


class _Server(HTTPServer):
    """An HTTP server that takes so many connections and no more; the next one is closed at once."""

    most: int

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection, or refuse it."""
        if len(self._connections) >= self.most:
            stream.close()
            return
        super().handle_stream(stream, address)


def _make_server(services: Services) -> _Server:
    server = _Server(
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


def _hosts(settings: Settings) -> frozenset[str]:
    """List the host names, lower case and without port, under which requests may come."""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return frozenset({"localhost", *settings.allowed_hosts, *([public] if public else [])})


def _location(listening: socket.socket) -> str:
    """Write where a socket listens as a host and a port that can be connected to from here."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _every(seconds: float, function: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            function()
        except Exception:
            log.exception("Upkeep failed")


async def serve(settings: Settings, celery_app: Celery) -> None:
    """Run until SIGINT or SIGTERM; a second signal ends the process at once. Raises OSError like `Taskmon.start`."""
    _tune_interpreter()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        log.info("Stopping on %s", signal.Signals(number).name)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    taskmon = Taskmon(settings, celery_app)
    await taskmon.start()
    _greet(taskmon)
    await stopping.wait()
    await taskmon.stop()
    log.info("Stopped")


def _greet(taskmon: Taskmon) -> None:
    """Print the token that was made, if one was, and a line to try it with: once, and to the terminal only."""
    token = taskmon.generated_token
    if token is None:
        return
    unix_socket = taskmon.settings.unix_socket
    where = ["--unix-socket", str(unix_socket)] if unix_socket is not None else []
    base = f"http://localhost{taskmon.settings.url_prefix}" if unix_socket is not None else taskmon.url
    command = ["curl", *where, "-H", f"Authorization: Bearer {token}", f"{base}/api/tasks?limit=10"]
    print(
        "Nothing is set up to let anybody in (--basic-auth, --token), so this token was made for this run:",
        f"  {token}",
        shlex.join(command),
        sep="\n",
        flush=True,
    )


def _tune_interpreter() -> None:
    """Keep both threads responsive and the collector away from a million tasks that it need not look at.

    By default a busy thread keeps the interpreter for 5 ms at a time, which would be the latency of every request.
    """
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
