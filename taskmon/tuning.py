"""What taskmon asks of the interpreter: its two threads responsive, its collector away from a million tasks."""

import gc
import sys
from typing import Final

from .monitor.state import State

_FREEZE_AFTER: Final = 250_000


def tune_interpreter() -> None:
    """Keep both threads responsive and the collector away from a million tasks that it need not look at.

    By default a busy thread keeps the interpreter for 5 ms at a time, which would be the latency of every request.
    Upkeep puts new lists of a thousand ids in the place of old ones. The next collection walks them all, though they
    do not bring it nearer: so the young are collected often, and the second generation every second time.
    """
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 1, 25_000)


class Freezer:
    """Takes what State has grown by out of the collector's sight: walking it would hold everything up.

    What is frozen while it lives and later becomes a cycle of garbage is never freed; that is a few requests.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._frozen_at = 0

    def __call__(self) -> None:
        """Freeze, if State has grown enough since the last time."""
        if self._state.task_events_total - self._frozen_at >= _FREEZE_AFTER:
            self._frozen_at = self._state.task_events_total
            gc.collect(1)
            gc.freeze()
