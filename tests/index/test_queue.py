"""A queue gives ids as a simple list would, and remembers no more of them than there were at a time."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmon.monitor.index.queue import Queue


@given(st.integers(0, 2**32), st.sampled_from([3, 8]))
def test_ids_come_as_a_simple_list_would_give_them(seed: int, ids: int) -> None:
    random = Random(seed)
    queue, plain = Queue(), list[str]()
    for _ in range(120):
        key = random.choice("abcdefgh"[:ids])
        what = random.choice(["add", "add", "move", "remove", "pop"])
        if key not in plain and what == "add":
            queue.add(key)
            plain.append(key)
        elif key in plain and what == "move":
            queue.move_to_end(key)
            plain.remove(key)
            plain.append(key)
        elif key in plain and what == "remove":
            queue.remove(key)
            plain.remove(key)
        elif plain and what == "pop":
            assert queue.pop() == plain.pop(0)
        assert len(queue._line) <= ids
        assert queue._left <= set(queue._line)
    assert [queue.pop() for _ in plain] == plain
    with pytest.raises(IndexError):
        queue.pop()
