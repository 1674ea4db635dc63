"""Retention: tasks that are too old, or too many, are deleted, a few hundred at a time. In the writing thread.

Only those of the own cluster. How many there are is counted now and then; in between, what is written and deleted is
added up.
"""

import time
from typing import Final

from sqlalchemy import func, select, tuple_

from .databases import Database
from .schema import counters, tasks, workers
from .task_names import delete_unused_names

#: Tasks that are deleted in one transaction, and names that are looked at.
TASKS_PER_DELETE: Final = 500

#: Seconds between two looks at what is too old or too many, and how many times as long as the look took.
_INTERVAL: Final = 10.0
_SHARE: Final = 50

#: What a taskmon that is gone has counted is kept this long, in seconds.
_COUNTERS_KEPT: Final = 90 * 86_400


class Retention:
    """Deletes tasks whose last event is older than `max_age` seconds, and the oldest beyond `max_tasks`."""

    def __init__(self, database: Database, max_age: float | None, max_tasks: int | None) -> None:
        self.deleted = 0
        self._database = database
        self._max_age = max_age
        self._max_tasks = max_tasks
        self._look_at = 0.0
        self._stored: int | None = None
        self._too_old: float | None = None
        self._after: tuple[float, str] | None = None
        self._last_name = ""

    @property
    def due(self) -> bool:
        """Whether there are tasks to delete, or that is not known yet."""
        if self._max_tasks is not None and self._stored is None:
            return True
        return self._too_old is not None or self._count_excess() > 0

    def note(self, inserted: int) -> None:
        """Note that tasks were written which were not there before."""
        if self._stored is not None:
            self._stored += inserted

    def step(self) -> bool:
        """Delete some, if any are due; return whether there are more."""
        if time.monotonic() >= self._look_at:
            self._look()
        if self.due:
            self._delete()
        return self.due

    def _count_excess(self) -> int:
        if self._max_tasks is None or self._stored is None:
            return 0
        return max(0, self._stored - self._max_tasks)

    def _look(self) -> None:
        """Find what is to be deleted; what a look costs decides when the next one is."""
        began, now = time.monotonic(), time.time()
        database = self._database
        with database.writing() as connection:
            own = counters.c.cluster == database.cluster
            connection.execute(counters.delete().where(own, counters.c.saved < now - _COUNTERS_KEPT))
            if self._max_age is not None:
                own = workers.c.cluster == database.cluster
                connection.execute(workers.delete().where(own, workers.c.seen < now - self._max_age))
        if self._max_age is not None or self._max_tasks is not None:
            self._delete_unused_names()
        if self._max_tasks is not None:
            with database.reading() as connection:
                query = select(func.count()).select_from(tasks).where(database.own)
                self._stored = connection.execute(query).scalar() or 0
        self._too_old = None if self._max_age is None else now - self._max_age
        self._after = None
        self._look_at = time.monotonic() + max(_INTERVAL, _SHARE * (time.monotonic() - began))

    def _delete_unused_names(self) -> None:
        """Delete names of tasks that no task has any more."""
        database = self._database
        with database.writing() as connection:
            self._last_name, deleted = delete_unused_names(
                connection, database.cluster, self._last_name, TASKS_PER_DELETE
            )
        if deleted:
            database.forget_names()

    def _delete(self) -> None:
        """Delete the oldest tasks, on from where the last step ended: before that are those of others."""
        excess = self._count_excess()
        most = min(TASKS_PER_DELETE, excess) if excess else TASKS_PER_DELETE
        at = tasks.c
        place = tuple_(at.timestamp, at.uuid)
        oldest = select(at.id, at.timestamp, at.uuid).where(self._database.own)
        if not excess:
            oldest = oldest.where(at.timestamp <= self._too_old)
        if self._after is not None:
            oldest = oldest.where(at.timestamp >= self._after[0], place > self._after)
        with self._database.writing() as connection:
            rows = connection.execute(oldest.order_by(at.timestamp, at.uuid).limit(most)).all()
            if rows:
                connection.execute(tasks.delete().where(at.id.in_([row[0] for row in rows])))
        self.deleted += len(rows)
        if self._stored is not None:
            self._stored -= len(rows)
        self._go_on(rows[-1][1:] if rows else None, len(rows) < most, excess > 0)

    def _go_on(self, last: "tuple[float | None, str] | None", ended: bool, counted: bool) -> None:
        """Decide where the next step begins."""
        if last is not None and last[0] is not None:
            self._after = last[0], last[1]
        if ended and counted:  # fewer than were counted: another taskmon has deleted some, or they came late
            self._look_at, self._stored = 0.0, self._max_tasks
        elif ended:
            self._too_old = None
