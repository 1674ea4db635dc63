"""Inspection: what workers say of themselves when asked, kept with its age. Event loop only.

One inspect at a time per worker, however many ask. Answers are kept as the JSON they go out as, passwords masked.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import inf
from typing import Any, Final

import msgspec

from ..errors import Unavailable, WorkerTimeout
from ..records import Event, Task, Worker
from .commanded import Commanded
from .inspect_replies import read_answer
from .mailbox import Command, Mailbox

log = logging.getLogger(__name__)

#: What is asked of every worker, by the names of Celery's inspect methods.
GENERAL: Final = ("stats", "active_queues", "registered", "conf")

#: What is asked only of a worker that is named: lists of tasks can be long.
OF_TASKS: Final = ("scheduled", "active", "reserved", "revoked")

#: What is asked of all workers at once.
OF_ALL: Final = (*GENERAL, "active")

#: The same is asked again on demand after so many seconds, not before.
HOLD: Final = 5.0

#: A worker needs so many seconds to do as told: it looks after the processes of its pool every 5 s.
QUEUES_SETTLE: Final = 1.0
POOL_SETTLES: Final = 5.5

#: As long as HOLD when the broker was away.
_HOLD_FAILURE: Final = 1.0

#: Seconds for which it is kept when a worker answered last.
_ANSWERED_KEPT: Final = 300.0

#: A worker that came and does not answer is asked again after so many seconds: doubled each time.
_BACKOFF: Final = (2.0, 300.0)
_WORKERS_PER_CALL: Final = 50

_ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    "active": {"safe": True},
    "conf": {"with_defaults": False},
    "registered": {"taskinfoitems": []},
}


@dataclass(slots=True)
class Inspection:
    """What one worker answered: JSON and time by method, in epoch seconds, and what taskmon itself reads of it."""

    answers: dict[str, msgspec.Raw] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    pool_size: int | None = None

    def part(self, methods: Iterable[str]) -> tuple[dict[str, msgspec.Raw], float | None]:
        """Give the answers to these methods, as far as there are any, and the time of the oldest of them."""
        found = {method: self.answers[method] for method in methods if method in self.answers}
        return found, min((self.times[method] for method in found), default=None)


class Inspector:
    """Asks workers and keeps their answers; `on_answer` is called with the hostname of every worker that answers.

    `answered` is when each worker last answered anything, in epoch seconds.
    """

    def __init__(self, mailbox: Mailbox, on_answer: Callable[[str], None] = lambda hostname: None) -> None:
        self.inspections: dict[str, Inspection] = {}
        self.answered: dict[str, float] = {}
        self._mailbox = mailbox
        self._on_answer = on_answer
        self._busy: dict[str, asyncio.Task[set[str]]] = {}
        self._refreshes: dict[str | None, tuple[float, asyncio.Task[set[str]]]] = {}
        self._asking = _Asking(self._ask_quietly)
        self._commanded = Commanded()
        self._asked: dict[str, float] = {}  # when workers were asked since all were, by the monotonic clock

    def queues(self) -> list[str]:
        """List the names of the queues that the workers consume from, sorted."""
        return sorted({queue for inspection in self.inspections.values() for queue in inspection.queues})

    async def refresh(self, hostname: str | None, awaited: Collection[str] = ()) -> None:
        """Ask a worker everything, or all workers what is asked of all, `awaited` being those that should answer.

        A refresh within HOLD seconds of another has the answers of that one, except for workers that were told to
        change since. Raises WorkerTimeout when a worker that was named is silent, and Unavailable.
        """
        now = time.monotonic()
        holds = self._commanded.holds
        self._refreshes = {
            target: held
            for target, held in self._refreshes.items()
            if _is_held(held, now) and holds(target, held[0], now)
        }
        if hostname is None:
            self._refresh_all(awaited, now)
        elif hostname not in self._refreshes:
            self._refreshes[hostname] = now, self._start([hostname], GENERAL + OF_TASKS)
        answered = await asyncio.shield(self._refreshes[hostname][1])
        if hostname is not None and hostname not in answered:
            raise WorkerTimeout(f"{hostname} did not answer within {self._mailbox.timeout:g} s")

    def _refresh_all(self, awaited: Collection[str], now: float) -> None:
        """Ask all workers, or only those that were told to change since all were asked."""
        if None not in self._refreshes:
            self._asked.clear()
            self._refreshes[None] = now, self._start(awaited, OF_ALL, everybody=True)
            return
        began, task = self._refreshes[None]
        changed = [
            name
            for name in self._commanded.changed()
            if name in self.inspections and not self._commanded.holds(name, self._asked.get(name, began), now)
        ]
        if changed:
            self._asked.update(dict.fromkeys(changed, now))
            joined = asyncio.create_task(_join(task, self._start(changed, OF_ALL)))
            joined.add_done_callback(partial(self._finish, ()))
            self._refreshes[None] = began, joined

    async def ping(self) -> None:
        """Ask all workers for a sign of life, which `answered` notes; raises Unavailable."""
        replies = await self._mailbox.ask([Command("ping")])
        now = time.time()
        self.answered = {name: at for name, at in self.answered.items() if abs(now - at) < _ANSWERED_KEPT}
        self.answered.update(dict.fromkeys(replies, now))

    async def ask(self, hostnames: Collection[str]) -> None:
        """Ask some workers what is asked of every worker; raises Unavailable."""
        await self._start(tuple(islice(hostnames, _WORKERS_PER_CALL)), GENERAL)

    def expect_change(self, hostnames: Collection[str] | None, settles: float) -> None:
        """Have the next refresh ask these workers anew, or all: they were told to change within `settles` seconds."""
        self._commanded.note(hostnames, time.monotonic(), settles)

    def ask_again(self, hostname: str, delay: float) -> None:
        """Ask a worker again after so many seconds, as it was told to change; nobody waits for that."""
        self._asking.plan(hostname, delay)

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Ask the workers that these changes tell of for the first time, or that have come back."""
        for event, subject in changes:
            if event.uuid is None and isinstance(subject, Worker):
                self._asking.note(event.type, subject.hostname)

    def forget(self, hostname: str) -> None:
        """Forget a worker that State has dropped."""
        self.inspections.pop(hostname, None)
        self._asked.pop(hostname, None)
        self._asking.forget(hostname)

    def close(self) -> None:
        """Give up what is under way."""
        self._asking.close()
        for task in {*self._busy.values(), *(task for _, task in self._refreshes.values())}:
            task.cancel()

    async def _ask_quietly(self, hostnames: Collection[str]) -> set[str]:
        """Ask and give those who have answered everything: one that just began to listen has missed a part."""
        began = time.time()
        await self._start(hostnames, GENERAL)
        return {
            name
            for name in hostnames
            if (found := self.inspections.get(name)) and all(found.times.get(one, 0.0) >= began for one in GENERAL)
        }

    def _start(
        self, hostnames: Collection[str], methods: Collection[str], everybody: bool = False
    ) -> asyncio.Task[set[str]]:
        """Begin to ask, once those who are asked have answered whoever asked them before."""
        before = {self._busy[name] for name in hostnames if name in self._busy}
        to = None if everybody else tuple(hostnames)
        task = asyncio.create_task(self._inspect(before, to, hostnames, methods))
        for hostname in hostnames:
            self._busy[hostname] = task
        task.add_done_callback(partial(self._finish, hostnames))
        return task

    def _finish(self, hostnames: Collection[str], task: asyncio.Task[set[str]]) -> None:
        for hostname in hostnames:
            if self._busy.get(hostname) is task:
                del self._busy[hostname]
        if not task.cancelled():
            task.exception()  # somebody has looked: those who asked may be gone

    async def _inspect(
        self,
        before: Collection[asyncio.Task[set[str]]],
        to: tuple[str, ...] | None,
        awaited: Collection[str],
        methods: Collection[str],
    ) -> set[str]:
        """Ask, keep what is answered, and tell who has answered."""
        if before:
            done, _ = await asyncio.wait(before)
            for task in done:  # the broker was away a moment ago: whoever asks has waited for it once already
                if not task.cancelled() and isinstance(away := task.exception(), Unavailable):
                    raise Unavailable(away.what, away.reason)
        commands = [Command(method, _ARGUMENTS.get(method, {}), to) for method in methods]
        replies = await self._mailbox.ask(commands, awaited, read_answer)
        now = time.time()
        for hostname, answers in replies.items():
            self.answered[hostname] = now
            self._on_answer(hostname)
            self._keep(hostname, answers, now)
        return set(replies)

    def _keep(self, hostname: str, answers: Mapping[str, Any], now: float) -> None:
        inspection = self.inspections.setdefault(hostname, Inspection())
        for method, (answer, more) in answers.items():
            inspection.answers[method] = answer
            inspection.times[method] = now
            if method == "active_queues":
                inspection.queues = more
            elif method == "stats":
                inspection.pool_size = more


class _Asking:
    """Decides when a worker that came is asked, and asks those whose time has come, together."""

    def __init__(self, ask: Callable[[Collection[str]], Any]) -> None:
        self._ask = ask
        self._due: dict[str, float] = {}  # when to ask, in monotonic seconds: inf for one that has answered
        self._delays: dict[str, float] = {}
        self._wanted: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def note(self, kind: str, hostname: str) -> None:
        """Take note of an event of a worker."""
        if kind == "worker-offline":
            self.forget(hostname)
        elif kind == "worker-online" or self._due.get(hostname, 0.0) <= time.monotonic():
            self.want(hostname)

    def want(self, hostname: str) -> None:
        """Ask a worker as soon as may be."""
        self._due[hostname] = inf
        self._wanted[hostname] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def plan(self, hostname: str, delay: float) -> None:
        """Ask a worker at its first heartbeat after so many seconds."""
        self._due[hostname] = time.monotonic() + delay

    def forget(self, hostname: str) -> None:
        """Ask a worker no more."""
        for noted in (self._due, self._delays, self._wanted):
            noted.pop(hostname, None)

    def close(self) -> None:
        """Ask nobody any more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        """Ask whoever is wanted; whoever does not answer is asked again at a later heartbeat.

        A worker says it is online a moment before it listens, so that is no rare case.
        """
        while self._wanted:
            names = list(islice(self._wanted, _WORKERS_PER_CALL))
            for name in names:
                del self._wanted[name]
            answered: set[str] = set()
            try:
                answered = await self._ask(names)
            except Unavailable as exc:
                log.debug("Workers could not be inspected: %s", exc)
            for name in names:
                self._conclude(name, name in answered)

    def _conclude(self, hostname: str, answered: bool) -> None:
        if hostname not in self._due:  # it has gone meanwhile
            return
        if answered:
            self._delays.pop(hostname, None)
            return
        delay = self._delays.get(hostname, _BACKOFF[0])
        self._delays[hostname] = min(2 * delay, _BACKOFF[1])
        self.plan(hostname, delay)


async def _join(*tasks: asyncio.Task[set[str]]) -> set[str]:
    """Wait for several questions, and return who has answered any of them."""
    return set().union(*await asyncio.gather(*tasks))


def _is_held(held: tuple[float, asyncio.Task[set[str]]], now: float) -> bool:
    """Tell whether a refresh goes on, or was asked for so short a time ago that its answer is still good."""
    began, task = held
    if not task.done():
        return True
    if task.cancelled():
        return False
    return now - began < (HOLD if task.exception() is None else _HOLD_FAILURE)
