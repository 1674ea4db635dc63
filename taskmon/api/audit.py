"""The audit log: one JSON line for each changing request, by a logger of its own, `taskmon.audit`."""

import json
import logging
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from tornado.httputil import HTTPServerRequest

from ..auth import Role
from ..errors import InvalidArgument
from ..masking import MASK
from ..parameters import Parameter
from ..showing import Showing
from .arguments import read_parts

log = logging.getLogger("taskmon.audit")

#: Characters of all the ids that one line names: as many as 10,000 ids of Celery's have.
MAX_ID_CHARACTERS: Final = 400_000

_UNREADABLE: Final = "(unreadable)"
_LONGEST: Final = 128
_LONGEST_VALUE: Final = 1000
_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 413, 415, 421, 429})


def parameters(
    request: HTTPServerRequest, known: Iterable[Parameter], json_only: bool, showing: Showing
) -> dict[str, Any]:
    """Return the arguments that the route knows, read as the handler reads them, masked and cut.

    There are none where the body cannot be read. A name that the route does not know may be a secret: it is left out.
    """
    try:
        texts, body = read_parts(request, json_only)
    except InvalidArgument:
        return {}
    given: dict[str, Any] = {}
    for parameter in known:
        name, kind = parameter.name, parameter.kind
        if name in texts:
            try:
                given[name] = texts[name] if kind.in_query else kind.from_text(name, texts[name])
            except InvalidArgument:
                given[name] = _UNREADABLE
        if name in body and (body[name] is not None or not kind.in_query):
            given[name] = body[name]
    return {name: _shown(name, value, showing) for name, value in given.items()}


def task_ids(ids: Collection[str]) -> dict[str, Any]:
    """Return the fields that say which tasks a request about many has changed, within a length."""
    kept, left = [], MAX_ID_CHARACTERS
    for task_id in ids:
        left -= len(task_id)
        if left < 0:
            break
        kept.append(task_id)
    return {"task_ids": kept, **({"task_ids_left_out": len(ids) - len(kept)} if len(kept) < len(ids) else {})}


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
