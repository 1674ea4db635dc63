"""Answer a TaskQuery from the indexes, at about the cost of the page that is asked for. Event loop only.

A question with one filter or one order scans the index made for it. With more, there are two ways: to scan the
order and pass over what the filters refuse, or to collect what the rarest filter lets through and sort that. The
first is tried for as long as it promises to be cheaper. A search is tried in the same way, and then put to all tasks
in the order of their memory. Either way the answer comes in batches, so that a caller can let others run in between.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from ...records import Task
from ..query import TaskQuery, make_filter
from ..task_fields import GROUPED, ZONE_MAPPED_VALUES
from .batch_filter import BatchFilter
from .blocks import BLOCK, Entry, distinct
from .bucket_columns import Value
from .facets import Group
from .indexes import Indexes, Snapshot
from .ordering import Ordering
from .orders import Known, Missing
from .prefilter import make_prefilter
from .sorting import in_order, nulls_first
from .sources import Pick, Source, is_by_time
from .store import TaskStore
from .zone_maps import Asked

Batch = tuple[int, list[Task]]

#: A scan is given up for a sort only after so many entries, and no more tasks than that are ever sorted at once.
_SORTABLE: Final = 20_000

#: So many more tasks than twice a page are collected before the worst of them are dropped.
_SPARE: Final = 1000

#: Of a group of so many entries the zone maps are soon made.
_SMALL_GROUP: Final = 32 * BLOCK

#: So many blocks in which nothing can match are passed over before others may run.
_PASSED: Final = 16

#: A search is put to all tasks at once only after so many entries of the order that was asked for.
_TRIED: Final = 4_000

#: To go through tasks in the order of their memory takes this part of the time that a scan by an index takes.
_SEGMENT_SCAN_COST: Final = 3

#: A search scans on only where it promises to take this part of the time that a scan takes.
_MIN_GAIN: Final = 2


class Finder:
    """Finds tasks through their indexes."""

    def __init__(self, indexes: Indexes, tasks: TaskStore) -> None:
        self._indexes = indexes
        self._tasks = tasks

    def find(self, query: TaskQuery) -> Iterator[Task | None]:
        """Yield the tasks that a query asks for, in order; None between two chunks of work."""
        while self._indexes.flush_some():
            yield None
        skip = query.offset
        left = query.limit
        for _, tasks in self._batches(query):
            if skip:
                tasks, skip = tasks[skip:], max(0, skip - len(tasks))
            if left is not None:
                tasks = tasks[:left]
                left -= len(tasks)
            yield from tasks
            if left == 0:
                return
            yield None

    def _batches(self, query: TaskQuery) -> Iterator[Batch]:
        prefilter = (
            None if query.search is None else make_prefilter(query.search, self._values, self._tasks.plain_ids)
        )
        matcher = BatchFilter(make_filter(query), prefilter, is_slow=query.search is not None)
        if matcher.is_vain:
            return iter(())
        narrow = self._narrowest(query, matcher)
        if prefilter is not None and (narrow is None or _SEGMENT_SCAN_COST * narrow.count() > len(self._tasks)):
            return self._scan_index_or_segments(self._ordered(narrow, query), matcher, query)
        if narrow is None or narrow.is_ordered(query):
            return self._scan_index(self._ordered(narrow, query), matcher, query)
        return self._scan_or_collect(narrow, matcher, query)

    def _ordered(self, narrow: Source | None, query: TaskQuery) -> list[Source]:
        """Give the sources to scan in the order asked for: only the narrow one where that has this order."""
        if narrow is None or not narrow.is_ordered(query):
            return self._order(query)
        return [narrow.in_order(query)]

    def _values(self, field: str) -> Collection[Value]:
        return self._indexes.facets[field].groups.keys()

    def _scan_index_or_segments(
        self, sources: Sequence[Source], matcher: BatchFilter, query: TaskQuery
    ) -> Iterator[Batch]:
        """Scan the index while the page promises to be full soon, then the segments, unless so much matches."""
        needed = None if query.limit is None else query.offset + query.limit
        if needed is not None and needed <= _SORTABLE:
            found: list[Task] = []
            looked = 0
            for cost, tasks in self._scan_index(sources, matcher, query):
                found += tasks
                looked += cost
                if len(found) >= needed:
                    yield cost, found
                    return
                if looked > _TRIED and _MIN_GAIN * needed * looked * _SEGMENT_SCAN_COST > len(found) * len(
                    self._tasks
                ):
                    break
                yield cost, []
            else:
                yield 0, found
                return
        scan = self._scan_segments(matcher)
        if needed is None or needed > _SORTABLE // 2:
            all_found: list[Task] = []
            for _, tasks in scan:
                all_found += tasks
                if len(all_found) > _SORTABLE:
                    yield from self._scan_index(sources, matcher, query)
                    return
                yield 0, []
            scan = iter([(0, all_found)])
        yield from self._first(scan, query)

    def _scan_segments(self, matcher: BatchFilter) -> Iterator[Batch]:
        """Yield the matching tasks of all that are held, in the order of their memory."""
        get = self._tasks.get
        for segment in list(self._tasks.segments):
            for tasks in matcher.through(segment):
                yield 0, [task for task in tasks if get(task.uuid) is task]

    def _scan_or_collect(self, narrow: Source, matcher: BatchFilter, query: TaskQuery) -> Iterator[Batch]:
        """Go the way that looks at fewer tasks; turn back once a scan has cost more than collecting would."""
        candidates = narrow.count()
        if query.limit is None:
            if candidates > _SORTABLE:
                yield from self._scan_index(self._order(query), matcher, query)
                return
        elif candidates > _SORTABLE or self._promises(candidates, query):
            needed = query.offset + query.limit
            found: list[Task] = []
            looked = 0
            for cost, tasks in self._scan_index(self._order(query), matcher, query):
                found += tasks
                looked += cost
                if len(found) >= needed:
                    yield cost, found
                    return
                if looked > candidates:
                    break
                yield cost, []
            else:
                yield 0, found
                return
        yield from self._collect(narrow, matcher, query)

    def _promises(self, candidates: int, query: TaskQuery) -> bool:
        """Tell whether a scan may find a page before it has looked at as many entries as there are candidates.

        By a time it passes over whole blocks, so that only few candidates are collected at once.
        """
        if is_by_time(query) or query.sort_by in self._indexes.known:
            return candidates > 2 * BLOCK
        page = query.offset + (query.limit or 0)
        return page * len(self._indexes.by_time) < candidates**2

    def _collect(self, narrow: Source, matcher: BatchFilter, query: TaskQuery) -> Iterator[Batch]:
        """Collect the tasks of one source and sort them."""
        return self._first(self._scan_index([narrow], matcher, query), query)

    def _first(self, batches: Iterator[Batch], query: TaskQuery) -> Iterator[Batch]:
        """Sort the tasks of some batches, keeping no more than the page needs."""
        needed = None if query.limit is None else query.offset + query.limit
        best: list[Task] = []
        for cost, tasks in batches:
            best += tasks
            if needed is not None and len(best) > 2 * needed + _SPARE:
                kept: list[Task] = []
                for some in in_order(best, query):
                    kept += some
                    if len(kept) >= needed:
                        break
                    yield 0, []
                best = kept[:needed]
            yield cost, []
        for some in in_order(best, query):
            yield 0, some

    def _scan_index(self, sources: Sequence[Source], matcher: BatchFilter, query: TaskQuery) -> Iterator[Batch]:
        """Yield the matching tasks of all sources in turn, with the number of entries looked at.

        A scan may last, and tasks change meanwhile: each is found where it stood when the scan began, and once. One
        that moves between two sources may be missed.
        """
        before: Snapshot = {}
        zone_maps = self._indexes.zone_maps
        while self._indexes.flush_some():
            yield 0, []
        self._indexes.scans[id(before)] = before
        try:
            for source in sources:
                last: Entry | None = None
                passed = 0
                for entries in source.chunks(self._pick(source, query)):
                    if not entries:
                        passed += 1 + zone_maps.spent()
                        if passed > _PASSED:
                            yield passed, []
                            passed = 0
                        continue
                    standing = _standing(source.ordering, entries, before)
                    ids = [entry[1] for entry in standing if entry != last]
                    last = standing[-1] if standing else last
                    cost, passed = 1 + passed + len(entries) + zone_maps.spent(), 0
                    for tasks in matcher.through(self._held(ids)):
                        yield cost, tasks
                        cost = 0
                    if cost:
                        yield cost, []
        finally:
            del self._indexes.scans[id(before)]

    def _pick(self, source: Source, query: TaskQuery) -> Pick | None:
        """Give what picks the entries that may match out of a block, None where nothing can."""
        ordering = source.ordering
        own = ordering.field if isinstance(ordering, Group) else None
        ranges = query.ranges
        values = [pair for pair in query.values if pair[0] in ZONE_MAPPED_VALUES and pair[0] != own]
        if not ranges and not values:
            return None
        within, lasting = self._indexes.zone_maps.within, isinstance(ordering, Known | Missing)
        asked = Asked(ranges, values, make_filter(query, with_search=False))
        return lambda block: within(block, asked, lasting)

    def _held(self, ids: Sequence[str]) -> list[Task]:
        get = self._tasks.get
        return [task for task_id in ids if (task := get(task_id)) is not None]

    def _order(self, query: TaskQuery) -> list[Source]:
        """Give the sources that hold every task, in the order asked for."""
        field, descending = query.sort_by or "timestamp", query.descending
        ranges, span = query.ranges, self._indexes.zone_maps.span
        if is_by_time(query):
            return [Source(self._by_time(query), descending or query.sort_by is None, *span(ranges))]
        if field in self._indexes.known:
            known, missing = self._indexes.known[field], self._indexes.missing[field]
            if field in ranges:  # a task without the time is no match
                return [Source(known, descending, *ranges[field])]
            both = [Source(missing, descending), Source(known, descending, *span(ranges, field))]
            return both[::-1] if descending else both
        groups = self._indexes.facets[field].groups
        values = sorted(groups, key=nulls_first, reverse=descending)
        return [Source(groups[value], True, *span(ranges)) for value in values]

    def _by_time(self, query: TaskQuery) -> Ordering:
        """Give the smallest ordering by `timestamp` that holds all matches.

        A large group is of no use where there is more to ask for than its own value: idle moments make zone maps only
        of the orderings of all tasks.
        """
        groups = (self._group(field, value) for field, value in _groups(query))
        smallest = min(groups, key=len, default=self._indexes.by_time)
        more = len(query.values) > 1 or query.ranges
        return self._indexes.by_time if more and len(smallest) > _SMALL_GROUP else smallest

    def _narrowest(self, query: TaskQuery, matcher: BatchFilter) -> Source | None:
        """Give the smallest source that holds all matches, None when no filter has an index."""
        sources = [Source(self._group(field, value)) for field, value in (*_groups(query), *matcher.groups)]
        sources += [
            Source(self._indexes.known[field], low=low, high=high) for field, (low, high) in query.ranges.items()
        ]
        if query.orphaned:
            sources.append(Source(self._indexes.orphaned))
        return min(sources, key=Source.count, default=None)

    def _group(self, field: str, value: str) -> Ordering:
        """Give the group of a value; a task that is its own only root has none until now."""
        facet = self._indexes.facets[field]
        return facet.groups.get(value) or facet.new_group(value)


def _standing(ordering: Ordering, entries: list[Entry], before: Snapshot) -> list[Entry]:
    """Keep the entries that said the truth when the scan began, each once: equal ones stand side by side."""
    fresh = ordering.fresh(entries)
    if before and not before.keys().isdisjoint([entry[1] for entry in entries]):
        kept = set(fresh)
        fresh = [entry for entry in entries if _stood(ordering, entry, before, entry in kept)]
    return distinct(fresh)


def _stood(ordering: Ordering, entry: Entry, before: Snapshot, is_fresh: bool) -> bool:
    if entry[1] not in before:
        return is_fresh
    was = before[entry[1]]
    return was is not None and ordering.says(entry, was)


def _groups(query: TaskQuery) -> list[tuple[str, str]]:
    """List the filters that are set and have a group for each value."""
    return [pair for pair in query.values if pair[0] in GROUPED]
