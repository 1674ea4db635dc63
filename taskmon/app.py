"""The composition root: builds what taskmon is made of, starts it, stops it. Nothing here is global."""

import asyncio
import logging
import shlex
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from celery import Celery

from . import __version__
from .auth import Authentication, Role
from .cluster.cluster_names import name_cluster, name_cluster_as_before
from .credentials.ended_sessions import SessionFile, Store, find_session_file
from .credentials.factory import build_authenticators
from .http.masker import Masker
from .http.openapi import Document
from .http.redaction import Showing, load_function
from .http.server import Listeners, listeners
from .http.services import Services
from .login.factory import build_login
from .logs import reopen_log_file
from .metrics import Metrics as MetricsRegistry
from .monitor.memory import MemoryBudget, default_limit
from .monitor.monitor import Monitor
from .records import Task
from .routes import API, make_application
from .settings import Settings
from .signals import Signals
from .trusted_proxies import Peers
from .tuning import Freezer, tune_interpreter
from .upkeep import repeat
from .wording import say_duration, say_tasks, say_when

if TYPE_CHECKING:
    from .history.history import History

log = logging.getLogger(__name__)

_SWEEP_INTERVAL: Final = 1.0
_FREEZE_INTERVAL: Final = 5.0
_READ_SESSIONS_INTERVAL: Final = 1.0


class Taskmon:
    """One taskmon: watches the cluster of `celery_app` and serves it as `settings` say. Event loop only.

    `generated_token` is set when nothing else is configured to let anybody in.
    """

    def __init__(self, settings: Settings, celery_app: Celery) -> None:
        self.settings = settings
        self.monitor = Monitor(settings, celery_app, MemoryBudget(settings.max_memory or default_limit()))
        login = build_login(settings)
        sessions = login.sessions if login else None
        authenticators, self.generated_token = build_authenticators(settings, sessions)
        metrics = self._make_metrics()
        self.services = Services(
            settings=settings,
            monitors=(self.monitor,),
            metrics=metrics,
            authentication=Authentication(authenticators),
            document=Document((handler for _, handler in API), settings.url_prefix, __version__),
            peers=Peers(settings.trusted_proxies),
            showing=_showing(settings),
            history=self._make_history(celery_app, metrics),
            hosts=_hosts(settings),
            origin=_origin(settings),
            login=login.login if login else None,
            sessions=sessions,
        )
        if sessions is not None:
            sessions.ended.store = _make_session_store(settings, self.services.history)
        metrics.watch_access(self.services.refusals.live_counts)
        self.listeners = Listeners(self.services, make_application)
        self._upkeep: list[asyncio.Task[None]] = []
        self.url = ""

    async def start(self) -> None:
        """Bring back the history, listen, then begin to watch.

        Raises OSError when the address or the socket cannot be had, HistoryRefused when the history cannot be used.
        """
        began = time.monotonic()
        await self._restore()
        if self.services.sessions is not None:
            await self.services.sessions.ended.refresh()
        urls = [url + self.settings.url_prefix for url in self.listeners.start()]
        self.url = self.settings.public_url or urls[0]
        self.monitor.start()
        self._upkeep = [
            asyncio.create_task(self._exchange_sessions()),
            asyncio.create_task(repeat(_SWEEP_INTERVAL, self.listeners.sweep)),
            asyncio.create_task(repeat(_SWEEP_INTERVAL, self.services.refusals.flush)),
        ]
        log.info("Serving on %s", ", ".join(dict.fromkeys((self.url, *urls))))
        held, room = say_tasks(len(self.monitor.state)), say_tasks(self.settings.max_tasks)
        log.info("Started in %s with %s; there is room for %s", say_duration(time.monotonic() - began), held, room)

    async def stop(self) -> None:
        """Stop listening, then watching; takes a second at the most, whatever the broker does."""
        self.listeners.stop()
        for task in self._upkeep:
            task.cancel()
        await self.monitor.stop()
        if self.services.history is not None:
            await self.services.history.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.listeners.close_all_connections(), timeout=0.3)
        self.services.authentication.close()
        if self.services.login is not None:
            self.services.login.close()

    def reload(self) -> None:
        """Read again what may change while it runs: tokens, users, certificates; open the log file anew."""
        reopen_log_file()
        things = [*self.services.authentication.reload(), *self.listeners.reload()]
        log.info("Reloaded on SIGHUP: %s", ", ".join(things) or "nothing but the log file, if there is one")

    def _make_metrics(self) -> MetricsRegistry:
        monitor, settings = self.monitor, self.settings
        metrics = MetricsRegistry(
            settings.metrics_prefix,
            settings.task_runtime_metric_buckets,
            *(monitor.state, monitor.broker, monitor.intake),
            queues=monitor.queues,
            inspector=monitor.inspector,
            worker_label=settings.metrics_worker_label,
            celery_exporter=settings.metrics_celery_exporter,
        )
        monitor.state.subscribe(metrics.observe, events_only=True)
        monitor.state.on_worker_gone(metrics.remove_worker)
        return metrics

    def _make_history(self, celery_app: Celery, metrics: MetricsRegistry) -> "History | None":
        if self.settings.history is None:
            return None
        from .history.history import History, Names  # which takes SQLAlchemy: a third of a second

        names = Names(*_name(self.settings, celery_app))
        history = History(self.settings, self.monitor.state, names, metrics.save)
        self.monitor.state.subscribe(history.observe)
        self.monitor.state.on_worker_gone(history.forget_worker)
        metrics.watch_history(history.numbers)
        status = history.status
        self.monitor.diagnostics.watch_history(lambda: status.dropped + status.unfit)
        return history

    async def _restore(self) -> None:
        """Go on where the last run ended, as far as the history knows."""
        history = self.services.history
        if history is None:
            return
        began = time.monotonic()
        restored = await history.restore()
        if restored is not None:
            totals = self.services.metrics.restore(restored.counters, restored.tasks)
            state = self.monitor.state
            state.evicted_total = totals.evicted
            state.reconciled.settled_total = totals.settled
            state.reconciled.orphaned_total = totals.orphaned
            _log_restored(restored.tasks, time.monotonic() - began)
        history.start()

    async def _exchange_sessions(self) -> None:
        """Learn which sessions were ended elsewhere."""
        sessions = self.services.sessions
        while sessions is not None and sessions.ended.store is not None:
            await asyncio.sleep(_READ_SESSIONS_INTERVAL)
            await sessions.ended.refresh()


class _SharedSessions:
    """Keeps ended sessions in a history that several taskmons share."""

    def __init__(self, history: "History") -> None:
        self.read = history.read_ended_sessions
        self.write = history.write_ended_sessions


def _make_session_store(settings: Settings, history: "History | None") -> Store | None:
    """Return where ended sessions outlast the process; None, and say so, where they do not."""
    path = find_session_file(settings)
    if path is not None:
        file = SessionFile(path)
        file.check()
        return file
    if history is not None:
        return _SharedSessions(history)
    if settings.cookie_secret:
        log.info("A session that is ended may be used again after a restart: there is no --session-file or --history")
    return None


def _log_restored(tasks: list[Task], seconds: float) -> None:
    last = ""
    if tasks:
        last = f"; the last changed {say_when(datetime.fromtimestamp(tasks[-1].seen, UTC), datetime.now(UTC))}"
    log.info("Restored %s from the history in %s%s", say_tasks(len(tasks)), say_duration(seconds), last)


def _name(settings: Settings, celery_app: Celery) -> tuple[str, tuple[str, ...], str, str]:
    """Return the cluster's name, its earlier ones, this taskmon's, and one that stays where its machine's changes.

    Several taskmons may run on one machine, each listening elsewhere.
    """
    derived, before = name_cluster(celery_app), name_cluster_as_before(celery_app)
    places = ",".join(str(where) for where in listeners(settings))
    monitor = settings.monitor_name or f"{socket.gethostname()}:{places}"
    return settings.cluster_name or derived, (derived, before, ""), monitor, settings.monitor_name or places


def _hosts(settings: Settings) -> frozenset[str]:
    """List the host names, lower case and without port, under which requests may come: this machine's among them."""
    urls = [url for url in (settings.public_url, settings.oauth2_redirect_uri) if url]
    public = {host for host in (urlsplit(url).hostname for url in urls) if host}
    return frozenset({"localhost", socket.gethostname().lower(), *settings.allowed_hosts, *public})


def _showing(settings: Settings) -> Showing:
    least = None if settings.show_args == "none" else Role.parse(settings.show_args)
    function = load_function(settings.format_task) if settings.format_task else None
    return Showing(Masker(settings.mask_keys), least, function)


def _origin(settings: Settings) -> str | None:
    """Give the origin of the public URL as a browser writes it, None without one."""
    url = settings.public_url or settings.oauth2_redirect_uri
    if url is None:
        return None
    parts = urlsplit(url.lower())
    default = {"http": 80, "https": 443}[parts.scheme]
    host = parts.netloc.removesuffix(f":{default}")
    return f"{parts.scheme}://{host}"


async def serve(settings: Settings, celery_app: Celery) -> None:
    """Run until a signal stops it; see `signals.py`. Raises OSError like `Taskmon.start`."""
    tune_interpreter()
    stopping = asyncio.Event()
    taskmon = Taskmon(settings, celery_app)
    with Signals(stopping.set, taskmon.reload):
        if await _started(taskmon, stopping):
            _greet(taskmon)
            freezing = asyncio.create_task(repeat(_FREEZE_INTERVAL, Freezer(taskmon.monitor.state)))
            await stopping.wait()
            freezing.cancel()
            await taskmon.stop()
        log.info("Stopped")


async def _started(taskmon: Taskmon, stopping: asyncio.Event) -> bool:
    """Start it; False where a signal came first, as while a long history comes back: then nothing is left to stop."""
    starting = asyncio.create_task(taskmon.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
    if starting.cancelled():
        return False
    starting.result()
    return True


def _greet(taskmon: Taskmon) -> None:
    """Print the token that was made, if one was, and a line to try it with: once, and to the terminal only."""
    token = taskmon.generated_token
    if token is None:
        return
    unix_socket = listeners(taskmon.settings)[0].unix_socket
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
