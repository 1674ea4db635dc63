"""Events, as workers and clients would send them, and small helpers to put them to a State."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

import msgspec
import pytest

from taskmon.monitor import state
from taskmon.monitor.index import facets, finder, indexes, ordering, sorting, zone_maps
from taskmon.monitor.index.ordering import Ordering
from taskmon.monitor.query import TaskQuery
from taskmon.monitor.state import State
from taskmon.records import Event, Task

#: When the first event of a test happens, in epoch seconds.
START: Final = 1_700_000_000.0

_ticks: Final = count(1)
_decode: Final = msgspec.json.Decoder(list[Event]).decode


def make_event(type: str, uuid: str | None = "a", **fields: Any) -> Event:
    """Make an event, a second after the one that was made before; `task-` may be left out of the type."""
    if "-" not in type:
        type = f"task-{type}"
    fields.setdefault("timestamp", START + next(_ticks))
    fields.setdefault("hostname", "celery@one")
    return Event(type=type, uuid=uuid, **fields)


def make_worker_event(type: str, hostname: str = "celery@one", **fields: Any) -> Event:
    """Make the event of a worker: `online`, `heartbeat`, `offline`."""
    return make_event(f"worker-{type}", None, hostname=hostname, **fields)


def make_life(uuid: str, *types: str, **fields: Any) -> list[Event]:
    """Make the events of one task, in order, all with these fields."""
    return [make_event(type, uuid, **fields) for type in types or ("received", "started", "succeeded")]


def decode_events(events: Iterable[dict[str, Any]]) -> list[Event]:
    """Send events through JSON, as they come from a broker."""
    return _decode(msgspec.json.encode(list(events)))


def make_state(*events: Event, **bounds: int) -> State:
    """Make a State to which these events have happened, one batch each."""
    made = State(**bounds)
    for event in events:
        made.apply([event])
    return made


def find_tasks(state: State, /, **query: Any) -> list[Task]:
    """Ask for tasks and leave out the pauses."""
    return [task for task in state.find(TaskQuery(**query)) if task is not None]


def find_ids(state: State, /, **query: Any) -> list[str]:
    """Ask for tasks and give their ids."""
    return [task.uuid for task in find_tasks(state, **query)]


def held_tasks(state: State) -> list[Task]:
    """List all tasks held, by no index."""
    return [*state._tasks.finished.values(), *state._tasks.unfinished.values()]


def flush(state: State) -> None:
    """Index all that has changed."""
    while state._indexes.flush_some():
        pass


def tidy_up(state: State) -> int:
    """Tidy until nothing is left to do; tell how many times that took."""
    for times in range(1, 1_000_000):
        if not state.maintain():
            return times
    raise AssertionError("tidying never ends")


def list_orderings(state: State) -> Iterator[Ordering]:
    """List every ordering that a State keeps."""
    kept = state._indexes
    yield kept.by_time
    yield from kept.known.values()
    yield from kept.missing.values()
    for facet in kept.facets.values():
        yield from facet.groups.values()


def list_entries(ordering: Ordering) -> list[tuple[Any, str]]:
    """List the entries of an ordering, stale ones included."""
    return [entry for block in ordering.blocks for entry in block] + ordering.recent


def count_prefetched(state: State) -> dict[tuple[str, str], int]:
    """Count from scratch what `prefetched` should be."""
    counted: dict[tuple[str, str], int] = {}
    for task in held_tasks(state):
        if task.state == "RECEIVED" and task.eta is None and task.worker in state.workers:
            key = (task.worker, task.name or "")
            counted[key] = counted.get(key, 0) + 1
    return counted


@contextmanager
def small_blocks(block: int = 4, flush_at: int = 4, sampled: int = 2, sortable: int = 8) -> Iterator[None]:
    """Make a handful of tasks enough to reach the code for a million of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ordering, facets, finder, indexes, state):
            patch.setattr(module, "BLOCK", block)
        for module in (ordering, indexes):
            patch.setattr(module, "SORT_AT", 2 * block)
        for module in (indexes, zone_maps):
            patch.setattr(module, "MAX_DISTURBED", block)
        patch.setattr(zone_maps, "_MAX_OPEN_PLACES", 1)
        patch.setattr(zone_maps, "_USES_PER_CHECK", 2)
        for module in (indexes, state):
            patch.setattr(module, "FLUSH_AT", flush_at)
            patch.setattr(module, "LINGER", 2 * flush_at)
        patch.setattr(ordering, "_CHUNK", max(1, block // 2))
        patch.setattr(ordering, "_SAMPLED", sampled)
        patch.setattr(finder, "_SORTABLE", sortable)
        patch.setattr(finder, "_SPARE", 1)
        patch.setattr(finder, "_SMALL_GROUP", 4 * block)
        patch.setattr(sorting, "_RUN", max(1, block // 2))
        patch.setattr(sorting, "_MERGED", 2)
        yield
