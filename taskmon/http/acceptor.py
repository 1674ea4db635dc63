"""How many connections the limit of open files allows, and accepting them without ever spinning. Event loop only."""

import errno
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any, Final

from tornado.ioloop import IOLoop

from ..logs import Occasionally

log = logging.getLogger(__name__)

#: Open files that are not HTTP connections: those of the broker, the history, the log, and of the interpreter.
RESERVED_FILES: Final = 160

#: Connections that are allowed however low the limit of open files is.
MIN_CONNECTIONS: Final = 16

#: Connections accepted at a time, before others have their turn.
ACCEPTED_AT_ONCE: Final = 128

#: Seconds until accepting is tried again, when the system has no place for a connection.
PAUSE: Final = 0.2

_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def fit_connections(wanted: int) -> int:
    """Return how many of the wanted connections the limit of open files allows; raise that limit where possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):  # macOS has a bound of its own
            log.debug("The limit of open files could not be raised", exc_info=True)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = min(wanted, max(soft - RESERVED_FILES, MIN_CONNECTIONS))
    log.warning(
        "%d connections are allowed instead of %d (--max-connections), as only %d files may be open: raise the limit"
        " (ulimit -n, LimitNOFILE=)",
        allowed,
        wanted,
        soft,
    )
    return allowed


class Acceptor:
    """Accepts the connections of one listening socket.

    When the system has no place for another, `make_room` is asked to close one; where it cannot, accepting pauses.
    """

    def __init__(
        self,
        listening: socket.socket,
        handle: Callable[[socket.socket, Any], None],
        make_room: Callable[[], bool],
    ) -> None:
        self._socket = listening
        self._handle = handle
        self._make_room = make_room
        self._loop = IOLoop.current()
        self._resuming: object | None = None
        self._full = Occasionally()
        self._loop.add_handler(listening, self._accept, IOLoop.READ)

    def stop(self) -> None:
        """Accept no more."""
        if self._resuming is None:
            self._loop.remove_handler(self._socket)
        else:
            self._loop.remove_timeout(self._resuming)

    def _accept(self, _: object, events: int) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _FULL:
                    self._pause(exc)
                    return
                continue  # this client has given up already
            self._handle(connection, address)

    def _pause(self, exc: OSError) -> None:
        if self._full.due():
            log.error("No connection can be accepted (%s): raise the limit of open files (ulimit -n)", exc.strerror)
        if self._make_room():  # the loop calls again at once
            return
        self._loop.remove_handler(self._socket)
        self._resuming = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_handler(self._socket, self._accept, IOLoop.READ)
