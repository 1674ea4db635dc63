"""Waiting for something to hold, with a deadline: no test sleeps for a fixed time.

The deadline is there so that a test ends that would never pass; it says nothing about how long something may take.
"""

import asyncio
import time
from collections.abc import Callable

from patience import PATIENCE

_STEP = 0.005


def wait_until(predicate: Callable[[], object], what: str = "", timeout: float = PATIENCE) -> None:
    """Poll until the predicate holds, in a test without a loop or in a thread; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or predicate}"
        time.sleep(_STEP)


async def eventually(predicate: Callable[[], object], what: str = "", timeout: float = PATIENCE) -> None:
    """Poll until the predicate holds while the loop goes on; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or predicate}"
        await asyncio.sleep(_STEP)


def quickest(attempt: Callable[[], float], bar: float, tries: int = 5) -> float:
    """Give the least of several durations, as soon as one is under the bar.

    A machine that stands still for a moment makes one of them long, and what really takes long makes all.
    """
    least = attempt()
    for _ in range(tries - 1):
        if least < bar:
            break
        least = min(least, attempt())
    return least
