"""The composition root: builds what taskmon is made of, starts it, stops it. Nothing here is global."""

import asyncio
import logging
import shlex
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from celery import Celery

from . import __version__
from .auth import Authentication, Role
from .cluster.app_queues import is_empty_app, list_app_queues
from .cluster.blocking_pool import BlockingPool
from .cluster.cluster_names import name_cluster, name_cluster_as_before
from .cluster.connections import find_rabbitmq_host
from .cluster.consumers import Consumers
from .cluster.control import Control
from .cluster.destinations import Destinations
from .cluster.event_enabler import Cluster, EventEnabler
from .cluster.inspection import Inspector
from .cluster.known_queues import MAX_QUEUES, KnownQueues
from .cluster.mailbox import Mailbox
from .cluster.management import ManagementApi, is_api_url
from .cluster.publishing import Publisher
from .cluster.queues import Queues
from .cluster.results import Results
from .credentials.ended_sessions import SessionFile, Store, find_session_file
from .credentials.factory import build_authenticators
from .errors import Unavailable
from .events import EventConsumer
from .http.masker import Masker
from .http.openapi import Document
from .http.redaction import Showing, load_function
from .http.server import Listeners, listeners
from .http.services import Services
from .login.factory import build_login
from .logs import reopen_log_file
from .metrics import Metrics as MetricsRegistry
from .monitor.broker_status import BrokerStatus
from .monitor.diagnostics import AppFacts, Diagnostics
from .monitor.memory import MemoryBudget, default_limit
from .monitor.reconciler import Reconciler
from .monitor.state import State
from .records import Task
from .routes import API, make_application
from .settings import Settings
from .signals import Signals
from .transports import protect_messages
from .trusted_proxies import Peers
from .tuning import Freezer, tune_interpreter
from .wording import say_duration, say_tasks, say_when

if TYPE_CHECKING:
    from .history.history import History

log = logging.getLogger(__name__)

_MAINTAIN_INTERVAL: Final = 0.05
_BUSY_EVENTS: Final = 50  # events since the last time: 1,000 a second
_BURST_EVENTS: Final = 2_500
_PURGE_INTERVAL: Final = 10.0
_WORKERS_PER_PURGE: Final = 50  # then others may run
_SWEEP_INTERVAL: Final = 1.0
_DIAGNOSE_INTERVAL: Final = 10.0
_ASK_UNHEARD_INTERVAL: Final = 15.0
_FREEZE_INTERVAL: Final = 5.0
_READ_SESSIONS_INTERVAL: Final = 1.0


class Taskmon:
    """One taskmon: watches the cluster of `celery_app` and serves it as `settings` say. Event loop only.

    `generated_token` is set when nothing else is configured to let anybody in.
    """

    def __init__(self, settings: Settings, celery_app: Celery) -> None:
        protect_messages(celery_app)
        self.settings = settings
        memory = MemoryBudget(settings.max_memory or default_limit())
        self.state = State(settings.max_tasks, settings.max_workers, memory)
        entrance = build_login(settings)
        sessions = entrance.sessions if entrance else None
        authenticators, self.generated_token = build_authenticators(settings, sessions)
        self._enabler = EventEnabler(Cluster(celery_app))
        broker = BrokerStatus()
        silence = settings.inspect_timeout / 1000
        commands = BlockingPool("The broker", threads=8, waiting=64)
        questions = BlockingPool("The broker", threads=4, waiting=64)
        publishing = BlockingPool("The broker", threads=1, waiting=settings.max_connections)
        reading = BlockingPool("The result backend", threads=1, waiting=64)
        self._lanes = [commands, questions, publishing, reading]
        mailbox = Mailbox(celery_app, questions, silence, settings.max_message)
        inspector = Inspector(mailbox, self.state.hear_of)
        queues = self._make_queues(celery_app, questions, inspector)
        metrics = MetricsRegistry(
            settings.metrics_prefix,
            settings.task_runtime_metric_buckets,
            self.state,
            broker,
            queues=queues,
            inspector=inspector,
            worker_label=settings.metrics_worker_label,
            celery_exporter=settings.metrics_celery_exporter,
        )
        self._consumer = EventConsumer(celery_app, settings, broker, self.state.apply, metrics, self._on_connect)
        results = Results(celery_app, reading)
        destinations = self._make_destinations(celery_app, inspector, queues)
        diagnostics = Diagnostics(
            *(self.state, settings, _facts(celery_app, results), broker, metrics, mailbox, inspector),
            exchange=celery_app.conf.event_exchange,
        )
        self._subscribe(metrics, results, inspector, diagnostics)
        self._reconciler = Reconciler(
            *(self.state, broker, results, mailbox, inspector, queues),
            orphan_after=settings.orphan_after,
            max_text=settings.max_text,
        )
        self.services = Services(
            settings=settings,
            state=self.state,
            metrics=metrics,
            authentication=Authentication(authenticators),
            broker=broker,
            diagnostics=diagnostics,
            control=Control(Mailbox(celery_app, commands, silence, settings.max_message), destinations),
            inspector=inspector,
            publisher=Publisher(celery_app, publishing, destinations, results.reply_queue),
            results=results,
            queues=queues,
            document=Document((handler for _, handler in API), settings.url_prefix, __version__),
            peers=Peers(settings.trusted_proxies),
            showing=_showing(settings),
            history=self._make_history(celery_app, metrics, diagnostics),
            hosts=_hosts(settings),
            origin=_origin(settings),
            zone=celery_app.timezone,
            started=time.time(),
            login=entrance.login if entrance else None,
            sessions=sessions,
        )
        if sessions is not None:
            sessions.ended.store = _make_session_store(settings, self.services.history)
        metrics.watch_access(self.services.refusals)
        self.listeners = Listeners(self.services, make_application)
        self._upkeep: list[asyncio.Task[None]] = []
        self._applied = 0
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
        self.services.diagnostics.report_backend()
        self._consumer.start()
        self.services.queues.watch()
        self._upkeep = [
            asyncio.create_task(_every(_MAINTAIN_INTERVAL, self._tidy)),
            asyncio.create_task(self._purge()),
            asyncio.create_task(_every(_DIAGNOSE_INTERVAL, self.services.diagnostics.examine)),
            asyncio.create_task(self._ask_the_unheard()),
            asyncio.create_task(self._exchange_sessions()),
            asyncio.create_task(_every(_SWEEP_INTERVAL, self.listeners.sweep)),
            asyncio.create_task(_every(_SWEEP_INTERVAL, self.services.refusals.flush)),
            asyncio.create_task(self._reconciler.run()),
        ]
        log.info("Serving on %s", ", ".join(dict.fromkeys((self.url, *urls))))
        held, room = say_tasks(len(self.state)), say_tasks(self.settings.max_tasks)
        log.info("Started in %s with %s; there is room for %s", say_duration(time.monotonic() - began), held, room)

    async def stop(self) -> None:
        """Stop listening, then watching; takes a second at the most, whatever the broker does."""
        self.listeners.stop()
        for task in self._upkeep:
            task.cancel()
        self.services.queues.close()
        self.services.inspector.close()
        await asyncio.gather(self.services.publisher.close(), self.services.results.close())
        for lane in self._lanes:
            lane.close()
        await self._enabler.stop()
        await self._consumer.stop()
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

    def _subscribe(
        self, metrics: MetricsRegistry, results: Results, inspector: Inspector, diagnostics: Diagnostics
    ) -> None:
        """Let all who must know hear of changes, and of workers that are gone."""
        state = self.state
        state.subscribe(metrics.observe, events_only=True)
        state.subscribe(results.observe)
        if self.settings.enable_events:
            state.subscribe(self._enabler.observe, workers_only=True)
        for observe in (inspector.observe, diagnostics.observe):
            state.subscribe(observe, workers_only=True)
        for forget in (metrics.remove_worker, self._enabler.forget, inspector.forget, diagnostics.forget):
            state.on_worker_gone(forget)

    def _make_queues(self, celery_app: Celery, lane: BlockingPool, inspector: Inspector) -> Queues:
        """Make the queues, which are known by the options, the app, the workers and what tasks were sent to."""
        of_app = list_app_queues(celery_app)
        known = KnownQueues(
            (lambda: self.settings.queues, lambda: of_app, inspector.queues), (lambda: self.state.queues(MAX_QUEUES),)
        )
        consumers = Consumers(self.state.workers, inspector.inspections)
        return Queues(celery_app, lane, known, consumers, self._make_management(celery_app))

    def _make_destinations(self, celery_app: Celery, inspector: Inspector, queues: Queues) -> Destinations:
        """Make what knows where tasks may be sent."""
        settings, workers = self.settings, self.state.workers
        return Destinations(
            *(celery_app, inspector, queues),
            patterns=settings.publish_queues,
            named=settings.queues,
            own=[settings.durable_queue] if settings.durable_queue is not None else [],
            seen=queues.known.names,
            online=lambda: [name for name, worker in workers.items() if worker.alive(time.time())],
        )

    def _make_management(self, celery_app: Celery) -> ManagementApi | None:
        """Make what asks RabbitMQ's management API; on another broker --broker-api has no meaning."""
        if self.settings.broker_api is None:
            return None
        urls = [url for url in self.settings.broker_api.split(";") if is_api_url(url)]
        virtual_host = find_rabbitmq_host(celery_app)
        if virtual_host is None:
            log.warning("--broker-api is not needed here: it is for RabbitMQ")
        elif not urls:
            log.warning("--broker-api is ignored: it must be a URL such as http://user:password@host:15672/api/")
        else:
            return ManagementApi(urls, virtual_host)
        return None

    def _make_history(
        self, celery_app: Celery, metrics: MetricsRegistry, diagnostics: Diagnostics
    ) -> "History | None":
        if self.settings.history is None:
            return None
        from .history.history import History, Names  # which takes SQLAlchemy: a third of a second

        names = Names(*_name(self.settings, celery_app))
        history = History(self.settings, self.state, names, metrics.save)
        self.state.subscribe(history.observe)
        self.state.on_worker_gone(history.forget_worker)
        metrics.watch_history(history)
        diagnostics.watch_history(history)
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
            self.state.evicted_total = totals.evicted
            self.state.reconciled.settled_total = totals.settled
            self.state.reconciled.orphaned_total = totals.orphaned
            _log_restored(restored.tasks, time.monotonic() - began)
        history.start()

    def _on_connect(self) -> None:
        if self.settings.enable_events:
            self._enabler.ask_all()

    def _tidy(self) -> None:
        """Tidy in idle moments; under load State does most of what it must by itself."""
        applied, self._applied = self._applied, self.state.task_events_total
        came = self._applied - applied
        self.state.relieve_memory()
        if came <= _BUSY_EVENTS:
            self.state.tidy()
        elif came <= _BURST_EVENTS:  # in a burst every microsecond counts
            self.state.tidy_under_load()

    async def _exchange_sessions(self) -> None:
        """Learn which sessions were ended elsewhere."""
        sessions = self.services.sessions
        while sessions is not None and sessions.ended.store is not None:
            await asyncio.sleep(_READ_SESSIONS_INTERVAL)
            await sessions.ended.refresh()

    async def _ask_the_unheard(self) -> None:
        """Ask who still runs of those that are not heard, and what they are: their answers say why."""
        diagnostics, inspector = self.services.diagnostics, self.services.inspector
        while True:
            await asyncio.sleep(_ASK_UNHEARD_INTERVAL)
            with suppress(Unavailable):
                if diagnostics.no_worker_heard:
                    await inspector.refresh(None)
                elif diagnostics.worker_went_silent:
                    await inspector.ping()
                    if unheard := diagnostics.unheard_workers:
                        await inspector.ask(unheard)

    async def _purge(self) -> None:
        """Forget the workers that have been offline for long, some at a time."""
        while True:
            await asyncio.sleep(_PURGE_INTERVAL)
            before = time.time() - self.settings.purge_offline_workers
            while self.state.purge_workers(before, _WORKERS_PER_PURGE):
                await asyncio.sleep(0)


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


def _facts(celery_app: Celery, results: Results) -> AppFacts:
    conf = celery_app.conf
    configured = celery_app.backend_cls or conf.result_backend
    return AppFacts(
        has_backend=configured not in (None, "", "disabled", "disabled://"),
        readable=results.available,
        result_extended=bool(conf.result_extended),
        of_url=is_empty_app(celery_app),
    )


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


async def _every(seconds: float, function: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            function()
        except Exception:
            log.exception("Upkeep failed")


async def serve(settings: Settings, celery_app: Celery) -> None:
    """Run until a signal stops it; see `signals.py`. Raises OSError like `Taskmon.start`."""
    tune_interpreter()
    stopping = asyncio.Event()
    taskmon = Taskmon(settings, celery_app)
    with Signals(stopping.set, taskmon.reload):
        if await _started(taskmon, stopping):
            _greet(taskmon)
            freezing = asyncio.create_task(_every(_FREEZE_INTERVAL, Freezer(taskmon.state)))
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
