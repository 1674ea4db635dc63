"""Saying that a task is about to be published: once it is sure that taskmon itself refuses nothing of it any more.

Celery and kombu check arguments, routes and serializers on the way, in the thread that publishes.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kombu.messaging import Producer

from ..errors import Unavailable


class Announcement:
    """Calls `before` on the event loop, once, asked to from another thread. Made on the event loop."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._loop = asyncio.get_running_loop()
        self._made = self._withdrawn = False

    def make(self) -> None:
        """Wait until `before` was called; raises Unavailable when nobody waits for the task any more."""
        if not self._made:
            asyncio.run_coroutine_threadsafe(self._make(), self._loop).result()
            self._made = True

    def withdraw(self) -> None:
        """Nobody waits any more: what has not been announced is not to be published."""
        self._withdrawn = True

    async def _make(self) -> None:
        if self._withdrawn:
            raise Unavailable("The broker", "the time to publish was up")
        self._before()


@contextmanager
def announcing(producer: Producer | None, announce: Callable[[], None]) -> Iterator[None]:
    """Announce when the block hands a finished message to the channel of a producer, just before it."""
    channel: Any = None if producer is None else producer.channel
    publish = getattr(channel, "basic_publish", None)
    if publish is None:
        yield
        return

    def announced(*args: Any, **kwargs: Any) -> Any:
        announce()
        return publish(*args, **kwargs)

    channel.basic_publish = announced
    try:
        yield
    finally:
        channel.basic_publish = publish
