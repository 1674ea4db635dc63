"""Results: what the result backend of a Celery app says of tasks. Event loop only; one thread of the lane reads.

Whoever asks or waits shares the reads: all ids together, one read after the other, at a modest rate. Nobody who waits
holds a thread.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from celery import Celery

from ..errors import CommandRefused, Unavailable
from ..parameters import parse_id
from ..records import READY_STATES, Event, Task, Worker
from .backends import make_source
from .blocking_pool import LIMIT, BlockingPool
from .connections import say_why
from .result_decoding import Result

log = logging.getLogger(__name__)

#: Seconds between two reads for those who wait: the first pause, and the longest.
PAUSES: Final = (0.05, 0.5)

#: Seconds for the present state when the wait is over, if the wait was that long.
_FINAL_READ_TIMEOUT: Final = 1.0

_SETTLE: Final = 0.005
_WHAT: Final = "The result backend"


class Results:
    """The results of one Celery app's tasks.

    `reply_queue` is where workers send results to when the backend is `rpc://`: tasks are to be published with it.
    """

    def __init__(self, celery_app: Celery, lane: BlockingPool) -> None:
        self._lane = lane
        self._source, self._why_none, self.reply_queue = make_source(celery_app)
        self._asked: dict[str, list[asyncio.Future[Result]]] = {}
        self._waiting: dict[str, list[asyncio.Future[Result]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._pause = PAUSES[0]

    @property
    def available(self) -> bool:
        """Whether the app has a result backend that can be read."""
        return self._source is not None

    async def get(self, task_id: str, limit: float = LIMIT) -> Result:
        """Read what is stored of a task now; raises Unavailable within `limit` seconds."""
        self._check(task_id)
        future = self._register(self._asked, task_id)
        try:
            return await asyncio.wait_for(future, limit)
        except TimeoutError as exc:
            raise Unavailable(_WHAT, f"no answer within {round(limit, 2):g} s") from exc

    async def wait(self, task_id: str, timeout: float) -> Result:
        """Wait until a task is ready, `timeout` seconds at the most; give its present state then.

        Raises Unavailable when that cannot be read, within three seconds or one after `timeout`.
        """
        self._check(task_id)
        future = self._register(self._waiting, task_id)
        self._pause = PAUSES[0]
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return await self.get(task_id, max(LIMIT - timeout, _FINAL_READ_TIMEOUT))
        finally:
            self._forget(task_id, future)

    async def abort(self, task_id: str) -> None:
        """Store the state ABORTED, which an abortable task looks for; raises CommandRefused for a finished task."""
        self._check(task_id)
        source = self._source
        assert source is not None
        await self._call(partial(source.abort, task_id))

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Note the tasks that have just finished; to be subscribed to State."""
        if not self._waiting:
            return
        for event, subject in changes:
            if event.uuid in self._waiting and isinstance(subject, Task) and subject.state in READY_STATES:
                self.note_finished(event.uuid)

    def note_finished(self, task_id: str) -> None:
        """Read at once if somebody waits for this task."""
        if task_id in self._waiting:
            self._wake.set()

    async def close(self) -> None:
        """Stop reading; whoever still waits is left alone."""
        if self._reading is None or self._source is None:
            return
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
        with suppress(Unavailable):
            await self._lane.call(self._source.close, 0.3)

    def _check(self, task_id: str) -> None:
        """Refuse what can be no id."""
        parse_id("The task id", task_id)
        if self._source is None:
            raise Unavailable(_WHAT, self._why_none, retry_after=60)

    def _register(self, where: dict[str, list[asyncio.Future[Result]]], task_id: str) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        where.setdefault(task_id, []).append(future)
        self._wake.set()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read_on())
        return future

    def _forget(self, task_id: str, future: asyncio.Future[Result]) -> None:
        futures = self._waiting.get(task_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(task_id, None)

    async def _read_on(self) -> None:
        """Read while somebody asks or waits: at once when there is reason to, else after a pause that grows."""
        while self._asked or self._waiting:
            self._wake.clear()
            asked, self._asked = self._asked, {}
            await self._read(asked)
            if self._asked or not self._waiting:
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), self._pause)
                await asyncio.sleep(_SETTLE)  # tasks often finish several at a time
            except TimeoutError:
                self._pause = min(1.5 * self._pause, PAUSES[1])

    async def _read(self, asked: dict[str, list[asyncio.Future[Result]]]) -> None:
        """Read once for all, and tell those who asked and those whose task is ready."""
        source = self._source
        assert source is not None
        try:
            found = await self._call(partial(source.read, {*asked, *self._waiting}))
        except Unavailable as exc:
            for future in _flatten(asked):
                future.set_exception(exc)
            self._pause = PAUSES[1]
            return
        for task_id, result in found.items():
            for future in _undone(asked.get(task_id, ())):
                future.set_result(result)
            if result.ready:
                for future in _undone(self._waiting.pop(task_id, ())):
                    future.set_result(result)

    async def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return await self._lane.call(function, LIMIT)
        except (Unavailable, CommandRefused):
            raise
        except Exception as exc:  # any backend has errors of its own
            log.debug("The result backend failed", exc_info=True)
            raise Unavailable(_WHAT, say_why(exc)) from exc


def _undone(futures: Collection[asyncio.Future[Result]]) -> Iterator[asyncio.Future[Result]]:
    return (future for future in futures if not future.done())


def _flatten(asked: dict[str, list[asyncio.Future[Result]]]) -> Iterator[asyncio.Future[Result]]:
    return (future for futures in asked.values() for future in _undone(futures))
