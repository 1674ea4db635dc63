"""Services: what a handler may touch, and nothing else."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..auth import Authentication
from ..credentials.sessions import Sessions
from ..errors import ForeignTask, UnknownTask
from ..login.flow import Login
from ..metrics import Metrics
from ..monitor.monitor import Monitor
from ..records import Task
from ..settings import Settings
from ..trusted_proxies import Peers
from .openapi import Document
from .redaction import Showing
from .refusals import Refusals

if TYPE_CHECKING:
    from ..history.history import History


@dataclass(frozen=True, slots=True)
class Services:
    """Made once in `app.py` and handed to every handler.

    `hosts` are the names that a request may name besides addresses, `origin` is that of the public URL. `login` and
    `sessions` are there where people log in with a provider.
    """

    settings: Settings
    monitors: tuple[Monitor, ...]
    metrics: Metrics
    authentication: Authentication
    document: Document
    peers: Peers
    showing: Showing
    history: "History | None"
    hosts: frozenset[str]
    origin: str | None
    login: Login | None = None
    sessions: Sessions | None = None
    refusals: Refusals = field(default_factory=Refusals)

    def get_task(self, monitor: Monitor, task_id: str) -> Task:
        """Return a task in memory; raises UnknownTask, which says why."""
        try:
            return monitor.state.get(task_id)
        except UnknownTask as exc:
            raise UnknownTask(task_id, self.why_unknown(monitor, exc.reason)) from exc

    async def find_task(self, monitor: Monitor, task_id: str) -> Task:
        """Find a task in memory or in the history; raises UnknownTask, which says why, and Unavailable."""
        if self.history is None:
            return self.get_task(monitor, task_id)
        try:
            task = self.get_task(monitor, task_id)
        except UnknownTask:
            stored = await self.history.find_task(task_id)
            if stored is not None:
                return stored
            cluster = await self.history.find_foreign_cluster(task_id)
            if cluster is not None:
                raise ForeignTask(task_id, cluster) from None
            raise
        return await self.history.complete(task)

    def why_unknown(self, monitor: Monitor, reason: str) -> str:
        """Say why a task may be unknown, from what State says of it and what is known of the events."""
        since = datetime.fromtimestamp(monitor.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if reason == "evicted" and self.history is not None:
            return "deleted: neither in memory nor in the history any more (--history-max-age, --history-max-tasks)"
        if reason == "evicted" and monitor.state.evicted_for_memory:
            return f"evicted: only the latest {len(monitor.state)} tasks fit into memory (--max-memory)"
        if reason == "evicted":
            return f"evicted: only the latest {self.settings.max_tasks} tasks are held (--max-tasks)"
        if not monitor.broker.connected:
            return f"not connected: no events come in, the broker is away ({monitor.broker.reason})"
        if not monitor.state.task_events_total:
            return (
                f"no task events: none has come from any worker since taskmon started at {since};"
                " /api/diagnostics says what it may come from"
            )
        return f"never seen: no event of it has come since taskmon started at {since}"
