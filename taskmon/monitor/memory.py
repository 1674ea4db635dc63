"""How much memory there is for taskmon, how much it has, and how much of it tasks may take. Pure, but for the clock.

What a task takes can only be estimated, what the process has is known: `MemoryBudget` corrects the one by the other.
"""

import ctypes
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Final

#: The share of the machine's or the control group's memory that is taken by default, and the least that is.
DEFAULT_SHARE: Final = 0.5
MIN_LIMIT: Final = 128 << 20

#: Shares of the limit: from the first on tasks are evicted, below the second there is no bound to what they take.
_EVICT_FROM: Final = 0.92
_UNBOUNDED_BELOW: Final = 0.8

#: By how much the process must have grown, as a share of the limit, until tasks have to give way once more: memory
#: that is free may stay with the process.
_GROWTH: Final = 0.005

#: Seconds between two looks at what the process has.
_CHECK_INTERVAL: Final = 0.01

#: Seconds between two calls that give free memory back to the system.
_TRIM_EVERY: Final = 0.5

#: A limit in a file of a control group; `max`, or a number near 2**63, is none.
_NUMBER: Final = re.compile(r"\d{1,18}\s*")


class MemoryBudget:
    """How many bytes tasks may take, so that the process stays within `limit` bytes.

    While the process is small there is no bound. Once it has nearly reached the limit, tasks may take what they take
    at that moment, and less whenever the process grows all the same.
    """

    def __init__(
        self,
        limit: int,
        read_size: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.room = inf
        self._read_size = read_size or _ProcessSize().read
        self._clock = clock
        self._next = 0.0
        self._next_trim = 0.0
        self._grown = 0.0  # a size that is larger than this is one that has grown

    @property
    def is_tight(self) -> bool:
        """Whether the process has nearly reached its limit."""
        return self.room is not inf

    def check(self, held: int) -> None:
        """Look at the size of the process, at most every 10 ms.

        `held` is what tasks take; it may be too much or too little by any number of bytes, always the same.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _CHECK_INTERVAL
        size = self._read_size()
        full = _EVICT_FROM * self.limit
        if size > full and now >= self._next_trim:
            self._next_trim = now + _TRIM_EVERY
            release_free_memory()
            size = self._read_size()
        if size > full and size > self._grown:
            self._grown = size + _GROWTH * self.limit
            self.room = min(self.room, held) - (size - full)
        elif size < _UNBOUNDED_BELOW * self.limit:
            self.room = inf
            self._grown = 0.0


class _ProcessSize:
    """The resident size of this process, as Linux says; elsewhere the largest that it has had."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._file = -1
        with suppress(OSError):
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        """Return the bytes in memory."""
        if self._file < 0:
            largest = getrusage(RUSAGE_SELF).ru_maxrss
            return largest if sys.platform == "darwin" else largest << 10
        return int(os.pread(self._file, 128, 0).split()[1]) * self._page

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def _find_trim() -> Callable[[int], int] | None:
    """Return what glibc has to give free memory back, None with another library."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim


_trim: Final = _find_trim()


def release_free_memory() -> None:
    """Give memory that was freed back to the system: else it stays with the process, in pieces."""
    if _trim is not None:
        _trim(0)


def default_limit(root: Path = Path("/")) -> int:
    """Return the share of the memory that there is for this process: the machine's, or its control group's."""
    return max(MIN_LIMIT, int(DEFAULT_SHARE * memory_of_machine(root)))


def memory_of_machine(root: Path = Path("/")) -> int:
    """Return how many bytes the machine has, or the control group of this process where that has less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits_of_groups(root)])


def _limits_of_groups(root: Path) -> list[int]:
    """List the limits of the control groups of this process, of version 1 and 2, those of their parents too."""
    found = []
    for path in _directories(root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError):
                text = (path / name).read_text()
                if _NUMBER.fullmatch(text):
                    found.append(int(text))
    return found


def _directories(root: Path) -> list[Path]:
    """List where limits may be; in a container the group of the process is the root of what it sees."""
    mounted = root / "sys/fs/cgroup"
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    found = [mounted, mounted / "memory"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" or "memory" in controllers.split(","):
            base = mounted if number == "0" else mounted / "memory"
            path = Path(group.lstrip("/"))
            found += [base / part for part in (path, *path.parents)]
    return found
