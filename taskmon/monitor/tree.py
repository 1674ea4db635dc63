"""The tree that a task is in: what the tasks held say of their root and parents, put together. Event loop only.

Ids come from whoever sends events, so nothing here trusts them: parents may form circles, a task may be its own
parent (Celery says so of a task that is retried), and the root may never have been seen.
"""

from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Final, Protocol

from msgspec import Struct

from ..errors import UnknownTask
from ..records import Task
from .query import TaskQuery

#: As many tasks are in one tree, at the most; what is nearest to the task asked for comes first.
MAX_TASKS: Final = 10_000

#: So many tasks are gathered before others may run.
_STRIDE: Final = 100


class Member(Struct, frozen=True):
    """One task of a tree; `task` is None when others name it and it is not held."""

    task_id: str
    task: Task | None
    parent: str | None
    children: list[str]


class Tree(Struct, frozen=True):
    """The members in the order of time, those not held first.

    Following the parents never leads in a circle. Every id that a member names is a member, unless `truncated` says
    that there were too many.
    """

    task_id: str
    root: str
    truncated: bool
    members: list[Member]


class Source(Protocol):
    """Where the tasks are: in State, or in the history."""

    def get(self, task_id: str) -> Task:
        """Give a task; raises UnknownTask."""

    def find_children(self, task_id: str, limit: int | None = None) -> Iterator[str | None]:
        """Yield the children of a task, None in between."""

    def find(self, query: TaskQuery) -> Iterator[Task | None]:
        """Yield the tasks that a query asks for, None in between."""


def gather_tree(state: Source, task_id: str, most: int = MAX_TASKS) -> Iterator[Tree | None]:
    """Yield the tree of a task, in the end; until then None, where the caller may let others run.

    Raises UnknownTask for a task that is not held and that no other task names.
    """
    gathering = _Gathering(state, most)
    yield from gathering.gather(task_id)
    if len(gathering.held) == 1 and gathering.held[task_id] is None:
        state.get(task_id)
    yield None
    order = sorted(gathering.held, key=lambda member: _begin(gathering.held[member], member))
    yield None
    parents = gathering.parents
    _break_circles(parents, order)
    yield None
    children: dict[str, list[str]] = {member: [] for member in order}
    for member in order:
        parent = parents[member]
        if parent in children:
            children[parent].append(member)
    yield None
    root = gathering.root or _top(parents, task_id)
    members = [Member(member, gathering.held[member], parents[member], children[member]) for member in order]
    yield Tree(task_id, root, gathering.truncated, members)


class _Gathering:
    """Collects the tasks that belong together: parents and children of each other, or of one root."""

    def __init__(self, state: Source, most: int) -> None:
        self.held: dict[str, Task | None] = {}
        self.parents: dict[str, str | None] = {}
        self.root: str | None = None
        self.truncated = False
        self._state = state
        self._most = most
        self._queue: deque[str] = deque()

    def gather(self, task_id: str) -> Iterator[None]:
        """Collect what belongs to a task, the nearest first."""
        line = yield from self._add_line(task_id)
        self._queue.append(line[0])
        yield from self._explore()
        self._queue.extend(line[1:])
        yield from self._explore()
        query = TaskQuery(root_id=self.root or task_id, sort_by="timestamp", limit=self._most + 1)
        for number, task in enumerate(self._state.find(query)):
            if task is not None and self._add(task.uuid):
                self._queue.append(task.uuid)
            if self.truncated:
                return
            if task is None or number % _STRIDE == 0:
                yield None
        yield from self._explore()

    def _add_line(self, task_id: str) -> Generator[None, None, list[str]]:
        """Add a task, its parent, the parent of that and so on, and the root that one of them names; give them."""
        line: list[str] = []
        ancestor: str | None = task_id
        while ancestor is not None and self._add(ancestor):
            line.append(ancestor)
            task = self.held[ancestor]
            if self.root is None and task is not None:
                self.root = task.root_id or None
            ancestor = self.parents[ancestor]
            if len(line) % _STRIDE == 0:
                yield None
        if self.root is not None and self._add(self.root):
            line.append(self.root)
        return line

    def _add(self, task_id: str) -> bool:
        """Add a task, if it is new and there is room; tell whether it was added."""
        if task_id in self.held:
            return False
        if len(self.held) >= self._most:
            self.truncated = True
            return False
        try:
            task = self._state.get(task_id)
        except UnknownTask:
            self.held[task_id], self.parents[task_id] = None, None
        else:
            self.held[task_id] = task
            self.parents[task_id] = None if task.parent_id == task_id else task.parent_id or None
        return True

    def _explore(self) -> Iterator[None]:
        """Add the children of what is queued, and theirs, and whatever other parents these have."""
        number = 0
        while self._queue and not self.truncated:
            task_id = self._queue.popleft()
            parent = self.parents[task_id]
            for kin in chain([parent], self._state.find_children(task_id, limit=self._most + 1)):
                if kin is not None and self._add(kin):
                    self._queue.append(kin)
                number += 1
                if number % _STRIDE == 0:
                    yield None


def _begin(task: Task | None, task_id: str) -> tuple[float, str]:
    """Give what a tree is ordered by: when a task began, as far as that is known."""
    if task is None:
        return 0.0, task_id
    return task.sent or task.received or task.started or task.timestamp or 0.0, task_id


def _break_circles(parents: dict[str, str | None], order: list[str]) -> None:
    """Take away the parent of the first task of every circle."""
    ranks = {task_id: rank for rank, task_id in enumerate(order)}
    done: set[str] = set()
    for start in order:
        path: dict[str, None] = {}
        task_id: str | None = start
        while task_id in ranks and task_id not in done and task_id not in path:
            path[task_id] = None
            task_id = parents[task_id]
        if task_id in path:
            line = list(path)
            parents[min(line[line.index(task_id) :], key=ranks.__getitem__)] = None
        done.update(path)


def _top(parents: dict[str, str | None], task_id: str) -> str:
    """Follow the parents, which form no circles, to where they end."""
    while (parent := parents.get(task_id)) is not None:
        task_id = parent
    return task_id
