"""Mailbox: commands to workers, and their replies. Asked on the event loop; a thread of the lane does the talking.

Each call has a connection and a reply queue of its own, so that it hears nothing but its own replies, and a time
limit of its own. What comes back is hostile until it is read: JSON above all, never a pickle, never compressed.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.serialization import loads, prepare_accept_content

from ..errors import Unavailable
from .blocking_pool import BlockingPool
from .connections import BrokerAway, away_errors, close_connection, drop_connection, open_connection, say_why
from .replies import ReplyPlace, make_replies

log = logging.getLogger(__name__)

#: What each worker replied to each command: hostname to command name to reply.
Replies = dict[str, dict[str, Any]]

#: Reads the reply to a command in the thread, before it comes to the loop; raises ValueError for one to leave out.
Reader = Callable[[str, Any], Any]

#: So long the broker may take until a command is sent, in seconds.
SEND_LIMIT: Final = 2.5

#: However many workers reply, one call takes no longer, in seconds.
_MAX_CALL_SECONDS: Final = 30.0
#: When all that are known have replied, so long those that are not may still, in seconds.
_LINGER: Final = 0.1
_GRACE: Final = 0.4
_JSON: Final = "application/json"
_PICKLES: Final = frozenset({"application/x-python-serialize", "pickle"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command of Celery's remote control, to these hostnames or to all; without `reply` nobody replies."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    to: tuple[str, ...] | None = None
    reply: bool = True


class _Milestone:
    """A point that a call reaches in its thread, and that is waited for on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached: asyncio.Future[None] = self._loop.create_future()

    def reach(self) -> None:
        """Say in the thread that the call is there."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._note)

    async def reached_or(self, call: asyncio.Future[None], timeout: float) -> None:
        """Wait for it; raises what the call raised instead, and Unavailable after `timeout` seconds."""
        # A future and no task: whoever is cancelled here leaves nothing behind that a loop would have to end.
        await asyncio.wait((call, self._reached), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._reached.done():
            return
        if not call.done():
            raise Unavailable("The broker", f"no answer within {timeout:g} s")
        call.result()

    def _note(self) -> None:
        if not self._reached.done():
            self._reached.set_result(None)


@dataclass(slots=True)
class _Errand:
    """One call as the thread sees it; it ends when nothing is pending, or nobody has replied for a while.

    `wait` is how long that is, `longest` how long it takes at the most, `linger` how long it goes on for those who
    reply though nobody knows of them; all in seconds. `known` is whether anybody is awaited by name.
    """

    commands: Sequence[Command]
    pending: set[tuple[str, str]]
    known: bool
    wait: float
    longest: float
    linger: float
    read: Reader
    sent: _Milestone = field(default_factory=_Milestone)
    collected: _Milestone = field(default_factory=_Milestone)
    abandoned: threading.Event = field(default_factory=threading.Event)
    replies: Replies = field(default_factory=dict)
    heard: float = 0.0

    def keep(self, hostname: str, command: str, reply: Any) -> None:
        """Keep a reply."""
        self.replies.setdefault(hostname, {})[command] = reply
        self.pending.discard((hostname, command))
        self.heard = time.monotonic()


class Mailbox:
    """Sends commands to the workers of one Celery app and collects what they reply. Event loop only.

    `timeout` is how long a worker may be silent, in seconds; no reply is longer than `max_reply` bytes. `pickled` is
    when a reply came last that is a pickle, in epoch seconds: to us such a worker is as good as silent.
    """

    def __init__(self, celery_app: Celery, lane: BlockingPool, timeout: float, max_reply: int = 8 << 20) -> None:
        self.timeout = timeout
        self.pickled: float | None = None
        self._app = celery_app
        self._owner = uuid4().hex
        self._lane = lane
        self._max_reply = max_reply
        self._accept = {_JSON, *prepare_accept_content(celery_app.conf.accept_content)} - _PICKLES

    async def ask(
        self, commands: Sequence[Command], awaited: Collection[str] = (), read: Reader = lambda name, reply: reply
    ) -> Replies:
        """Send commands and give the replies, as soon as all awaited hostnames have replied to all of them.

        Replies of others are taken as they come, but a command that names its workers takes only theirs. A worker
        that does not reply is missing. Raises Unavailable when the commands could not be sent.
        """
        errand = self._errand(commands, awaited, read)
        call = asyncio.ensure_future(
            self._lane.call(partial(self._run, errand), SEND_LIMIT + errand.longest + 2 * _GRACE)
        )
        call.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # what fails after the end is nothing
        try:
            await errand.sent.reached_or(call, SEND_LIMIT)
            await errand.collected.reached_or(call, errand.longest + _GRACE)
            return errand.replies
        finally:
            errand.abandoned.set()
            call.cancel()

    async def tell(self, *commands: Command) -> None:
        """Send commands that nobody replies to; raises Unavailable."""
        await self.ask(commands)

    def _errand(self, commands: Sequence[Command], awaited: Collection[str], read: Reader) -> _Errand:
        names = [command.name for command in commands if command.reply]
        wait = self.timeout if names else 0.0
        pending = {(hostname, name) for hostname in awaited for name in names}
        return _Errand(
            commands=commands,
            pending=pending,
            known=bool(pending),
            wait=wait,
            longest=wait if len(awaited) == 1 or not names else max(wait, _MAX_CALL_SECONDS),
            linger=_LINGER if any(command.reply and command.to is None for command in commands) else 0.0,
            read=read,
        )

    # In the thread

    def _run(self, errand: _Errand) -> None:
        with connected(self._app) as connection:
            mailbox = self._app.control.mailbox(connection)
            tickets: dict[str, Command] = {}
            on_message = partial(self._on_message, errand, tickets)
            expires = max(self.timeout, _MAX_CALL_SECONDS) + _MAX_CALL_SECONDS
            arriving = make_replies(connection, mailbox, self._owner, expires, on_message)
            if errand.wait:
                arriving.open()
            if errand.abandoned.is_set():  # nobody waits: what was asked for then must not happen now
                if errand.wait:
                    arriving.close()
                return
            producer = Producer(connection.default_channel, auto_declare=False)
            for command in errand.commands:
                ticket = str(uuid4())
                tickets[ticket] = command
                self._send(producer, mailbox, command, ticket, arriving)
            errand.sent.reach()
            if errand.wait:
                _collect(arriving, errand)
            errand.collected.reach()  # what follows can take a moment: nobody has to wait for that
            if errand.wait:
                arriving.close()

    def _send(self, producer: Producer, mailbox: Any, command: Command, ticket: str, arriving: ReplyPlace) -> None:
        """Publish a command as Celery itself would."""
        if command.reply:
            reply_to = {"exchange": arriving.exchange, "routing_key": arriving.routing_key}
            _publish(producer, mailbox, command, time.time() + self.timeout, ticket=ticket, reply_to=reply_to)
        else:
            _publish(producer, mailbox, command)

    def _on_message(self, errand: _Errand, tickets: dict[str, Command], message: Any) -> None:
        """Keep a reply, `{hostname: reply}`; whatever else comes is nothing to us."""
        ticket = getattr(message, "ticket", None) or (getattr(message, "headers", None) or {}).get("ticket")
        command = tickets.get(ticket) if isinstance(ticket, str) else None
        if command is None:
            return
        try:
            body = self._decode(message)
            ((hostname, reply),) = body.items()
            if command.to is not None and hostname not in command.to:
                return
            read = errand.read(command.name, reply)
        except (ValueError, TypeError, AttributeError, RecursionError, LookupError, KombuError) as exc:
            log.debug("A reply to %s could not be read: %.200r", command.name, exc)
            if message.content_type in _PICKLES:
                self.pickled = time.time()
            return
        errand.keep(str(hostname), command.name, read)

    def _decode(self, message: Any) -> Any:
        body = message.body
        if len(body) > self._max_reply or getattr(message, "compression", None):
            raise ValueError("it is too long, or compressed")
        content_type = message.content_type or _JSON
        if content_type == _JSON:
            return json.loads(body, parse_constant=lambda name: None)
        return loads(body, content_type, message.content_encoding or "utf-8", accept=self._accept)


def send_commands(celery_app: Celery, connection: Connection, *commands: Command) -> None:
    """Publish commands without replies; Celery would do so on a connection of its pool, without limits."""
    mailbox = celery_app.control.mailbox(connection)
    producer = Producer(connection.default_channel, auto_declare=False)
    for command in commands:
        _publish(producer, mailbox, command)


@contextmanager
def connected(celery_app: Celery) -> Iterator[Connection]:
    """Connect to the broker of a Celery app, for one call; raises Unavailable, for what goes wrong inside too.

    Blocks: for a thread.
    """
    try:
        connection = open_connection(celery_app)
    except BrokerAway as exc:
        raise Unavailable("The broker", str(exc)) from exc
    broken = (*away_errors(connection), *connection.channel_errors, KombuError)
    try:
        yield connection
        close_connection(connection)
    except broken as exc:
        log.debug("A call to the broker failed", exc_info=True)
        raise Unavailable("The broker", say_why(exc)) from exc
    finally:
        drop_connection(connection)


def _publish(producer: Producer, mailbox: Any, command: Command, expires: float = 0, **reply: Any) -> None:
    message: dict[str, Any] = {
        "method": command.name,
        "arguments": command.arguments,
        "destination": None if command.to is None else list(command.to),
        "pattern": None,
        "matcher": None,
        **reply,
    }
    producer.publish(
        message,
        exchange=mailbox.exchange.name,
        declare=[mailbox.exchange],
        headers={"clock": mailbox.clock.forward(), "expires": expires},
        serializer=mailbox.serializer,
    )


def _collect(arriving: ReplyPlace, errand: _Errand) -> None:
    """Take replies until none is pending, or nobody has replied for a while."""
    began = errand.heard = time.monotonic()
    while not errand.abandoned.is_set():
        # A reply may have come while the last command was sent.
        quiet = errand.linger if errand.known and not errand.pending else errand.wait
        left = min(errand.heard + quiet, began + errand.longest) - time.monotonic()
        if left <= 0:
            return
        with suppress(TimeoutError):
            arriving.receive(left)
