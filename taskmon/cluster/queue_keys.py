"""What Redis holds under the keys of a queue. In a thread; nothing is changed."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from kombu.connection import Connection

from ..transports import is_redis
from .queue_lengths import PRIORITIES, Bindings

_QUEUE_TYPES: Final = frozenset({"list", "none"})


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue: the type of one that is no list, and whether kombu has noted the queue in Redis."""

    other_type: str | None
    is_bound: bool


def look_at_keys(connection: Connection, name: str, exchanges: Collection[str]) -> QueueKeys | None:
    """Return what Redis holds under the keys of a queue, of all priorities; None on another broker."""
    channel: Any = connection.default_channel
    if not is_redis(channel):
        return None
    # kombu's client puts the prefix before the keys of the commands that it sends itself, of which TYPE is none.
    key = f"{getattr(channel, 'global_keyprefix', '') or ''}{name}"
    steps = sorted({*PRIORITIES, *channel.priority_steps} - {0})
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        for each in (key, *(f"{key}{channel.sep}{step}" for step in steps)):
            pipe.execute_command("TYPE", each)
        types = [answer.decode() if isinstance(answer, bytes) else str(answer) for answer in pipe.execute()]
    others = [kind for kind in types if kind not in _QUEUE_TYPES]
    if others:
        return QueueKeys(others[0], False)
    return QueueKeys(None, Bindings(channel).have(name, exchanges))
