"""The first page. Event loop only."""

from typing import Final

from .. import __version__
from ..auth import Role
from .pages import PageHandler

_LINKS: Final = (
    ("/api/tasks?limit=100", "Latest tasks"),
    ("/api/workers", "Workers"),
    ("/api/queues/length", "Queues"),
    ("/api/diagnostics", "What makes answers incomplete"),
    ("/metrics", "Metrics for Prometheus"),
    ("/api/whoami", "Who you are"),
)


class Home(PageHandler):
    path = "/"
    summary = "Shows the first page"
    role = Role.VIEWER

    def get(self) -> None:
        """Show who it is, and where the data are."""
        services = self.services
        self.show(
            "home.html",
            "Tasks of Celery",
            user=self.current_user,
            provider=services.login.provider if services.login else None,
            read_only=services.settings.read_only,
            links=_LINKS,
            version=__version__,
            broker="connected to the broker" if self.monitor.broker.connected else "the broker is away",
        )
