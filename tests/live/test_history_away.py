"""A PostgreSQL that is stopped, locked, or behind a network that fails: taskmon goes on, and catches up."""

import asyncio
import time

import pytest
from databases import PostgresServer
from factories import START, make_event, make_life
from proxy import proxying
from serving import serving
from sqlalchemy import select
from stored import read_ids, write
from waiting import eventually

from taskmon.history import databases, recording, watchdog
from taskmon.history import history as history_module
from taskmon.history.databases import Away
from taskmon.history.postgres import _OPTIONS, PostgresDatabase
from taskmon.history.restoring import read_all
from taskmon.history.schema import tasks as table
from taskmon.records import Task


def test_a_connection_that_is_lost_while_tasks_come_back(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database, [Task(f"id-{number}", timestamp=START + number) for number in range(100)])
    monkeypatch.setattr(databases, "CHUNK", 10)
    rows = database.read_rows(select(table.c.uuid))
    assert len(next(rows)) == 10
    postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskmon'")
    with pytest.raises(Away):
        list(rows)
    assert len(read_all(database, 100, "here").tasks) == 100


async def test_what_memory_knows_waits_for_no_lock(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOOKUP_TIMEOUT", "_COMPLETION_TIMEOUT"):
        monkeypatch.setattr(history_module, name, 0.2)
    async with serving(history=postgres.url("history")) as served:
        served.apply(make_event("started", "a"))
        history = served.taskmon.services.history
        assert history is not None
        await history.flush()
        with database.writing() as connection:
            connection.exec_driver_sql("LOCK TABLE taskmon_tasks IN ACCESS EXCLUSIVE MODE")
            for task_id, status in (("a", 200), ("b", 503)):
                began = time.monotonic()
                assert (await served.get(f"/api/task/info/{task_id}")).status == status
                assert time.monotonic() - began < 10  # of the 30 s that the server lets a question wait
        # The question that was given up has its answer now; else its connection would be left behind.
        await eventually(lambda: not history._reading._accepted)


async def test_a_network_that_stalls_on_the_way_to_postgresql(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.05, 0.1))
    monkeypatch.setattr(watchdog, "WARN_AFTER", 0.2)
    monkeypatch.setattr(watchdog, "CUT_AFTER", 1.0)
    monkeypatch.setitem(_OPTIONS, "connect_timeout", 2)  # a connection that is only being made is not cut
    with proxying(postgres.port) as proxy:
        url = postgres.url("history").replace(f":{postgres.port}/", f":{proxy.port}/")
        async with serving(history=url) as served:
            history = served.taskmon.services.history
            assert history is not None
            served.apply(*make_life("a"))
            await eventually(lambda: history.backlog == 0 and history.status.available, timeout=120)
            failures = history.status.failures
            proxy.stall()
            served.apply(*make_life("b"))
            await eventually(lambda: history.status.failures > failures, "the connection is cut", 120)
            assert history.status.word() == "unavailable"
            assert (await served.get("/api/task/info/b")).status == 200
            proxy.heal()
            await eventually(lambda: history.backlog == 0 and history.status.available, timeout=120)
    assert set(read_ids(database)) == {"a", "b"}


async def test_a_postgresql_that_is_stopped_and_started(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.05, 0.1))
    async with serving(history=postgres.url("history"), max_tasks=10) as served:
        history = served.taskmon.services.history
        assert history is not None
        served.apply(*make_life("a"))
        await history.flush()
        await asyncio.to_thread(postgres.stop)
        served.apply(*make_life("b"))
        await eventually(lambda: history.status.word() == "unavailable", timeout=120)
        response = await served.get("/api/tasks")
        assert response.header("X-Taskmon-History") == "unavailable"
        assert set(response.json()) == {"a", "b"}
        assert (await served.get("/api/task/info/b")).status == 200
        assert (await served.get("/api/task/info/c")).status == 503
        served.apply(make_event("received", "c"))
        await asyncio.to_thread(postgres.restore)
        await eventually(lambda: history.status.available, timeout=120)
        assert set((await served.get("/api/tasks")).json()) == {"a", "b", "c"}
