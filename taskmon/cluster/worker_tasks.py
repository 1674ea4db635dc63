"""Holdings: which tasks the workers say they have. Asked on the event loop; read in a thread of the mailbox's lane.

Replies are lists of tasks with their arguments, and hostile: nothing but ids is kept of them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from .mailbox import Command, Mailbox

#: What a worker is asked, by the names of Celery's inspect methods. Tasks that a rate limit holds back are in none of
#: the first three; the last tells which names have one.
_METHODS: Final = ("active", "reserved", "scheduled", "registered")
_LIMITED: Final = "rate_limit="


@dataclass(frozen=True, slots=True)
class Holding:
    """What one worker has: the ids of its tasks, and the names of those tasks that it may hold back unseen."""

    task_ids: frozenset[str] = field(default_factory=frozenset)
    limited: frozenset[str] = field(default_factory=frozenset)


async def ask_for_holdings(mailbox: Mailbox, awaited: Collection[str]) -> dict[str, Holding]:
    """Ask all workers what they have; those awaited are given time to reply. Raises Unavailable.

    A worker is in the answer only if it has replied to everything.
    """
    commands = [Command(method, {"safe": True} if method == "active" else {}) for method in _METHODS]
    replies = await mailbox.ask(commands, awaited, read_holding)
    return {
        hostname: Holding(
            told["active"] | told["reserved"] | told["scheduled"],
            told["registered"],
        )
        for hostname, told in replies.items()
        if len(told) == len(_METHODS)
    }


def read_holding(method: str, reply: Any) -> frozenset[str]:
    """Give the ids of the tasks in a reply, or the names that have a rate limit; ValueError for a bad reply."""
    if not isinstance(reply, list):
        raise ValueError(f"no answer to {method}")
    if method == "registered":
        entries = (entry.partition(" [") for entry in reply if isinstance(entry, str))
        return frozenset(name for name, _, about in entries if _LIMITED in about)
    items = [item.get("request") if method == "scheduled" else item for item in reply if isinstance(item, dict)]
    ids = (item.get("id") for item in items if isinstance(item, dict))
    return frozenset(task_id for task_id in ids if isinstance(task_id, str))
