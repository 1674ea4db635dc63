"""The names of tasks, which have a table of their own: to find them among the tasks takes a question for each."""

import time
from typing import Any, Final

from sqlalchemy import Connection, exists, select

from .batches import Row, names_of
from .schema import names, tasks

#: Names that are read at once: whoever sends events can invent them.
MAX_NAMES: Final = 100_000

#: Seconds until names are written once more, and how many are remembered.
NAMES_KNOWN: Final = 60.0
MAX_KNOWN_NAMES: Final = 200_000


class KnownNames:
    """The names of tasks that were written a short time ago."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._until = 0.0

    def find_new(self, rows: list[Row]) -> set[str]:
        """Return the names that are to be written with these rows."""
        if time.monotonic() > self._until or len(self._known) > MAX_KNOWN_NAMES:
            self.clear()
        return names_of(rows) - self._known

    def add(self, rows: list[Row]) -> None:
        """Note that the names of these rows are written."""
        self._known |= names_of(rows)

    def clear(self) -> None:
        """Forget all: another taskmon may have deleted names without tasks."""
        self._known.clear()
        self._until = time.monotonic() + NAMES_KNOWN


def add_names(connection: Connection, cluster: str, new: set[str]) -> None:
    """Write names, but for those that are there."""
    if new:
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        statement = f"INSERT INTO taskmon_names (cluster, name) VALUES ({mark}, {mark}) ON CONFLICT DO NOTHING"
        connection.exec_driver_sql(statement, [(cluster, name) for name in sorted(new)])


def read_names(connection: Connection, cluster: str) -> list[str]:
    """List the names of a cluster's tasks, sorted: the first MAX_NAMES of them."""
    query = select(names.c.name).where(names.c.cluster == cluster).order_by(names.c.name).limit(MAX_NAMES)
    return [name for name in connection.execute(query).scalars() if name]


def delete_unused_names(connection: Connection, cluster: str, after: str, most: int) -> tuple[str, int]:
    """Look at the names after one, and delete those without a task; return the last one, empty at the end."""
    at = names.c
    query = select(at.name).where(at.cluster == cluster, at.name > after).order_by(at.name).limit(most)
    looked_at = list(connection.execute(query).scalars())
    if not looked_at:
        return "", 0
    used: Any = exists().where(tasks.c.name == at.name, tasks.c.cluster == at.cluster)
    unused = names.delete().where(at.cluster == cluster, at.name.in_(looked_at), ~used)
    deleted = connection.execute(unused).rowcount
    return (looked_at[-1] if len(looked_at) == most else ""), deleted
