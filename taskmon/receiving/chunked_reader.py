"""Read a socket in large pieces, and what is common to those who do. Consumer thread only."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

#: Takes a message: body, content type, content encoding and compression. It never raises.
Deliver = Callable[[bytes | str, str | None, str | None, str | None], None]

#: Called for a message that is refused unread: a short reason, and a detail for the log.
Reject = Callable[[str, str], None]

#: So much is read at once, in bytes.
PIECE: Final = 262_144

#: After less than MIN_CHUNK bytes the next read waits PAUSE seconds, or a steady stream of small messages would wake
#: the thread for each of them. So it wakes 125 times a second at most, and an event is at most 8 ms late. What comes
#: after a silence is read at once.
MIN_CHUNK: Final = 65_536
PAUSE: Final = 0.008


class Drain(Protocol):
    """Receives; `tag` is that of the last message delivered that is to be acknowledged, 0 for none."""

    tag: int

    def __call__(self, timeout: float) -> None:
        """Wait for messages, `timeout` seconds at most, and deliver them; raise TimeoutError if nothing came."""

    def close(self) -> None:
        """Leave the connection as kombu and its client library expect it."""


class Pieces:
    """Reads a socket, which has its own timeout again afterwards: others write to it."""

    def __init__(self) -> None:
        self._pause = False

    def read(self, sock: socket.socket, timeout: float) -> bytes:
        """Give what has come, or wait for it; raise TimeoutError or ConnectionError where nothing does."""
        if self._pause:
            self._pause = False
            time.sleep(PAUSE)
        before = sock.gettimeout()
        sock.settimeout(timeout)
        try:
            data = sock.recv(PIECE)
            if not data:
                raise ConnectionError("the broker closed the connection")
            if isinstance(sock, ssl.SSLSocket):
                data = _read_records(sock, data)
        finally:
            sock.settimeout(before)
        self._pause = len(data) < MIN_CHUNK
        return data


def _read_records(sock: ssl.SSLSocket, data: bytes) -> bytes:
    """Add to `data` what else has come: TLS gives one record at a time, of 16 KB at most."""
    parts, size = [data], len(data)
    sock.settimeout(0)
    with suppress(OSError):  # nothing more yet; whatever else it is, the next read meets it again
        while size < PIECE and (more := sock.recv(PIECE)):
            parts.append(more)
            size += len(more)
    return b"".join(parts)
