"""kombu's transports for a monitor: they never restore, move or sweep messages and bindings of others.

On brokers without acknowledgements (Redis, a directory, an SQL database, ...) kombu emulates them: any consumer that
waits for messages also puts those back into their queue that a worker took long ago, by its own `visibility_timeout`.
A monitor cannot know the timeout of the workers, and takes no message that it would have to put back. So the channels
made here cannot restore anything.
"""

import fcntl
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, ClassVar, Final

from amqp.protocol import queue_declare_ok_t
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError
from kombu.transport import virtual

#: The end of the name of a file that is locked while the owner of a queue runs; on the filesystem transport.
_LOCK_SUFFIX: Final = ".taskmon"


class _MonitorQoS:
    """Comes before a transport's own QoS: restores nothing, neither its own messages nor those of others."""

    restore_at_shutdown = False

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Leave what others have taken and not acknowledged, however long ago."""

    def restore_unacked(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Leave what was taken here as it is."""
        return []

    def restore_by_tag(self, *args: Any, **kwargs: Any) -> None:
        """Leave a message that was taken where it is."""


class _MonitorChannel:
    """Comes before a transport's own channel."""

    do_restore = False

    def _restore(self, *args: Any, **kwargs: Any) -> None:
        """Put no message back: kombu does so with one that nothing here consumes any more, one of our own."""

    def _restore_at_beginning(self, *args: Any, **kwargs: Any) -> None:
        """Put no message back."""

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue; a passive declaration, for kombu often a real one, changes nothing."""
        channel: Any = self
        if not passive:
            return super().queue_declare(queue, **kwargs)  # type: ignore[misc]
        if not channel._has_queue(queue, **kwargs):
            raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", "404")
        return queue_declare_ok_t(queue, channel._size(queue), 0)


class _RedisChannel(_MonitorChannel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._fanout_queues: dict[str, Any] = {}  # kombu has all channels of a process share one
        super().__init__(*args, **kwargs)

    def _do_restore_message(self, *args: Any, **kwargs: Any) -> None:
        """Put no message back."""

    def sweep_bindings(self, *args: Any, **kwargs: Any) -> int:
        """Leave the bindings of others, also where kombu takes them for abandoned."""
        return 0

    def maybe_refresh_binding_expiry(self) -> None:
        """Renew no deadline: it would be that of a table of bindings that others share."""

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Bind a queue; to a fanout exchange only here, since Redis delivers by subscriptions and reads no table."""
        if self.typeof(exchange).type == "fanout":  # type: ignore[attr-defined]
            self._fanout_queues[queue] = exchange, routing_key.replace("#", "*")
        else:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]


class _FilesystemChannel(_MonitorChannel):
    """Locks a file for each queue of its own, and removes the queues of monitors that were killed.

    A lock ends with its process. Without this, workers would go on writing events for a reader that is gone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.own_queues: set[str] = set()
        self._locks: dict[str, IO[bytes]] = {}
        super().__init__(*args, **kwargs)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        channel: Any = self
        if queue in self.own_queues and queue not in self._locks:
            channel.control_folder.mkdir(exist_ok=True)
            self._remove_abandoned()
            self._lock(channel.control_folder / f"{queue}{_LOCK_SUFFIX}", queue)
        super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)  # type: ignore[misc]
        file = self._locks.pop(queue, None)
        if file is not None:
            Path(file.name).unlink(missing_ok=True)
            file.close()

    def close(self) -> None:
        """Close the channel, and delete its own queues: nothing else would."""
        channel: Any = self
        for queue in list(self._locks):
            with suppress(OSError, ChannelError):
                channel.queue_delete(queue)
        super().close()  # type: ignore[misc]

    def _lock(self, path: Path, queue: str) -> None:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a file system without locks, or a durable queue with two readers
            file.close()
        else:
            self._locks[queue] = file

    def _remove_abandoned(self) -> None:
        """Remove the queues whose owners are gone: their bindings, their messages and their locks."""
        channel: Any = self
        folder: Path = channel.control_folder
        for path in folder.glob(f"*{_LOCK_SUFFIX}"):
            with suppress(OSError, ChannelError, ValueError), path.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                queue = path.name.removesuffix(_LOCK_SUFFIX)
                for table in folder.glob("*.exchange"):
                    exchange = table.name.removesuffix(".exchange")
                    for entry in channel.get_table(exchange):
                        if entry.queue == queue:
                            super()._delete(queue, exchange, entry.routing_key, entry.pattern)  # type: ignore[misc]
                channel._purge(queue)
                path.unlink(missing_ok=True)


class _SqlChannel(_MonitorChannel):
    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Whether there is a row for the queue; kombu says yes, and adds one."""
        channel: Any = self
        named = channel.session.query(channel.queue_cls.id).filter(channel.queue_cls.name == queue)
        return named.first() is not None


class _MonitorTransport:
    """Comes before a transport of kombu's."""

    def _reject_inbound_message(self, raw_message: Any) -> None:
        """Drop what comes after its consumer was cancelled; kombu lists it as taken and puts it back."""


_CHANNELS: Final[dict[str, type]] = {
    "filesystem": _FilesystemChannel,
    "redis": _RedisChannel,
    "sql": _SqlChannel,
}


@lru_cache(maxsize=32)
def monitor_transport(kind: type) -> Any:
    """Return a transport like `kind` that never restores; RabbitMQ's as it is, since there the broker restores."""
    if not issubclass(kind, virtual.Transport) or issubclass(kind.Channel, _MonitorChannel):
        return kind
    qos = type("QoS", (_MonitorQoS, kind.Channel.QoS), {})
    base = _CHANNELS.get(kind.driver_type, _MonitorChannel)
    channel = type("Channel", (base, kind.Channel), {"QoS": qos})
    return type(kind.__name__, (_MonitorTransport, kind), {"Channel": channel, "__module__": kind.__module__})


class _MonitorConnection:
    """Comes before kombu's connection, so that its transport is safe whatever the URL says."""

    last_addresses: ClassVar[dict[tuple[str | None, ...], str | None]]

    def get_transport_cls(self) -> Any:
        """Return the class of the transport."""
        return monitor_transport(super().get_transport_cls())  # type: ignore[misc]


def protect_messages(celery_app: Celery) -> None:
    """Have a Celery app make, in this process, only connections that leave the messages of others alone."""
    amqp: Any = celery_app.amqp
    given = amqp.Connection
    if not (isinstance(given, type) and issubclass(given, _MonitorConnection)):
        amqp.Connection = type("Connection", (_MonitorConnection, given), {"last_addresses": {}})


def claim_queue(channel: Any, queue: str) -> None:
    """Mark a queue, before it is declared, as one that is to end with this process."""
    if isinstance(channel, _FilesystemChannel):
        channel.own_queues.add(queue)


def is_redis(channel: Any) -> bool:
    """Whether a channel is one to Redis."""
    return isinstance(channel, _RedisChannel)


def is_protected(connection: Connection) -> bool:
    """Whether a connection is one that leaves the messages of others alone."""
    return isinstance(connection, _MonitorConnection)
