"""The history in a file of SQLite that a process of its own writes: what that looks like from taskmon.

Reading happens here. In the writing thread, but for the readers.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from .batches import Batch, Written
from .driver_errors import Away
from .messages import Answer, Index, Tidy, pack, pack_batch, read_answer, receive
from .sqlite import SqliteDatabase
from .writer_process import SIGNALS, Plan

log = logging.getLogger(__name__)

#: Seconds in which a process that takes only what others leave of the processors has to read and answer a request.
_IDLE_PRIORITY_TIMEOUT: Final = 1.0

#: Seconds that the process may take to end.
_EXIT_TIMEOUT: Final = 5.0


class SqliteApart(SqliteDatabase):
    """A file with a process that writes to it, which `open` starts; what is too old or too many, that deletes too.

    At first it takes only the processor time that nobody else wants, so that nobody waits for it. Where that is too
    little, another takes its place that competes for more.

    A connection that could write stays open here as well: so SQLite leaves its log in place when the process ends.
    """

    def __init__(
        self, path: Path, max_age: float | None, max_tasks: int | None, name: str = "", others: Sequence[str] = ()
    ) -> None:
        super().__init__(path, name, others)
        self.deleted = 0
        self.due = False
        self._bounds = max_age, max_tasks
        self._process: subprocess.Popen[bytes] | None = None
        self._idle = self._ready = False

    def open(self) -> bool:
        self._end()
        created = super().open()
        self._start(idle=True)
        return created

    def close(self) -> None:
        self._end()
        super().close()

    def write(self, batch: Batch) -> Written:
        frames, written = pack_batch(batch)
        written.add(self._ask(*frames).written or Written())
        return written

    def index_some(self, most: int) -> bool:
        return self._ask(pack(Index(most))).more

    def step(self) -> bool:
        """Delete some that are too old or too many, if it is time to; return whether there are more."""
        return self._ask(pack(Tidy())).more

    def note(self, inserted: int) -> None:
        """Nothing is to be noted here: the process counts what it writes."""

    def _start(self, idle: bool) -> None:
        """Start the process, which imports what this one would. It shares the lock: no other writes until it ends."""
        assert self._lock is not None
        self._idle, self._ready = idle, False
        plan = Plan(
            *(str(self._path.absolute()), self.cluster, self.alone, self._inode, self._ahead),
            *(*self._bounds, idle),
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the process has them wait until it ignores them
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "taskmon.history.writer_process", msgspec.json.encode(plan).decode()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._lock.fileno(),),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.set_blocking(_pipes(self._process)[0].fileno(), False)

    def _ask(self, *frames: bytes) -> Answer:
        """Ask the process something; raises Away."""
        if self._process is None:
            raise Away("nobody writes it")
        if not self._tell(frames):
            log.debug("The process that writes the history gets too little of the processors")
            self._process.kill()
            self._end()
            self._start(idle=False)
            self._tell(frames)
        body = receive(_pipes(self._process)[1])
        if body is None:
            self._end()
            raise Away("the process that writes it has ended")
        answer = read_answer(body)
        self.due = answer.due
        self.deleted += answer.deleted
        if answer.away is not None:
            raise Away(answer.away)
        if answer.failed is not None:
            raise RuntimeError(answer.failed)
        return answer

    def _tell(self, frames: Sequence[bytes]) -> bool:
        """Send messages to the process and wait for its answer, or its end; tell whether either has come in time.

        It has as long as it takes to begin, and to answer where it is as urgent as it can be.
        """
        assert self._process is not None
        requests, answers = _pipes(self._process)
        if not self._ready:
            receive(answers)
            self._ready = True
        deadline = time.monotonic() + _IDLE_PRIORITY_TIMEOUT if self._idle else inf
        with suppress(OSError):  # it has ended, as the answer will say
            for frame in frames:
                left = memoryview(frame)
                while left:
                    if not _is_ready(requests, select.POLLOUT, deadline):
                        return False
                    left = left[os.write(requests.fileno(), left) :]
        return _is_ready(answers, select.POLLIN, deadline)

    def _end(self) -> None:
        """Let the process do what it was asked to, and end."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in _pipes(process):
            with suppress(OSError):
                pipe.close()
        try:
            process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(pipe: IO[bytes], for_what: int, deadline: float) -> bool:
    """Wait until a pipe can be read or written, or its other end is closed; tell whether that came in time."""
    waiting = select.poll()
    waiting.register(pipe, for_what)
    return bool(waiting.poll(None if deadline == inf else max(0.0, 1e3 * (deadline - time.monotonic()))))


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
