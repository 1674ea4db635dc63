"""Hashes of passwords: our own, and those of an htpasswd file."""

import asyncio
import base64
import hashlib
import sys
from contextlib import closing
from pathlib import Path

import argon2
import bcrypt
import pytest
from asking import ANN, HASH, ask, basic

from taskmon.auth import Role, User
from taskmon.credentials.basic import BasicAuthenticator
from taskmon.credentials.passwords import hash_password, hash_passwords, read_passwords
from taskmon.errors import AuthenticationFailed, InvalidSetting
from taskmon.settings import SCRYPT_HASH, Settings


def test_hash_password() -> None:
    assert SCRYPT_HASH.fullmatch(HASH)
    assert HASH.startswith("$scrypt$ln=14,r=8,p=1$")
    assert hash_password("s3cret") != HASH
    assert "s3cret" not in HASH


def test_hash_passwords_drops_plain_ones_only() -> None:
    before = Settings(basic_auth=("bob:plain:text", f"ann:{HASH}"))
    after = hash_passwords(before)
    assert after.basic_auth[1] == f"ann:{HASH}"
    assert "plain" not in after.basic_auth[0]

    async def run() -> None:
        with closing(BasicAuthenticator(read_passwords(after))) as authenticator:
            assert await ask(authenticator, basic("bob", "plain:text")) == User("bob", Role.ADMIN, "basic")
            assert await ask(authenticator, basic("ann", "s3cret")) == ANN

    asyncio.run(run())


def test_hash_with_a_longer_salt_and_other_costs_works() -> None:
    salt = bytes(range(32))
    digest = hashlib.scrypt(b"pw", salt=salt, n=1 << 15, r=4, p=2, maxmem=1 << 26, dklen=32)
    parts = (base64.b64encode(part).decode().rstrip("=") for part in (salt, digest))

    async def run() -> None:
        entry = "ann:$scrypt$ln=15,r=4,p=2$" + "$".join(parts)
        with closing(BasicAuthenticator(read_passwords(Settings(basic_auth=(entry,))))) as authenticator:
            assert await ask(authenticator, basic("ann", "pw")) == ANN

    asyncio.run(run())


# The htpasswd file


BCRYPT = "$2y$04$" + bcrypt.hashpw(b"open", bcrypt.gensalt(4)).decode()[7:]
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=64).hash("sesame")


def write(path: Path, *lines: str) -> Settings:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Settings(htpasswd=path)


async def test_users_of_a_file(tmp_path: Path) -> None:
    lines = ("# comment", "", f"bea:{BCRYPT}", f"cid:{ARGON2}:extra", f"ann:{HASH}")
    with closing(BasicAuthenticator(read_passwords(write(tmp_path / "users", *lines)))) as authenticator:
        for name, password in (("bea", "open"), ("cid", "sesame"), ("ann", "s3cret")):
            assert await ask(authenticator, basic(name, password)) == User(name, Role.VIEWER, "basic")
            for wrong in ("wrong", "", "open\0", "x" * 100):
                with pytest.raises(AuthenticationFailed):
                    await ask(authenticator, basic(name, wrong, client=f"192.0.2.{len(wrong)}"))


async def test_a_password_of_more_than_bcrypt_looks_at_is_refused(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    with closing(BasicAuthenticator(read_passwords(write(tmp_path / "users", f"bea:{hashed}")))) as authenticator:
        assert await ask(authenticator, basic("bea", "x" * 72))
        for wrong in ("x" * 73, "x" * 90, "x" * 71):
            with pytest.raises(AuthenticationFailed):
                await ask(authenticator, basic("bea", wrong))


@pytest.mark.parametrize(
    "secret",
    [
        "plain",
        "",
        "{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=",
        "{SSHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=",
        "$apr1$abcdefgh$abcdefghijklmnopqrstuv",
        "$1$abcdefgh$abcdefghijklmnopqrstuv",
        "$6$abcdefgh$" + "a" * 86,
        "rqXexS6ZhobKA",
        BCRYPT.replace("$04$", "$16$"),
        ARGON2.replace("m=64", "m=999999"),
        ARGON2.replace("t=1", "t=99"),
        BCRYPT[:-1],
    ],
    ids=lambda secret: secret[:7],  # what follows in a hash differs between processes
)
def test_hashes_that_are_refused(tmp_path: Path, secret: str) -> None:
    settings = write(tmp_path / "users", f"ann:{HASH}", f"bob:{secret}")
    with pytest.raises(InvalidSetting, match=r"--htpasswd must hold hashes of bcrypt .* line 2 of") as caught:
        read_passwords(settings)
    assert not secret or secret not in str(caught.value)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSetting, match="--htpasswd must be a file that can be read"):
        read_passwords(Settings(htpasswd=tmp_path / "missing"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match="it is no text in UTF-8"):
        read_passwords(Settings(htpasswd=tmp_path / "binary"))
    for lines in ((f":{HASH}",), (f"ann:{HASH}", f"ann:{HASH}")):
        with pytest.raises(InvalidSetting, match="--htpasswd"):
            read_passwords(write(tmp_path / "users", *lines))
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(InvalidSetting, match="needs bcrypt: pip install"):
        read_passwords(write(tmp_path / "users", f"bea:{BCRYPT}"))


async def test_roles_of_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon")
    write(tmp_path / "users", f"bea:{BCRYPT}")
    settings = Settings(
        htpasswd=tmp_path / "users", basic_auth=("ann:s3cret", "cid:x"), basic_roles="bea=viewer,ann=operator"
    )
    passwords = read_passwords(settings)
    assert {name: str(entry.role) for name, entry in passwords.items()} == {
        "ann": "operator",
        "bea": "viewer",
        "cid": "admin",
    }
    with closing(BasicAuthenticator(passwords)) as authenticator:
        assert await ask(authenticator, basic("bea", "open")) == User("bea", Role.VIEWER, "basic")
    for options, role in (({}, Role.VIEWER), ({"basic_role": "operator"}, Role.OPERATOR)):
        caplog.clear()
        found = read_passwords(Settings(htpasswd=tmp_path / "users", basic_auth="ann:s3cret", **options))
        assert (found["bea"].role, found["ann"].role) == (role, Role.ADMIN)
        assert f"1 users of --htpasswd are not named by --basic-roles, so each is {role}" in caplog.text
    with pytest.raises(InvalidSetting, match="--basic-roles names a user who has no password, not 'eve'"):
        read_passwords(Settings(basic_auth="ann:x", basic_roles="eve=admin"))
    for wrong in ("ann", "ann=", "=admin", "ann=root"):
        with pytest.raises(InvalidSetting, match="--basic-roles must be user=viewer"):
            Settings(basic_roles=wrong)
