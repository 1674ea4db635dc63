"""Monitor: all that belongs to one cluster, made from one Celery app. Event loop only."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from celery import Celery

from ..broker_status import BrokerStatus
from ..cluster.app_queues import is_empty_app, list_app_queues
from ..cluster.blocking_pool import BlockingPool
from ..cluster.connections import find_rabbitmq_host
from ..cluster.consumers import Consumers
from ..cluster.control import Control
from ..cluster.destinations import Destinations
from ..cluster.event_enabler import Cluster, EventEnabler
from ..cluster.inspection import Inspector
from ..cluster.known_queues import MAX_QUEUES, KnownQueues
from ..cluster.mailbox import Mailbox
from ..cluster.management import ManagementApi, is_api_url
from ..cluster.publishing import Publisher
from ..cluster.queues import Queues
from ..cluster.results import Results
from ..errors import Unavailable
from ..events import EventConsumer
from ..receiving.intake import IntakeCounts
from ..settings import Settings
from ..transports import protect_messages
from ..upkeep import repeat
from .diagnostics import AppFacts, Diagnostics
from .memory import MemoryBudget
from .reconciler import Reconciler
from .state import State

log = logging.getLogger(__name__)

_MAINTAIN_INTERVAL: Final = 0.05
_BUSY_EVENTS: Final = 50  # since the last time: 1,000 a second
_BURST_EVENTS: Final = 2_500
_PURGE_INTERVAL: Final = 10.0
_WORKERS_PER_PURGE: Final = 50  # then others may run
_DIAGNOSE_INTERVAL: Final = 10.0
_ASK_UNHEARD_INTERVAL: Final = 15.0


class Monitor:
    """Watches the cluster of `celery_app`: receives its events, holds its tasks, talks to its workers and broker.

    `started` is when it was made, in epoch seconds; times without a zone map are in `zone_map`, the Celery app's.
    """

    def __init__(self, settings: Settings, celery_app: Celery, memory: MemoryBudget) -> None:
        protect_messages(celery_app)
        self.started = time.time()
        self.zone = celery_app.timezone
        self.state = State(settings.max_tasks, settings.max_workers, memory)
        self.broker = BrokerStatus()
        self.intake = IntakeCounts()
        self._settings = settings
        self._celery_app = celery_app
        silence = settings.inspect_timeout / 1000
        commands = BlockingPool("The broker", threads=8, waiting=64)
        questions = BlockingPool("The broker", threads=4, waiting=64)
        publishing = BlockingPool("The broker", threads=1, waiting=settings.max_connections)
        reading = BlockingPool("The result backend", threads=1, waiting=64)
        self._pools = [commands, questions, publishing, reading]
        mailbox = Mailbox(celery_app, questions, silence, settings.max_message)
        self.inspector = Inspector(mailbox, self.state.hear_of)
        self.queues = self._make_queues(questions)
        self.results = Results(celery_app, reading)
        destinations = self._make_destinations()
        self.control = Control(Mailbox(celery_app, commands, silence, settings.max_message), destinations)
        self.publisher = Publisher(celery_app, publishing, destinations, self.results.reply_queue)
        self.diagnostics = Diagnostics(
            *(self.state, settings, self._find_facts(), self.broker, self.intake, mailbox, self.inspector),
            exchange=celery_app.conf.event_exchange,
        )
        self._enabler = EventEnabler(Cluster(celery_app))
        self._consumer = EventConsumer(
            *(celery_app, settings, self.broker, self.state.apply, self.intake, self._on_connect)
        )
        self._reconciler = Reconciler(
            *(self.state, self.broker, self.results, mailbox, self.inspector, self.queues),
            orphan_after=settings.orphan_after,
            max_text=settings.max_text,
        )
        self._subscribe()
        self._upkeep: list[asyncio.Task[None]] = []
        self._applied = 0

    def start(self) -> None:
        """Begin to watch."""
        self.diagnostics.report_backend()
        self._consumer.start()
        self.queues.watch()
        self._upkeep = [
            asyncio.create_task(repeat(_MAINTAIN_INTERVAL, self._maintain)),
            asyncio.create_task(self._purge()),
            asyncio.create_task(repeat(_DIAGNOSE_INTERVAL, self.diagnostics.examine)),
            asyncio.create_task(self._ask_the_unheard()),
            asyncio.create_task(self._reconciler.run()),
        ]

    async def stop(self) -> None:
        """Stop watching; takes a second at most, whatever the broker does."""
        for task in self._upkeep:
            task.cancel()
        self.queues.close()
        self.inspector.close()
        await asyncio.gather(self.publisher.close(), self.results.close())
        for pool in self._pools:
            pool.close()
        await self._enabler.stop()
        await self._consumer.stop()

    def _subscribe(self) -> None:
        """Let all who must know hear of changes, and of workers that are gone."""
        state = self.state
        state.subscribe(self.results.observe)
        if self._settings.enable_events:
            state.subscribe(self._enabler.observe, workers_only=True)
        for observe in (self.inspector.observe, self.diagnostics.observe):
            state.subscribe(observe, workers_only=True)
        for forget in (self._enabler.forget, self.inspector.forget, self.diagnostics.forget):
            state.on_worker_gone(forget)

    def _find_facts(self) -> AppFacts:
        conf = self._celery_app.conf
        configured = self._celery_app.backend_cls or conf.result_backend
        return AppFacts(
            has_backend=configured not in (None, "", "disabled", "disabled://"),
            readable=self.results.available,
            result_extended=bool(conf.result_extended),
            of_url=is_empty_app(self._celery_app),
        )

    def _make_queues(self, pool: BlockingPool) -> Queues:
        """Make the queues, which are known by the options, the app, the workers and what tasks were sent to."""
        of_app = list_app_queues(self._celery_app)
        known = KnownQueues(
            (lambda: self._settings.queues, lambda: of_app, self.inspector.queues),
            (lambda: self.state.queues(MAX_QUEUES),),
        )
        consumers = Consumers(self.state.workers, self.inspector.inspections)
        return Queues(self._celery_app, pool, known, consumers, self._make_management())

    def _make_destinations(self) -> Destinations:
        """Make what knows where tasks may be sent."""
        settings, workers = self._settings, self.state.workers
        return Destinations(
            *(self._celery_app, self.inspector, self.queues),
            patterns=settings.publish_queues,
            named=settings.queues,
            own=[settings.durable_queue] if settings.durable_queue is not None else [],
            seen=self.queues.known.names,
            online=lambda: [name for name, worker in workers.items() if worker.alive(time.time())],
        )

    def _make_management(self) -> ManagementApi | None:
        """Make what asks RabbitMQ's management API; on another broker --broker-api has no meaning."""
        if self._settings.broker_api is None:
            return None
        urls = [url for url in self._settings.broker_api.split(";") if is_api_url(url)]
        virtual_host = find_rabbitmq_host(self._celery_app)
        if virtual_host is None:
            log.warning("--broker-api is not needed here: it is for RabbitMQ")
        elif not urls:
            log.warning("--broker-api is ignored: it must be a URL such as http://user:password@host:15672/api/")
        else:
            return ManagementApi(urls, virtual_host)
        return None

    def _on_connect(self) -> None:
        if self._settings.enable_events:
            self._enabler.ask_all()

    def _maintain(self) -> None:
        """Maintain the indexes in idle moments; under load State does most of what it must by itself."""
        applied, self._applied = self._applied, self.state.task_events_total
        new = self._applied - applied
        self.state.relieve_memory()
        if new <= _BUSY_EVENTS:
            self.state.maintain()
        elif new <= _BURST_EVENTS:  # in a burst every microsecond counts
            self.state.maintain_under_load()

    async def _ask_the_unheard(self) -> None:
        """Ask who still runs of those that are not heard, and what they are: their answers say why."""
        diagnostics, inspector = self.diagnostics, self.inspector
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
            before = time.time() - self._settings.purge_offline_workers
            while self.state.purge_workers(before, _WORKERS_PER_PURGE):
                await asyncio.sleep(0)
