"""IntakeCounts: what comes from the broker, counted before it is applied. Any thread may count."""

from threading import Lock


class IntakeCounts:
    """How many events were received, how many messages and events rejected by reason, and fields omitted by name."""

    def __init__(self) -> None:
        self.received = 0
        self._rejected: dict[str, int] = {}
        self._omitted: dict[str, int] = {}
        self._lock = Lock()

    def receive(self, n: int) -> None:
        """Count events received. Event loop only."""
        self.received += n

    def reject(self, reason: str, n: int = 1) -> None:
        """Count messages or events that were rejected."""
        with self._lock:
            self._rejected[reason] = self._rejected.get(reason, 0) + n

    def omit(self, field: str, n: int = 1) -> None:
        """Count a field that was left out of an event."""
        with self._lock:
            self._omitted[field] = self._omitted.get(field, 0) + n

    @property
    def rejected(self) -> dict[str, int]:
        """How many messages and events were rejected, by reason."""
        with self._lock:
            return dict(self._rejected)

    @property
    def omitted(self) -> dict[str, int]:
        """How often each field was left out, by its name."""
        with self._lock:
            return dict(self._omitted)
