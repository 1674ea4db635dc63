"""Control: what changes workers and running tasks. Event loop only; `mailbox` does the talking.

Every call raises Unavailable while the broker is away, WorkerTimeout when a worker is silent, CommandRefused when it
says no.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from ..errors import CommandRefused, UnknownTaskName, WorkerTimeout
from ..masking import mask_passwords
from .destinations import Destinations
from .mailbox import Command, Mailbox

log = logging.getLogger(__name__)

#: So many ids go into one message.
_IDS_A_MESSAGE: Final = 1000

_MAX_REASON_LENGTH: Final = 500
_UNKNOWN_TASK: Final = "unknown task"


class Control:
    """Commands to the workers of one Celery app. A hostname given must be that of a known worker."""

    def __init__(self, mailbox: Mailbox, destinations: Destinations) -> None:
        self._mailbox = mailbox
        self._destinations = destinations

    async def revoke(
        self,
        task_ids: Sequence[str],
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
        holders: Collection[str] = (),
    ) -> None:
        """Tell all workers to leave these tasks alone, with `terminate` even to kill them with a signal.

        Workers to come hear of it from the others, so nobody is waited for but `holders`, the workers that have the
        tasks: that they reply at all is asked in the same breath.
        """
        commands = [
            Command(
                "revoke",
                {"task_id": list(task_ids[first : first + _IDS_A_MESSAGE]), "terminate": terminate, "signal": signal},
                reply=False,
            )
            for first in range(0, len(task_ids), _IDS_A_MESSAGE)
        ]
        if holders:
            await self._tell_and_ping(commands, holders)
        else:
            await self._mailbox.tell(*commands)

    async def shutdown(self, hostname: str) -> None:
        """Tell a worker to shut down. It cannot reply to that, but does to what is asked just before."""
        await self._tell_and_ping([Command("shutdown", to=(hostname,), reply=False)], [hostname])

    async def pool_restart(self, hostname: str) -> str:
        """Restart the pool of a worker; gives what it replied, here and below."""
        return await self._order(hostname, "pool_restart", reload=False)

    async def pool_grow(self, hostname: str, n: int) -> str:
        """Add `n` processes or threads to the pool of a worker."""
        return await self._order(hostname, "pool_grow", n=n)

    async def pool_shrink(self, hostname: str, n: int) -> str:
        """Take `n` processes or threads from the pool of a worker."""
        return await self._order(hostname, "pool_shrink", n=n)

    async def autoscale(self, hostname: str, minimum: int, maximum: int) -> str:
        """Set the bounds of the pool of a worker that scales itself."""
        return await self._order(hostname, "autoscale", min=minimum, max=maximum)

    async def add_consumer(self, hostname: str, queue: str) -> str:
        """Have a worker consume from a queue; raises PermissionDenied for one that is not for tasks."""
        await self._destinations.require_queue(queue)
        return await self._order(hostname, "add_consumer", queue=queue)

    async def cancel_consumer(self, hostname: str, queue: str) -> str:
        """Have a worker stop consuming from a queue; raises PermissionDenied where it does not consume from it."""
        await self._destinations.require_consumed(hostname, queue)
        return await self._order(hostname, "cancel_consumer", queue=queue)

    async def time_limit(
        self,
        task_name: str,
        soft: float | None,
        hard: float | None,
        hostname: str | None = None,
        awaited: Collection[str] = (),
    ) -> str:
        """Set the time limits of a task in seconds, with one worker or all; see `rate_limit`.

        0 is no limit, None the one that a worker has now: Celery's command sets both, so the workers are asked first.
        """
        if soft is not None and hard is not None:
            limits = {"soft": soft or None, "hard": hard or None}
            return await self._order_for(task_name, hostname, awaited, "time_limit", **limits)
        to, awaited = (None, awaited) if hostname is None else ((hostname,), [hostname])
        question = Command("registered", {"taskinfoitems": ["soft_time_limit", "time_limit"], "builtins": True}, to)
        found = await self._mailbox.ask([question], awaited, partial(_find_limits, task_name))
        groups: dict[tuple[float | None, float | None], list[str]] = {}
        for name, reply in found.items():
            if (present := reply["registered"]) is not None:
                own = (present[0] if soft is None else soft or None, present[1] if hard is None else hard or None)
                groups.setdefault(own, []).append(name)
                if own[0] and own[1] and own[0] > own[1]:
                    raise CommandRefused(
                        f"{name} would have a soft limit of {own[0]:g} s above a hard one of {own[1]:g} s"
                    )
        return await self._set_limits(task_name, groups, [name for name in awaited if name not in found])

    async def _set_limits(
        self, task_name: str, groups: Mapping[tuple[float | None, float | None], list[str]], silent: Sequence[str]
    ) -> str:
        """Set the time limits, soft and hard, that workers are to have; `silent` are those that do not answer."""
        if not groups:
            raise self._silence(silent) if silent else UnknownTaskName(task_name)
        commands = [
            Command("time_limit", {"soft": soft, "hard": hard, "task_name": task_name}, tuple(names))
            for (soft, hard), names in groups.items()
        ]
        told = [name for names in groups.values() for name in names]
        found = await self._mailbox.ask(commands, told)
        return self._judge({name: reply["time_limit"] for name, reply in found.items()}, [*told, *silent])

    async def rate_limit(
        self, task_name: str, rate_limit: str, hostname: str | None = None, awaited: Collection[str] = ()
    ) -> str:
        """Set the rate limit of a task, with one worker or with all; `awaited` are then those that must reply.

        Raises UnknownTaskName when no worker has such a task.
        """
        return await self._order_for(task_name, hostname, awaited, "rate_limit", rate_limit=rate_limit)

    async def _tell_and_ping(self, commands: Sequence[Command], hostnames: Collection[str]) -> None:
        """Send commands that nobody replies to, and hear whether some workers are there at all.

        The ping goes first, as a worker that shuts down reads no further.
        """
        replies = await self._mailbox.ask([Command("ping", to=tuple(hostnames)), *commands], hostnames)
        if silent := sorted(set(hostnames) - replies.keys()):
            raise self._silence(silent)

    async def _order(self, hostname: str, command: str, **arguments: Any) -> str:
        replies = await self._mailbox.ask([Command(command, arguments, (hostname,))], [hostname])
        return self._judge({hostname: reply[command] for hostname, reply in replies.items()}, [hostname])

    async def _order_for(
        self, task_name: str, hostname: str | None, awaited: Collection[str], command: str, **arguments: Any
    ) -> str:
        """Give an order that is about a task to one worker, or to all: those that have no such task do not count."""
        arguments["task_name"] = task_name
        to, awaited = (None, awaited) if hostname is None else ((hostname,), [hostname])
        found = await self._mailbox.ask([Command(command, arguments, to)], awaited)
        replies = {name: reply[command] for name, reply in found.items()}
        knowing = {name: reply for name, reply in replies.items() if _refusal(reply) != _UNKNOWN_TASK}
        silent = [name for name in awaited if name not in replies]
        if replies and not knowing and not silent:
            raise UnknownTaskName(task_name)
        return self._judge(knowing, [*knowing, *silent])

    def _judge(self, replies: Mapping[str, Any], expected: Collection[str]) -> str:
        """Give what the first worker says when all have done as told; raises CommandRefused or WorkerTimeout."""
        refusals = {name: reason for name, reply in replies.items() if (reason := _refusal(reply)) is not None}
        if refusals:
            raise CommandRefused(
                "; ".join(f"{name} refused: {reason}" for name, reason in list(refusals.items())[:10])
            )
        silent = sorted(name for name in expected if name not in replies)
        if silent or not replies:
            raise self._silence(silent)
        return _said(next(iter(replies.values()))["ok"])

    def _silence(self, hostnames: Sequence[str]) -> WorkerTimeout:
        names = ", ".join(hostnames[:10]) + (f" and {len(hostnames) - 10} more" if len(hostnames) > 10 else "")
        return WorkerTimeout(
            f"{names or 'No worker'} {'did not answer' if names else 'answered'} within {self._mailbox.timeout:g} s; "
            "what was asked for may still happen"
        )


def _find_limits(task_name: str, command: str, reply: Any) -> tuple[float | None, float | None] | None:
    """Return the soft and the hard time limit that a worker has for a task, None if it has no such task.

    The reply is a list of lines such as `app.add [soft_time_limit=5 time_limit=10]`. ValueError for any other.
    """
    if not isinstance(reply, list):
        raise ValueError("no list of tasks")
    for line in reply:
        if line == task_name:
            return None, None
        if isinstance(line, str) and line.startswith(f"{task_name} ["):
            items = dict(item.partition("=")[::2] for item in line[len(task_name) + 2 :].rstrip("]").split())
            soft, hard = (float(items.get(name) or 0) for name in ("soft_time_limit", "time_limit"))
            return soft or None, hard or None
    return None


def _refusal(reply: Any) -> str | None:
    """Give the reason in the reply of a worker that did not do as told, None when it did."""
    if isinstance(reply, dict) and isinstance(reply.get("ok"), str):
        return None
    if isinstance(reply, dict) and reply.get("error"):
        return _said(reply["error"])
    return "its reply makes no sense"


def _said(text: object) -> str:
    """Make a text of a worker fit for an answer."""
    whole = str(text)[: 2 * _MAX_REASON_LENGTH].encode("utf-8", "replace").decode()
    return mask_passwords(whole)[:_MAX_REASON_LENGTH]
