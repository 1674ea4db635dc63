"""Source: a chunk of one index, as a question goes through it."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from ..query import TaskQuery
from .blocks import Block, Entry
from .facets import Group
from .ordering import Ordering
from .orders import Known

Pick = Callable[[Block], list[Entry]]


class Source(Struct, frozen=True):
    """A chunk of an ordering: entries with `low <= key <= high`, and one way to go through them."""

    ordering: Ordering
    descending: bool = False
    low: float | None = None
    high: float | None = None

    def chunks(self, pick: Pick | None) -> Iterator[list[Entry]]:
        """Yield the entries that are picked in order, a chunk at a time."""
        return self.ordering.chunks(descending=self.descending, low=self.low, high=self.high, pick=pick)

    def count(self) -> int:
        """Count the entries, about; stale ones included."""
        if self.low is None and self.high is None:
            return len(self.ordering)
        return self.ordering.count(self.low, self.high)

    def is_ordered(self, query: TaskQuery) -> bool:
        """Tell whether the entries already stand in the order that a query asks for."""
        ordering = self.ordering
        if isinstance(ordering, Group):
            return is_by_time(query) or getattr(query, query.sort_by or "", None) == ordering.value
        return isinstance(ordering, Known) and ordering.field == query.sort_by

    def in_order(self, query: TaskQuery) -> "Source":
        """Give the way through an ordered source that a query asks for: equal tasks are newest first."""
        by_facet = isinstance(self.ordering, Group) and query.sort_by != "timestamp"
        return Source(self.ordering, by_facet or query.descending, self.low, self.high)


def is_by_time(query: TaskQuery) -> bool:
    """Tell whether a query asks for the order of time."""
    return query.sort_by in (None, "timestamp")
