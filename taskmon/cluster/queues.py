"""Queues: how many messages wait in each, by passive declare on any broker that kombu knows. Event loop only."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from celery import Celery
from kombu.connection import Connection

from ..errors import Unavailable
from .calls import Lane
from .connections import BrokerAway, KeptConnection
from .mailbox import SEND_LIMIT

log = logging.getLogger(__name__)

#: The lengths for the metrics are asked for this often, in seconds.
EVERY: Final = 5.0

#: So many queues are asked about, at the most.
MAX_QUEUES: Final = 1000

_LONGEST_NAME: Final = 255
_NOT_FOUND: Final = "404"


@dataclass(frozen=True, slots=True)
class QueueLength:
    """One queue: the messages that wait in it, and who consumes from it, None where the broker does not tell."""

    name: str
    messages: int
    consumers: int | None = None


class Queues:
    """The queues of one Celery app's broker.

    `latest` is what the watch found last, empty before that; `age` tells how old it is.
    """

    def __init__(self, celery_app: Celery, lane: Lane) -> None:
        self.latest: dict[str, QueueLength] = {}
        self._app = celery_app
        self._connection = KeptConnection(celery_app)
        self._lane = lane
        self._latest_at: float | None = None
        self._asked: dict[tuple[str, ...], asyncio.Task[list[QueueLength]]] = {}
        self._watch: asyncio.Task[None] | None = None

    @property
    def age(self) -> float | None:
        """How many seconds ago `latest` was found, None before that."""
        return None if self._latest_at is None else time.monotonic() - self._latest_at

    def of_app(self) -> list[str]:
        """List the names of the queues that the Celery app itself names, sorted."""
        conf = self._app.conf
        named = {queue.name for queue in conf.task_queues or () if getattr(queue, "name", None)}
        return sorted({conf.task_default_queue, *named})

    async def lengths(self, names: Collection[str] = ()) -> list[QueueLength]:
        """Ask about these queues, or about those of the app when there are none; sorted by name.

        A queue that is not there has no messages; one that must not be looked at is left out. Whoever asks the same
        meanwhile gets the same answer. Raises Unavailable.
        """
        key = tuple(sorted(name for name in names if _is_name(name)))[:MAX_QUEUES] or tuple(self.of_app())
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._lane.call(partial(self._ask, key), SEND_LIMIT))
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def watch(self, names: Callable[[], Collection[str]]) -> None:
        """Keep `latest` fresh from now on, for the queues that `names` gives each time."""
        self._watch = asyncio.create_task(self._refresh_for_ever(names))

    def close(self) -> None:
        """End the watch and close the connection."""
        for task in (self._watch, *self._asked.values()):
            if task is not None:
                task.cancel()
        self._connection.close()

    async def _refresh_for_ever(self, names: Callable[[], Collection[str]]) -> None:
        while True:
            with suppress(Unavailable):
                found = await self.lengths(names())
                self.latest = {queue.name: queue for queue in found}
                self._latest_at = time.monotonic()
            await asyncio.sleep(EVERY)

    def _forget(self, key: tuple[str, ...], task: asyncio.Task[Any]) -> None:
        del self._asked[key]
        if not task.cancelled():
            task.exception()  # somebody has looked: those who asked may be gone

    def _ask(self, names: Sequence[str]) -> list[QueueLength]:
        try:
            return self._connection.call(lambda connection: list(_ask_each(connection, names)))
        except BrokerAway as exc:
            raise Unavailable("The broker", str(exc)) from exc


def _ask_each(connection: Connection, names: Sequence[str]) -> Iterator[QueueLength]:
    """Declare queues passively: that changes nothing, and tells their lengths. In the thread."""
    tells_consumers = connection.transport.driver_type == "amqp"
    for name in names:
        try:
            answer = connection.default_channel.queue_declare(queue=name, passive=True)
        except connection.channel_errors as exc:
            if str(getattr(exc, "reply_code", "")) == _NOT_FOUND:
                yield QueueLength(name, 0, 0 if tells_consumers else None)
            else:
                log.debug("The queue %.200r cannot be looked at: %s", name, exc)
            connection.revive(None)  # AMQP closes a channel on which something was refused: take a new one
        else:
            consumers = int(answer.consumer_count) if tells_consumers else None
            yield QueueLength(name, int(answer.message_count), consumers)


def _is_name(name: str) -> bool:
    """Tell whether a name that a worker gave can be that of a queue."""
    return 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME
