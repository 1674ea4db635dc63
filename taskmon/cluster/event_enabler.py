"""Cluster: every call that taskmon makes to a Celery cluster. Each is awaited, bounded in number and in time.

A call runs in a daemon thread of its own: Celery's calls block, and one that hangs must hold up neither the loop nor
the end of the program.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, TypeVar

from celery import Celery
from kombu.connection import Connection

from ..broker_faults import explain
from ..errors import Unavailable
from ..records import Event, Task, Worker
from .mailbox import Command, connected, send_commands

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_CALLS: Final = 8
_CALL_TIMEOUT: Final = 10.0

#: A worker says that it is online some time before it listens to anybody: at so many heartbeats it is asked again.
_ASK_AGAIN_AFTER_HEARTBEATS: Final = 2


class Cluster:
    """Calls to the cluster of one Celery app. Event loop only."""

    def __init__(self, celery_app: Celery) -> None:
        self._app = celery_app
        self._calls = 0

    async def enable_events(self, hostnames: Collection[str] | None = None) -> None:
        """Ask these workers, or all, to send task events and a heartbeat; raises Unavailable."""
        to = None if hostnames is None else tuple(sorted(hostnames))
        commands = [Command(name, to=to, reply=False) for name in ("enable_events", "heartbeat")]
        await self._call(lambda connection: send_commands(self._app, connection, *commands))

    async def _call(self, function: Callable[[Connection], T], timeout: float = _CALL_TIMEOUT) -> T:
        """Run a function with a fresh connection in a thread; raises Unavailable."""
        if self._calls >= _MAX_CALLS:
            raise Unavailable("The broker", "too many calls are under way")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(setter: Callable[[Any], None], value: object) -> None:
            self._calls -= 1
            if not future.done():
                setter(value)

        def run() -> None:
            try:
                with connected(self._app) as connection:
                    outcome: tuple[Callable[[Any], None], object] = future.set_result, function(connection)
            except Exception as exc:
                outcome = future.set_exception, exc
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, *outcome)

        self._calls += 1
        threading.Thread(target=run, name="taskmon-call", daemon=True).start()
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError as exc:
            raise Unavailable("The broker", f"no answer within {timeout:g} s") from exc
        except Unavailable:
            raise
        except Exception as exc:
            raise Unavailable("The broker", str(explain(exc))) from exc


class EventEnabler:
    """Asks every worker to send task events as soon as it appears. Event loop only."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._asked: set[str] = set()
        self._again: dict[str, int] = {}
        self._wanted: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._everybody = False

    def ask_all(self) -> None:
        """Ask all workers there are; for each new connection to the broker."""
        self._everybody = True
        self._ask()

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Ask the workers that these changes tell of for the first time, or that have come back."""
        for event, subject in changes:
            if event.uuid is not None or not isinstance(subject, Worker):
                continue
            hostname = subject.hostname
            if not subject.online:
                self.forget(hostname)
            elif event.type == "worker-online":
                self._again[hostname] = _ASK_AGAIN_AFTER_HEARTBEATS
                self._wanted.add(hostname)
            elif hostname in self._again:
                self._again[hostname] -= 1
                if not self._again[hostname]:
                    del self._again[hostname]
                self._wanted.add(hostname)
            elif hostname not in self._asked:
                self._wanted.add(hostname)
        self._asked |= self._wanted
        if self._wanted:
            self._ask()

    def forget(self, hostname: str) -> None:
        """Forget a worker that State has dropped."""
        self._asked.discard(hostname)
        self._wanted.discard(hostname)
        self._again.pop(hostname, None)

    async def stop(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _ask(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._ask_until_done())

    async def _ask_until_done(self) -> None:
        """Ask whoever is wanted, together; whoever could not be asked is asked at its next heartbeat."""
        while self._everybody or self._wanted:
            everybody, wanted = self._everybody, self._wanted
            self._everybody, self._wanted = False, set()
            try:
                await self._cluster.enable_events(None if everybody else wanted)
            except Unavailable as exc:
                self._asked = set() if everybody else self._asked - wanted
                log.warning("Workers could not be asked for events: %s", exc)
