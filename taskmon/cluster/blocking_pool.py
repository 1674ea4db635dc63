"""Calls that block, made from the event loop: bounded in number, awaited with a time limit, never holding up the end.

The threads are daemons on purpose. A call that hangs in a broker's library cannot be ended, only left behind: its
caller gets an answer in time, and the program ends without it.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from ..errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A request is answered within so many seconds, if only by Unavailable, whatever is away.
LIMIT: Final = 2.8

_STOP: Final = None


class Deadline:
    """When a request must be answered: for one that asks more than one service, and waits for each in turn."""

    def __init__(self, seconds: float = LIMIT) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """How many seconds are left; none when it has passed."""
        return max(0.0, self._end - time.monotonic())


class BlockingPool:
    """A few threads that make calls, each one after the other; `what` names in errors whom they call.

    Use from the event loop. As many calls as there are threads are under way, `waiting` more may wait.
    """

    def __init__(self, what: str, threads: int, waiting: int) -> None:
        self._what = what
        self._waiting = threads + waiting
        self._accepted = 0
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"taskmon-{what}", daemon=True) for _ in range(threads)
        ]
        self._started = False

    async def call(self, function: Callable[[], T], timeout: float) -> T:
        """Run a function in a thread and give what it returns or raises.

        Raises Unavailable when the lane is full, or when there is no answer within `timeout` seconds, the wait for a
        free thread included.
        """
        if self._accepted >= self._waiting:
            raise Unavailable(self._what, "too many calls are waiting for it")
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(setter: Callable[[Any], object], value: object) -> None:
            self._accepted -= 1
            if not future.done():
                setter(value)

        def run() -> None:
            outcome: tuple[Callable[[Any], object], object] = future.cancel, None
            try:
                if not future.done():  # else nobody waits any more
                    outcome = future.set_result, function()
            except Exception as exc:
                outcome = future.set_exception, exc
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(finish, *outcome)

        self._accepted += 1
        self._calls.put(run)
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError as exc:
            raise Unavailable(self._what, f"no answer within {round(timeout, 2):g} s") from exc

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in self._threads:
            self._calls.put(_STOP)

    def _run(self) -> None:
        while (call := self._calls.get()) is not _STOP:
            call()
