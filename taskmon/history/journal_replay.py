"""What a taskmon that was killed has left in the journal goes to the database. In the writing thread."""

import logging
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from ..records import Task
from .batches import Batch, Row, Written
from .columns import merge_tasks, to_row
from .databases import Database
from .journal import Journal
from .reading import read_tasks

log = logging.getLogger(__name__)


#: Changes in one transaction.
_CHANGES_PER_TRANSACTION: Final = 5_000


def write_leftovers(database: Database, journal: Journal, created: bool, family: str = "") -> None:
    """Write them, unless the database was `created` just now; then the journal begins. Once; raises Away.

    So is written what is in the journals of a `family` whose taskmons are gone.
    """
    if journal.begun:
        return
    count = 0
    try:
        journal.claim()
        if not created:
            count = _write_noted(database, journal)
            for orphan in journal.adopt(family) if family else ():
                count += _write_noted(database, orphan)
                orphan.delete()
        journal.begin()
    except (OSError, msgspec.MsgspecError) as exc:
        log.warning("The journal of the history cannot be used (%s); a kill may lose more", exc)
    if count:
        log.info("The last taskmon did not end in peace: %s changes of tasks come from its journal", count)


def _write_noted(database: Database, journal: Journal) -> int:
    """Write what a journal holds; return how many changes of tasks."""
    count = 0
    written = Written()
    for batch in _gather(journal.read()):
        count += len(batch.tasks)
        key = None if batch.cluster is None else database.find_key(batch.cluster)
        key = None if key == database.cluster else key
        noted = _unite(batch.tasks)
        tasks = noted.values() if database.shared else _find_newer(database, noted, key)
        written.add(database.write(replace(batch, tasks=list(map(to_row, tasks)), cluster=key)))
    if written.refused:
        examples = "; ".join(written.examples)
        log.warning("The history's database refuses %s rows of the journal: %s", written.refused, examples)
    return count


def _gather(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Put the tasks of several batches together; what there is besides comes with the first of them."""
    gathered: Batch | None = None
    for batch in batches:
        alone = bool(batch.workers or batch.gone or batch.counters is not None)
        if (
            gathered is None
            or alone
            or batch.cluster != gathered.cluster
            or len(gathered.tasks) + len(batch.tasks) > _CHANGES_PER_TRANSACTION
        ):
            if gathered is not None:
                yield gathered
            gathered = batch
        else:
            gathered.tasks += batch.tasks
            gathered.adopted += batch.adopted
    if gathered is not None:
        yield gathered


def _unite(rows: list[Row]) -> dict[str, Task]:
    """Make one task of all that was noted of it, by id."""
    noted: dict[str, Task] = {}
    for task in (Task(*row) for row in rows):
        before = noted.get(task.uuid)
        noted[task.uuid] = task if before is None or before.born == task.born else merge_tasks(before, task)
    return noted


def _find_newer(database: Database, noted: dict[str, Task], key: str | None) -> list[Task]:
    """Keep what says more than the database does: of what was noted, much was written besides.

    One that several share need not be asked: it merges what it is given.
    """
    stored = read_tasks(database, list(noted), key)
    return [task for task in (_compare(stored.get(one.uuid), one) for one in noted.values()) if task]


def _compare(stored: Task | None, noted: Task) -> Task | None:
    """Give what is to be written of a task, None for nothing."""
    if stored is None or stored.seen < noted.seen:
        return noted
    if stored.seen > noted.seen or stored == noted:
        return None
    return merge_tasks(stored, noted)
