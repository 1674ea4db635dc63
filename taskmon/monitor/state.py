"""State: every task and worker that taskmon knows, kept up to date by events.

Only the event loop may touch it. It knows neither the broker nor HTTP. Reading never changes who is evicted.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nlargest, nsmallest
from itertools import islice
from math import inf
from sys import intern
from typing import Final

from celery.states import FAILURE, RECEIVED

from ..errors import UnknownTask
from ..outcomes import ORPHANED
from ..records import READY_STATES, TASK_EVENTS, Event, Task, Worker, merge, merge_worker
from .dated_ahead import MAX_AHEAD, DatedAhead, merge_reported
from .index.blocks import BLOCK, Entry, distinct
from .index.bulk_load import load_tasks
from .index.finder import Finder
from .index.indexes import FLUSH_AT, LINGER, Indexes
from .index.store import SEGMENT, TaskStore
from .memory import MemoryBudget
from .prefetched import Prefetched
from .query import TaskQuery
from .reconciled import Reconciled
from .retries import Retries

log = logging.getLogger(__name__)

#: The type of what subscribers get in place of an event for a task that was reconciled; no event of a task has it.
RECONCILED: Final = "taskmon-reconciled"

Change = tuple[Event, Task | Worker | None]
Subscriber = Callable[[list[Change]], None]

#: So many ids of evicted tasks are remembered, to tell "evicted" from "never seen".
_REMEMBERED: Final = 10_000

#: So many blocks of the index by time are looked at in an idle moment, to know more of their tasks.
_MAPPED_PER_PAUSE: Final = 3

#: Tasks that are evicted for want of memory: how many together, and in one call; so many always stay.
_EVICTED_TOGETHER: Final = 20
_EVICTED_PER_SLICE: Final = 2_000
_MIN_TASKS: Final = 100

#: The last so many blocks of that index change under load.
_CHANGING: Final = 16


class State:
    """The tasks and workers, bounded by `max_tasks`, `max_workers` and what `memory` allows.

    At the bound the task longest without an event goes first, finished ones before unfinished ones, and the worker
    longest unheard of. `horizon` is the latest `timestamp` of a task that went, -inf while none has: all the newer
    ones there are, are held.
    """

    def __init__(
        self, max_tasks: int = 100_000, max_workers: int = 5_000, memory: MemoryBudget | None = None
    ) -> None:
        self.max_tasks = max_tasks
        self.max_workers = max_workers
        self.workers: dict[str, Worker] = {}
        self.evicted_total = 0
        #: Whether tasks were evicted for the bytes that they take.
        self.evicted_for_memory = False
        self._memory = memory
        self.horizon = -inf
        self.failed_total = 0
        self.task_events_total = 0
        #: While subscribers are told: the `id()` of each event that tells again of a failure that was told before.
        self.repeated: set[int] = set()
        self._tasks = TaskStore()
        #: The workers to be dropped next, each with when it was heard of last.
        self._unheard: deque[tuple[Worker, float]] = deque()
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._prefetched = Prefetched()
        self._indexes = Indexes(self._tasks)
        self._finder = Finder(self._indexes, self._tasks)
        self._timed = {
            f"task-{field}": (known.recent_keys.append, known.recent_ids.append)
            for field, known in self._indexes.known.items()
            if field != "runtime"
        }
        self._subscribers: list[Subscriber] = []
        self._of_events: list[Subscriber] = []
        self._of_workers: list[Subscriber] = []
        self._worker_gone: list[Callable[[str], None]] = []
        #: What `_waiting_kin` returns, until a task with a parent changes.
        self._kin: dict[str, list[Entry]] | None = None
        self.retries = Retries()
        self.dated_ahead = DatedAhead()
        self.reconciled = Reconciled(self._tasks, self._indexes, self._prefetched.count, self._tell_of_reconciled)

    def __len__(self) -> int:
        """Count the tasks held."""
        return len(self._tasks)

    @property
    def prefetched(self) -> dict[tuple[str, str], int]:
        """Count the tasks that wait in each worker held, by hostname and task name; those with an eta left out."""
        return self._prefetched.of(self.workers)

    def get(self, task_id: str) -> Task:
        """Give the task of an id; raises UnknownTask, which says what is known of why."""
        task = self._tasks.get(task_id)
        if task is None:
            raise UnknownTask(task_id, "evicted" if task_id in self._evicted else "never seen")
        return task

    def find(self, query: TaskQuery) -> Iterator[Task | None]:
        """Yield the tasks that a query asks for, in its order; None where the caller may let others run."""
        return self._finder.find(query)

    def children(self, task_id: str, limit: int | None = None) -> list[str]:
        """List the ids of the tasks held whose parent is this one, oldest event first; no more than `limit`."""
        facet = self._indexes.facets["parent_id"]
        group = facet.groups.get(task_id) or facet.new_group(task_id)
        waiting = self._waiting_kin().get(task_id)
        if waiting is not None:
            entries = [entry for some in group.chunks() for entry in some] + waiting
            return [child for _, child in distinct(sorted(group.fresh(entries)))][:limit]
        found: dict[str, None] = {}
        for entries in group.chunks():
            found.update(dict.fromkeys([child for _, child in group.fresh(entries)]))
            if limit is not None and len(found) >= limit:
                break
        return list(found)[:limit]

    def find_children(self, task_id: str, limit: int | None = None) -> Iterator[str | None]:
        """Yield the same ids; None in between where they are many, so that others may run."""
        indexed = self._indexes.facets["parent_id"].groups.get(task_id, ())
        if len(indexed) + len(self._waiting_kin().get(task_id, ())) <= BLOCK:
            yield from self.children(task_id, limit)
            return
        for task in self.find(TaskQuery(parent_id=task_id, sort_by="timestamp", limit=limit)):
            yield None if task is None else task.uuid

    def _waiting_kin(self) -> dict[str, list[Entry]]:
        """Return the entries of the tasks with a parent that wait to be indexed, by the id of that parent."""
        if self._kin is None:
            self._kin = {}
            for task in self._indexes.waiting():
                if task.parent_id is not None:
                    self._kin.setdefault(task.parent_id, []).append((task.timestamp, task.uuid))
        return self._kin

    def newest(self, count: int) -> list[Task]:
        """List the tasks whose last events came last, the newest first; asks no index."""
        tasks = self._tasks
        newest = [
            *islice(reversed(tasks.unfinished.values()), count),
            *islice(reversed(tasks.finished.values()), count),
        ]
        return nlargest(count, newest, key=_last_event)

    def task_names(self, limit: int | None = None) -> set[str]:
        """Return the names of the tasks held, about `limit` of them where there are more: those seen first."""
        return self._values("name", limit) - {""}

    def count_task_names(self) -> int:
        """Count the names that tasks are indexed by, about: of some no task may be left."""
        return len(self._indexes.facets["name"].groups)

    def states(self) -> set[str]:
        """Return the states of the tasks held."""
        return self._values("state")

    def _values(self, field: str, limit: int | None = None) -> set[str]:
        """Return the values of a facet, of the tasks that wait to be indexed too."""
        facet = self._indexes.facets[field]
        values = {*islice(facet.groups, limit), *map(facet.get, self._indexes.waiting())}
        return {str(value) for value in values if value is not None}

    def maintain(self) -> bool:
        """Do a millisecond or two of the upkeep that makes later questions cheap; tell whether more is left."""
        indexes = self._indexes
        if indexes.flush_some():
            return True
        indexes.sweep(entries=2 * BLOCK)
        return not indexes.is_swept or indexes.map_blocks(_MAPPED_PER_PAUSE) == _MAPPED_PER_PAUSE

    def maintain_under_load(self) -> None:
        """Do what idle moments would do later, of the older tasks, which change no more: half a millisecond."""
        self._indexes.map_blocks(1, sparing=_CHANGING)

    def restore(self, tasks: list[Task], workers: Iterable[Worker]) -> Iterator[None]:
        """Take tasks and workers over from an earlier run, before any event comes; yield where others may run.

        The tasks come in the order in which they would be evicted, and there must be room for them.
        """
        for worker in workers:
            self.workers[worker.hostname] = worker
        for task in tasks:
            if task.reconciled == ORPHANED:
                self.reconciled.orphaned += 1
            elif task.state == RECEIVED:
                self._prefetched.count(task, 1)
        self._kin = None
        yield from load_tasks(self._tasks, self._indexes, tasks)

    def queues(self, limit: int) -> list[str]:
        """Return the names of the queues to which tasks held were sent, at most `limit`, those seen last.

        Tasks that are not indexed yet are left out: it is cheap enough to be asked every few seconds.
        """
        return [str(queue) for queue in islice(reversed(self._indexes.facets["queue"].groups), limit)]

    def subscribe(
        self, subscriber: Subscriber, events_only: bool = False, workers_only: bool = False
    ) -> Callable[[], None]:
        """Call `subscriber` after every `apply` with all its changes; the answer ends that.

        Tasks that are reconciled come too, each with an event of the type RECONCILED; not with `events_only`. With
        `workers_only` nothing comes but the events of workers themselves, and before the others hear of them.
        """
        subscribers = self._of_workers if workers_only else self._of_events if events_only else self._subscribers
        subscribers.append(subscriber)
        return lambda: subscribers.remove(subscriber)

    def apply(self, events: Sequence[Event]) -> None:
        """Merge events into the tasks and workers, in order, and tell the subscribers.

        An event without a time gets the present one. One that cannot be applied is counted in `failed_total` and
        logged; it costs the others nothing.
        """
        changes, of_workers = self._merge_all(events, time.time())
        self._make_room(changes)
        self._prefetched.forget_zeros()
        if self._indexes.due:
            self._indexes.maintain()
        if of_workers:
            self._tell(tuple(self._of_workers), of_workers)
        self._tell((*self._of_events, *self._subscribers), changes)
        self.repeated.clear()

    def _merge_all(self, events: Sequence[Event], now: float) -> tuple[list[Change], list[Change]]:
        """Merge events, and note what that changes for the indexes; give all changes, and those of workers alone.

        This is the hot path: hence one long function, in which what every event needs is at hand.
        """
        tasks, indexes = self._tasks, self._indexes
        unfinished, created, changed, ended = tasks.unfinished, indexes.created, indexes.changed, indexes.ended
        find_unfinished, find_finished, find_worker = unfinished.get, tasks.finished.get, self.workers.get
        move_to_end, place, count_prefetched = unfinished.move_to_end, tasks.place, self._prefetched.count
        scans, find_timed = indexes.scans, self._timed.get
        records: list[Task | Worker | None] = []
        of_workers: list[Change] = []
        failed: set[int] = set()
        others = 0
        latest = now + MAX_AHEAD
        for event in events:
            if event.timestamp is None:
                event.timestamp = now
            task_id, kind = event.uuid, event.type
            try:
                if task_id is None or not (kind in TASK_EVENTS or kind.startswith("task-")):
                    others += 1
                    worker = self._apply_to_worker(event, now)
                    records.append(worker)
                    if worker is not None:
                        of_workers.append((event, worker))
                    continue
                task = find_unfinished(task_id) or find_finished(task_id)
                if scans:
                    indexes.remember(task_id, task)
                if task is None:
                    task = unfinished[task_id] = created[task_id] = Task(task_id, now, now)
                hostname = event.hostname
                if hostname is not None and kind != "task-sent":
                    worker = find_worker(hostname) or self._new_worker(hostname)
                    if worker.busy is not now:
                        worker.seen = worker.busy = now
                reported = self.dated_ahead.redate(event, now) if event.timestamp > latest else None
                if task.reconciled is not None:
                    self.reconciled.meet(task, event)
                before, runtime = task.state, task.runtime
                if before == RECEIVED:
                    count_prefetched(task, -1)
                elif before == FAILURE and kind == "task-failed" and _has_not_been_retried(task):
                    self.repeated.add(id(event))
                merge(task, event)
                if reported is not None or task.reported is not None:
                    merge_reported(task, event, reported)
                if task.seen is not now:
                    task.seen = now
                if task.state == RECEIVED:
                    count_prefetched(task, 1)
                is_finished = task.state in READY_STATES
                if is_finished or before in READY_STATES:
                    place(task, before in READY_STATES, is_finished)
                else:
                    move_to_end(task_id)
                timed = find_timed(kind)
                if timed is not None:
                    add_key, add_id = timed
                    add_key(event.timestamp)
                    add_id(task.uuid)
                if task.runtime is not runtime:
                    self._note_runtime(task)
                if task.parent_id is not None:
                    self._kin = None
                if is_finished:
                    ended[task_id] = task
                    if len(ended) >= FLUSH_AT:
                        indexes.flush_some()
                else:
                    changed[task_id] = task
                    if len(changed) >= LINGER:
                        indexes.flush_some()
                records.append(task)
            except Exception:
                self.failed_total += 1
                failed.add(id(event))
                log.exception("An event of type %.100r could not be applied", kind)
        if failed:
            events = [event for event in events if id(event) not in failed]
        self.task_events_total += len(records) - others
        return list(zip(events, records, strict=True)), of_workers

    def _tell(self, subscribers: tuple[Subscriber, ...], changes: list[Change]) -> None:
        for subscriber in subscribers:
            try:
                subscriber(changes)
            except Exception:
                self.failed_total += 1
                log.exception("A subscriber failed")

    def _tell_of_reconciled(self, task: Task) -> None:
        self._kin = None
        event = Event(RECONCILED, timestamp=time.time(), uuid=task.uuid)
        self._tell(tuple(self._subscribers), [(event, task)])

    def _note_runtime(self, task: Task) -> None:
        if task.runtime is not None:
            self._indexes.known["runtime"].add(task.runtime, task.uuid)
        else:  # an event took it back
            self._indexes.missing["runtime"].add(task.born, task.uuid)

    def _apply_to_worker(self, event: Event, now: float) -> Worker | None:
        """Merge an event of a worker; any other event, a custom one without a task, changes nothing."""
        if event.hostname is None or not event.type.startswith("worker-"):
            return None
        worker = self.workers.get(event.hostname) or self._new_worker(event.hostname)
        worker.seen = now
        merge_worker(worker, event)
        return worker

    def _make_room(self, changes: list[Change]) -> None:
        """Evict the tasks longest without an event while there are too many, or they take too much memory."""
        surplus = len(self._tasks) - self.max_tasks
        if surplus > 0:
            self._evict(surplus)
        if self._memory is not None:
            if self._memory.is_tight:
                self._indexes.weights.note([record for _, record in changes if type(record) is Task])
            self.relieve_memory()

    def relieve_memory(self) -> bool:
        """Evict some of the tasks that take too much memory; return whether more have to go."""
        memory, indexes = self._memory, self._indexes
        if memory is None:
            return False
        memory.check(indexes.held)
        if not memory.is_tight:
            indexes.weights.clear()
            return False
        evicted = 0
        while indexes.held > memory.room and len(self._tasks) > _MIN_TASKS and evicted < _EVICTED_PER_SLICE:
            self._evict(_EVICTED_TOGETHER)
            evicted += _EVICTED_TOGETHER
        self.evicted_for_memory = self.evicted_for_memory or evicted > 0
        return evicted >= _EVICTED_PER_SLICE

    def _evict(self, count: int) -> None:
        crowded = self._indexes.crowded()
        weighed = self._memory is not None and self._memory.is_tight
        for _ in range(count):
            task = self._tasks.pop()
            if self._indexes.scans:
                self._indexes.remember(task.uuid, task)
            if task.reconciled is not None:
                self.reconciled.release(task)
            if task.state == RECEIVED:
                self._prefetched.count(task, -1)
            self.evicted_total += 1
            if task.timestamp is not None and task.timestamp > self.horizon:
                self.horizon = task.timestamp
            self._indexes.forget(task.uuid)
            if weighed:
                self._indexes.weights.forget(task)
            for facet in crowded:
                facet.forget(task)
            self._evicted[task.uuid] = None
            if len(self._evicted) > _REMEMBERED:
                self._evicted.popitem(last=False)
        self._tasks.clear(1 + count // SEGMENT, spare=_EVICTED_TOGETHER if weighed else SEGMENT)

    def _new_worker(self, hostname: str) -> Worker:
        """Add a worker; at the bound, the one that was longest unheard of makes room."""
        while len(self.workers) >= self.max_workers:
            self._drop_worker(self._find_unheard())
        hostname = intern(hostname)
        worker = self.workers[hostname] = Worker(hostname)
        return worker

    def _find_unheard(self) -> Worker:
        """Return the worker that was longest unheard of; some are found together, to be dropped one by one."""
        while True:
            while self._unheard:
                worker, seen = self._unheard.popleft()
                if worker.seen == seen and self.workers.get(worker.hostname) is worker:
                    return worker
            some = nsmallest(1 + self.max_workers // 5, self.workers.values(), key=_last_seen)
            self._unheard.extend([(worker, worker.seen) for worker in some])

    def hear_of(self, hostname: str) -> None:
        """Take note of a worker that answered a question: one that sends no events is known only by that."""
        if hostname not in self.workers:
            self._new_worker(hostname).seen = time.time()

    def purge_workers(self, before: float, limit: int | None = None) -> bool:
        """Drop the workers that were last heard of before that time, in epoch seconds of taskmon's clock.

        Drops up to `limit` of them, and returns whether it was that many: more may be left.
        """
        stale = (worker for worker in self.workers.values() if worker.seen < before)
        dropped = list(islice(stale, limit))
        for worker in dropped:
            self._drop_worker(worker)
        return len(dropped) == limit

    def on_worker_gone(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the hostname of every worker that is dropped."""
        self._worker_gone.append(callback)

    def _drop_worker(self, worker: Worker) -> None:
        del self.workers[worker.hostname]
        for callback in tuple(self._worker_gone):
            try:
                callback(worker.hostname)
            except Exception:
                self.failed_total += 1
                log.exception("A callback for a worker that is gone failed")


def _has_not_been_retried(task: Task) -> bool:
    """Whether no retry has come since a task failed: if it fails now, that is the same failure again."""
    return task.retried is None or task.failed is None or task.retried < task.failed


def _last_event(task: Task) -> float:
    return task.timestamp or 0.0


def _last_seen(worker: Worker) -> float:
    return worker.seen
