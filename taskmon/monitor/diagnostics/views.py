"""What the diagnostics read of others, which they do not import."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Raw, Struct


class AppFacts(Struct, frozen=True):
    """What matters here of a Celery app: is a result backend configured, can taskmon read it, what does it store.

    `of_url` is whether there is no app but that made for a broker's URL, which says nothing of the workers' settings.
    """

    has_backend: bool
    readable: bool
    result_extended: bool
    of_url: bool = False


class BrokerView(Protocol):
    """What is read of the broker's status."""

    @property
    def connected(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def reconnects(self) -> int: ...
    @property
    def missed(self) -> tuple[float, float, str] | None:
        """The last time for which events were missed: its end, in epoch seconds, how long it was, and why."""


class MetricsView(Protocol):
    """What is read of the metrics."""

    def rejections(self) -> Mapping[str, int]:
        """The messages and events refused so far, by reason."""


class InspectionView(Protocol):
    """What a worker answered when it was asked, as JSON by method, and when."""

    @property
    def answers(self) -> Mapping[str, Raw]: ...
    @property
    def times(self) -> Mapping[str, float]: ...


class InspectorView(Protocol):
    """What each worker answered, by hostname, and when it last answered anything, in epoch seconds."""

    @property
    def inspections(self) -> Mapping[str, InspectionView]: ...
    @property
    def answered(self) -> Mapping[str, float]: ...


class RepliesView(Protocol):
    """What is read of the replies of workers."""

    @property
    def pickled(self) -> float | None:
        """When a worker replied with a pickle last, in epoch seconds."""


class HistoryStatusView(Protocol):
    """What the history has lost: changes of tasks, and rows that its database refuses."""

    @property
    def dropped(self) -> int: ...
    @property
    def unfit(self) -> int: ...


class HistoryView(Protocol):
    """What is read of the history."""

    @property
    def status(self) -> HistoryStatusView: ...
