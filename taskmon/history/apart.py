"""The history in a file of SQLite that a process of its own writes: what that looks like from taskmon.

Reading happens here. In the writing thread, but for the readers.
"""

import logging
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from msgspec.structs import replace

from .columns import clean_row
from .databases import Away, Batch, Row
from .scribe import Answer, Index, Plan, Rows, Tidy, Write, pack, receive
from .sqlite import SqliteDatabase

log = logging.getLogger(__name__)

#: Rows in one message: while it is made, no other thread runs.
_SLICE: Final = 500

#: Seconds until an answer is no longer expected of a process that takes only what others leave of the processors.
_PATIENCE: Final = 0.5

#: Seconds that the process may take to end.
_ENDING: Final = 5.0

_read_answer: Final = msgspec.msgpack.Decoder(Answer).decode


class SqliteApart(SqliteDatabase):
    """A file with a process that writes to it, which `open` starts; what is too old or too many, that deletes too.

    At first it takes only the processor time that nobody else wants, so that nobody waits for it. Where that is too
    little, another takes its place that competes for more.

    A connection that could write stays open here as well: so SQLite leaves its log in place when the process ends.
    """

    def __init__(self, path: Path, max_age: float | None, max_tasks: int | None) -> None:
        super().__init__(path)
        self.deleted = 0
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

    def write(self, batch: Batch) -> int:
        frames, left_out = _pack_batch(batch)
        return left_out + self._ask(*frames).value

    def index_some(self, most: int) -> bool:
        return bool(self._ask(pack(Index(most))).value)

    def step(self) -> bool:
        """Delete some that are too old or too many, if it is time to; tell whether there are more."""
        answer = self._ask(pack(Tidy()))
        self.deleted += answer.deleted
        return bool(answer.value)

    def _start(self, idle: bool) -> None:
        """Start the process, which imports what this one would. It shares the lock: no other writes until it ends."""
        assert self._lock is not None
        self._idle, self._ready = idle, False
        plan = Plan(str(self._path.absolute()), self._inode, self._ahead, *self._bounds, idle)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "taskmon.history.scribe", msgspec.json.encode(plan).decode()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._lock.fileno(),),
        )

    def _ask(self, *frames: bytes) -> Answer:
        """Ask the process something; raises Away."""
        if self._process is None:
            raise Away("nobody writes it")
        self._wait_until_ready(self._process)
        limit = _PATIENCE if self._idle else None
        if not _tell(self._process, frames, limit):
            log.debug("The process that writes the history gets too little of the processors")
            self._process.kill()
            self._end()
            self._start(idle=False)
            self._wait_until_ready(self._process)
            _tell(self._process, frames, None)
        body = receive(_pipes(self._process)[1])
        if body is None:
            self._end()
            raise Away("the process that writes it has ended")
        answer = _read_answer(body)
        if answer.away is not None:
            raise Away(answer.away)
        if answer.failed is not None:
            raise RuntimeError(answer.failed)
        return answer

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for a process that has just been started, which says so first, or ends."""
        if not self._ready:
            receive(_pipes(process)[1])
            self._ready = True

    def _end(self) -> None:
        """Let the process do what it was asked to, and end."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in _pipes(process):
            with suppress(OSError):
                pipe.close()
        try:
            process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tell(process: "subprocess.Popen[bytes]", frames: Sequence[bytes], limit: float | None) -> bool:
    """Send messages and wait until there is an answer, or the end; tell whether there is, within so many seconds."""
    requests, answers = _pipes(process)
    with suppress(OSError):  # it has ended, as the answer will say
        for frame in frames:
            requests.write(frame)
        requests.flush()
    waiting = select.poll()
    waiting.register(answers, select.POLLIN)
    return bool(waiting.poll(None if limit is None else 1e3 * limit))


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _pack_batch(batch: Batch) -> tuple[list[bytes], int]:
    """Make the messages that have a batch written; tell how many tasks are left out, of which none can be made."""
    try:
        return _pack_rows(batch, batch.tasks), 0
    except (UnicodeError, OverflowError):
        pass
    rows = [row for row in map(clean_row, batch.tasks) if _has_message(row)]
    clean = replace(
        batch,
        workers=[clean_row(worker) for worker in batch.workers],
        gone=list(clean_row(tuple(batch.gone))),
        adopted=list(clean_row(tuple(batch.adopted))),
    )
    return _pack_rows(clean, rows), len(batch.tasks) - len(rows)


def _pack_rows(batch: Batch, rows: list[Row]) -> list[bytes]:
    frames = [pack(Rows(rows[start : start + _SLICE])) for start in range(0, len(rows), _SLICE)]
    return [*frames, pack(Write(replace(batch, tasks=[])))]


def _has_message(row: Row) -> bool:
    try:
        pack(Rows([row]))
    except (UnicodeError, OverflowError):
        return False
    return True
