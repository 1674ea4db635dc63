"""Keeper: what changes goes to the journal a few times a second, however long writing to the database takes.

Event loop only, but for the calls in its lane.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from math import inf
from typing import Final

from ..cluster.blocking_pool import BlockingPool
from ..errors import Unavailable
from .changes import Changes
from .journal import Full, Journal
from .side_tables import Besides, Found

log = logging.getLogger(__name__)

#: Seconds between two times that what changed is noted; so many times pass until workers and counters are.
INTERVAL: Final = 0.3
_SELDOM: Final = 4

#: Tasks that are copied, and noted, at a time: half a millisecond of the event loop.
_CHANGES_PER_SLICE: Final = 500

#: Seconds that the disk may take.
_DISK_TIMEOUT: Final = 10.0


class Keeper:
    """Has the journal hold what changes, in a lane of its own: one thing after the other."""

    def __init__(self, journal: Journal, changes: Changes, besides: Besides, monitor: str) -> None:
        self._journal = journal
        self._changes = changes
        self._besides = besides
        self._monitor = monitor
        self._lane = BlockingPool("The journal", threads=1, waiting=16)
        self._trouble = ""
        self._noted_all = time.monotonic()
        self._noting = False
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to note what changes, as soon as the journal has begun."""
        self._running = asyncio.create_task(self._run())

    async def turn(self) -> None:
        """Say that all that waits now is about to be written."""
        await self._call(self._journal.turn)

    async def forget(self) -> None:
        """Say that it is written."""
        await self._call(self._journal.forget)

    def age(self) -> float:
        """Tell how many seconds old the oldest change is, at the most, that the journal does not have."""
        if not self._journal.begun:
            return inf
        return time.monotonic() - self._noted_all if self._noting or self._changes.fresh else 0.0

    async def stop(self, done: bool) -> bool:
        """Note the last changes; or, if all is `done`, take the journal away. Tell whether that went well."""
        self._stopping.set()
        if self._running is not None:
            await asyncio.wait({self._running})
        went_well = await self._call(self._journal.clear) if done else await self._note(True)
        await self._call(self._journal.close)
        self._lane.close()
        return went_well

    async def _run(self) -> None:
        for number in count():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), INTERVAL)
            if self._stopping.is_set():
                return
            try:
                await self._note(number % _SELDOM == 0)
            except Exception:  # whatever it is: the next time is another one
                log.exception("The journal of the history failed")

    async def _note(self, all_of_it: bool) -> bool:
        """Note what changed since the last time, and tell whether that went well; else the next time takes it too."""
        if not self._journal.begun:
            return False
        began, self._noting = time.monotonic(), True
        tasks = self._changes.take_fresh()
        found = self._besides.take() if all_of_it else Found()
        start = 0
        while start < len(tasks) or found:
            rows, adopted = self._changes.copy_fresh(tasks[start : start + _CHANGES_PER_SLICE])
            if not await self._call(partial(self._journal.note, found.batch(rows, adopted, self._monitor))):
                self._changes.put_back_fresh(tasks[start:])
                self._besides.put_back(found)
                return False
            start, found = start + _CHANGES_PER_SLICE, Found()
        self._noted_all, self._noting = began, False
        return True

    async def _call(self, function: Callable[[], None]) -> bool:
        """Do something with the journal, and tell whether that went well; trouble is said once."""
        try:
            await self._lane.call(function, _DISK_TIMEOUT)
        except (OSError, Full, Unavailable) as exc:
            trouble = str(exc)
            if trouble != self._trouble:
                log.warning("The journal of the history cannot be written (%s); a kill may lose more", trouble)
            self._trouble = trouble
            return False
        if self._trouble:
            log.info("The journal of the history is written again")
            self._trouble = ""
        return True
