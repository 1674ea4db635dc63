"""What taskmon writes is its owner's only, whatever the umask is, and whoever had it before."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import event, serving

from taskmon import private_files
from taskmon.history.journal import Journal
from taskmon.private_files import open_private, tighten


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_a_file_is_made_for_its_owner_only(tmp_path: Path, mask: int) -> None:
    with umask(mask), open_private(tmp_path / "new", "wb") as file:
        file.write(b"secret")
    assert mode(tmp_path / "new") == 0o600
    assert (tmp_path / "new").read_bytes() == b"secret"


def test_one_that_was_open_to_others_is_no_longer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name, change in (("opened", lambda path: open_private(path, "ab").close()), ("told", tighten)):
        path = tmp_path / name
        path.touch()
        path.chmod(0o644)
        change(path)
        assert mode(path) == 0o600
        assert f"{path} was open to others (mode 644)" in caplog.text
    tighten(tmp_path / "missing")
    tighten(tmp_path)
    assert mode(tmp_path) != 0o600


def test_a_mode_that_cannot_be_changed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "theirs").touch()
    (tmp_path / "theirs").chmod(0o644)
    monkeypatch.setattr(private_files.os, "fchmod", refuse)
    open_private(tmp_path / "theirs", "ab").close()
    assert "is open to others (mode 644), which cannot be changed" in caplog.text


@pytest.mark.parametrize("before", [None, 0o644])
async def test_the_files_of_a_history(tmp_path: Path, before: int | None) -> None:
    if before is not None:
        async with serving(history=f"sqlite:///{tmp_path}/history.sqlite3") as served:
            served.apply(event("task-received", "a"))
        for path in tmp_path.iterdir():
            path.chmod(before)
    with umask(0):
        async with serving(history=f"sqlite:///{tmp_path}/history.sqlite3") as served:
            served.apply(event("task-received", "b"))
            await served.taskmon.services.history.flush()  # type: ignore[union-attr]
            modes = {path.name.removeprefix("history.sqlite3"): mode(path) for path in tmp_path.iterdir()}
    assert set(modes) == {"", "-wal", "-shm", "-lock", "-unwritten-1", "-unwritten-2"}
    assert set(modes.values()) == {0o600}


def test_the_files_of_a_journal_in_a_directory(tmp_path: Path) -> None:
    with umask(0):
        journal = Journal(tmp_path / "taskmon-1", alone=False)
        journal.claim()
        journal.begin()
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 3
    journal.close()
