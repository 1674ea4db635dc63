"""Destinations: where tasks may be sent, and from which queues workers may consume. Event loop only.

Whoever names a queue or an exchange asks here first. What only events tell of counts less than what workers, the app
or an option say: events can be forged.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

import msgspec
from celery import Celery

from ..errors import PermissionDenied, shown
from .app_queues import list_app_exchanges, list_app_queues
from .inspection import Inspection
from .internal_queues import Plumbing
from .queue_keys import QueueKeys

_OPTION: Final = "--publish-queues"


class Workers(Protocol):
    """What is asked of the workers."""

    @property
    def inspections(self) -> Mapping[str, Inspection]: ...
    async def refresh(self, hostname: str | None, awaited: Collection[str] = ()) -> None:
        """Ask a worker everything, or all workers what is asked of all."""


class Broker(Protocol):
    """What is asked of the broker."""

    async def look_at_keys(self, name: str) -> QueueKeys | None:
        """Return what Redis holds under the keys of a queue; None on another broker."""


class Destinations:
    """The destinations of one Celery app; `seen` are the queues in which tasks were seen, of which events tell.

    `named` are those that options name, of which `patterns` may hold *; `online` are the workers that should answer.
    """

    def __init__(
        self,
        celery_app: Celery,
        workers: Workers,
        broker: Broker,
        *,
        patterns: Collection[str] = (),
        named: Collection[str] = (),
        own: Collection[str] = (),
        seen: Callable[[], Iterable[str]] = tuple,
        online: Callable[[], Collection[str]] = tuple,
    ) -> None:
        conf = celery_app.conf
        self._app = celery_app
        self._plumbing = Plumbing(celery_app, *own)
        self._workers = workers
        self._broker = broker
        self._patterns = tuple(patterns)
        self._declared = frozenset({*list_app_queues(celery_app), conf.task_default_queue, *named})
        self._exchanges = frozenset(list_app_exchanges(celery_app))
        self._seen = seen
        self._online = online

    async def require(self, options: Mapping[str, Any], is_seen: bool = False) -> None:
        """Raise PermissionDenied unless tasks may be sent where the options of `apply_async` say; Unavailable.

        With `is_seen` it is known already that a task was seen there.
        """
        queue, exchange, routing_key = (options.get(name) for name in ("queue", "exchange", "routing_key"))
        if queue is not None:
            await self.require_queue(queue, is_seen)
        if exchange == "" and routing_key is not None:
            await self.require_queue(routing_key, is_seen)
        elif exchange:
            await self._require_exchange(exchange, routing_key)

    async def require_queue(self, name: str, is_seen: bool = False) -> None:
        """Raise PermissionDenied unless a queue is one for tasks; Unavailable where that has to be asked."""
        if self._plumbing.has(name):
            raise PermissionDenied(
                f"The queue {shown(name)} is no destination: the name belongs to Celery, kombu or taskmon itself, and"
                " no option allows it"
            )
        self._require_file_name(name)
        is_sure = self._is_sure(name)
        is_seen = not self._plumbing.is_reserved(name) and (is_seen or (not is_sure and name in set(self._seen())))
        if not is_sure and not is_seen:
            await self._ask_workers()
            is_sure = self._is_consumed(name)
        if not is_sure and not is_seen:
            raise PermissionDenied(_refusal("queue", name))
        await self._require_keys(name, is_sure)

    async def require_consumed(self, hostname: str, queue: str) -> None:
        """Raise PermissionDenied unless a worker says that it consumes from a queue; WorkerTimeout, Unavailable."""
        for ask in (False, True):
            if ask:
                await self._workers.refresh(hostname)
            inspection = self._workers.inspections.get(hostname)
            if inspection is not None and queue in inspection.queues:
                return
        raise PermissionDenied(f"{hostname} does not consume from the queue {shown(queue)}, by its own answer")

    async def _require_exchange(self, exchange: str, routing_key: str | None) -> None:
        """Raise PermissionDenied unless an exchange is one for tasks."""
        if self._plumbing.has(exchange):
            raise PermissionDenied(
                f"The exchange {shown(exchange)} is no destination: the name belongs to Celery, kombu or taskmon"
                " itself, and no option allows it"
            )
        self._require_file_name(exchange)
        if exchange in self._exchanges or self._is_allowed_by_option(exchange):
            return
        if not self._plumbing.is_reserved(exchange):
            if exchange in self._exchanges_of_workers():
                return
            if self._is_declared(exchange):  # Celery gives a queue that it makes an exchange of the same name
                await self.require_queue(exchange if routing_key is None else routing_key)
                return
            await self._ask_workers()
            if exchange in self._exchanges_of_workers():
                return
        raise PermissionDenied(_refusal("exchange", exchange))

    def _require_file_name(self, name: str) -> None:
        """Raise PermissionDenied for a name with / where names become those of files: it would lead elsewhere."""
        if "/" in name and self._app.connection_for_write().get_transport_cls().driver_type == "filesystem":
            raise PermissionDenied(
                f"The name {shown(name)} has a /, which the filesystem transport cannot have in names"
            )

    async def _require_keys(self, name: str, is_sure: bool) -> None:
        """Raise PermissionDenied where Redis holds something else under the name of a queue.

        Of a queue that only events tell of, kombu must have noted in Redis that it is one.
        """
        keys = await self._broker.look_at_keys(name)
        if keys is None:
            return
        if keys.other_type is not None:
            raise PermissionDenied(f"The key {shown(name)} in Redis is a {keys.other_type}, and no queue")
        if not is_sure and not keys.is_bound:
            raise PermissionDenied(
                f"The key {shown(name)} in Redis may be another program's: only events tell of a queue of that name;"
                f" {_OPTION} with this name would allow it"
            )

    async def _ask_workers(self) -> None:
        """Ask all workers anew what they consume: one of them may have begun just now."""
        await self._workers.refresh(None, self._online())

    def _is_sure(self, name: str) -> bool:
        """Whether the app, an option or a worker says that a queue is one for tasks."""
        return self._is_declared(name) or self._is_consumed(name)

    def _is_declared(self, name: str) -> bool:
        return name in self._declared or self._is_allowed_by_option(name)

    def _is_allowed_by_option(self, name: str) -> bool:
        """Whether an option names it: a pattern does not reach names that look like a broker's own."""
        if name in self._patterns:
            return True
        return not self._plumbing.is_reserved(name) and any(fnmatchcase(name, one) for one in self._patterns)

    def _is_consumed(self, name: str) -> bool:
        if self._plumbing.is_reserved(name):
            return False
        return any(name in inspection.queues for inspection in self._workers.inspections.values())

    def _exchanges_of_workers(self) -> frozenset[str]:
        """Return the exchanges of the queues from which workers consume."""
        answers = (inspection.answers.get("active_queues") for inspection in self._workers.inspections.values())
        return frozenset(name for answer in answers if answer is not None for name in _exchanges_in(answer))


def _exchanges_in(answer: msgspec.Raw) -> Iterator[str]:
    queues = msgspec.json.decode(answer)
    for queue in queues if isinstance(queues, list) else ():
        exchange = queue.get("exchange") if isinstance(queue, dict) else None
        name = exchange.get("name") if isinstance(exchange, dict) else None
        if isinstance(name, str) and name:
            yield name


def _refusal(what: str, name: str) -> str:
    saying = (
        "no worker consumes from it, the Celery app does not name it, and no task was seen in it"
        if what == "queue"
        else "the Celery app does not name it, and no worker's queue is bound to it"
    )
    return f"The {what} {shown(name)} is not known to be for tasks: {saying}; {_OPTION} with this name would allow it"
