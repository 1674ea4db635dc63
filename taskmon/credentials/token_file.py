"""The file of tokens: one JSON object a line, readable for its owner only; holds digests, never a token."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from ..errors import InvalidArgument, InvalidSetting
from ..private_files import locked, replace_private
from ..settings import RATE, SCOPE, is_sample

MAX_FILE: Final = 4 << 20
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class StoredToken(msgspec.Struct, forbid_unknown_fields=True):
    """What is stored of a token; it works until `expires` or `revoked`, whichever is there and past.

    A token with `scopes` may do what they say, whatever its role; `used` is when it was used last.
    """

    id: Annotated[str, msgspec.Meta(pattern="^tm_[0-9a-f]{8}$")]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._@-]{1,64}$")]
    role: Literal["viewer", "operator", "admin"]
    created: _Time
    expires: _Time | None = None
    revoked: _Time | None = None
    scopes: tuple[Annotated[str, msgspec.Meta(pattern=f"^(?:{SCOPE})$")], ...] = ()
    rate_limit: Annotated[str, msgspec.Meta(pattern=f"^(?:{RATE})$")] | None = None
    used: _Time | None = None

    def state(self, now: datetime) -> str:
        """Say valid, expired or revoked."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


_decode = msgspec.json.Decoder(StoredToken).decode
_encode = msgspec.json.Encoder().encode


class TokenFile:
    """One file of tokens. Raises InvalidSetting for one that others may read, or that cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> tuple[int, ...]:
        """Give what differs when the file was changed; empty when there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode

    def read(self) -> list[StoredToken]:
        """Give the tokens, none where there is no file."""
        try:
            with self.path.open("rb") as file:
                self._check_mode(os.fstat(file.fileno()))
                content = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise self._broken(f"be a file that can be read ({exc.strerror})") from exc
        if len(content) > MAX_FILE:
            raise self._broken(f"be a file of at most {MAX_FILE >> 20} MiB")
        return list(self._parse(content))

    def add(self, token: StoredToken) -> None:
        """Add a token; makes the file where there is none. Raises InvalidArgument for a name that a valid one has."""
        with self._changing() as tokens:
            taken = next((t for t in tokens if t.name == token.name and t.state(token.created) == "valid"), None)
            if taken is not None:
                raise InvalidArgument("name", f"is that of {taken.id}; revoke or rotate that one", token.name)
            tokens.append(token)

    def rotate(self, which: str, fresh: Callable[[StoredToken], StoredToken], ends: datetime) -> StoredToken:
        """Add the token that `fresh` makes of the newest valid one of an id or a name, which ends at `ends`.

        Returns the old one; raises InvalidArgument where there is none.
        """
        with self._changing() as tokens:
            found = [t for t in tokens if which in (t.id, t.name) and t.state(now_utc()) == "valid"]
            if not found:
                raise InvalidArgument("token", "is no valid token of this file", which)
            old = found[-1]
            tokens.append(fresh(old))
            old.expires = min(old.expires or ends, ends)
            return old

    def revoke(self, token_id: str, now: datetime) -> StoredToken:
        """Revoke a token by its id; raise InvalidArgument for an unknown one."""
        with self._changing() as tokens:
            for token in tokens:
                if token.id == token_id:
                    token.revoked = token.revoked or now
                    return token
            raise InvalidArgument("id", "is no token of this file", token_id)

    def note_used(self, used: Mapping[str, datetime]) -> None:
        """Note when tokens were used last, by their ids; raise OSError, or InvalidSetting for a broken file."""
        if not self.version():
            return
        with self._changing() as tokens:
            for token in tokens:
                if token.id in used:
                    token.used = max(token.used or used[token.id], used[token.id])

    @contextmanager
    def _changing(self) -> Iterator[list[StoredToken]]:
        """Change the file in one step: who reads sees the old one or the new one, and two changes do not meet."""
        with locked(self.path):
            tokens = self.read()
            yield tokens
            replace_private(self.path, b"".join(_encode(token) + b"\n" for token in tokens))

    def _parse(self, content: bytes) -> Iterator[StoredToken]:
        seen: set[str] = set()
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            try:
                token = _decode(line)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
                raise self._broken(f"hold a token as JSON in each line; line {number} does not") from exc
            if is_sample(token.sha256):
                raise self._broken(f"hold no sample of a manual, which everybody knows, as line {number} is")
            if token.id in seen:
                raise self._broken(f"hold each token once; line {number} repeats one")
            seen.add(token.id)
            yield token

    def _check_mode(self, found: os.stat_result) -> None:
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise self._broken("be readable for its owner only (chmod 600)")

    def _broken(self, rule: str) -> InvalidSetting:
        return InvalidSetting("token_file", f"must {rule}", str(self.path))


def now_utc() -> datetime:
    """Give this second."""
    return datetime.now(UTC).replace(microsecond=0)
