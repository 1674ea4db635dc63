"""Whose rows are whose: each cluster has a key in the database, under which its rows are, and one or more names."""

from collections.abc import Sequence
from hashlib import sha256

from sqlalchemy import Connection, select

from .schema import clusters, tasks


def claim_cluster(connection: Connection, name: str, others: Sequence[str] = ()) -> str:
    """Return the key of a cluster, by its name or one of its `others`; the first one known counts.

    Where an earlier version has written, a key is its own name until a cluster claims it.
    """
    keys = _read_keys(connection)
    if name in keys:
        return keys[name]
    known = next((other for other in others if other in keys), None)
    key = sha256(name.encode()).hexdigest()[:16] if known is None else keys[known]
    if known == key:
        connection.execute(clusters.delete().where(clusters.c.name == known))
    connection.execute(clusters.insert().values(name=name, cluster=key))
    return key


def find_other_clusters(connection: Connection, key: str) -> list[str]:
    """List the names of the clusters with other keys."""
    return sorted(name for name, other in _read_keys(connection).items() if other != key)


def find_cluster_of(connection: Connection, task_id: str) -> str | None:
    """Return a name of the cluster that a task belongs to, None where there is no such task."""
    query = select(clusters.c.name).join(tasks, tasks.c.cluster == clusters.c.cluster)
    name: str | None = connection.execute(query.where(tasks.c.uuid == task_id).limit(1)).scalar()
    return name


def _read_keys(connection: Connection) -> dict[str, str]:
    return {row.name: row.cluster for row in connection.execute(select(clusters))}
