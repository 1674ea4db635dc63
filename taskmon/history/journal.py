"""Journal: what has changed and may not be in the database yet, in two files beside it. Any thread, one at a time.

To append to a file costs a tenth of writing to a database, and takes no longer while that is slow or locked. So what
is in the journal is not lost when taskmon is killed: the next one writes it to the database before anything else.

What is appended goes to one file. Before all that waits is written to the database, the files change places, and
after that the other one is emptied. The system has what was appended: a process that is killed loses none of it, a
machine that loses its power may.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct as Format
from typing import IO, BinaryIO, Final
from zlib import crc32

import msgspec
from msgspec import Struct

from ..private_files import open_private
from .batches import Batch, Row
from .columns import FIELDS
from .messages import LENGTH, Rows, Write, pack_batch, read_request

#: Bytes that both files may take together: what changes after that is not in the journal until it is emptied.
LARGEST: Final = 512 << 20

#: Taskmons of one name that may have journals in one directory.
MAX_JOURNALS: Final = 16

_LOCK: Final = "-lock"

#: Before each message stands a sum of its body: by that one is known that was not written to its end.
_SUM: Final = Format(">I")


class Full(Exception):
    """The journal is as large as it may become."""


class Head(Struct):
    """The first line of a file: which came later, of which fields its rows are, and of which cluster."""

    number: int
    fields: tuple[str, ...] = FIELDS
    cluster: str | None = None


class Journal:
    """Two files whose names begin as `path`; nothing is written before `begin`."""

    def __init__(self, path: Path, cluster: str | None = None, alone: bool = True) -> None:
        """Prepare; `cluster` is the name of what is noted, and `alone` says that nobody else can have these files."""
        self.path = path
        self._cluster = cluster
        self._alone = alone
        self._lock: IO[bytes] | None = None
        self._current: _File | None = None
        self._other: _File | None = None
        self._number = 0

    @property
    def _paths(self) -> list[Path]:
        return [self.path.with_name(f"{self.path.name}-unwritten-{number}") for number in (1, 2)]

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + _LOCK)

    @property
    def begun(self) -> bool:
        """Whether it takes what changes: not before what it held has been read."""
        return self._current is not None

    def claim(self) -> None:
        """Make sure that nobody else has these files, as long as this process lives; raises OSError.

        Where another taskmon has them, those of the next number are taken.
        """
        if self._alone or self._lock is not None:
            return
        first = self.path
        for number in range(1, MAX_JOURNALS + 1):
            self.path = first if number == 1 else first.with_name(f"{first.name}-{number}")
            if self._take_lock():
                return
        self.path = first
        raise OSError(f"{MAX_JOURNALS} other taskmons have {first}")

    def _take_lock(self) -> bool:
        """Take the lock, which another may be about to delete; return whether that went well."""
        lock = open_private(self._lock_path, "ab")
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), self._lock_path.stat()):
                self._lock = lock
                return True
        lock.close()
        return False

    def adopt(self, family: str) -> "Iterator[Journal]":
        """Yield the journals of taskmons that are gone whose names begin so, each claimed until the next one."""
        if self._alone:
            return
        for place in sorted(self.path.parent.glob(f"{family}*{_LOCK}")):
            orphan = Journal(place.with_name(place.name.removesuffix(_LOCK)), self._cluster, alone=False)
            if orphan.path != self.path and orphan._take_lock():
                try:
                    yield orphan
                finally:
                    orphan.close()

    def delete(self) -> None:
        """Delete the files of a journal that was adopted; raises OSError."""
        for path in (*self._paths, self._lock_path):
            path.unlink(missing_ok=True)

    def begin(self) -> None:
        """Begin with empty files; raises OSError."""
        self._close_files()
        current = _File(self._paths[0])
        try:
            self._other = _File(self._paths[1])
        except OSError:
            current.close()
            raise
        self._current, self._number = current, 1

    def note(self, batch: Batch) -> None:
        """Append what has changed; raises OSError and Full, and has then noted nothing."""
        if self._current is None or self._other is None:
            return
        parts = [] if self._current.size else [msgspec.json.encode(Head(self._number, cluster=self._cluster)), b"\n"]
        for frame in pack_batch(batch)[0]:
            parts += _SUM.pack(crc32(memoryview(frame)[LENGTH.size :])), frame
        content = b"".join(parts)
        if self._current.size + self._other.size + len(content) > LARGEST:
            raise Full(f"it has {LARGEST >> 20} MB")
        self._current.append(content)

    def turn(self) -> None:
        """Take note that all that waits now is about to be written; unless the last time that came to nothing."""
        if self._current is not None and self._other is not None and not self._other.size:
            self._current, self._other = self._other, self._current
            self._number += 1

    def forget(self) -> None:
        """Let go what was noted before the files changed places: it is written. Raises OSError."""
        if self._other is not None:
            self._other.empty()

    def clear(self) -> None:
        """Let everything go, and the files too: nothing is left to be written. Raises OSError."""
        if self.begun:
            self._close_files()
            for path in self._paths:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the files as they are."""
        self._close_files()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close_files(self) -> None:
        for file in (self._current, self._other):
            if file is not None:
                file.close()
        self._current = self._other = None

    def read(self) -> Iterator[Batch]:
        """Yield what an earlier process has left, in the order in which it changed; raises OSError.

        Its `cluster` is the name of another cluster, if it is of one.
        """
        found: list[tuple[int, Path]] = []
        for path in self._paths:
            with suppress(FileNotFoundError, msgspec.MsgspecError), path.open("rb") as file:
                found.append((_read_head(file).number, path))
        for _, path in sorted(found):
            with path.open("rb") as file:
                for batch in _read_batches(file):
                    if batch.cluster == self._cluster:
                        batch.cluster = None
                    yield batch


class _File:
    """One of the files, as far as it is good."""

    def __init__(self, path: Path) -> None:
        self._file = open_private(path, "wb", buffering=0)
        self._is_torn = False
        self.size = 0

    def append(self, content: bytes) -> None:
        if self._is_torn:
            self._cut()
        self._is_torn = True
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]
        self._is_torn = False
        self.size += len(content)

    def empty(self) -> None:
        if self.size:
            self.size = 0
            self._cut()

    def close(self) -> None:
        self._file.close()

    def _cut(self) -> None:
        """Take away what follows the good part."""
        self._is_torn = True
        self._file.truncate(self.size)
        self._file.seek(self.size)
        self._is_torn = False


def _read_head(file: BinaryIO) -> Head:
    return msgspec.json.decode(file.readline(), type=Head)


def _read_batches(file: BinaryIO) -> Iterator[Batch]:
    """Yield the batches up to the end, or to where the file is not good any more."""
    head = _read_head(file)
    fields = head.fields
    rows: list[Row] = []
    for body in _read_bodies(file):
        request = read_request(body)
        if isinstance(request, Rows):
            rows += request.rows if fields == FIELDS else [_arrange(fields, row) for row in request.rows]
        elif isinstance(request, Write):
            request.batch.tasks, rows = rows, []
            request.batch.cluster = head.cluster
            yield request.batch


def _read_bodies(file: BinaryIO) -> Iterator[bytes]:
    """Yield the messages that are whole; a length that is wrong must not have it all read."""
    end = os.fstat(file.fileno()).st_size
    before = _SUM.size + LENGTH.size
    while len(head := file.read(before)) == before:
        (size,) = LENGTH.unpack_from(head, _SUM.size)
        body = file.read(size) if size <= end - file.tell() else b""
        if len(body) < size or crc32(body) != _SUM.unpack_from(head)[0]:
            return
        yield body


def _arrange(fields: tuple[str, ...], row: Row) -> Row:
    """Bring a row of another version's fields into the order of ours."""
    values = dict(zip(fields, row, strict=True))
    return tuple(values.get(field) for field in FIELDS)
