"""Queues: how many messages wait in each, and how many consume from it, on any broker. Event loop only."""

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from celery import Celery

from ..errors import Unavailable
from .app_queues import is_empty_app, list_app_exchanges, list_app_queues
from .blocking_pool import BlockingPool
from .connections import BrokerAway, KeptConnection
from .consumers import Consumers
from .known_queues import MAX_QUEUES, KnownQueues, is_queue_name
from .mailbox import SEND_LIMIT
from .management import ManagementApi
from .queue_keys import QueueKeys, look_at_keys
from .queue_lengths import Evidence, QueueLength, measure

#: The lengths for the metrics are asked for this often, in seconds.
POLL_INTERVAL: Final = 5.0


class Queues:
    """The queues of one Celery app's broker.

    `latest` is what the watch found last, empty before that; `age` tells how old it is.
    """

    def __init__(
        self,
        celery_app: Celery,
        lane: BlockingPool,
        known: KnownQueues,
        consumers: Consumers,
        management: ManagementApi | None = None,
    ) -> None:
        self.known = known
        self._management = management
        self.latest: dict[str, QueueLength] = {}
        self._app = celery_app
        self._connection = KeptConnection(celery_app)
        self._lane = lane
        self._consumers = consumers
        self._latest_at: float | None = None
        self._asked: dict[tuple[str, ...], asyncio.Task[list[QueueLength]]] = {}
        self._watch: asyncio.Task[None] | None = None
        options = celery_app.conf.broker_transport_options or {}
        self._is_prefix_known = "global_keyprefix" in options or not is_empty_app(celery_app)
        self._exchanges = list_app_exchanges(celery_app)

    @property
    def age(self) -> float | None:
        """How many seconds ago `latest` was found, None before that."""
        return None if self._latest_at is None else time.monotonic() - self._latest_at

    def of_app(self) -> list[str]:
        """Return the names of the queues that the Celery app itself names, sorted."""
        return list_app_queues(self._app)

    async def all_lengths(self) -> list[QueueLength]:
        """Return the lengths of all known queues, sorted by name; raises Unavailable."""
        return await self.lengths(self.known.names())

    async def lengths(self, names: Collection[str] = ()) -> list[QueueLength]:
        """Return the lengths of these queues, or of the app's default queue when there are none; sorted by name.

        A queue that is not there has no messages; of one that must not be looked at the length is None. Whoever asks
        the same meanwhile gets the same answer. Raises Unavailable.
        """
        key = tuple(sorted(name for name in names if is_queue_name(name)))[:MAX_QUEUES]
        key = key or (self._app.conf.task_default_queue,)
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._measure(key))
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    async def look_at_keys(self, name: str) -> QueueKeys | None:
        """Return what Redis holds under the keys of a queue, None on another broker; raises Unavailable."""
        return await self._lane.call(partial(self._look, name), SEND_LIMIT)

    def watch(self) -> None:
        """Keep `latest` fresh from now on, for all known queues."""
        self._watch = asyncio.create_task(self._refresh_for_ever())

    def close(self) -> None:
        """End the watch and close the connection."""
        for task in (self._watch, *self._asked.values()):
            if task is not None:
                task.cancel()
        self._connection.close()
        if self._management is not None:
            self._management.close()

    async def _refresh_for_ever(self) -> None:
        while True:
            with suppress(Unavailable):
                found = await self.all_lengths()
                self.latest = {queue.name: queue for queue in found}
                self._latest_at = time.monotonic()
            await asyncio.sleep(POLL_INTERVAL)

    async def _measure(self, names: Sequence[str]) -> list[QueueLength]:
        """Ask the broker; where it does not tell who consumes from a queue, the workers have."""
        evidence = Evidence(self._is_prefix_known, self._consumers.queues(), self._exchanges)
        found = await self._lane.call(partial(self._ask, names, evidence), SEND_LIMIT)
        held = await self._management.unacknowledged() if self._management is not None else {}
        counts = self._consumers.count()
        found = [
            replace(
                queue,
                consumers=counts.of(queue.name) if queue.consumers is None else queue.consumers,
                unacknowledged=held.get(queue.name),
            )
            for queue in found
        ]
        self.known.note(found)
        return found

    def _forget(self, key: tuple[str, ...], task: asyncio.Task[Any]) -> None:
        del self._asked[key]
        if not task.cancelled():
            task.exception()  # somebody has looked: those who asked may be gone

    def _look(self, name: str) -> QueueKeys | None:
        try:
            return self._connection.call(lambda connection: look_at_keys(connection, name, self._exchanges))
        except BrokerAway as exc:
            raise Unavailable("The broker", str(exc)) from exc

    def _ask(self, names: Sequence[str], evidence: Evidence) -> list[QueueLength]:
        try:
            return self._connection.call(lambda connection: list(measure(connection, names, evidence)))
        except BrokerAway as exc:
            raise Unavailable("The broker", str(exc)) from exc
