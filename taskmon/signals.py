"""What the process does on each signal, from the start of a command to its end. For the main thread.

SIGINT, SIGTERM, SIGQUIT and what announces an end stop it; a second one ends it at once. SIGHUP reloads, and stops it
where the terminal that it was started from is gone. SIGUSR1 dumps threads and tasks to the log. Others that would end
a process without a word are ignored.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final

log = logging.getLogger(__name__)

MAX_TASKS_DUMPED: Final = 200
MAX_FRAMES_DUMPED: Final = 60


def _existing(*names: str) -> frozenset[int]:
    return frozenset(getattr(signal, name) for name in names if hasattr(signal, name))


STOPPING: Final = _existing("SIGINT", "SIGTERM", "SIGQUIT", "SIGXCPU", "SIGPWR")
RELOADING: Final = _existing("SIGHUP")
DUMPING: Final = _existing("SIGUSR1")
#: All that would end the process otherwise, but for what the system sends for a fault of the program itself.
IGNORED: Final = _existing("SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGSTKFLT") | frozenset(
    number for number in signal.valid_signals() if number >= getattr(signal, "SIGRTMIN", 1 << 16)
)


class StopRequested(BaseException):
    """A signal asks to stop before there is a loop to tell."""


class Signals:
    """Handles signals while it is entered; as before, after.

    Without `stop` a signal that stops raises StopRequested where the program is. `last_act` is called before the
    second one ends the process.
    """

    def __init__(
        self,
        stop: Callable[[], object] | None = None,
        reload: Callable[[], object] | None = None,
        last_act: Callable[[], object] = lambda: None,
    ) -> None:
        self._stop, self._reload, self._last_act = stop, reload, last_act
        self._loop = asyncio.get_running_loop() if stop is not None else None
        self._stopping = False
        self._has_terminal = _terminal_answers()
        self._dumping: threading.Thread | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in STOPPING | RELOADING | DUMPING:
            self._handle(number)
        for number in IGNORED:
            if signal.getsignal(number) == signal.SIG_DFL:  # another's handler stays, as that of a test's time limit
                self._handle(number)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int) -> None:
        self._before[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in DUMPING:
            self._dump()
        elif number in STOPPING or (number in RELOADING and self._has_terminal and not _terminal_answers()):
            self._on_stop(number)
        elif number in RELOADING and self._reload is not None and not self._stopping:
            self._on_loop(self._reload)
        # Nothing is logged of the others: who sends many would fill the log.

    def _on_stop(self, number: int) -> None:
        if self._stopping:
            self._last_act()
            os._exit(128 + number)
        self._stopping = True
        if self._stop is None:
            raise StopRequested(signal.Signals(number).name)
        self._on_loop(self._say_and_stop, number)

    def _say_and_stop(self, number: int) -> None:
        log.info("Stopping on %s", signal.Signals(number).name)
        assert self._stop is not None
        self._stop()

    def _on_loop(self, callback: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *args)

    def _dump(self) -> None:
        """Dump from a thread of its own: this one may hold a lock of the log."""
        if self._dumping is None or not self._dumping.is_alive():
            self._dumping = threading.Thread(target=dump, args=(self._loop,), name="taskmon-dump", daemon=True)
            self._dumping.start()


def dump(loop: asyncio.AbstractEventLoop | None) -> None:
    """Log where each thread is, and each task of the loop, whatever the level of the log; no values are shown."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    for ident, frame in sys._current_frames().items():
        if ident != own:
            stack = traceback.format_stack(frame, limit=-MAX_FRAMES_DUMPED)
            _write(f"Thread {names.get(ident, ident)}", stack)
    if loop is None:
        return
    tasks = list(asyncio.all_tasks(loop))
    for task in tasks[:MAX_TASKS_DUMPED]:
        with suppress(RuntimeError, ValueError):  # it goes on meanwhile
            frames = task.get_stack(limit=MAX_FRAMES_DUMPED)
            stack = [line for frame in frames for line in traceback.format_stack(frame, limit=1)]
            _write(f"Task {task.get_name()} {getattr(task.get_coro(), '__qualname__', '')}".rstrip(), stack)
    if len(tasks) > MAX_TASKS_DUMPED:
        _write(f"{len(tasks) - MAX_TASKS_DUMPED} more tasks", [])


def _write(title: str, stack: list[str]) -> None:
    text = "\n".join([title, *(line.rstrip() for line in stack)])
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, "%s", (text,), None))


def _terminal_answers() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) >= 0
    except OSError:
        return False
