"""Where results are: what reads the result backend of a Celery app. Each is used by one thread.

Celery itself loads what is stored, pickles too. Here `result_decoding.py` reads the bytes instead.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, Protocol
from uuid import uuid4

from celery import Celery
from celery.app.backends import by_url
from celery.backends.base import Backend, BaseKeyValueStoreBackend, DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.contrib.abortable import ABORTED
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport import pyamqp, virtual

from ..errors import CommandRefused
from ..receiving.deliveries import AmqpDelivery, VirtualDelivery
from ..transports import is_redis
from .connections import (
    ANSWER_TIMEOUT,
    CONNECT_TIMEOUT,
    BrokerAway,
    away_errors,
    drop_connection,
    open_connection,
    say_why,
)
from .replies import declare_result_queue, remove_result_queue
from .result_decoding import READABLE, Result, read_stored

#: As many replies of workers are kept, of so many bytes together; only for the backend `rpc://`.
MAX_REPLIES: Final = 10_000
MAX_REPLY_BYTES: Final = 64 << 20

_DAY: Final = 86_400.0

#: The bytes of an id in a key of Memcached (250 in all) or the name of a file (255), after Celery's prefix.
_MAX_KEY_BYTES: Final = 200


class Source(Protocol):
    """Where results are read from. Used by one thread."""

    def read(self, task_ids: Collection[str]) -> dict[str, Result]:
        """Give what is stored of these tasks; a task that nothing is stored of is PENDING."""

    def abort(self, task_id: str) -> None:
        """Store the state ABORTED; raises CommandRefused."""

    def close(self) -> None:
        """Let connections go."""


def make_source(celery_app: Celery) -> tuple[Source | None, str, Queue | None]:
    """Find out what reads the backend of an app: the source, why there is none, and the queue for replies."""
    try:
        kind, url = by_url(celery_app.backend_cls or celery_app.conf.result_backend, celery_app.loader)
    except Exception as exc:  # it imports what the configuration names
        return None, f"it cannot be set up ({say_why(exc)})", None
    if issubclass(kind, DisabledBackend):
        return None, "none is configured (result_backend, --result-backend)", None
    if issubclass(kind, RPCBackend):
        queue = _make_reply_queue(celery_app)
        return ReplySource(celery_app, queue), "", queue
    if kind.__module__ == "celery.backends.database":
        return _make_table_source(celery_app, url)
    if _stores_bytes_by_key(kind):
        any_key = kind.__module__ == "celery.backends.redis"
        return KeyValueSource(lambda: kind(app=celery_app, url=url, accept=READABLE), any_key), "", None
    return None, f"taskmon does not read results from a {kind.__name__}", None


def _make_table_source(celery_app: Celery, url: str) -> tuple[Source | None, str, Queue | None]:
    from .result_table import TableSource  # which takes SQLAlchemy: a quarter of a second

    try:
        return TableSource(celery_app, url or celery_app.conf.database_url), "", None
    except Exception as exc:  # it imports what the URL names
        return None, f"it cannot be set up ({say_why(exc)})", None


def _stores_bytes_by_key(kind: Any) -> bool:
    """Tell whether a backend keeps what is encoded as it is, under a key."""
    return (
        issubclass(kind, BaseKeyValueStoreBackend)
        and kind._get_task_meta_for is BaseKeyValueStoreBackend._get_task_meta_for
        and kind.decode is Backend.decode
    )


class KeyValueSource:
    """Redis, Memcached, a directory, and the other backends that keep bytes by a key.

    Only Redis takes `any_key`. The others are not asked about an id that can be no key or file name: nothing can be
    stored under it, and the error would be that of all who share the read.
    """

    def __init__(self, make: Callable[[], Any], any_key: bool = True) -> None:
        self._make = make
        self._any_key = any_key
        self._backend: Any = None

    def read(self, task_ids: Collection[str]) -> dict[str, Result]:
        """Give what is stored of these tasks."""
        backend = self._open()
        keys = {task_id: backend.get_key_for_task(task_id) for task_id in task_ids if self._can_hold(task_id)}
        return {task_id: Result(task_id) for task_id in task_ids} | {
            task_id: read_stored(task_id, payload, backend.content_type, backend.content_encoding)
            if payload
            else Result(task_id)
            for task_id, payload in zip(keys, _get_all(backend, list(keys.values())), strict=True)
        }

    def abort(self, task_id: str) -> None:
        """Store ABORTED as Celery's `AbortableAsyncResult.abort` does, but over no result."""
        if not self._can_hold(task_id):
            raise CommandRefused("The result backend cannot store anything under such an id")
        stored = self.read([task_id])[task_id]
        if stored.ready:
            raise CommandRefused(f"The task is finished: its state is {stored.state}")
        backend = self._open()
        meta = {"status": ABORTED, "result": None, "traceback": None, "children": [], "date_done": None}
        backend.set(backend.get_key_for_task(task_id), backend.encode({**meta, "task_id": task_id}))

    def close(self) -> None:
        """Close the connections of Redis; the others have nothing to close."""
        client = getattr(self._backend, "client", None)
        if client is not None and hasattr(client, "connection_pool"):
            client.connection_pool.disconnect()

    def _can_hold(self, task_id: str) -> bool:
        """Whether an id can be a part of a key: of a file's name, where the backend is a directory."""
        return self._any_key or (
            len(task_id.encode()) <= _MAX_KEY_BYTES and task_id.isprintable() and not set(task_id) & set("/\\ ")
        )

    def _open(self) -> Any:
        if self._backend is None:
            backend = self._make()
            backend.retry_policy = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
            limits = getattr(backend, "connparams", None)
            if isinstance(limits, dict):  # Redis, whose client is made when it is first used
                limits["socket_timeout"] = min(limits.get("socket_timeout") or ANSWER_TIMEOUT, ANSWER_TIMEOUT)
                if "path" not in limits:
                    limits["socket_connect_timeout"] = CONNECT_TIMEOUT
            self._backend = backend
        return self._backend


def _get_all(backend: Any, keys: list[Any]) -> list[Any]:
    """Read keys at one go where the backend can, in their order."""
    try:
        values = backend.mget(keys)
    except NotImplementedError:
        return [backend.get(key) for key in keys]
    return [values.get(key) for key in keys] if hasattr(values, "get") else list(values)


class AmqpReply(AmqpDelivery):
    """A result that a worker sent over RabbitMQ."""

    __slots__ = ("task_id",)

    def __init__(self, message: Any, channel: Any = None) -> None:
        super().__init__(message, channel)
        self.task_id = message.properties.get("correlation_id")


class VirtualReply(VirtualDelivery):
    """A result that a worker sent over any other broker."""

    __slots__ = ("task_id",)

    def __init__(self, payload: Any, channel: Any = None) -> None:
        super().__init__(payload, channel)
        properties = payload.get("properties") if isinstance(payload, dict) else None
        self.task_id = properties.get("correlation_id") if isinstance(properties, dict) else None


_REPLIES: Final = ((pyamqp.Channel, AmqpReply), (virtual.Channel, VirtualReply))


def _make_reply_queue(celery_app: Celery) -> Queue:
    """Describe the queue for replies; like Celery's, it goes when nobody has looked into it for long."""
    expires = celery_app.conf.result_expires
    seconds = expires.total_seconds() if hasattr(expires, "total_seconds") else float(expires or 0)
    return Queue(
        f"taskmon.replies.{uuid4()}", exchange=Exchange(""), durable=True, auto_delete=False, expires=seconds or _DAY
    )


class ReplySource:
    """The backend `rpc://`: workers send results to whoever published the task, here to one queue of our own."""

    def __init__(self, celery_app: Celery, queue: Queue) -> None:
        self._app = celery_app
        self._description = queue
        self._connection: Connection | None = None
        self._queue: Queue | None = None
        self._replies: OrderedDict[str, tuple[Result, int]] = OrderedDict()
        self._size = 0

    def read(self, task_ids: Collection[str]) -> dict[str, Result]:
        """Take what has come, and give what is known of these tasks."""
        fresh = self._connection is None
        try:
            self._take()
        except BrokerAway:
            if fresh:
                raise
            self._take()  # the connection was an old one
        return {task_id: self._replies.get(task_id, (Result(task_id), 0))[0] for task_id in task_ids}

    def abort(self, task_id: str) -> None:
        """Refuse: a worker has nowhere to look."""
        raise CommandRefused(
            "The result backend rpc:// only carries results to who sent the task; it cannot abort one"
        )

    def close(self) -> None:
        """Delete the queue."""
        if self._connection is not None and self._queue is not None:
            with suppress(Exception):
                remove_result_queue(self._connection.default_channel, self._description)
            drop_connection(self._connection)

    def _take(self) -> None:
        if self._connection is None:
            self._connection = open_connection(self._app)
            self._queue = None
        try:
            if self._queue is None:
                channel: Any = self._connection.default_channel
                channel.Message = next(
                    (reply for kind, reply in _REPLIES if isinstance(channel, kind)), channel.Message
                )
                self._queue = self._description(channel)
                declare_result_queue(channel, self._description)
            for _ in range(MAX_REPLIES):
                reply = self._queue.get(no_ack=True)
                if reply is None:
                    break
                self._keep(reply)
            if is_redis(self._connection.default_channel):  # the list is empty now, and would no longer expire
                declare_result_queue(self._connection.default_channel, self._description)
        except (*away_errors(self._connection), *self._connection.channel_errors) as exc:
            drop_connection(self._connection)
            self._connection = self._queue = None
            raise BrokerAway(say_why(exc)) from exc

    def _keep(self, reply: Any) -> None:
        """Keep a result: the newest of a task, a final one for good, so many altogether."""
        task_id = getattr(reply, "task_id", None)
        if not isinstance(task_id, str):
            return
        known, size = self._replies.pop(task_id, (None, 0))
        self._size -= size
        kind, encoding = reply.content_type or "", reply.content_encoding or "utf-8"
        result = read_stored(task_id, reply.body, kind, encoding, reply.compression)
        kept = known if known is not None and known.ready else result
        self._replies[task_id] = kept, len(reply.body)
        self._size += len(reply.body)
        while len(self._replies) > MAX_REPLIES or self._size > MAX_REPLY_BYTES:
            self._size -= self._replies.popitem(last=False)[1][1]
