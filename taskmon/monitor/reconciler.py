"""Reconciler: finds tasks whose end was missed, and asks the result backend and the workers. Event loop only.

It works in rounds, in the background: a round lists the unfinished tasks of which nothing was heard for long, and
asks about a bounded number of them a second. What it finds out holds only until an event says otherwise.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from itertools import takewhile
from random import random
from typing import Any, Final, Protocol

from celery import states
from celery.utils.saferepr import saferepr

from ..cluster.inspection import Inspector
from ..cluster.mailbox import Mailbox
from ..cluster.queues import Queues
from ..cluster.result_decoding import Result
from ..cluster.results import Results
from ..cluster.worker_tasks import Holding, ask_for_holdings
from ..errors import InvalidArgument, Unavailable, UnknownTask
from ..outcomes import FINISHED, Outcome
from ..records import CUT_MARK, READY_STATES, Task
from ..times import parse_time
from .dated_ahead import MAX_AHEAD
from .query import TaskQuery
from .state import State

log = logging.getLogger(__name__)

#: So many tasks, about, are asked about in one round at the most: where there are more, chance gives each its turn.
ROUND: Final = 20_000

#: So many tasks are asked about in one pass, and this many at a time are read from the result backend.
BATCH: Final = 500
READ_TOGETHER: Final = 50

#: Seconds from one pass to the next within a round.
PASS_EVERY: Final = 1.0

#: A round begins so often, as a share of `orphan_after`, in seconds between these bounds.
ROUND_SHARE: Final = 0.25
ROUND_BOUNDS: Final = (1.0, 300.0)

#: Nothing is judged until the broker has been there for so long: events may have waited, workers have to say hello.
SETTLES: Final = 5.0

#: Without a result backend, seconds in which the event may come of a task that ended while the workers were asked.
LATE_EVENTS: Final = 5.0

#: What workers say they have is good for so long, in seconds.
_WORKER_TASKS_MAX_AGE: Final = 10.0
_SLICE: Final = 0.003
_RESULT_LENGTH, _RESULT_DEPTH = 1024, 3  # as in Celery's events

#: The states in which a task has not begun to run: its message may wait in a queue.
_WAITING: Final = frozenset({states.PENDING, states.RECEIVED, states.RETRY})


class BrokerView(Protocol):
    """Whether events come in."""

    @property
    def connected(self) -> bool:
        """Whether taskmon is connected to the broker."""


class Reconciler:
    """Reconciles the tasks of State of which no event has come for `orphan_after` seconds."""

    def __init__(
        self,
        state: State,
        broker: BrokerView,
        results: Results,
        mailbox: Mailbox,
        inspector: Inspector,
        queues: Queues,
        orphan_after: float,
        max_text: int,
    ) -> None:
        self._state = state
        self._broker = broker
        self._results = results
        self._mailbox = mailbox
        self._inspector = inspector
        self._queues = queues
        self._after = orphan_after
        self._max_text = max_text
        self._round: list[tuple[str, float]] = []
        self._connected_at: float | None = None
        self._holdings: dict[str, Holding] = {}
        self._asked_at: float | None = None
        self._taken: frozenset[str] = frozenset()  # the ids of all tasks that a worker says it has
        self._began = 0.0  # when others ran last
        self._lengths: dict[str, int | None] = {}
        self._alive: frozenset[str] = frozenset()  # the workers that were alive when they were asked
        self._silent = False  # whether a worker that lives has not said what it has

    async def run(self) -> None:
        """Reconcile until cancelled; with 0 seconds, do nothing."""
        if not self._after:
            return
        pause = min(max(self._after * ROUND_SHARE, ROUND_BOUNDS[0]), ROUND_BOUNDS[1])
        while True:
            try:
                left = await self.reconcile()
            except Exception:  # else nobody would ever reconcile again
                log.exception("Tasks could not be reconciled")
                left = False
            await asyncio.sleep(PASS_EVERY if left else pause)

    async def reconcile(self) -> bool:
        """Make one pass; tell whether the round goes on. What cannot be asked is asked again in the next round."""
        if not self._is_settled():
            return False
        reconciled = self._state.reconciled
        settled, orphaned = reconciled.settled_total, reconciled.orphaned_total
        doubtful, left = await self._pick()
        try:
            await self._judge(doubtful)
        except Unavailable as exc:
            log.debug("Tasks could not be reconciled: %s", exc)
        settled, orphaned = reconciled.settled_total - settled, reconciled.orphaned_total - orphaned
        if settled or orphaned:
            log.info(
                "Of tasks unheard of for %g s, %d had finished, by the result backend, and %d are orphaned",
                *(self._after, settled, orphaned),
            )
        return left

    def _is_settled(self) -> bool:
        """Tell whether the broker has been there for a while."""
        now = time.monotonic()
        if not self._broker.connected:
            self._connected_at = None
            return False
        if self._connected_at is None:
            self._connected_at = now
        return now - self._connected_at >= min(SETTLES, self._after)

    async def _pick(self) -> tuple[dict[str, float], bool]:
        """Give the next tasks to ask about, id to time last heard of; begin a round where none is left."""
        if not self._round:
            self._round = await self._list_unheard()
        picked, self._round = dict(self._round[:BATCH]), self._round[BATCH:]
        return picked, bool(self._round)

    async def _list_unheard(self) -> list[tuple[str, float]]:
        """List the unfinished tasks unheard of for long; of too many for a round some, by chance.

        One heard of later than now counts as heard of now: the clock of this machine has been put back.
        """
        now = time.time()
        ended = READY_STATES | {states.REJECTED}
        share = ROUND / max(len(self._state), 1)
        unheard: list[tuple[str, float]] = []
        for name in self._state.states() - ended:
            for task in self._state.find(TaskQuery(state=name)):
                if task is not None and task.state not in ended:
                    task.seen = min(task.seen, now)
                    if task.seen < now - self._after and random() < share:
                        unheard.append((task.uuid, task.seen))
                await self._let_others_run()
        return unheard

    async def _let_others_run(self) -> None:
        """Let the loop do other things, if it has not for some milliseconds."""
        if time.monotonic() - self._began > _SLICE:
            await asyncio.sleep(0)
            self._began = time.monotonic()

    async def _judge(self, doubtful: Mapping[str, float]) -> None:
        """Ask the result backend, then the workers, then the backend again: a task may have ended in between."""
        unclear: dict[str, float] = {}
        for task_id, result in (await self._read(doubtful)).items():
            task = self._untouched(task_id, doubtful)
            if task is None:
                continue
            if _is_of_this_run(task, result):
                self._settle(task, result)
                await self._let_others_run()
            else:
                unclear[task_id] = doubtful[task_id]
        if not any(self._may_be_lost(task) for task in self._held(unclear)):
            return
        await self._ask(unclear)
        lost = []
        for task in self._held(unclear):
            there = self._is_there(task)
            if there:
                self._state.reconciled.adopt(task.uuid)
            elif there is False:
                lost.append(task.uuid)
        if lost and not self._results.available:
            await asyncio.sleep(min(LATE_EVENTS, self._after))
        for task_id, result in (await self._read(lost)).items():
            await self._let_others_run()
            task = self._untouched(task_id, doubtful)
            if task is None:
                continue
            if result.state in FINISHED:
                self._settle(task, result)
            elif not result.ready:  # else something is stored that cannot be read
                self._state.reconciled.orphan(task_id)

    async def _read(self, task_ids: Iterable[str]) -> dict[str, Result]:
        """Read what is stored of tasks, a few at a time: a result can be large. Raises Unavailable.

        Nothing is stored where there is no result backend.
        """
        ids = list(task_ids)
        if not self._results.available:
            return {task_id: Result(task_id) for task_id in ids}
        found: dict[str, Result] = {}
        for start in range(0, len(ids), READ_TOGETHER):
            together = ids[start : start + READ_TOGETHER]
            answers = await asyncio.gather(*map(self._results.get, together), return_exceptions=True)
            for task_id, answer in zip(together, answers, strict=True):
                if isinstance(answer, Result):
                    found[task_id] = answer
                elif not isinstance(answer, InvalidArgument):  # no result can be stored under such an id
                    raise answer
        return found

    async def _ask(self, unclear: Mapping[str, float]) -> None:
        """Ask the workers what they have, if they have not said so just now, and how long queues are."""
        if self._asked_at is None or time.monotonic() - self._asked_at > min(_WORKER_TASKS_MAX_AGE, self._after):
            wall = time.time()
            own = {task.worker for task in self._held(unclear)}
            workers = self._state.workers.items()
            self._alive = frozenset(name for name, worker in workers if worker.alive(wall))
            awaited = [name for name, worker in workers if name in self._alive or (worker.online and name in own)]
            self._holdings = await ask_for_holdings(self._mailbox, awaited)
            self._asked_at = time.monotonic()
            self._taken = frozenset().union(*(holding.task_ids for holding in self._holdings.values()))
            wall = time.time()
            self._silent = any(worker.alive(wall) for name, worker in workers if name not in self._holdings)
        names = {name for task in self._held(unclear) if task.state in _WAITING for name in self._queues_of(task)}
        self._lengths = {queue.name: queue.messages for queue in await self._queues.lengths(names)} if names else {}

    def _held(self, task_ids: Mapping[str, float]) -> Iterator[Task]:
        """List those of these tasks of which no event has come meanwhile."""
        return (task for task_id in task_ids if (task := self._untouched(task_id, task_ids)) is not None)

    def _untouched(self, task_id: str, heard: Mapping[str, float]) -> Task | None:
        """Give a task, unless it is gone, finished, or heard of since."""
        try:
            task = self._state.get(task_id)
        except UnknownTask:
            return None
        return task if task.seen == heard[task_id] and task.state not in READY_STATES else None

    def _may_be_lost(self, task: Task) -> bool:
        """Whether anybody has to be asked: not about a task that, a while ago, may have waited in a queue.

        Without a result backend a task that no worker has told of is never lost: one that sends no events may have
        finished it.
        """
        if task.worker is None and not self._results.available:
            return False
        latest = self._queues.latest
        names = self._queues_of(task)
        return task.worker is not None or (
            bool(names) and all(name in latest and latest[name].messages == 0 for name in names)
        )

    def _is_there(self, task: Task) -> bool | None:
        """Tell whether a worker has a task, or a queue may; None where that cannot be told."""
        if task.uuid in self._taken:
            return True
        own = task.worker
        if own is None and not self._results.available:
            return None
        answered = own in self._holdings
        worker = self._state.workers.get(own or "")
        # Who was alive and has not answered may be busy, or this machine stood still: the next round tells.
        if not answered and worker is not None and (own in self._alive or worker.alive(time.time())):
            return None
        if task.state not in _WAITING:
            return False
        if answered and task.name in self._holdings[own or ""].limited:
            return None
        lengths = [self._lengths.get(name) for name in self._queues_of(task)]
        if any(lengths):
            return None if answered else True  # it may have gone back to its queue, or be about to be tried again
        if not lengths or None in lengths:  # it may wait where taskmon cannot look
            return None
        if task.state != states.RECEIVED and _is_early(task):
            return None
        return None if own is None and self._silent else False

    def _queues_of(self, task: Task) -> Sequence[str]:
        """List the queues in which a message of a task may wait."""
        if task.queue:
            return (task.queue,)
        if task.worker is None:
            return ()
        inspection = self._inspector.inspections.get(task.worker)
        return inspection.queues if inspection else tuple(self._queues.latest)

    def _settle(self, task: Task, result: Result) -> None:
        value = None if result.reason else result.value
        succeeded = result.state == states.SUCCESS
        outcome = Outcome(
            result.state,
            _not_ahead(result.finished),
            result=write_result(value) if succeeded and not result.reason else None,
            exception=None if succeeded or value is None else self._cut(str(value)),
            traceback=None if result.traceback is None else self._cut(result.traceback),
        )
        self._state.reconciled.resolve(task.uuid, outcome)

    def _cut(self, text: str) -> str:
        return text if len(text) <= self._max_text else text[: self._max_text - len(CUT_MARK)] + CUT_MARK


def _not_ahead(finished: float | None) -> float | None:
    """Return when a task finished, and the present time for what a worker dated too far ahead."""
    now = time.time()
    return finished if finished is None or finished <= now + MAX_AHEAD else now


def write_result(value: Any) -> str:
    """Write a result as Celery's events do. Of a long one only the beginning is looked at: it is cut anyway."""
    left = _RESULT_LENGTH

    def begin(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > _RESULT_DEPTH:
            return item
        if isinstance(item, list):
            return [begin(member, depth + 1) for member in takewhile(lambda _: left > 0, item)]
        if isinstance(item, dict):
            return {key: begin(item[key], depth + 1) for key in takewhile(lambda _: left > 0, item)}
        return item

    text: str = saferepr(begin(value, 0), maxlen=_RESULT_LENGTH)
    return text


def _is_early(task: Task) -> bool:
    """Tell whether a task is not to run yet: until then RabbitMQ may keep its message in a queue of its own."""
    if task.eta is None:
        return False
    try:
        return parse_time("eta", task.eta, UTC) > time.time()
    except InvalidArgument:
        return False


def _is_of_this_run(task: Task, result: Result) -> bool:
    """Tell whether a stored result says how a task ended, and not how an earlier run of it did."""
    if result.state not in FINISHED:
        return False
    return task.started is None or result.finished is None or result.finished >= task.started - 1
