"""Questions to the database: one task, a page of a listing, children, all that comes back at the start.

Nothing here runs on the event loop. A listing is walked as `index/finder.py` walks the memory, in the same order,
and goes on after the last row that was read: so no read holds the database for long, however long the listing is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, true, tuple_

from ..monitor.query import TaskQuery, make_filter
from ..monitor.task_fields import ORDERED
from ..outcomes import ORPHANED
from ..records import Task
from .batches import clean_text
from .clusters import find_cluster_of
from .columns import FIELDS
from .databases import Database
from .schema import tasks
from .search_sql import find_condition
from .task_names import read_names

#: Rows that are read at a time: few at first, as a page is often complete then.
_MIN_ROWS_PER_READ: Final = 250
_MAX_ROWS_PER_READ: Final = 2_000

#: A search that may match no more tasks than that collects and sorts them, rather than to walk an order.
_SORTABLE: Final = 10_000

_ROW: Final = tuple(tasks.c[field] for field in FIELDS)

Condition = ColumnElement[bool]


class Order(Struct, frozen=True):
    """A stretch of a listing: the rows within `within`, by some columns that no two of them share."""

    within: Condition
    keys: tuple[str, ...]
    descending: bool


def read_task(database: Database, task_id: str) -> Task | None:
    """Read one task."""
    with database.reading() as connection:
        row = connection.execute(select(*_ROW).where(database.own, tasks.c.uuid == clean_text(task_id))).first()
    return None if row is None else Task(*row)


def read_tasks(database: Database, task_ids: Sequence[str], cluster: str | None = None) -> dict[str, Task]:
    """Read the tasks of some ids, as far as there are any; `cluster` is the key of another cluster."""
    own = database.own if cluster is None else tasks.c.cluster == cluster
    found: dict[str, Task] = {}
    with database.reading() as connection:
        for start in range(0, len(task_ids), _MIN_ROWS_PER_READ):
            some = list(map(clean_text, task_ids[start : start + _MIN_ROWS_PER_READ]))
            for row in connection.execute(select(*_ROW).where(own, tasks.c.uuid.in_(some))):
                found[row[0]] = Task(*row)
    return found


def read_children(database: Database, task_ids: Sequence[str], limit: int | None = None) -> dict[str, list[str]]:
    """List the children of some tasks by parent, oldest event first; no more than `limit` in all."""
    found: dict[str, list[str]] = {}
    at = tasks.c
    with database.reading() as connection:
        for start in range(0, len(task_ids), _MIN_ROWS_PER_READ):
            some = list(map(clean_text, task_ids[start : start + _MIN_ROWS_PER_READ]))
            # Earlier versions stored a task that was retried as its own parent.
            query = select(at.parent_id, at.uuid).where(database.own, at.parent_id.in_(some), at.parent_id != at.uuid)
            query = query.order_by(at.timestamp, at.uuid)
            for parent, child in connection.execute(query.limit(limit)):
                found.setdefault(parent, []).append(child)
    return found


class Listing:
    """A listing under way: `read` gives its next tasks until there are no more."""

    def __init__(self, database: Database, query: TaskQuery) -> None:
        self._database = database
        self._query = query
        self._match = make_filter(query)
        self._exact = query.search is None  # which the database cannot tell alone
        self._skip = query.offset
        self._left = query.limit
        self._tasks: Iterator[list[Task]] | None = None

    def read(self) -> list[Task] | None:
        """Give more tasks of the listing, None at its end."""
        if self._tasks is None:
            self._tasks = self._pages()
        return next(self._tasks, None)

    def _pages(self) -> Iterator[list[Task]]:
        if self._left == 0:
            return
        for found in self._found():
            page = found[self._skip :]
            self._skip = max(0, self._skip - len(found))
            if self._left is not None:
                page = page[: self._left]
                self._left -= len(page)
            yield page
            if self._left == 0:
                return

    def _found(self) -> Iterator[list[Task]]:
        condition = and_(self._database.own, _filters(self._query))
        term = self._term()
        if term is not None:
            some = self._collect(and_(condition, term))
            if some is not None:
                yield some
                return
            condition = and_(condition, term)
        for order in self._orders(condition):
            yield from self._walk(order)

    def _term(self) -> Condition | None:
        node = self._query.search.terms if self._query.search is not None else None
        return None if node is None else find_condition(node, self._database.match)

    def _collect(self, condition: Condition) -> list[Task] | None:
        """Read and sort all that may match, None where that would be too many."""
        with self._database.reading() as connection:
            ids = connection.execute(select(tasks.c.uuid).where(condition).limit(_SORTABLE + 1)).scalars().all()
        if len(ids) > _SORTABLE:
            return None
        found = read_tasks(self._database, ids)
        return sort_tasks([task for task in found.values() if self._match(task)], self._query)

    def _walk(self, order: Order) -> Iterator[list[Task]]:
        """Read one stretch, some rows at a time."""
        after: tuple[Any, ...] | None = None
        offset = 0
        if self._exact and self._skip:
            offset, self._skip = self._skip, 0
        size = _MIN_ROWS_PER_READ
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(_page(order, after, size, offset)).all()
                if offset and not rows:
                    self._skip = max(0, offset - _count(connection, order))
            offset = 0
            found = [Task(*row) for row in rows]
            yield found if self._exact else [task for task in found if self._match(task)]
            if len(rows) < size:
                return
            after = tuple(getattr(found[-1], key) for key in order.keys)
            size = min(2 * size, _MAX_ROWS_PER_READ)

    def _orders(self, condition: Condition) -> Iterator[Order]:
        """List the stretches of the order asked for: see `Finder`, which has the same ones."""
        field, descending = self._query.sort_by, self._query.descending
        if field is None or field == "timestamp":
            yield Order(condition, ("timestamp", "uuid"), descending or field is None)
        elif field in ORDERED:
            at = tasks.c[field]
            known = Order(and_(condition, at.is_not(None)), (field, "uuid"), descending)
            missing = Order(and_(condition, at.is_(None)), ("born", "uuid"), descending)
            yield from (known, missing) if descending else (missing, known)
        else:
            at = tasks.c[field]
            nobody = Order(and_(condition, at.is_(None)), ("timestamp", "uuid"), True)
            if not descending:
                yield nobody
            for value in self.values(field, descending):
                yield Order(and_(condition, at == value), ("timestamp", "uuid"), True)
            if descending:
                yield nobody

    def values(self, field: str, descending: bool) -> Iterator[Any]:
        """Yield the values of a grouped field in order, each found by a look into its index."""
        at = tasks.c[field]
        only = getattr(self._query, field, None)
        if only is not None:
            yield only
            return
        value: Any = None
        while True:
            query = (
                select(at)
                .where(self._database.own, at.is_not(None))
                .order_by(at.desc() if descending else at.asc())
                .limit(1)
            )
            if value is not None:
                query = query.where(at < value if descending else at > value)
            with self._database.reading() as connection:
                value = connection.execute(query).scalar()
            if value is None:
                return
            yield value


def _page(order: Order, after: tuple[Any, ...] | None, size: int, offset: int) -> Select[Any]:
    keys = [tasks.c[key] for key in order.keys]
    query = select(*_ROW).where(order.within)
    if after is not None:
        place = tuple_(*keys)
        # The first key alone as well: it tells the database where to begin.
        query = query.where(place < after if order.descending else place > after)
    query = query.order_by(*(key.desc() if order.descending else key.asc() for key in keys)).limit(size)
    return query.offset(offset) if offset else query


def _count(connection: Connection, order: Order) -> int:
    return connection.execute(select(func.count()).select_from(tasks).where(order.within)).scalar() or 0


def _filters(query: TaskQuery) -> Condition:
    """Write the filters that the database can tell; `make_filter` has the last word."""
    at = tasks.c
    conditions: list[Condition] = []
    for field, text in query.values:
        value = clean_text(text)
        if field == "root_id":
            others = and_(at.root_id == value, at.root_id != at.uuid)
            conditions.append(or_(others, and_(at.uuid == value, at.root_id == value)))
        else:
            conditions.append(at[field] == value)
    if query.orphaned is not None:
        conditions.append(at.reconciled == ORPHANED if query.orphaned else at.reconciled.is_distinct_from(ORPHANED))
    for field, (start, end) in query.ranges.items():
        if start is not None:
            conditions.append(at[field] >= start)
        if end is not None:
            conditions.append(at[field] <= end)
    return and_(true(), *conditions)


def sort_tasks(found: list[Task], query: TaskQuery) -> list[Task]:
    """Sort tasks as a walk would find them."""
    field = query.sort_by
    if field is None or field == "timestamp":
        return sorted(found, key=_age, reverse=query.descending or field is None)
    get: Callable[[Task], Any] = lambda task: getattr(task, field)  # noqa: E731
    if field in ORDERED:

        def number(task: Task) -> tuple[bool, float, str]:
            value = get(task)
            return value is not None, task.born if value is None else value, task.uuid

        return sorted(found, key=number, reverse=query.descending)
    found = sorted(found, key=_age, reverse=True)
    return sorted(found, key=lambda task: (get(task) is not None, get(task)), reverse=query.descending)


def _age(task: Task) -> tuple[float, str]:
    return task.timestamp or 0.0, task.uuid


def list_names(database: Database) -> list[str]:
    """List the names of all tasks, sorted."""
    with database.reading() as connection:
        return read_names(connection, database.cluster)


def find_foreign_cluster(database: Database, task_id: str) -> str | None:
    """Return the name of another cluster that a task belongs to, None where none has it."""
    if database.alone:
        return None
    with database.reading() as connection:
        return find_cluster_of(connection, clean_text(task_id))
