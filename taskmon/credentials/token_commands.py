"""What the commands of `taskmon token` do to a file of tokens; they return what is to be printed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from ..errors import InvalidArgument
from ..settings import read_age
from ..wording import say_when
from .token_file import StoredToken, TokenFile, now_utc
from .tokens import make_token

#: How long a token lasts where nothing else is said.
LIFETIME: Final = timedelta(days=90)


def read_expiry(text: str | None, *, never: bool) -> datetime | None:
    """Return when a token shall end: a date, a time from now, or LIFETIME from now; raise InvalidArgument."""
    if never and text:
        raise InvalidArgument("expires", "must not be given together with --never", text)
    if never:
        return None
    now = now_utc()
    if not text:
        return now + LIFETIME
    try:
        ends = datetime.fromisoformat(text).replace(tzinfo=UTC) if "-" in text else now + _read_time(text)
    except (ValueError, OverflowError):
        raise InvalidArgument("expires", "must be a date such as 2030-12-31, or a time such as 30d", text) from None
    if ends <= now:
        raise InvalidArgument("expires", "must be in the future", text)
    return ends


def create(
    path: Path,
    name: str,
    role: str,
    expires: datetime | None,
    scopes: Sequence[str] = (),
    rate_limit: str | None = None,
) -> str:
    """Make a token; raise InvalidArgument for a bad name, scope or limit, and for a name that a valid token has."""
    secret, token_id, digest = make_token()
    stored = _check(
        id=token_id,
        sha256=digest,
        name=name,
        role=role.lower(),
        created=now_utc(),
        expires=expires.replace(tzinfo=UTC) if expires else None,
        scopes=tuple(dict.fromkeys(scopes)),
        rate_limit=rate_limit,
    )
    TokenFile(path).add(stored)
    return _say(secret, token_id)


def rotate(path: Path, which: str, overlap: str, expires: str | None, *, never: bool) -> str:
    """Make a token that replaces one, which works on for a while; raise InvalidArgument.

    It lasts as long as the old one did, unless something else is said.
    """
    secret, token_id, digest = make_token()
    now = now_utc()
    try:
        ends = now if overlap == "0" else now + _read_time(overlap)
    except (ValueError, OverflowError):
        raise InvalidArgument("overlap", "must be a time such as 7d or 12h, or 0", overlap) from None
    wanted = read_expiry(expires, never=never)

    def fresh(old: StoredToken) -> StoredToken:
        until = wanted
        if not expires and not never:
            until = None if old.expires is None else now + (old.expires - old.created)
        return msgspec.structs.replace(old, id=token_id, sha256=digest, created=now, expires=until, used=None)

    old = TokenFile(path).rotate(which, fresh, ends)
    end = old.expires or ends
    return f"{_say(secret, token_id)}\n\nThe old one, {old.id} ({old.name}), works until {end:%Y-%m-%d %H:%M} UTC"


def list_all(path: Path) -> str:
    """List the tokens, a line each."""
    now = now_utc()
    rows = [("id", "name", "allows", "rate limit", "created", "expires", "last used", "state")]
    for token in TokenFile(path).read():
        created, expires, used = (_day(moment, now) for moment in (token.created, token.expires, token.used))
        allows, rate = ",".join(token.scopes) or token.role, token.rate_limit or "none"
        rows.append((token.id, token.name, allows, rate, created, expires, used, token.state(now)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def revoke(path: Path, token_id: str) -> str:
    """Revoke one; raise InvalidArgument for an unknown id."""
    token = TokenFile(path).revoke(token_id, now_utc())
    return f"The token {token.id} ({token.name}) is revoked"


def _check(**known: Any) -> StoredToken:
    """Return the token; raise InvalidArgument that names what breaks its rule."""
    rules = {
        "name": "must be 1 to 64 letters, digits or . _ @ -",
        "scopes": "must be metrics, read, read:no-args or publish:<pattern>, such as publish:shop.*",
        "rate_limit": "must be a number of requests in a second, minute or hour, such as 600/m",
    }
    try:
        return msgspec.convert(known, StoredToken)
    except msgspec.ValidationError:
        pass
    for argument, rule in rules.items():
        plain: dict[str, Any] = {"name": "a", "scopes": (), "rate_limit": None, argument: known[argument]}
        try:
            msgspec.convert({**known, **plain}, StoredToken)
        except msgspec.ValidationError:
            value = known[argument]
            raise InvalidArgument(argument, rule, value if isinstance(value, str) else ", ".join(value)) from None
    raise InvalidArgument("role", "must be viewer, operator or admin", known["role"])


def _say(secret: str, token_id: str) -> str:
    return f"The token {token_id}, which is shown only now:\n\n    {secret}"


def _read_time(text: str) -> timedelta:
    return timedelta(seconds=read_age(text))


def _day(moment: datetime | None, now: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d} ({say_when(moment, now)})" if moment else "never"
