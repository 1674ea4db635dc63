"""Waiting for something to hold, with a deadline: no test sleeps for a fixed time.

The deadline is there so that a test ends that would never pass; it says nothing about how long something may take.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from patience import PATIENCE

T = TypeVar("T")

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


async def given_time(attempt: Callable[[float], Awaitable[T]], holds: Callable[[T], object]) -> T:
    """Try with a short time limit, then with ever longer ones, until it holds; give what came of the last one.

    For a limit that is always reached, since somebody is silent, while others have to be heard before it.
    """
    for seconds in (0.25, 1.0, 4.0, 16.0, 64.0):
        found = await attempt(seconds)
        if holds(found):
            break
    return found


@contextmanager
def timing() -> Iterator[Callable[[], float]]:
    """Give what tells how many seconds have passed, but for those in which the machine woke nobody.

    A thread that only sleeps tells how late it was woken. For what another process does: this one must be idle.
    """
    began, late, over = time.monotonic(), 0.0, threading.Event()

    def sleep() -> None:
        nonlocal late
        while not over.is_set():
            before = time.monotonic()
            over.wait(0.01)
            late += max(0.0, time.monotonic() - before - 0.02)

    thread = threading.Thread(target=sleep)
    thread.start()
    try:
        yield lambda: time.monotonic() - began - late
    finally:
        over.set()
        thread.join()


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
