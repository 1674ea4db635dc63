"""What taskmon and the process that writes its history tell each other, as bytes; the journal holds the same."""

import time
from struct import Struct as Format
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .batches import Batch, Row, Written, clean_batch, clean_rows, uuid_of

#: Before whatever is said stands its length.
LENGTH: Final = Format(">Q")

#: Rows in one message: while it is made, a quarter of a millisecond, no other thread runs. Between two they may: else
#: the event loop would wait a millisecond each time that it asks for Python's lock.
_ROWS_PER_MESSAGE: Final = 100


class Rows(Struct, tag=True):
    """Rows of the tasks that are to be written next; there is no answer to that."""

    rows: list[Row]


class Write(Struct, tag=True):
    """Write a batch, and the rows that came before it; the answer is what was written."""

    batch: Batch


class Index(Struct, tag=True):
    """Let searches find so many tasks; the answer is whether more are left."""

    most: int


class Tidy(Struct, tag=True):
    """Delete a few of those tasks that are too old or too many; the answer is whether more are left."""


class Answer(Struct):
    """What came of a request, and how many tasks were deleted, or why the database or the program failed.

    `more` says whether there is more to index or to delete, `due` whether to delete some is due.
    """

    more: bool = False
    due: bool = False
    deleted: int = 0
    written: Written | None = None
    away: str | None = None
    failed: str | None = None


Request = Rows | Write | Index | Tidy

_encode: Final = msgspec.msgpack.Encoder().encode
read_request: Final = msgspec.msgpack.Decoder(Request).decode
read_answer: Final = msgspec.msgpack.Decoder(Answer).decode


def pack(message: Request | Answer) -> bytes:
    """Make the bytes of a message; raises UnicodeError and OverflowError for what has none."""
    body = _encode(message)
    return LENGTH.pack(len(body)) + body


def receive(pipe: BinaryIO) -> bytes | None:
    """Wait for the next message; None when there will be none."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = pipe.read(size)
    return body if len(body) == size else None


def pack_batch(batch: Batch) -> tuple[list[bytes], Written]:
    """Make the messages that have a batch written; return which rows are cleaned first, or refused."""
    try:
        return _pack_rows(batch, batch.tasks), Written()
    except (UnicodeError, OverflowError):
        pass
    rows, cleaned = clean_rows(batch.tasks)
    written, good = Written(cleaned=cleaned), []
    for row in rows:
        try:
            pack(Rows([row]))
            good.append(row)
        except (UnicodeError, OverflowError) as exc:
            written.refuse("task", uuid_of(row), str(exc))
    return _pack_rows(clean_batch(batch), good), written


def _pack_rows(batch: Batch, rows: list[Row]) -> list[bytes]:
    frames = []
    for start in range(0, len(rows), _ROWS_PER_MESSAGE):
        frames.append(pack(Rows(rows[start : start + _ROWS_PER_MESSAGE])))
        time.sleep(0)
    return [*frames, pack(Write(replace(batch, tasks=[])))]
