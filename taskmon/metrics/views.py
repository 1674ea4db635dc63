"""What the metrics read of others at a scrape. They import none of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ..records import Task, Worker


class ReconciledView(Protocol):
    """How many tasks were settled from a result backend or orphaned, and how many are."""

    @property
    def orphaned(self) -> int: ...
    @property
    def orphaned_total(self) -> int: ...
    @property
    def settled_total(self) -> int: ...


class StateView(Protocol):
    """The tasks and workers held."""

    @property
    def workers(self) -> Mapping[str, Worker]: ...
    @property
    def prefetched(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def evicted_total(self) -> int: ...
    @property
    def repeated(self) -> Collection[int]: ...
    @property
    def reconciled(self) -> ReconciledView: ...
    def __len__(self) -> int: ...
    def get(self, task_id: str, /) -> Task | None: ...  # may raise UnknownTask


class BrokerView(Protocol):
    """The connection to the broker."""

    @property
    def connected(self) -> bool: ...
    @property
    def reconnects(self) -> int: ...


class HistoryStatus(Protocol):
    """How writing the history goes, in numbers that only grow but for the first ones."""

    @property
    def available(self) -> bool: ...
    @property
    def written(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def unfit(self) -> int: ...
    @property
    def cleaned(self) -> int: ...
    @property
    def deleted(self) -> int: ...
    def lag(self) -> float: ...


class HistoryView(Protocol):
    """The history; there may be none."""

    @property
    def status(self) -> HistoryStatus: ...
    @property
    def backlog(self) -> int: ...
    def at_risk(self) -> float: ...


class QueueView(Protocol):
    """One queue: what waits in it, and who consumes from it, None where that is not known."""

    @property
    def messages(self) -> int | None: ...
    @property
    def consumers(self) -> int | None: ...


class AccessView(Protocol):
    """Who was kept out, by reason, and the logins and sessions."""

    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def logins(self) -> Mapping[str, int]: ...
    @property
    def sessions(self) -> Mapping[str, int]: ...


class QueuesView(Protocol):
    """What was last found of the queues, by name, and how many seconds ago, None for never."""

    @property
    def latest(self) -> Mapping[str, QueueView]: ...
    @property
    def age(self) -> float | None: ...
    @property
    def known(self) -> "KnownQueuesView": ...


class KnownQueuesView(Protocol):
    """Which queues are known, for a later run."""

    def save(self) -> dict[str, float]: ...
    def restore(self, saved: Mapping[str, float]) -> None: ...


class InspectionView(Protocol):
    """What a worker said when it was asked."""

    @property
    def queues(self) -> Sequence[str]: ...
    @property
    def pool_size(self) -> int | None: ...


class InspectorView(Protocol):
    """What each worker said, by hostname."""

    @property
    def inspections(self) -> Mapping[str, InspectionView]: ...
