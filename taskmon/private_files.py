"""Files that only their owner may read, whatever the umask is: what taskmon writes about tasks and who gets in."""

import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

log = logging.getLogger(__name__)

FILE_MODE: Final = 0o600
OTHERS: Final = 0o077


def open_private(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file as `open` does; it is made for its owner only, and one that is there is made so; raise OSError."""
    return open(path, mode, opener=_open, **options)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is replaced as a whole, so that two changes do not meet; raise OSError."""
    with open_private(path.with_name(path.name + ".lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_private(path: Path, content: bytes) -> None:
    """Replace a file in one step: who reads it sees the old one or the new one. Raises OSError.

    The new one belongs to whom the old one did: root may change files of a taskmon that is not root.
    """
    fresh = path.with_name(path.name + ".new")
    with open_private(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileNotFoundError):
        found = path.stat()
        if os.geteuid() == 0:
            os.chown(fresh, found.st_uid, found.st_gid)
    fresh.replace(path)


def tighten(path: Path) -> None:
    """Take away what others may do with a file; warn where that is not allowed.

    The file is not opened: when a process closes a file of SQLite, it loses the locks that it has on it.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # there is none, or not for us
        return
    _tighten(str(path), mode, lambda: path.chmod(FILE_MODE))


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, FILE_MODE)
    _tighten(path, os.fstat(descriptor).st_mode, lambda: os.fchmod(descriptor, FILE_MODE))
    return descriptor


def _tighten(path: str, mode: int, change: Callable[[], None]) -> None:
    if not stat.S_ISREG(mode) or stat.S_IMODE(mode) == FILE_MODE:
        return
    try:
        change()
    except OSError as exc:
        if mode & OTHERS:
            log.warning(
                "%s is open to others (mode %o), which cannot be changed: %s", path, mode & 0o777, exc.strerror
            )
        return
    if mode & OTHERS:
        log.info("%s was open to others (mode %o); its mode is %o now", path, mode & 0o777, FILE_MODE)
