"""Ids of requests: in each answer, each line of the log that is about it, and its lines of the audit log."""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from itertools import count
from secrets import token_hex
from typing import Final

HEADER: Final = "X-Request-Id"

#: The id of the request that is being answered; empty elsewhere.
current: Final[ContextVar[str]] = ContextVar("request_id", default="")

_TAKEN: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_PREFIX: Final = token_hex(6)
_numbers: Final = count(1)


def make_id() -> str:
    """Return a new id: random for this process, and a number."""
    return f"{_PREFIX}-{next(_numbers):x}"


def take_id(given: Sequence[str]) -> str:
    """Return the id that a trusted proxy gives, or a new one where it gives none, several, or none that is short."""
    if len(given) == 1 and _TAKEN.fullmatch(given[0]):
        return given[0]
    return make_id()
