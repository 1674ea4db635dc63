"""When tokens were used last, written into their file in a thread, at most once a minute. Event loop only."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from ..errors import TaskmonError
from .token_file import TokenFile

logger = logging.getLogger(__name__)

WRITE_EVERY: Final = 60.0


class TokenUse:
    """Gathers uses of tokens and writes them; a file that cannot be written is logged once, and tried again."""

    def __init__(self, file: TokenFile, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._used: dict[str, datetime] = {}
        self._written = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def note(self, token_id: str) -> None:
        """Note that a token is used now."""
        self._used[token_id] = datetime.fromtimestamp(self._clock(), UTC).replace(microsecond=0)
        if self._task is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # without one, what was gathered is written at the end
                return
            self._task = loop.create_task(self._write_later())

    def close(self) -> None:
        """Write what is not written yet."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._used:
            self._write(self._used)

    async def _write_later(self) -> None:
        await asyncio.sleep(max(0.0, self._written + WRITE_EVERY - self._clock()))
        used, self._used, self._task = self._used, {}, None
        self._written = self._clock()
        await asyncio.to_thread(self._write, used)

    def _write(self, used: dict[str, datetime]) -> None:
        try:
            self._file.note_used(used)
        except (OSError, TaskmonError) as exc:
            if not self._failed:
                logger.warning("When tokens were used last cannot be written into their file: %s", exc)
            self._failed = True
        else:
            self._failed = False
