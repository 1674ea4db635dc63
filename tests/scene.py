"""Metrics with a state, a broker, queues, workers that were asked and a clock, all of which a test moves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from taskmon.metrics import Metrics
from taskmon.receiving.intake import IntakeCounts
from taskmon.records import Event, Task, Worker

NOW: Final = 1_700_000_000.0
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class FakeState(dict[str, Task]):
    """What Metrics reads of State."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[str, Worker] = {}
        self.prefetched: dict[tuple[str, str], int] = {}
        self.evicted_total = 0
        self.repeated: set[int] = set()
        self.reconciled = SimpleNamespace(orphaned=0, orphaned_total=0, settled_total=0)


@dataclass
class FakeQueues:
    """What was found of the queues; nothing yet."""

    latest: dict[str, Any] = field(default_factory=dict)
    age: float | None = None


class Scene:
    """Metrics, and what they read."""

    def __init__(
        self, prefix: str = "taskmon", buckets: tuple[float, ...] = (0.1, 1.0, 10.0, inf), **options: Any
    ) -> None:
        self.now = NOW
        self.state = FakeState()
        self.broker = SimpleNamespace(connected=True, reconnects=0)
        self.queues = FakeQueues()
        self.inspector = SimpleNamespace(inspections={})
        read: dict[str, Any] = {"queues": self.queues, "inspector": self.inspector, "clock": lambda: self.now}
        self.intake = IntakeCounts()
        self.metrics = Metrics(prefix, buckets, self.state, self.broker, self.intake, **read | options)

    def see(self, kind: str, task: Task | Worker | None, hostname: str | None = "w1", **fields: Any) -> None:
        fields.setdefault("timestamp", self.now)
        self.metrics.observe([(Event(kind, hostname=hostname, **fields), task)])

    def send(self, uuid: str, queue: str | None = "mail", age: float = 0.0, **fields: Any) -> Task:
        """Publish a task; State holds it from then on."""
        made = task(uuid=uuid, queue=queue, sent=self.now - age, **fields)
        self.state[uuid] = made
        self.see("task-sent", made, "gen1@web")
        return made

    def add_worker(self, hostname: str, age: float = 0.0, pool_size: int | None = None, *queues: str) -> Worker:
        """Add a worker that was last heard of so many seconds ago, and that was asked if it has a pool or queues."""
        worker = self.state.workers[hostname] = Worker(hostname, seen=self.now - age, freq=2.0, active=1)
        if pool_size is not None or queues:
            self.inspector.inspections[hostname] = SimpleNamespace(pool_size=pool_size, queues=queues)
        return worker

    def find_queues(self, lengths: Mapping[str, tuple[int, int | None]], age: float | None = 1.0) -> None:
        """Let the lengths and consumers of queues be known, since so many seconds."""
        self.queues.age = age
        self.queues.latest = {
            name: SimpleNamespace(messages=messages, consumers=consumers)
            for name, (messages, consumers) in lengths.items()
        }

    def samples(self) -> Samples:
        return parse(self.metrics.render())

    def get(self, name: str, /, **labels: str) -> float | None:
        return self.samples().get((name, frozenset(labels.items())))

    def family(self, name: str) -> dict[frozenset[str], float]:
        """Give the samples of one name by the values of their labels."""
        return {
            frozenset(value for _, value in labels): number
            for (found, labels), number in self.samples().items()
            if found == name
        }


def parse(text: bytes) -> Samples:
    """Read an exposition and insist that no sample comes twice and that every line belongs to its family."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation, f"{family.name} stands without its HELP line"
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def task(**fields: Any) -> Task:
    return Task(**{"uuid": "id", "name": "app.add", **fields})
