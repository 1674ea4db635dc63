"""What is done again and again while taskmon runs."""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


async def repeat(seconds: float, function: Callable[[], object]) -> None:
    """Call a function every so many seconds; an exception is logged and ends nothing."""
    while True:
        await asyncio.sleep(seconds)
        try:
            function()
        except Exception:
            log.exception("Upkeep failed")
