"""What a line of the audit log says: who asked for what, and what came of it. `audit_log.py` writes it."""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from .. import audit_log
from ..auth import Role
from ..errors import InvalidArgument
from ..masking import MASK
from .redaction import Showing

_UNREADABLE: Final = "(unreadable)"
_MAX_NAME_LENGTH: Final = 128
_MAX_VALUE_LENGTH: Final = 1000
#: Further fields that are never long.
_SHORT: Final = ("role", "credential", "proxy", "address")
_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 408, 413, 415, 421, 429})


def show(name: str, value: Any, showing: Showing) -> Any:
    """Return the value of an argument, masked and cut."""
    if isinstance(value, InvalidArgument):
        return _UNREADABLE
    if name in ("args", "kwargs") and not showing.may_see(Role.ADMIN):
        return "(hidden)"
    if showing.masker.is_secret(name):
        return MASK
    shown = showing.masker.value(value)
    text = shown if isinstance(shown, str) else msgspec.json.encode(shown).decode()
    return shown if len(text) <= _MAX_VALUE_LENGTH else text[:_MAX_VALUE_LENGTH] + "…[cut]"


def write(
    *, request_id: str, user: str, method: str, client: str, action: str, target: str, status: int | None, **more: Any
) -> None:
    """Write who asked for what, from where, and what came of it; a status of None is for what has yet to happen."""
    refused = status in _REFUSED
    result: dict[str, Any] = {"decision": "refused" if refused else "allowed"}
    if status is None:
        result["outcome"] = "intended"
    else:
        result |= {"outcome": "refused" if refused else "done" if status < 400 else "failed", "status": status}
    # What may be long is last: a daemon that cuts lines must not cut off who it was and what came of it.
    audit_log.write(
        {
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
            "request_id": request_id,
            **result,
            "user": user[:_MAX_NAME_LENGTH],
            "authenticated_by": method,
            "client": client[:_MAX_NAME_LENGTH],
            "action": action,
            **{name: more.pop(name) for name in _SHORT if name in more},
            "target": unquote(target, errors="backslashreplace")[:_MAX_VALUE_LENGTH],
            **more,
        }
    )
