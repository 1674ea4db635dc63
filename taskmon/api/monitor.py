"""What machines ask: `/metrics`, and whether taskmon is alive and ready. Event loop only."""

from msgspec import UNSET

from ..auth import Role
from ..errors import Unavailable
from ..http.answers import Readiness
from ..http.base import ApiHandler
from ..http.time_slice import Turn
from ..metrics import CONTENT_TYPE


class Metrics(ApiHandler):
    path = "/metrics"
    summary = "Metrics for Prometheus"
    role = Role.VIEWER
    scope = "metrics"
    response_type = str
    media_type = "text/plain"

    async def get(self) -> None:
        """Answer all metrics in Prometheus' text format."""
        parts: list[bytes] = []
        turn = Turn()
        for piece in self.services.metrics.pieces():
            parts.append(piece)
            if turn.over:
                await turn.give_way()
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(b"".join(parts))


class HealthCheck(ApiHandler):
    path = "/healthcheck"
    summary = "Whether the process is alive"
    public = True
    probe = True
    response_type = str
    media_type = "text/plain"

    def get(self) -> None:
        """Answer OK: the process is alive, whatever the broker does."""
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(b"OK")


class Ready(ApiHandler):
    path = "/readyz"
    summary = "Whether events come in"
    public = True
    probe = True
    response_type = Readiness
    errors = (Unavailable,)

    def get(self) -> None:
        """Answer whether events come in: 503 while they do not. Names of hosts and queues are for the log alone.

        A history that is away takes nothing from what memory answers: 200, with a word on it.
        """
        if not self.monitor.broker.connected:
            raise Unavailable("The broker", self.monitor.broker.describe())
        history = self.services.history
        if history is None:
            self.answer(Readiness("ready"))
        else:
            self.answer(Readiness("ready", history.status.word(), history.status.sentence() or UNSET))
