"""Retention: tasks that are too old, or too many, are deleted, a few hundred at a time. In the writing thread."""

import time
from typing import Final

from sqlalchemy import select, tuple_

from .databases import Database
from .schema import counters, tasks, workers

#: Tasks that are deleted in one transaction.
STEP: Final = 500

#: Seconds between two looks at what is too old or too many, and how many times as long as the look took.
_EVERY: Final = 10.0
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
        self._due = 0.0
        self._before: tuple[float, str] | None = None

    def step(self) -> bool:
        """Delete some, if it is time to; tell whether there are more."""
        if self._before is None:
            if time.monotonic() < self._due:
                return False
            self._look()
        if self._before is None:
            return False
        deleted = self._delete(self._before)
        self.deleted += deleted
        if deleted < STEP:
            self._before = None
        return self._before is not None

    def _look(self) -> None:
        """Find the last task, in the order of time, that is to be deleted."""
        began = time.monotonic()
        now = time.time()
        bounds = [(now - self._max_age, "")] if self._max_age is not None else []
        if self._max_tasks is not None and (beyond := self._find_beyond(self._max_tasks)) is not None:
            bounds.append(beyond)
        self._before = max(bounds, default=None)
        with self._database.writing() as connection:
            connection.execute(counters.delete().where(counters.c.saved < now - _COUNTERS_KEPT))
            if self._max_age is not None:
                connection.execute(workers.delete().where(workers.c.seen < now - self._max_age))
        self._due = time.monotonic() + max(_EVERY, _SHARE * (time.monotonic() - began))

    def _find_beyond(self, most: int) -> tuple[float, str] | None:
        """Find the newest task that is too many: its time and id."""
        at = tasks.c
        query = select(at.timestamp, at.uuid).order_by(at.timestamp.desc(), at.uuid.desc()).offset(most).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row[0], row[1])

    def _delete(self, before: tuple[float, str]) -> int:
        """Delete the oldest tasks up to a time and id."""
        at = tasks.c
        place = tuple_(at.timestamp, at.uuid)
        oldest = select(at.id).where(place <= before).order_by(at.timestamp, at.uuid).limit(STEP)
        with self._database.writing() as connection:
            ids = list(connection.execute(oldest).scalars())
            if ids:
                connection.execute(tasks.delete().where(at.id.in_(ids)))
        return len(ids)
