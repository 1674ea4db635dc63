"""History: what taskmon asks of the database, from the event loop. Nothing here blocks it.

What memory can answer by itself, it answers: `knows_newer_than` tells which tasks it holds for certain. Everything
else is answered by the database, once what has changed so far is written.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ..cluster.blocking_pool import LIMIT, BlockingPool
from ..errors import InvalidSetting, Unavailable
from ..metrics import HistoryNumbers
from ..monitor.query import TaskQuery
from ..monitor.state import State
from ..monitor.tree import Tree, gather_tree
from ..records import READY_STATES, Task
from ..settings import Settings
from .columns import merge_tasks
from .databases import Database
from .driver_errors import Away
from .ended_sessions import read_ended_sessions, write_ended_sessions
from .journal import Journal
from .journal_replay import write_leftovers
from .postgres import PostgresDatabase
from .reading import Listing, find_foreign_cluster, list_names, read_children, read_task
from .recording import Recorder, Upkeep
from .restoring import Restored, read_all, uncollected
from .retention import Retention
from .sqlite_subprocess import SqliteApart
from .status import Status
from .trees import StoredTasks

log = logging.getLogger(__name__)

T = TypeVar("T")
Family = tuple[Task, list[str]]

#: Seconds that a question to the database may take, one about a single task, and what is asked to add to what memory
#: knows: two such questions at the most are put for one request.
_QUERY_TIMEOUT: Final = 15.0
_LOOKUP_TIMEOUT: Final = LIMIT
_COMPLETION_TIMEOUT: Final = LIMIT / 2

#: Seconds that the start waits for a database that is away; and a million tasks take a while.
_OPEN_TIMEOUT: Final = 8.0
_RESTORE_TIMEOUT: Final = 600.0


class Names(NamedTuple):
    """What the history names things by: the cluster, also by `others` that it had earlier, and this taskmon.

    `monitor` tells it from others that share a database, `journal` is what stays when it runs on another machine.
    """

    cluster: str
    others: tuple[str, ...]
    monitor: str
    journal: str


class History:
    """The tasks that are, or were, in `state`; `names` are those of their cluster and of this taskmon.

    `save_counters` gives what is to come back with the tasks at the next start.
    """

    def __init__(self, settings: Settings, state: State, names: Names, save_counters: Callable[[], str]) -> None:
        assert settings.history is not None
        self._state = state
        self._monitor = monitor = names.monitor
        self._database, upkeep, self._journal = _make_database(settings, settings.history, names)
        self._family = ""
        if settings.history_journal is not None:
            self._family = _name_family(settings.history, names.cluster)
            self._journal = _make_journal(settings.history_journal, self._family, names)
        self._writing = BlockingPool("The history", threads=1, waiting=16)
        self._reading = BlockingPool("The history", threads=2, waiting=64)
        self._recorder = Recorder(
            state, self._database, self._writing, monitor, save_counters, upkeep, self._journal, self._family
        )
        self._horizon = inf
        self._opened = False
        self.observe = self._recorder.observe
        self.forget_worker = self._recorder.forget
        self.flush = self._recorder.flush
        self.at_risk = self._recorder.at_risk

    @property
    def status(self) -> Status:
        """How writing goes."""
        return self._recorder.status

    @property
    def backlog(self) -> int:
        """How many tasks have changed and are not written."""
        return self._recorder.backlog

    def numbers(self) -> HistoryNumbers:
        """Return what the metrics tell of the history."""
        status = self.status
        return HistoryNumbers(
            history_available=int(status.available),
            history_backlog=self.backlog,
            history_lag_seconds=status.lag(),
            history_at_risk_seconds=self.at_risk(),
            history_written_total=status.written,
            history_failures_total=status.failures,
            history_dropped_total=status.dropped + status.unfit,
            history_refused_total=status.unfit,
            history_cleaned_total=status.cleaned,
            history_deleted_total=status.deleted,
        )

    @property
    def knows_newer_than(self) -> float:
        """The time after whose events all tasks are held in memory: -inf where that is all tasks, inf for none."""
        if self._database.shared:
            return inf
        return max(self._horizon, self._state.horizon, self._recorder.horizon)

    @property
    def is_all_in_memory(self) -> bool:
        """Whether memory holds every task that there is."""
        return self.knows_newer_than == -inf

    async def restore(self) -> Restored | None:
        """Open the database and read what comes back; None while it is away. Raises HistoryRefused."""
        try:
            created = await self._open()
            if self._journal is not None:
                leaving = partial(write_leftovers, self._database, self._journal, created, self._family)
                await self._writing.call(leaving, _RESTORE_TIMEOUT)
            self._opened = True
            with uncollected():
                return await self._restore()
        except (Away, Unavailable) as exc:
            log.warning("The history is away (%s); starting without it", exc)
            return None

    async def _open(self) -> bool:
        """Open the database; one that is brought up to date is waited for longer than one that is away."""
        opening = asyncio.ensure_future(self._writing.call(self._database.open, _RESTORE_TIMEOUT))
        await asyncio.wait({opening}, timeout=_OPEN_TIMEOUT)
        if not opening.done() and not self._database.migrating:
            opening.cancel()
            raise Unavailable("The history", f"no answer within {_OPEN_TIMEOUT:g} s")
        return await opening

    async def _restore(self) -> Restored:
        reading = partial(read_all, self._database, self._state.max_tasks, self._monitor)
        restored = await self._writing.call(reading, _RESTORE_TIMEOUT)
        for _ in self._state.restore(restored.tasks, restored.workers):
            await asyncio.sleep(0)
        self._horizon = restored.horizon
        return restored

    def start(self) -> None:
        """Begin to write."""
        self._recorder.start(self._opened)

    async def stop(self, timeout: float = 3.0) -> None:
        """Write what is left and let the database go."""
        await self._recorder.stop(timeout)
        self._writing.close()
        self._reading.close()

    # Questions

    async def find_task(self, task_id: str) -> Task | None:
        """Find a task that memory does not hold, None where there is none; raises Unavailable."""
        pending = self._recorder.pending(task_id)
        if pending is not None:
            return await self.complete(pending)
        return await self._ask(partial(read_task, self._database, task_id), _LOOKUP_TIMEOUT)

    async def find_foreign_cluster(self, task_id: str) -> str | None:
        """Return the name of another cluster that a task belongs to, None where none has it; raises Unavailable."""
        return await self._ask(partial(find_foreign_cluster, self._database, task_id), _LOOKUP_TIMEOUT)

    async def complete(self, task: Task) -> Task:
        """Add to a task in memory what only the database knows of it; give it as it is while that is away.

        Another taskmon may know how it went on, and one that came back into memory has lost its beginning.
        """
        task = self._recorder.recall(task)
        lacking = task.name is None or (self._database.shared and task.state not in READY_STATES)
        if not lacking or self.knows_newer_than == -inf:
            return task
        try:
            stored = await self._ask(partial(read_task, self._database, task.uuid), _COMPLETION_TIMEOUT)
        except Unavailable:
            return task
        if stored is None or (not self._database.shared and stored.born == task.born):
            return task
        return merge_tasks(stored, task)

    async def children(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """List the children of tasks, by id; those in memory alone where these are all, or the database is away."""
        known = {task.uuid: await self._held_children(task.uuid) for task in tasks}
        old = [task.uuid for task in tasks if _begin(task) <= self.knows_newer_than]
        if old:
            with suppress(Unavailable):
                found = await self._ask(partial(read_children, self._database, old), _COMPLETION_TIMEOUT)
                for parent, stored in found.items():
                    known[parent] = list(dict.fromkeys([*stored, *known[parent]]))
        return known

    async def _held_children(self, task_id: str) -> list[str]:
        found = []
        for child in self._state.find_children(task_id):
            if child is None:
                await asyncio.sleep(0)
            else:
                found.append(child)
        return found

    async def with_children(self, tasks: Sequence[Task]) -> AsyncIterator[list[Family]]:
        """Yield tasks with their children."""
        known = await self.children(tasks)
        yield [(task, known[task.uuid]) for task in tasks]

    async def list_tasks(self, query: TaskQuery) -> AsyncIterator[list[Family]]:
        """Yield what a query asks for, tasks with their children, some at a time; raises Unavailable."""
        await self.flush()
        listing = Listing(self._database, query)
        while True:
            found = await self._ask(listing.read)
            if found is None:
                return
            ids = [task.uuid for task in found]
            children = await self._ask(partial(read_children, self._database, ids)) if ids else {}
            yield [(task, children.get(task.uuid, [])) for task in found]

    async def find_tree(self, task_id: str) -> Tree:
        """Gather the tree that a task is in; raises UnknownTask and Unavailable."""
        await self.flush()
        return await self._ask(partial(_gather, self._database, task_id))

    async def task_names(self) -> list[str]:
        """List the names of the tasks in the database, sorted; raises Unavailable."""
        return await self._ask(partial(list_names, self._database))

    # What taskmons that share the database tell one another

    @property
    def shared(self) -> bool:
        """Whether several taskmons may share the database."""
        return self._database.shared

    async def read_ended_sessions(self) -> dict[str, float]:
        """Return the sessions that were ended, see `credentials/ended_sessions.py`; raises Unavailable."""
        return await self._ask(partial(read_ended_sessions, self._database), _LOOKUP_TIMEOUT)

    async def write_ended_sessions(self, rows: Mapping[str, float]) -> None:
        """Add sessions that were ended; raises Unavailable."""
        await self._ask(partial(write_ended_sessions, self._database, rows), _LOOKUP_TIMEOUT)

    async def _ask(self, question: Callable[[], T], patience: float = _QUERY_TIMEOUT) -> T:
        if not self.status.available:
            raise Unavailable("The history", self.status.reason)
        try:
            return await self._reading.call(question, patience)
        except Away as exc:
            raise Unavailable("The history", str(exc)) from exc


def _begin(task: Task) -> float:
    """Tell when a task began: its children came later."""
    return task.sent or task.received or task.started or task.timestamp or 0.0


def _gather(database: Database, task_id: str) -> Tree:
    for tree in gather_tree(StoredTasks(database), task_id):
        if tree is not None:
            return tree
    raise AssertionError("a tree is the last thing that is yielded")


def _make_database(settings: Settings, url: str, names: Names) -> tuple[Database, Upkeep, Journal | None]:
    """Make the database of a URL, as the settings let it pass, what keeps it within bounds, and a file's journal."""
    bounds = settings.history_max_age, settings.history_max_tasks
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        apart = SqliteApart(path, *bounds, names.cluster, names.others)
        return apart, apart, Journal(path, names.cluster)
    database = PostgresDatabase(url, names.cluster, names.others)
    return database, Retention(database, *bounds), None


def _make_journal(directory: Path, family: str, names: Names) -> Journal:
    """Make the journal of this taskmon in a directory; raises InvalidSetting."""
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise InvalidSetting("history_journal", "must be a directory that taskmon may write to", str(directory))
    own = sha256(names.journal.encode()).hexdigest()[:8]
    return Journal(directory / f"{family}-{own}", names.cluster, alone=False)


def _name_family(url: str, cluster: str) -> str:
    """Return how the names of all journals begin of one cluster and one database, whoever logs in there."""
    parts = urlsplit(url)
    place = f"{parts.netloc.rpartition('@')[2].lower()}{parts.path}"
    return f"taskmon-{sha256(f'{cluster} {place}'.encode()).hexdigest()[:12]}"
