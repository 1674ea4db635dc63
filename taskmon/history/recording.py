"""Recorder: what changes in State is noted, copied, and written by one thread, a batch at a time.

Event loop only, but for the calls in its lane. What cannot be written waits, no more of it than State may hold tasks,
and is written when the database is back.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, Protocol

from ..cluster.blocking_pool import BlockingPool
from ..errors import TaskmonError, Unavailable
from ..monitor.query import TaskQuery
from ..monitor.state import State
from ..records import Event, Task, Worker
from .batches import Written
from .changes import Changes
from .databases import Database
from .driver_errors import Away
from .journal import Journal
from .journal_replay import write_leftovers
from .journal_writer import Keeper
from .log_throttle import Reminder
from .retention import TASKS_PER_DELETE
from .side_tables import Besides, Counters, Found
from .status import Status
from .watchdog import WARN_AFTER, call_patiently

log = logging.getLogger(__name__)

#: Seconds between the beginnings of two rounds: with what a round takes, less than a second of events is unwritten.
#: Where a journal has them, it may be so many times more: most tasks that take less are written once.
INTERVAL: Final = 0.4
_WITH_JOURNAL: Final = 2

#: Seconds that a question waits for what has changed to be written.
FLUSH_TIMEOUT: Final = 5.0

#: Tasks in one transaction.
TASKS_PER_TRANSACTION: Final = 5_000

#: Seconds until a round is tried again after one that failed, doubled each time.
BACKOFF: Final = (1.0, 10.0)

#: Tasks that the search index takes at a time; until which share of a round it may, and which share of what writing
#: took it gets in any case: else it would never get any while a lot is written.
_INDEXED: Final = 500
_IDLE_SHARE: Final = 0.5
_MIN_IDLE_SHARE: Final = 0.25


class Upkeep(Protocol):
    """What is done for the database in spare moments, in the writing thread."""

    def step(self) -> bool:
        """Do a small step; return whether more are due."""

    def note(self, inserted: int) -> None:
        """Note that tasks were written which were not there before."""

    @property
    def due(self) -> bool:
        """Whether there are tasks to delete."""

    @property
    def deleted(self) -> int:
        """How many tasks were deleted."""


class Recorder:
    """Writes to a database what changes in `state`, to which `observe` and `forget` are to be subscribed."""

    def __init__(
        self,
        state: State,
        database: Database,
        lane: BlockingPool,
        monitor: str,
        save_counters: Callable[[], str],
        upkeep: Upkeep,
        journal: Journal | None = None,
        family: str = "",
    ) -> None:
        self.status = Status()
        self._state = state
        self._database = database
        self._lane = lane
        self._monitor = monitor
        self._upkeep = upkeep
        self._journal = journal
        self._family = family
        self._interval = INTERVAL * (1 if journal is None else _WITH_JOURNAL)
        self._changes = Changes(keeping=journal is not None)
        self._counters = Counters(save_counters)
        self._besides = Besides(state, self._counters)
        self._noted = Besides(state, self._counters)  # as the journal has it
        self._keeper = None if journal is None else Keeper(journal, self._changes, self._noted, monitor)
        self._wanted = asyncio.Event()
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []
        self._opened = False
        self._stopping = False
        self._incomplete = False
        self._losses = Reminder(self._say_what_is_lost)
        self._refusals = Reminder(_say_what_is_refused)
        self._inserted = 0
        self._delay = BACKOFF[0]
        self._running: asyncio.Task[None] | None = None

    @property
    def backlog(self) -> int:
        """How many tasks have changed and are not written."""
        return len(self._changes)

    def at_risk(self) -> float:
        """Tell how many seconds old the oldest change is, at the most, that a kill would lose now."""
        lag = self.status.lag()
        return lag if self._keeper is None else min(lag, self._keeper.age())

    @property
    def horizon(self) -> float:
        """The latest time of a task without a name: where it left the memory, only the database may know that."""
        return self._changes.horizon

    def pending(self, task_id: str) -> Task | None:
        """Give a task that has changed and is not written yet, whether State still holds it or not."""
        return self._changes.get(task_id)

    def recall(self, task: Task) -> Task:
        """Add to a task what is not written yet of its time before it left the memory."""
        return self._changes.recall(task)

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Note what changed."""
        if self.status.changed_since is None:
            self.status.changed_since = time.monotonic()
        self._changes.note(changes)
        if self._changes.waiting > self._state.max_tasks + TASKS_PER_TRANSACTION:
            self._drop()
        if self._changes.fresh > self._state.max_tasks + TASKS_PER_TRANSACTION:
            self._changes.forget_fresh()

    def forget(self, hostname: str) -> None:
        """Note a worker that State has dropped."""
        self._besides.forget(hostname)
        self._noted.forget(hostname)

    def start(self, opened: bool) -> None:
        """Begin to write; `opened` tells whether the database is open already."""
        self._opened = opened
        if opened:
            self.status.reason = ""
        self._running = asyncio.create_task(self._run())
        if self._keeper is not None:
            self._keeper.start()

    async def stop(self, timeout: float) -> None:
        """Write what is left, for `timeout` seconds at the most."""
        if self._running is None:
            return
        self._stopping = True  # cancelling would leave open what became of a batch
        self._wanted.set()
        await asyncio.wait({self._running}, timeout=timeout)
        if not self._running.done() or self.backlog:
            reason = self.status.reason or "not done in time"
            noted = self._keeper is not None and await self._keeper.stop(done=False)
            then = "; the next start writes them" if noted else ""
            log.warning("The history is left without the last changes of %s tasks (%s)%s", self.backlog, reason, then)
        self._losses.flush()
        self._refusals.flush()
        self._running.cancel()
        self._running = None
        self._release(Unavailable("The history", "taskmon ends"))

    async def flush(self) -> None:
        """Wait until all that has changed so far is written; raises Unavailable."""
        if not self.status.available:
            raise Unavailable("The history", self.status.reason)
        if self.status.changed_since is None and self.status.writing_since is None:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((time.monotonic(), waiting))
        self._wanted.set()
        try:
            await asyncio.wait_for(waiting, FLUSH_TIMEOUT)
        except TimeoutError:
            raise Unavailable("The history", f"nothing written within {FLUSH_TIMEOUT:g} s") from None

    async def _run(self) -> None:
        pause = self._interval
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause)
            self._wanted.clear()
            self._losses.check()
            self._refusals.check()
            last = self._stopping
            if last:
                self._counters.hurry()
            pause = await self._write_and_tidy()
            if last:
                break
        if self._keeper is not None and not self.backlog:
            await self._keeper.stop(done=True)
        with suppress(Away):
            await self._call(self._database.close)

    async def _write_and_tidy(self) -> float:
        """Do a round, and other work in what time is left; give the seconds until the next one."""
        began = time.monotonic()
        try:
            await self._round()
        except (Away, TaskmonError) as exc:
            return self._fail(exc)
        except Exception as exc:  # whatever it is: nobody else would go on writing
            log.exception("Writing the history failed")
            return self._fail(exc)
        self._succeed()
        await self._use_spare_time(began)
        return max(0.0, self._interval - (time.monotonic() - began))

    async def _round(self) -> None:
        """Write all that has changed until now."""
        began = time.monotonic()
        status = self.status
        status.writing_since, status.changed_since = status.writing_since or status.changed_since, None
        if not self._opened:
            await self._open()
        if self._keeper is not None:
            await self._keeper.turn()
        left = self._changes.waiting
        await self._write(left, also=True)
        while (left := left - TASKS_PER_TRANSACTION) > 0:
            await self._write(left)
        if self._keeper is not None:
            await self._keeper.forget()
        status.writing_since = None
        self._release(None, began)

    async def _open(self) -> None:
        """Open the database; where it has lost what was written, all that is held is to be written again."""
        created = await self._call(self._database.open)
        if self._journal is not None:
            await self._call(partial(write_leftovers, self._database, self._journal, created, self._family))
        self._opened = True
        if created or self._incomplete:
            for task in self._state.find(TaskQuery()):
                if task is not None:
                    self._changes.add([task])
                else:
                    await asyncio.sleep(0)
            self._besides.refill()
            self._incomplete = False

    async def _write(self, most: int, also: bool = False) -> None:
        """Write the tasks that wait longest; and `also` what else has changed."""
        await self._make_room()
        found = self._besides.take() if also else Found()
        tasks = self._changes.take(min(most, TASKS_PER_TRANSACTION))
        if not tasks and not found:
            return
        try:
            rows, adopted = await self._changes.copy(tasks)
            batch = found.batch(rows, adopted, self._monitor)
            written = await self._call(partial(self._database.write, batch))
        except BaseException:
            self._changes.put_back()
            self._besides.put_back(found)
            raise
        self._changes.forget()
        self._note_written(len(tasks), written)

    def _note_written(self, count: int, written: Written) -> None:
        self._inserted = written.inserted
        self._upkeep.note(written.inserted)
        self.status.written += count - written.refused
        self.status.unfit += written.refused
        self.status.cleaned += written.cleaned
        if written.refused:
            self._refusals.add(written.refused, written.examples)

    async def _make_room(self) -> None:
        """Delete what is too much, twice as much as the last batch has added, so that the bounds hold under load."""
        left = 2 * max(self._inserted, TASKS_PER_DELETE)
        while self._upkeep.due and left > 0 and await self._call_upkeep(self._upkeep.step) is not None:
            left -= TASKS_PER_DELETE

    async def _use_spare_time(self, began: float) -> None:
        """Let searches find what was written, and delete what is too old, as long as little else is to do."""
        now = time.monotonic()
        enough = max(began + self._interval * _IDLE_SHARE, now + (now - began) * _MIN_IDLE_SHARE)
        more = True
        while more and time.monotonic() < enough and not self._wanted.is_set():
            indexing = await self._call_upkeep(partial(self._database.index_some, _INDEXED))
            deleting = None if indexing is None else await self._call_upkeep(self._upkeep.step)
            more = deleting is not None and bool(indexing or deleting)

    async def _call_upkeep(self, function: Callable[[], bool]) -> bool | None:
        """Make a call that may fail: the next round makes it again. Return None for one that has failed."""
        try:
            more: bool = await self._call(function)
        except (Away, TaskmonError) as exc:
            log.debug("The history's upkeep failed: %s", exc)
            return None
        except Exception:  # as when writing
            log.exception("The history's upkeep failed")
            return None
        self.status.deleted = self._upkeep.deleted
        return more

    async def _call(self, function: Callable[[], Any]) -> Any:
        """Make a call in the writing thread."""
        return await call_patiently(self._lane, function, self._note_stall, self._database.cut)

    def _note_stall(self) -> None:
        """Take note that the database does not answer."""
        if self.status.available:
            self.status.reason = f"no answer for {WARN_AFTER:g} s"
            log.warning("The history cannot be written (%s); tasks are kept in memory", self.status.reason)
        self._release(Unavailable("The history", self.status.reason))

    def _drop(self) -> None:
        """Give up the oldest of what waits: those that State still holds may be written yet, when they change."""
        too_many = self._changes.waiting - self._state.max_tasks
        self._changes.drop(too_many)
        self.status.dropped += too_many
        self._incomplete = True
        self._losses.add(too_many)

    def _say_what_is_lost(self, count: int, _: list[str]) -> None:
        why = self.status.reason or "its database takes less than comes in"
        log.warning(
            "The history has lost the changes of %s tasks, as more than %s wait (--max-tasks): %s. "
            "%s are lost since the start",
            *(f"{count:,}", f"{self._state.max_tasks:,}", why, f"{self.status.dropped:,}"),
        )

    def _fail(self, exc: Exception) -> float:
        """Take note of a round that failed; give the seconds until the next one."""
        reason = str(exc) or type(exc).__name__
        if self.status.available or reason != self.status.reason:
            log.warning("The history cannot be written (%s); tasks are kept in memory, trying again", reason)
        self.status.reason = reason
        self.status.failures += 1
        if isinstance(exc, Away):
            self._opened = False
        self._release(Unavailable("The history", reason))
        delay, self._delay = self._delay, min(2 * self._delay, BACKOFF[1])
        return delay

    def _succeed(self) -> None:
        if not self.status.available:
            log.info("The history is written again")
        self.status.reason = ""
        self._delay = BACKOFF[0]

    def _release(self, error: Exception | None, as_of: float = inf) -> None:
        """Let those go on who wait for what had changed until then."""
        waiting, self._waiting = self._waiting, []
        for since, future in waiting:
            if since > as_of:
                self._waiting.append((since, future))
                self._wanted.set()
            elif not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)


def _say_what_is_refused(count: int, examples: list[str]) -> None:
    log.warning("The history's database refuses %s rows, which are left out: %s", count, "; ".join(examples))
