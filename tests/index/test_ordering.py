"""An ordering holds what was put in, sorted, and drops only what is stale."""

from random import Random

import pytest
from factories import list_entries, small_blocks
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.index import ordering as ordering_module
from taskmon.monitor.index.blocks import BLOCK, Block, Entry, distinct, sort_entries, split
from taskmon.monitor.index.ordering import Ordering
from taskmon.monitor.index.store import TaskStore
from taskmon.records import Task

ENTRIES = st.tuples(st.integers(0, 12).map(float), st.sampled_from("abcdef"))


class Numbers(Ordering):
    """An ordering whose fresh entries are given."""

    def __init__(self) -> None:
        super().__init__(TaskStore())
        self.truth: set[Entry] = set()

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if entry in self.truth]

    def says(self, entry: Entry, task: Task) -> bool:
        raise AssertionError("there are no tasks")

    def put(self, entries: list[Entry]) -> None:
        """Add entries that are true."""
        self.truth.update(entries)
        self.extend(*split(entries))
        if len(self.recent_ids) >= ordering_module.SORT_AT:
            self.sort_recent()


def walk(ordering: Ordering, **bounds: object) -> list[Entry]:
    """Give all entries, repeated ones once: an ordering may leave out those, and need not."""
    return distinct([entry for entries in ordering.chunks(**bounds) for entry in entries])  # type: ignore[arg-type]


def check(ordering: Ordering) -> None:
    """Check what must always hold between the parts of an ordering."""
    blocks = ordering.blocks
    assert all(blocks), "an empty block is kept"
    assert ordering.lasts == [list(block)[-1] for block in blocks]
    assert ordering.filled == sum(map(len, blocks))
    flat = [entry for block in blocks for entry in block]
    assert flat == sorted(flat)
    assert len(ordering) == len(list_entries(ordering))


@given(st.lists(ENTRIES, max_size=40))
def test_keys_and_ids_apart_are_sorted_as_pairs_are(entries: list[Entry]) -> None:
    keys, ids = split(entries)
    assert list(zip(*sort_entries(keys, ids), strict=True)) == sorted(entries)
    assert (keys, ids) == split(entries), "what was given is changed"


@given(st.lists(st.lists(ENTRIES, max_size=12), max_size=12), st.sampled_from([2, 4, 1000]), st.randoms())
def test_everything_put_in_comes_out_in_order(batches: list[list[Entry]], block: int, random: Random) -> None:
    with small_blocks(block):
        ordering = Numbers()
        for batch in batches:
            ordering.put(batch)
            if random.random() < 0.3:
                assert walk(ordering) == sorted(set(list_entries(ordering)))
            check(ordering)
        expected = sorted({entry for batch in batches for entry in batch})
        assert walk(ordering) == expected
        assert walk(ordering, descending=True) == expected[::-1]
        check(ordering)


@given(
    st.lists(ENTRIES, max_size=60),
    st.none() | st.integers(-1, 13).map(float),
    st.none() | st.integers(-1, 13).map(float),
    st.sampled_from([2, 4, 1000]),
)
def test_bounds(entries: list[Entry], low: float | None, high: float | None, block: int) -> None:
    with small_blocks(block):
        ordering = Numbers()
        for entry in entries:
            ordering.put([entry])
        every = [e for e in entries if (low is None or e[0] >= low) and (high is None or e[0] <= high)]
        within = sorted(set(every))
        assert walk(ordering, low=low, high=high) == within
        assert walk(ordering, low=low, high=high, descending=True) == within[::-1]
        assert len(every) <= ordering.count(low, high) <= len(every) + 4 * block


@given(st.lists(ENTRIES, max_size=80), st.sets(ENTRIES), st.sampled_from([2, 4, 1000]), st.randoms())
def test_sweeping_drops_stale_entries_and_nothing_else(
    entries: list[Entry], stale: set[Entry], block: int, random: Random
) -> None:
    with small_blocks(block, sampled=1):
        ordering = Numbers()
        for entry in entries:
            ordering.put([entry])
        ordering.truth -= stale
        late: list[Entry] = []
        for _ in ordering.sweep():
            check(ordering)
            if random.random() < 0.3:  # entries that come while a sweep goes on
                late.append((random.choice([0.0, 5.0, 20.0]), "late"))
                ordering.put(late[-1:])
        check(ordering)
        kept = [e for e in entries if e not in stale]
        assert set(kept) | set(late) <= set(walk(ordering))
        if not late:
            assert distinct(walk(ordering)) == sorted(set(kept))


def test_a_sweep_drops_empty_blocks_and_joins_small_ones() -> None:
    with small_blocks(4, sampled=1):
        ordering = Numbers()
        ordering.put([(float(number), "a") for number in range(64)])
        assert len(ordering.blocks) == 16
        ordering.truth = {(float(number), "a") for number in range(64) if number % 4 == 1}
        looked = sum(ordering.sweep())
        assert looked == 64
        assert len(ordering) == 16
        assert len(ordering.blocks) == 4
        check(ordering)
        ordering.truth.clear()
        list(ordering.sweep())
        assert (len(ordering), ordering.blocks, ordering.lasts) == (0, [], [])
        ordering.put([(1.0, "a")])
        assert walk(ordering) == [(1.0, "a")]


def test_a_sweep_looks_at_a_sample_of_a_block_that_is_fresh() -> None:
    ordering = Numbers()
    ordering.put([(float(number), "a") for number in range(10 * BLOCK)])
    assert sum(ordering.sweep()) <= len(ordering) // 8  # as a sample is dear


def test_a_sweep_is_wanted_when_half_may_be_stale() -> None:
    ordering = Numbers()
    entries = [(float(number), "a") for number in range(4 * BLOCK)]
    ordering.put(entries[:BLOCK])
    ordering.tasks.outdated = BLOCK
    assert not ordering.wants_sweep
    ordering.put(entries[BLOCK:])
    assert not ordering.wants_sweep  # most of them are fresh for certain
    ordering.tasks.outdated += 1
    assert ordering.wants_sweep
    ordering.is_due = True
    assert not ordering.wants_sweep  # somebody is going to
    ordering.is_due = False
    list(ordering.sweep())
    ordering.put([(number + 0.5, "b") for number, _ in entries + entries])
    assert not ordering.wants_sweep


def test_what_is_remembered_of_a_block_is_forgotten_when_it_changes() -> None:
    with small_blocks(4):
        ordering = Numbers()
        ordering.put([(float(number), "a") for number in range(16)])
        for number in (0.5, 6.5, 20.0):
            for block in ordering.blocks:
                block.zone_map = "known"
            before = {id(block): len(block) for block in ordering.blocks}
            ordering.extend([number], ["b"])
            ordering.sort_recent()
            changed = [block for block in ordering.blocks if before.get(id(block)) != len(block)]
            assert [block.zone_map for block in changed] == [None] * len(changed)
            assert changed


def test_only_what_is_picked_of_a_block_is_given() -> None:
    with small_blocks(4):
        ordering = Numbers()
        ordering.put([(float(number), "a") for number in range(12)])
        ordering.sort_recent()
        second = ordering.blocks[1]

        def pick(block: Block) -> list[Entry]:
            return block.cut(1, 3) if block is second else block.cut()

        picked = [int(key) for key, _ in walk(ordering, pick=pick, descending=True)]
        assert picked == [11, 10, 9, 8, 6, 5, 3, 2, 1, 0]


def test_adding_while_somebody_reads_never_raises() -> None:
    with small_blocks(4, sampled=1):
        ordering = Numbers()
        ordering.put([(float(number), "a") for number in range(32)])
        read = []
        for entries in ordering.chunks():
            read += entries
            ordering.put([(number + 0.5, "b") for number in range(0, 32, 5)])
            ordering.truth -= set(read[::2])
            list(ordering.sweep())
        assert [entry for entry in read if entry[1] == "a"] == [(float(number), "a") for number in range(32)]


@pytest.mark.parametrize("entries", [[], [(1.0, "a")], [(1.0, "a"), (1.0, "a"), (1.0, "b"), (2.0, "a"), (2.0, "a")]])
def test_distinct(entries: list[Entry]) -> None:
    assert distinct(entries) == sorted(set(entries))
