"""Hashes of passwords: scrypt, from the standard library; bcrypt and argon2 where they are installed.

Pure but for the file of `--htpasswd`; hashing takes some 50 ms.
"""

import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from ..auth import Role
from ..errors import InvalidSetting
from ..settings import SCRYPT_HASH, Settings, is_name, is_sample

logger = logging.getLogger(__name__)

_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(r"\$argon2(?:id|i|d)\$v=19\$m=(?P<memory>\d{1,7}),t=(?P<time>\d{1,3}),p=\d{1,3}\$[^$]+\$[^$]+")
_MAX_COST: Final = 15
_MAX_MEMORY: Final = 256 * 1024  # KiB
_MAX_TIME: Final = 20
_MAX_FILE: Final = 4 << 20
#: All that bcrypt looks at.
_BCRYPT_BYTES: Final = 72


class Hash(Protocol):
    """A hash of a password; two whose `cost` is equal take equally long."""

    @property
    def cost(self) -> str:
        """The algorithm and what it is told to cost."""
        ...

    def matches(self, password: bytes) -> bool:
        """Tell whether it is of this password."""
        ...


class Password(NamedTuple):
    """How a user is known, and what they may do."""

    hash: Hash
    role: Role = Role.ADMIN


class Scrypt(NamedTuple):
    log_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def make(cls, password: str, log_n: int = 14, r: int = 8, p: int = 1) -> "Scrypt":
        salt = secrets.token_bytes(16)
        return cls(log_n, r, p, salt, _scrypt(password.encode(), salt, log_n, r, p))

    @classmethod
    def parse(cls, match: re.Match[str]) -> "Scrypt":
        return cls(int(match[1]), int(match[2]), int(match[3]), _unpadded(match[4]), _unpadded(match[5]))

    @property
    def cost(self) -> str:
        return f"scrypt {self.log_n} {self.r} {self.p}"

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(self.digest, _scrypt(password, self.salt, self.log_n, self.r, self.p))


class Bcrypt(NamedTuple):
    module: Any
    text: bytes

    @property
    def cost(self) -> str:
        return f"bcrypt {self.text[4:6].decode()}"

    def matches(self, password: bytes) -> bool:
        try:
            # A longer one is refused, and takes as long as any other: bcrypt would ignore its end.
            right = self.module.checkpw(password[:_BCRYPT_BYTES], self.text)
            return bool(right) and len(password) <= _BCRYPT_BYTES
        except ValueError:  # a password with a NUL in it
            return False


class Argon2(NamedTuple):
    module: Any
    text: str

    @property
    def cost(self) -> str:
        return self.text.rpartition("$")[0].rpartition("$")[0]

    def matches(self, password: bytes) -> bool:
        errors = self.module.exceptions
        try:
            return bool(self.module.PasswordHasher().verify(self.text, password))
        except (errors.VerificationError, errors.InvalidHashError):
            return False


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    n = 1 << log_n
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=256 * r * (n + p), dklen=32)


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def hash_password(password: str) -> str:
    """Hash a password for `--basic-auth user:<hash>`.

    The form is `$scrypt$ln=14,r=8,p=1$<salt>$<digest>`, both in base64 without padding; others write it too.
    """
    log_n, r, p, salt, digest = Scrypt.make(password)
    ends = (base64.b64encode(part).decode().rstrip("=") for part in (salt, digest))
    return f"$scrypt$ln={log_n},r={r},p={p}${'$'.join(ends)}"


def hash_passwords(settings: Settings) -> Settings:
    """Give the same settings with a hash in place of every plain password."""
    users = (entry.partition(":") for entry in settings.basic_auth)
    hashed = tuple(
        f"{name}:{password if SCRYPT_HASH.fullmatch(password) else hash_password(password)}"
        for name, _, password in users
    )
    return replace(settings, basic_auth=hashed)


def read_hash(secret: str) -> Scrypt:
    match = SCRYPT_HASH.fullmatch(secret)
    return Scrypt.parse(match) if match else Scrypt.make(secret)


def read_passwords(settings: Settings, again: bool = False) -> dict[str, Password]:
    """Give all users with a password: those of --basic-auth and of the file of --htpasswd; raise InvalidSetting.

    Read `again`, a user of --basic-roles may be gone.
    """
    entries = (entry.partition(":") for entry in settings.basic_auth)
    hashes: dict[str, Hash] = {name: read_hash(secret) for name, _, secret in entries}
    own = frozenset(hashes)
    if settings.htpasswd is not None:
        for name, found in _read_file(settings.htpasswd):
            if name in hashes:
                raise InvalidSetting("htpasswd", f"names {name} a second time")
            hashes[name] = found
    roles = {user: Role.parse(role) for user, _, role in (pair.rpartition("=") for pair in settings.basic_roles)}
    for user in roles:
        if user not in hashes and not again:
            raise InvalidSetting("basic_roles", "names a user who has no password", user)
    others = Role.parse(settings.basic_role)
    unnamed = len(hashes.keys() - own - roles.keys())
    if unnamed and not again:
        logger.info(
            "%d users of --htpasswd are not named by --basic-roles, so each is %s by --basic-role; "
            "earlier versions made them admins",
            unnamed,
            others,
        )
    for name in hashes:
        roles.setdefault(name, Role.ADMIN if name in own else others)
    return {name: Password(found, roles[name]) for name, found in hashes.items()}


def _read_file(path: Path) -> Iterator[tuple[str, Hash]]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise InvalidSetting("htpasswd", "must name a file that only its owner may write to (chmod go-w)")
            text = file.read(_MAX_FILE + 1)[:_MAX_FILE].decode()
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is no text in UTF-8"
        raise InvalidSetting("htpasswd", f"must be a file that can be read ({reason})", str(path)) from exc
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, secret = line.strip().partition(":")
        try:
            yield name, _read_foreign(name, secret.partition(":")[0])
        except ValueError as exc:
            raise InvalidSetting("htpasswd", f"{exc}, and line {number} of {path} does not") from None


def _read_foreign(name: str, secret: str) -> Hash:
    """Read a hash of a file; raise ValueError for one that is weak, costs too much, or is none."""
    if not is_name(name):
        raise ValueError("must have a user in each line, in printable characters and without a comma")
    if is_sample(secret):
        raise ValueError("must hold hashes that no manual shows, since everybody knows those")
    if SCRYPT_HASH.fullmatch(secret):
        return read_hash(secret)
    bcrypt = _BCRYPT.fullmatch(secret)
    if bcrypt and int(bcrypt["cost"]) <= _MAX_COST:
        return Bcrypt(_import("bcrypt"), secret.encode())
    argon2 = _ARGON2.fullmatch(secret)
    if argon2 and int(argon2["memory"]) <= _MAX_MEMORY and int(argon2["time"]) <= _MAX_TIME:
        return Argon2(_import("argon2"), secret)
    raise ValueError("must hold hashes of bcrypt (htpasswd -B), argon2 or taskmon's own, of a sane cost")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InvalidSetting("htpasswd", f"needs {name}: pip install 'celery-taskmon[htpasswd]'") from None
