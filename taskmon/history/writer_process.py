"""The process that writes a history in a file: `python -m taskmon.history.writer_process`, which taskmon starts.

SQLite's driver takes Python's lock before and after each statement. In taskmon's own process the event loop would
wait for that, over and over, while a lot is written. Requests come by the standard input, answers leave by the
standard output. The process ends with its input: so with taskmon, however that ends.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from .batches import Row
from .driver_errors import Away
from .messages import Answer, Index, Rows, Tidy, Write, pack, read_request, receive
from .retention import Retention
from .sqlite import Inode, SqliteDatabase

#: It is less urgent than to answer requests, also where it is not to take only what others leave.
_NICE: Final = 5


#: As <sys/prctl.h> has it.
_SET_PARENT_DEATH_SIGNAL: Final = 1


class Plan(Struct):
    """What the process is to do: write to the file at `path`, as long as that is the one that taskmon has opened.

    An `idle` one takes only the processor time that nobody else wants.
    """

    path: str
    cluster: str
    alone: bool
    inode: Inode | None
    ahead: Inode | None
    max_age: float | None
    max_tasks: int | None
    idle: bool


class Scribe:
    """Does what is asked of it, one thing after the other."""

    def __init__(self, plan: Plan) -> None:
        self._database = SqliteDatabase(Path(plan.path))
        self._database.expect(plan.inode, plan.ahead)
        self._database.cluster, self._database.alone = plan.cluster, plan.alone
        self._upkeep = Retention(self._database, plan.max_age, plan.max_tasks)
        self._rows: list[Row] = []

    def serve(self, requests: BinaryIO, answers: BinaryIO) -> None:
        """Answer until there are no more requests, or nobody to answer to."""
        with suppress(BrokenPipeError):
            while (body := receive(requests)) is not None:
                request = read_request(body)
                if isinstance(request, Rows):
                    self._rows += request.rows
                else:
                    answers.write(pack(self._answer(request)))
        self._database.close()

    def _answer(self, request: Write | Index | Tidy) -> Answer:
        before = self._upkeep.deleted
        try:
            answer = self._do(request)
        except Away as exc:
            answer = Answer(away=str(exc))
        except Exception as exc:  # whatever it is: it is told, and the next request is another one
            answer = Answer(failed=f"{type(exc).__name__}: {exc}")
        answer.due, answer.deleted = self._upkeep.due, self._upkeep.deleted - before
        return answer

    def _do(self, request: Write | Index | Tidy) -> Answer:
        if isinstance(request, Write):
            request.batch.tasks, self._rows = self._rows, []
            written = self._database.write(request.batch)
            if request.batch.cluster is None:
                self._upkeep.note(written.inserted)
            return Answer(written=written)
        if isinstance(request, Index):
            return Answer(more=self._database.index_some(request.most))
        return Answer(more=self._upkeep.step())


#: What may be sent to all processes of taskmon, and is meant for the one that serves.
SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")
)


def _end_with_parent() -> None:
    """Have the system kill this process when the thread ends that started it, where it can.

    What it was writing is in the journal. The next taskmon need not wait until there is processor time for it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def main() -> None:
    """Be the process; what ends taskmon ends it too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    _end_with_parent()
    os.nice(_NICE)
    os.write(sys.stdout.fileno(), pack(Answer()))  # ready: what it takes to get here is not for spare moments
    if plan.idle and hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # not allowed here
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as answers:
        Scribe(plan).serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
