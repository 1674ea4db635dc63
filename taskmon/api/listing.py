"""A listing of tasks: out of memory, or out of the history where memory does not hold all of it. Event loop only."""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from math import inf
from operator import attrgetter
from typing import Final

from tornado.iostream import StreamClosedError

from ..errors import Unavailable
from ..http.base import ApiHandler
from ..http.serializers import task_items, task_members
from ..http.time_slice import Turn, send_members
from ..monitor.query import TaskQuery
from ..records import Task

log = logging.getLogger(__name__)

Family = tuple[Task, list[str]]

#: Tasks that are encoded together at the most, and characters of their texts.
BATCH: Final = 16
TEXT: Final = 100_000

_texts: Final = attrgetter("args", "kwargs", "result", "exception", "traceback")

#: A page that ends no further down is looked for in memory first.
_MAX_MEMORY_OFFSET: Final = 5_000

#: Says of an answer that it knows of memory only, as the history is away.
HISTORY_HEADER: Final = "X-Taskmon-History"


def warn_of_history(handler: ApiHandler) -> None:
    """Say with an answer that it lacks what only the history knows."""
    handler.set_header(HISTORY_HEADER, "unavailable")


async def send_listing(handler: ApiHandler, query: TaskQuery) -> None:
    """Send an object of task objects by id, in order.

    The first page of the newest tasks comes from memory where that holds all that are as new. Whatever goes beyond
    comes from the history.
    """
    history = handler.services.history
    if history is None or history.is_all_in_memory:
        await _send_held(handler, query)
        return
    page = await _find_page(handler, query)
    try:
        families = history.list_tasks(query) if page is None else history.with_children(page)
        first = await anext(families, None)
    except Unavailable:
        warn_of_history(handler)
        await _send_held(handler, query)
        return
    await _send_families(handler, first, families)


async def _send_held(handler: ApiHandler, query: TaskQuery) -> None:
    await send_members(handler, encode_tasks(handler, with_children(handler, handler.monitor.state.find(query))))


def with_children(handler: ApiHandler, tasks: Iterable[Task | None]) -> Iterator[Family | None]:
    """Yield tasks with their children in memory; None where others may run."""
    find_children = handler.monitor.state.find_children
    for task in tasks:
        if task is None:
            yield None
            continue
        children: list[str] = []
        for child in find_children(task.uuid):
            if child is None:
                yield None
            else:
                children.append(child)
        yield task, children


def encode_tasks(
    handler: ApiHandler, families: Iterable[Family | None], *, as_members: bool = True
) -> Iterator[bytes | None]:
    """Encode tasks as they are shown, a few at a time, and no later than others may run.

    They are members of an object, by id, or items of an array.
    """
    encode_batch = task_members if as_members else task_items
    show, role = handler.services.showing.show, handler.current_user.role
    links = handler.monitor.state.retries.links
    batch: list[Family] = []
    length = 0
    for family in families:
        if family is not None:
            task = show(family[0], role)
            batch.append((task, family[1]))
            length += sum(map(len, filter(None, _texts(task))))
        if batch and (family is None or len(batch) >= BATCH or length > TEXT):
            yield encode_batch(batch, links)
            batch, length = [], 0
        elif family is None:
            yield None
    if batch:
        yield encode_batch(batch, links)


async def _find_page(handler: ApiHandler, query: TaskQuery) -> list[Task] | None:
    """Find a page of the newest tasks in memory; None where older ones, which have left it, may belong there."""
    history = handler.services.history
    newest_first = query.sort_by is None or (query.sort_by == "timestamp" and query.descending)
    if history is None or query.limit is None or not newest_first or query.search is not None:
        return None
    if query.offset + query.limit > _MAX_MEMORY_OFFSET or history.knows_newer_than == inf:
        return None
    page: list[Task] = []
    turn = Turn()
    for task in handler.monitor.state.find(query):
        if task is not None:
            page.append(task)
        if turn.over:
            await turn.give_way()
    is_full = len(page) == query.limit
    if is_full and all((task.timestamp or 0.0) > history.knows_newer_than for task in page):
        return page
    return None


async def _send_families(
    handler: ApiHandler, lot: list[Family] | None, families: AsyncIterator[list[Family]]
) -> None:
    """Send tasks with their children, each lot once the client has taken the one before."""
    separator = b"{"
    try:
        while lot is not None:
            turn = Turn()
            for members in filter(None, encode_tasks(handler, lot)):
                handler.write(separator + members)
                separator = b","
                if turn.over:
                    await turn.give_way()
            await handler.flush()
            if handler.request.method == "HEAD":  # the head is out, and nothing else will be
                break
            lot = await anext(families, None)
        handler.finish(b"{}" if separator == b"{" else b"}")
    except StreamClosedError:
        return
    except Unavailable as exc:  # what was sent cannot be taken back: the client has to see that it is not all
        log.warning("A listing was broken off: %s", exc)
        handler.detach().close()
