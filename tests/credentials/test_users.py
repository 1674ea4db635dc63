"""The users of an htpasswd file that changes while taskmon runs."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import Clock, ask, basic

from taskmon.auth import Role, User
from taskmon.credentials.basic import BasicAuthenticator
from taskmon.credentials.factory import build_authenticators
from taskmon.credentials.passwords import Scrypt, hash_password
from taskmon.credentials.users import Users
from taskmon.errors import AuthenticationFailed
from taskmon.settings import Settings

OPEN, SESAME = hash_password("open"), hash_password("sesame")


class Scene:
    """An authenticator of a file, and a clock that is a second on at each question."""

    def __init__(self, path: Path, *lines: str, roles: str = "") -> None:
        self.path = path
        self.clock = Clock()
        self.writes = 0
        self.write(*lines)
        users = Users(Settings(htpasswd=path, basic_roles=roles))
        self.authenticator = BasicAuthenticator(users.passwords, users, clock=self.clock)

    def write(self, *lines: str) -> None:
        self.path.write_text("".join(line + "\n" for line in lines))
        self.writes += 1
        os.utime(self.path, (self.writes, self.writes))  # however coarse the clock of the file system is

    async def lets_in(self, name: str, password: str) -> bool:
        self.clock.now += 1.0
        try:
            return await ask(self.authenticator, basic(name, password)) == User(name, Role.VIEWER, "basic")
        except AuthenticationFailed:
            return False


@contextmanager
def scene(path: Path, *lines: str, roles: str = "") -> Iterator[Scene]:
    made = Scene(path, *lines, roles=roles)
    try:
        yield made
    finally:
        made.authenticator.close()


async def test_users_come_and_go_and_change_their_passwords(tmp_path: Path) -> None:
    with scene(tmp_path / "users", f"ann:{OPEN}") as made:
        assert [await made.lets_in("ann", "open"), await made.lets_in("bea", "open")] == [True, False]
        made.write(f"ann:{OPEN}", f"bea:{OPEN}")
        assert [await made.lets_in("ann", "open"), await made.lets_in("bea", "open")] == [True, True]
        made.write(f"ann:{SESAME}", f"bea:{OPEN}")
        assert [await made.lets_in("ann", "open"), await made.lets_in("ann", "sesame")] == [False, True]
        made.write(f"ann:{SESAME}")
        assert [await made.lets_in("ann", "sesame"), await made.lets_in("bea", "open")] == [True, False]


async def test_who_has_not_changed_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scene(tmp_path / "users", f"ann:{OPEN}") as made:
        assert await made.lets_in("ann", "open")
        monkeypatch.setattr(Scrypt, "matches", lambda self, password: pytest.fail("it is known already"))
        made.write(f"ann:{OPEN}", f"bea:{OPEN}")
        assert await made.lets_in("ann", "open")


@pytest.mark.parametrize("broken", ["ann:plain", "ann", ":x", None])
async def test_a_file_that_breaks_a_rule_leaves_who_there_was(
    broken: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with scene(tmp_path / "users", f"ann:{OPEN}") as made:
        if broken is None:
            made.path.unlink()
        else:
            made.write(f"bea:{OPEN}", broken)
        for _ in range(3):
            assert [await made.lets_in("ann", "open"), await made.lets_in("bea", "open")] == [True, False]
        assert len([r for r in caplog.records if "not read again: --htpasswd" in r.message]) == 1
        caplog.clear()
        with caplog.at_level(logging.INFO):
            made.write(f"bea:{OPEN}")
            assert [await made.lets_in("bea", "open"), await made.lets_in("ann", "open")] == [True, False]
        assert [r.message for r in caplog.records if "again" in r.message] == [
            "The users of --htpasswd were read again: 1"
        ]


async def test_a_user_who_has_a_role_can_go(tmp_path: Path) -> None:
    with scene(tmp_path / "users", f"ann:{OPEN}", f"bea:{OPEN}", roles="ann=viewer") as made:
        assert await made.lets_in("ann", "open")
        made.write(f"bea:{OPEN}")
        assert not await made.lets_in("ann", "open")


async def test_a_password_that_changes_while_it_is_checked(tmp_path: Path) -> None:
    with scene(tmp_path / "users", f"ann:{OPEN}") as made:
        made.clock.now += 1.0
        checking = made.authenticator.authenticate(basic("ann", "open"))
        made.write(f"ann:{SESAME}")
        assert await made.lets_in("ann", "sesame")
        assert checking is not None
        assert not isinstance(checking, User)
        with pytest.raises(AuthenticationFailed):
            await checking


async def test_a_file_that_is_empty_at_first(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.touch()
    authenticators, token = build_authenticators(Settings(htpasswd=path))
    assert (token, [one.kind for one in authenticators]) == (None, ["basic", "token"])
    for one in authenticators:
        one.close()
    with scene(path) as made:
        assert not await made.lets_in("ann", "open")
        made.write(f"ann:{OPEN}")
        assert await made.lets_in("ann", "open")
