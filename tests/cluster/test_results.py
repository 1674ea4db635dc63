"""Asking and waiting for results: who shares reads, who waits for how long, and what happens when nobody answers."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest
from factories import make_event, make_state
from patience import PATIENCE
from serving import make_app
from waiting import eventually

from taskmon.cluster import results as module
from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.result_decoding import Result
from taskmon.cluster.results import Results
from taskmon.errors import CommandRefused, InvalidArgument, Unavailable


class Fake:
    """A source that the test fills; it notes what it is asked, and can be held or broken."""

    def __init__(self) -> None:
        self.stored: dict[str, Result] = {}
        self.reads: list[set[str]] = []
        self.aborted: list[str] = []
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.closed = False

    def read(self, task_ids: Collection[str]) -> dict[str, Result]:
        """Give what is stored."""
        self.reads.append(set(task_ids))
        self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return {task_id: self.stored.get(task_id, Result(task_id)) for task_id in task_ids}

    def abort(self, task_id: str) -> None:
        """Note it."""
        if self.error is not None:
            raise self.error
        self.aborted.append(task_id)

    def close(self) -> None:
        """Note it."""
        self.closed = True


@asynccontextmanager
async def reading() -> AsyncIterator[tuple[Results, Fake]]:
    """Results from a fake source."""
    lane = BlockingPool("The result backend", threads=1, waiting=8)
    results = Results(make_app(result_backend="cache+memory://"), lane)
    fake = Fake()
    results._source = fake
    try:
        yield results, fake
    finally:
        fake.open.set()
        await results.close()
        lane.close()


def done(task_id: str, value: Any = 1) -> Result:
    """Make the result of a task that is finished."""
    return Result(task_id, "SUCCESS", value)


async def test_what_is_stored_is_given() -> None:
    async with reading() as (results, fake):
        assert await results.get("a") == Result("a")
        fake.stored["a"] = done("a")
        assert await results.get("a") == done("a")
        assert fake.reads == [{"a"}, {"a"}]
    assert fake.closed


async def test_who_asks_together_is_read_for_together() -> None:
    async with reading() as (results, fake):
        fake.open.clear()
        first = asyncio.create_task(results.get("first"))
        await eventually(lambda: fake.reads)
        others = [asyncio.create_task(results.get(f"t{number % 10}")) for number in range(100)]
        await asyncio.sleep(0)
        fake.open.set()
        await asyncio.gather(first, *others)
        assert fake.reads == [{"first"}, {f"t{number}" for number in range(10)}]


async def test_who_waits_is_told_when_the_task_is_ready() -> None:
    async with reading() as (results, fake):
        waiting = [asyncio.create_task(results.wait(task_id, 20)) for task_id in ("a", "a", "b")]
        await eventually(lambda: len(fake.reads) > 2)
        assert all(read == {"a", "b"} for read in fake.reads)
        fake.stored["a"] = done("a")
        assert await waiting[0] == await waiting[1] == done("a")
        assert not waiting[2].done()
        fake.stored["b"] = done("b")
        assert await waiting[2] == done("b")
        assert not results._waiting
        read = len(fake.reads)
        assert results._reading is not None
        await results._reading
        assert len(fake.reads) == read, "nobody waits any more"


async def test_who_waits_too_long_gets_the_present_state() -> None:
    async with reading() as (results, fake):
        fake.stored["a"] = Result("a", "STARTED")
        assert await results.wait("a", 0.05) == Result("a", "STARTED")
        assert not results._waiting
        fake.stored["a"] = done("a")
        assert await results.wait("a", 0) == done("a")


async def test_an_event_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (60, 60))
    state = make_state()
    async with reading() as (results, fake):
        state.subscribe(results.observe)
        state.apply([make_event("succeeded", "before")])
        waiting = asyncio.create_task(results.wait("a", 20))
        await eventually(lambda: len(fake.reads) == 1)
        fake.stored["a"] = done("a")
        state.apply([make_event("started", "a"), make_event("succeeded", "b"), make_event("online", None)])
        results.note_finished("somebody else's")
        await asyncio.sleep(0.02)
        assert len(fake.reads) == 1
        state.apply([make_event("succeeded", "a")])
        assert await waiting == done("a")
        assert len(fake.reads) == 2


async def test_reads_become_rarer() -> None:
    async with reading() as (results, fake):
        waiting = asyncio.create_task(results.wait("a", 20))
        await eventually(lambda: results._pause > 0.1)
        assert len(fake.reads) < 6
        second = asyncio.create_task(results.wait("b", 20))
        await eventually(lambda: {"a", "b"} in fake.reads)
        assert results._pause < 0.1
        fake.stored |= {"a": done("a"), "b": done("b")}
        await asyncio.gather(waiting, second)


async def test_a_backend_that_fails() -> None:
    async with reading() as (results, fake):
        fake.error = OSError("redis://:secret@host is away")
        with pytest.raises(
            Unavailable, match=r"^The result backend is unavailable: .*\(redis://:\*\*\*@host is away\)$"
        ):
            await results.get("a")
        with pytest.raises(Unavailable):
            await results.wait("a", 0.05)
        with pytest.raises(Unavailable):
            await results.abort("a")
        waiting = asyncio.create_task(results.wait("a", 20))
        await eventually(lambda: len(fake.reads) > 3)
        fake.error, fake.stored["a"] = None, done("a")
        assert await waiting == done("a"), "who waits outlasts a failure"


async def test_a_backend_that_hangs() -> None:
    async with reading() as (results, fake):
        fake.open.clear()
        began = time.monotonic()
        asked = [asyncio.create_task(results.get(task_id, 0.2)) for task_id in "abc"]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(results.get("late", 0.2)))
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, Unavailable)
            assert "no answer within 0.2 s" in str(answer)
        assert time.monotonic() - began < PATIENCE / 2


async def test_abort() -> None:
    async with reading() as (results, fake):
        await results.abort("a")
        assert fake.aborted == ["a"]
        fake.error = CommandRefused("finished")
        with pytest.raises(CommandRefused):
            await results.abort("a")


@pytest.mark.parametrize("task_id", ["", "a\0b", "x" * 1025])
async def test_what_can_be_no_id(task_id: str) -> None:
    async with reading() as (results, fake):
        for ask in (results.get(task_id), results.wait(task_id, 1), results.abort(task_id)):
            with pytest.raises(InvalidArgument, match=r"^The task id must be"):
                await ask
        assert not fake.reads


async def test_no_result_backend() -> None:
    lane = BlockingPool("The result backend", threads=1, waiting=8)
    results = Results(make_app(), lane)
    assert not results.available
    assert results.reply_queue is None
    for ask in (results.get("a"), results.wait("a", 1), results.abort("a")):
        with pytest.raises(Unavailable, match="none is configured"):
            await ask
    await results.close()
    lane.close()


async def test_closing_while_the_backend_hangs() -> None:
    async with reading() as (results, fake):
        fake.open.clear()
        asked = asyncio.create_task(results.get("a"))
        await eventually(lambda: fake.reads)
        began = time.monotonic()
        await results.close()
        assert time.monotonic() - began < PATIENCE / 2
        fake.open.set()
        asked.cancel()


async def test_a_wait_for_a_backend_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 0.3)
    monkeypatch.setattr(module, "_FINAL_READ_TIMEOUT", 0.1)
    async with reading() as (results, fake):
        fake.open.clear()
        for timeout, last in ((0.1, "0.2 s"), (0.5, "0.1 s")):
            with pytest.raises(Unavailable, match=last):
                await results.wait("a", timeout)
