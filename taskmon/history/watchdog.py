"""A call to the database that does not come back: after a while that is said, and at last the connection is cut.

A server ends by itself what takes long. But a network that has stalled says nothing, and its other end may still
confirm what arrives: then no limit of the system's ends the wait.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from ..cluster.blocking_pool import BlockingPool

T = TypeVar("T")

#: Seconds after which the database counts as away, and after which nothing is hoped for any more: longer than a
#: server lets a statement take.
WARN_AFTER: Final = 10.0
CUT_AFTER: Final = 45.0

_FOREVER: Final = 86_400.0


async def call_patiently(
    lane: BlockingPool, function: Callable[[], T], say: Callable[[], None], cut: Callable[[], None]
) -> T:
    """Make a call in a thread; `say` when it is slow, and `cut` it off when it hangs."""
    call = asyncio.ensure_future(lane.call(function, _FOREVER))
    try:
        for seconds, act in ((WARN_AFTER, say), (CUT_AFTER - WARN_AFTER, cut)):
            await asyncio.wait({call}, timeout=seconds)
            if call.done():
                break
            act()
        return await call
    finally:
        call.cancel()
