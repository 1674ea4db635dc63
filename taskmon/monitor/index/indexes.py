"""Indexes: the orders and groups of tasks by which `finder.py` answers without looking at every task.

Tasks that change are only noted; they are indexed some at a time, as a rule once they have finished, so that a task
which saw four events is indexed once. Whoever asks has to `flush_some` until nothing is left. `sweep` drops what went
stale, a little at a time. Event loop only.
"""

from collections import deque
from collections.abc import Iterator
from copy import copy
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Final

from ...outcomes import ORPHANED
from ...records import Task
from ..task_fields import GROUPED, ORDERED
from .blocks import BLOCK
from .facets import CROWDED, Facet, Group, RootFacet
from .ordering import SORT_AT, Ordering
from .orders import ByTime, Known, Missing
from .store import TaskStore
from .task_sizes import GROUP_BYTES, TASK_BYTES, Weights
from .zone_maps import MAX_DISTURBED, ZoneMaps

#: What the tasks that have changed since a scan began were like then, by id; None for one that was not there.
Snapshot = dict[str, Task | None]

#: So many tasks are indexed together, which bounds how long others wait.
FLUSH_AT: Final = 200

#: So many tasks that have not finished wait until they do, or until somebody asks: each is indexed once then, and not
#: once an event.
LINGER: Final = 20_000

#: Entries that are looked at for staleness, for each task that is indexed, while a sweep is due that cannot wait for
#: an idle moment. A new task has up to 17 entries; as 32 are far more, memory is bounded.
_DEBT_PER_TASK: Final = 32

#: About the most entries that a call of `maintain` looks at, unless the debt is far higher: a query may have indexed
#: thousands of tasks at once, and an eighth of their debt would hold the loop for ten milliseconds.
_MAX_ENTRIES_PER_CALL: Final = 2 * BLOCK

#: How many full orderings may wait, each for a call of `maintain`: all grow alike, so many get full at the same time,
#: and sorting one takes a millisecond.
_MAX_FULL: Final = 8


class Indexes:
    """What State keeps beside its tasks to find them."""

    def __init__(self, tasks: TaskStore) -> None:
        self._tasks = tasks
        self.by_time = ByTime(tasks)
        self.facets = {
            field: RootFacet(tasks, field) if field == "root_id" else Facet(tasks, field) for field in GROUPED
        }
        self.known = {field: Known(tasks, field) for field in ORDERED}
        self.missing = {field: Missing(tasks, field) for field in ORDERED}
        self.zone_maps = ZoneMaps(tasks, [*self.known.values(), *self.missing.values()])
        # What is reconciled goes in here at once, and an event ends it: no flush has to look.
        self.orphaned = Group(tasks, "reconciled", attrgetter("reconciled"), ORPHANED)
        # What waits to be indexed, by id: tasks that have finished, others that have changed, and all new ones.
        self.ended: dict[str, Task] = {}
        self.changed: dict[str, Task] = {}
        self.created: dict[str, Task] = {}
        self.scans: dict[int, Snapshot] = {}
        self.weights = Weights()
        self.is_swept = True
        self._is_mapped = True  # no block lacks a zone map, as far as nothing has changed
        self.debt = 0  # entries to look at that the flushes have left to `maintain`
        self._unswept = 0  # tasks that were created or have changed since the last sweep of everything began
        self._large = (self.by_time, self.orphaned, *self.known.values(), *self.missing.values())
        self._full: deque[Ordering] = deque()
        self._due: deque[Ordering | Facet] = deque()
        self._sweeping = self._sweep_due()
        self._sweeps = self._sweep_forever()

    def waiting(self) -> Iterator[Task]:
        """Iterate over the tasks that wait to be indexed: 20,000 at the most, about."""
        return chain(self.ended.values(), self.changed.values())

    def flush_some(self) -> bool:
        """Index some of what has changed, what finished first; tell whether more is left."""
        waiting = self.ended or self.changed
        if len(waiting) <= FLUSH_AT:
            tasks = list(waiting.values())
            waiting.clear()
        else:
            tasks = list(islice(waiting.values(), FLUSH_AT))
            for task in tasks:
                del waiting[task.uuid]
        self._index(tasks)
        return bool(self.ended or self.changed)

    def load(self, tasks: list[Task]) -> None:
        """Index new tasks all at once; in the order of time, which most orderings are in, none has to sort them."""
        self._add(sorted(tasks, key=attrgetter("timestamp")), tasks)
        while self._full:
            self._sort_one()
        self.debt = 0  # nothing is stale

    def _index(self, tasks: list[Task]) -> None:
        if not tasks:
            return
        for task in tasks:
            self.changed.pop(task.uuid, None)
        created = [task for task in tasks if self.created.pop(task.uuid, None) is not None]
        self._tasks.outdated += len(tasks) - len(created)
        self._add(tasks, created)

    def _add(self, tasks: list[Task], created: list[Task]) -> None:
        ids = [task.uuid for task in tasks]
        keys: list[Any] = [task.timestamp for task in tasks]
        self.by_time.extend(keys, ids)
        self.zone_maps.note(tasks, keys)
        grown: list[Ordering] = list(self._large)
        for facet in self.facets.values():
            grown += facet.add(tasks, keys, ids)
        self._add_created(created)
        indexed = len(tasks) + len(created)
        for ordering in grown:
            if len(ordering.recent_ids) >= SORT_AT and not ordering.sort_pending:
                ordering.sort_pending = True
                self._full.append(ordering)
        if len(self._full) > _MAX_FULL:
            self._sort_one()
        if len(self._tasks.disturbed) > MAX_DISTURBED:
            self.zone_maps.forget_disturbed()
        for facet in self.facets.values():
            self._sweep_if_wanted(facet)
        self._unswept += indexed
        self.is_swept = self._is_mapped = False
        if self._due:
            self.debt += _DEBT_PER_TASK * indexed

    def _sweep_if_wanted(self, candidate: Ordering | Facet) -> None:
        if candidate.wants_sweep:
            candidate.is_due = True
            self._due.append(candidate)

    def _sort_one(self) -> None:
        ordering = self._full.popleft()
        ordering.sort_pending = False
        ordering.sort_recent()
        self._sweep_if_wanted(ordering)

    def _add_created(self, created: list[Task]) -> None:
        """Index what those tasks lack that are new."""
        if created:
            born, ids = [task.born for task in created], [task.uuid for task in created]
            for missing in self.missing.values():
                missing.note(created, born, ids)
            self._tasks.add_segment(created)

    def forget(self, task_id: str) -> None:
        """Let a task that is evicted wait no longer."""
        for waiting in (self.ended, self.changed, self.created):
            waiting.pop(task_id, None)

    def crowded(self) -> list[Facet]:
        """List the facets with many groups, of which small ones should go with their tasks."""
        return [facet for facet in self.facets.values() if len(facet.groups) > CROWDED]

    def remember(self, task_id: str, task: Task | None) -> None:
        """Let every scan know what a task is like, None for not there, before it is made, changes or is evicted."""
        unaware = [before for before in self.scans.values() if task_id not in before]
        if unaware:
            was = None if task is None else copy(task)
            for before in unaware:
                before[task_id] = was

    @property
    def held(self) -> int:
        """About how many bytes the tasks take; of texts only what came since memory is short."""
        groups = sum(len(facet.groups) for facet in self.facets.values())
        return TASK_BYTES * len(self._tasks) + GROUP_BYTES * groups + self.weights.texts

    @property
    def due(self) -> bool:
        """Tell whether there is upkeep that cannot wait for an idle moment."""
        return bool(self._full or self.debt)

    def maintain(self) -> None:
        """Do a share of the upkeep that is due: all at once would hold up too much else."""
        if self._full:
            self._sort_one()
            return
        share = max(BLOCK, min(self.debt // 8, _MAX_ENTRIES_PER_CALL), self.debt // 128)
        self.debt = max(1, self.debt - share)
        while share > 0:
            cost = next(self._sweeping, None)
            if cost is not None:
                share -= cost
            elif self._due:
                self._sweeping = self._sweep_due()
            else:
                self.debt = 0
                return

    def sweep(self, entries: int) -> None:
        """Look at about so many entries for stale ones to drop; `is_swept` tells when there is no more to look at."""
        while entries > 0 and not self.is_swept:
            entries -= next(self._sweeps)

    def map_blocks(self, count: int, sparing: int = 0) -> int:
        """Complete the zone maps of up to `count` more blocks; tell how many.

        With `sparing` only those of the order by time, the last so many left out. Entries by `runtime` come to all
        blocks alike: while any come, zone maps would not last.
        """
        done = 0
        if self._is_mapped:
            return done
        runtimes = self.known["runtime"]
        others = () if sparing else (*self.known.values(), *self.missing.values())
        for ordering in (self.by_time, *others):
            if ordering is runtimes and runtimes.recent_ids:
                continue
            blocks = ordering.blocks[: len(ordering.blocks) - sparing]
            for block in islice((b for b in blocks if b.zone_map is None or not b.zone_map.complete), count - done):
                self.zone_maps.complete(block, lasting=ordering is not self.by_time)
                done += 1
            if done == count:
                return done
        self._is_mapped = not sparing
        return done

    def _sweep_forever(self) -> Iterator[int]:
        """Sweep everything in turn, if anything has changed since the last time."""
        while True:
            if self._unswept:
                swept = self._unswept
                yield from self._sweep_all()
                self._unswept -= swept
            else:
                self.is_swept = True
                yield 1

    def _sweep_due(self) -> Iterator[int]:
        while self._due:
            swept = self._due.popleft()
            yield from swept.sweep()
            swept.is_due = False

    def _sweep_all(self) -> Iterator[int]:
        everything: list[Ordering | Facet] = [*self._large, *self.facets.values()]
        for swept in everything:
            yield from swept.sweep()
