"""The audit log: one JSON line for each changing request, by a logger of its own, `taskmon.audit`."""

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from tornado.httputil import HTTPServerRequest

from ..auth import Role
from ..errors import InvalidArgument
from ..showing import MASK, Showing
from .arguments import FORM, read_form, read_object, read_query

log = logging.getLogger("taskmon.audit")

_LONGEST: Final = 128
_LONGEST_VALUE: Final = 1000
_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 413, 415, 421, 429})


def parameters(request: HTTPServerRequest, known: Iterable[str], showing: Showing) -> dict[str, Any]:
    """Give the arguments of a request that its route knows, masked and cut; none where they cannot be read."""
    try:
        given: dict[str, Any] = read_query(request)
        is_form = request.headers.get("Content-Type", "").startswith(FORM)
        given |= read_form(request) if is_form else read_object(request)
    except InvalidArgument:
        return {}
    return {name: _shown(name, given[name], showing) for name in known if name in given}


def _shown(name: str, value: Any, showing: Showing) -> Any:
    if name in ("args", "kwargs") and not showing.sees(Role.ADMIN):
        return "(hidden)"
    if showing.masker.is_secret(name):
        return MASK
    shown = showing.masker.value(value)
    text = shown if isinstance(shown, str) else msgspec.json.encode(shown).decode()
    return shown if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…[cut]"


def write(*, user: str, method: str, client: str, action: str, target: str, status: int, **more: Any) -> None:
    """Write who asked for what, from where, and what came of it. Names are cut, and escaped by JSON."""
    log.info(
        "%s",
        json.dumps(
            {
                "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
                "user": user[:_LONGEST],
                "authenticated_by": method,
                "client": client[:_LONGEST],
                "action": action,
                "target": target[:_LONGEST],
                **more,
                "decision": "refused" if status in _REFUSED else "allowed",
                "outcome": "refused" if status in _REFUSED else "done" if status < 400 else "failed",
                "status": status,
            }
        ),
    )
