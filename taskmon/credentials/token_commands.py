"""What `taskmon token create`, `list` and `revoke` do to a file of tokens; they give what is to be printed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InvalidArgument
from ..wording import say_when
from .token_file import StoredToken, TokenFile, now_utc
from .tokens import make_token


def create(path: Path, name: str, role: str, expires: datetime | None) -> str:
    """Make a token; raise InvalidArgument for a bad name."""
    secret, token_id, digest = make_token()
    known: dict[str, Any] = {
        "id": token_id,
        "sha256": digest,
        "name": name,
        "role": role.lower(),
        "created": now_utc(),
        "expires": expires.replace(tzinfo=UTC) if expires else None,
    }
    try:
        stored = msgspec.convert(known, StoredToken)
    except msgspec.ValidationError as exc:
        raise InvalidArgument("name", "must be 1 to 64 letters, digits or . _ @ -", name) from exc
    TokenFile(path).add(stored)
    return f"The token {token_id}, which is shown only now:\n\n    {secret}"


def list_all(path: Path) -> str:
    """List the tokens, a line each."""
    now = now_utc()
    rows = [("id", "name", "role", "created", "expires", "state")]
    for token in TokenFile(path).read():
        created, expires = _day(token.created, now), _day(token.expires, now)
        rows.append((token.id, token.name, token.role, created, expires, token.state(now)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def revoke(path: Path, token_id: str) -> str:
    """Revoke one; raise InvalidArgument for an unknown id."""
    token = TokenFile(path).revoke(token_id, now_utc())
    return f"The token {token.id} ({token.name}) is revoked"


def _day(moment: datetime | None, now: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d} ({say_when(moment, now)})" if moment else "never"
