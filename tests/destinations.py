"""Destinations for tests that are about something else: every queue and exchange that the machinery does not use."""

from collections.abc import Collection
from typing import Any

from celery import Celery

from taskmon.cluster.destinations import Destinations
from taskmon.cluster.inspection import Inspection


class Consuming:
    """Workers that have said from which queues they consume, and a broker that is not Redis."""

    def __init__(self, *queues: str, hostname: str = "celery@w1") -> None:
        self.inspections = {hostname: Inspection(queues=queues)}
        self.asked: list[str | None] = []

    async def refresh(self, hostname: str | None, awaited: Collection[str] = ()) -> None:
        """Note that a worker is asked."""
        self.asked.append(hostname)

    async def look_at_keys(self, name: str) -> Any:
        """Return what another broker than Redis says."""
        return None


def anywhere(celery_app: Celery, *consumed: str) -> Destinations:
    """Make destinations of which the option allows all; a worker consumes from some."""
    cluster = Consuming(*consumed)
    return Destinations(celery_app, cluster, cluster, patterns=("*",))
