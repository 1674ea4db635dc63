"""Hashes of passwords: scrypt, from the standard library. Pure; hashing takes some 50 ms."""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import replace
from typing import NamedTuple

from ..settings import SCRYPT_HASH, Settings


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

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(self.digest, _scrypt(password, self.salt, self.log_n, self.r, self.p))


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
