"""Which files are obeyed, and which may hold a secret: by their owner and their mode."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ..errors import InvalidSetting

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS: Final = 40  # Linux follows no more


def open_trusted(option: str, path: Path) -> IO[bytes]:
    """Open a file that taskmon obeys; raise OSError, or InvalidSetting where somebody else may change it."""
    file = path.open("rb")
    try:
        _check(option, path, os.fstat(file.fileno()))
    except InvalidSetting:
        file.close()
        raise
    return file


def check_trusted(option: str, path: Path) -> None:
    """Refuse a file that somebody else may change; one that cannot be looked at is left to its reader."""
    try:
        found = path.stat()
    except OSError:
        return
    _check(option, path, found)


def check_directories(option: str, path: Path) -> None:
    """Refuse a file or a directory that others may replace: they may write to a directory on the way to it."""
    for directory in _directories(path):
        if _is_open(directory):
            raise InvalidSetting(option, f"must not be where everybody may write, as in {directory}")


def is_readable_by_others(path: Path) -> bool:
    """Whether others may read a file; the group that taskmon needs to read the file of another user is none."""
    try:
        found = path.stat()
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    ours = found.st_uid != os.geteuid() and found.st_gid in (os.getegid(), *os.getgroups())
    return bool(found.st_mode & (stat.S_IROTH if ours else stat.S_IROTH | stat.S_IRGRP))


def may_others_write(path: Path, mode: int) -> bool:
    """Whether a file's group or everybody may write to it, by its mode."""
    return stat.S_ISREG(mode) and bool(mode & _OTHERS_WRITE) and not _is_fixed(path)


def _check(option: str, path: Path, found: os.stat_result) -> None:
    owners = [found.st_uid, *(link.lstat().st_uid for link in _links(path))]
    for owner in owners:
        if owner not in (0, os.geteuid()):
            raise InvalidSetting(
                option,
                f"must name a file of root or of the user that taskmon runs as: {path} belongs to uid {owner}",
            )
    if may_others_write(path, found.st_mode):
        raise InvalidSetting(
            option,
            f"must name a file that only its owner may write to: {path} has mode {found.st_mode & 0o777:o};"
            " chmod go-w sets that right",
        )
    check_directories(option, path)


def _links(path: Path) -> Iterator[Path]:
    """Yield the links that lead to a file one after the other: who owns one may have it lead elsewhere."""
    for _ in range(_MAX_LINKS):
        if not path.is_symlink():
            return
        yield path
        path = path.parent / path.readlink()


def _directories(path: Path) -> Iterator[Path]:
    """Yield the directories that lead to a file, and to the file that it is a link to."""
    seen: set[Path] = set()
    for start in (Path.cwd() / path, path.resolve()):
        for directory in (start, *start.parents):
            if directory not in seen:
                seen.add(directory)
                yield directory


def _is_open(directory: Path) -> bool:
    """Whether others may replace what is in a directory: all may write there, and it is not sticky like /tmp."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX and not _is_fixed(directory)


def _is_fixed(path: Path) -> bool:
    """Whether it is on a file system that is mounted read-only, as a ConfigMap of Kubernetes is."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
