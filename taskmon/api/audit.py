"""The audit log: one JSON line for each changing request, by a logger of its own, `taskmon.audit`."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

log = logging.getLogger("taskmon.audit")

_LONGEST: Final = 128
_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 413, 421, 429})


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
                "status": status,
            }
        ),
    )
