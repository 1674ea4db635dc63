"""The first page. Event loop only."""

from typing import Final

from .. import __version__
from ..auth import Role
from .pages import PageHandler

_LINKS: Final = (
    ("/api/tasks?limit=100", "the latest tasks"),
    ("/api/workers", "the workers"),
    ("/api/queues/length", "the queues"),
    ("/api/diagnostics", "what makes answers incomplete"),
    ("/metrics", "for Prometheus"),
    ("/api/whoami", "who you are"),
)


class Home(PageHandler):
    """GET `/`."""

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
            broker="connected to the broker" if services.broker.connected else "the broker is away",
        )
