"""The history in real life: a taskmon that is killed, and a real PostgreSQL, shared, stopped and started again."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
from brokers import RedisBroker
from celery import Celery
from databases import PostgresServer
from factories import START, held_tasks, make_event, make_life
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monitor import Monitor
from patience import PATIENCE
from processes import wait_until
from serving import Served, make_app, serving
from stored import assert_same, check_listings, lives, make_tasks, plain, read_all_rows, read_ids, watched, write

from taskmon.cluster.cluster_names import name_cluster
from taskmon.errors import HistoryRefused
from taskmon.history.columns import finish, merge_tasks
from taskmon.history.databases import Away
from taskmon.history.postgres import PostgresDatabase
from taskmon.history.reading import list_names, read_children
from taskmon.history.restoring import read_all
from taskmon.history.retention import Retention
from taskmon.history.schema import VERSION
from taskmon.monitor.search import parse_search
from taskmon.outcomes import ORPHANED
from taskmon.records import Event, Task, Worker

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# A taskmon that is killed


class Publisher:
    """Sends the events of tasks, without an end, in a thread of its own."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("publisher", broker=broker_url, set_as_current=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def _run(self) -> None:
        with self._app.connection_for_write() as connection:
            dispatcher = self._app.events.Dispatcher(connection, hostname="celery@w1", buffer_while_offline=False)
            while not self._stop.is_set():
                self.send(dispatcher, self.sent)
                self.sent += 1
            dispatcher.close()

    def send(self, dispatcher: Any, number: int) -> None:
        """Send the life of one task."""
        uuid = f"task-{number}"
        dispatcher.send("task-received", uuid=uuid, name="tasks.add", args=f"({number},)", kwargs="{}")
        dispatcher.send("task-started", uuid=uuid)
        dispatcher.send("task-succeeded", uuid=uuid, result=str(number), runtime=0.1)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        self._app.close()


@pytest.fixture
def monitor(redis_broker: RedisBroker, tmp_path: Path) -> Iterator[Monitor]:
    """A taskmon with a history that holds only a few tasks in memory."""
    options = ["--history", f"sqlite:///{tmp_path}/history.sqlite3", "--max-tasks", "50"]
    monitor = Monitor(tmp_path, redis_broker.url, options=options)
    try:
        yield monitor
    finally:
        monitor.kill()


def read_applied(path: Path) -> int:
    """Read how many events were applied, as it is written."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT document FROM taskmon_counters").fetchone()
    return int(json.loads(found[0])["applied"]) if found else 0


def test_a_killed_taskmon_loses_no_task(monitor: Monitor, redis_broker: RedisBroker, tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    monitor.start()
    monitor.wait_ready()
    with Publisher(redis_broker.url):
        wait_until(lambda: monitor.metric("taskmon_events_applied_total") > 500, timeout=120, what="it is busy")
        written = int(monitor.metric("taskmon_history_written_total"))
        wait_until(
            lambda: monitor.metric("taskmon_history_written_total") > written + 300, timeout=120, what="it writes"
        )
        oldest = "/api/tasks?limit=400&sort_by=received"
        wait_until(lambda: len(monitor.get(oldest)[1]) == 400, timeout=120, what="there are that many tasks")
        known = list(monitor.get(oldest)[1])
        counted = monitor.metric("taskmon_events_applied_total")
        since = time.monotonic()

        def written_since() -> bool:
            passed = time.monotonic() - since
            return monitor.metric("taskmon_history_lag_seconds") < passed

        wait_until(written_since, timeout=120, what="all of that is written")
        wait_until(lambda: read_applied(path) >= counted, timeout=120, what="the counters are written")
        monitor.kill()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    monitor.start()
    assert len(known) > 100
    for task_id in known[::25]:
        task = monitor.task(task_id)
        assert (task["state"], task["name"]) == ("SUCCESS", "tasks.add")
    assert list(monitor.get(oldest)[1]) == known
    assert monitor.metric("taskmon_tasks") == 50
    assert monitor.metric("taskmon_events_applied_total") >= counted
    assert monitor.get("/api/workers?status=true")[1].keys() == {"celery@w1"}
    assert "Traceback" not in monitor.log_text()


@contextmanager
def locked_sqlite(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def locked_postgres(database: PostgresDatabase) -> Iterator[None]:
    with database.writing() as connection:
        connection.exec_driver_sql("LOCK TABLE taskmon_tasks IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_taskmon_that_is_killed_while_its_database_is_locked_loses_no_task(
    kind: str, redis_broker: RedisBroker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What happened is in the journal, a second at the most after it happened."""
    url, lock = f"sqlite:///{tmp_path}/history.sqlite3", partial(locked_sqlite, tmp_path / "history.sqlite3")
    options = ["--max-tasks", "50"]
    if kind == "postgresql":
        database = request.getfixturevalue("database")
        url, lock = request.getfixturevalue("postgres").url("history"), partial(locked_postgres, database)
        options += ["--history-journal", str(tmp_path)]
    monitor = Monitor(tmp_path, redis_broker.url, options=["--history", url, *options])
    try:
        monitor.start()
        monitor.wait_ready()
        with Publisher(redis_broker.url) as publisher:
            wait_until(lambda: monitor.metric("taskmon_history_written_total") > 50, timeout=120, what="it writes")
            with lock():
                first = publisher.sent + 5
                known = [f"task-{number}" for number in range(first, first + 80, 8)]
                wait_until(
                    lambda first=first: monitor.metric("taskmon_events_applied_total") >= 3 * (first + 80),
                    timeout=120,
                    what="all of that has happened",
                )
                since = time.monotonic()
                wait_until(
                    lambda: monitor.metric("taskmon_history_at_risk_seconds") < time.monotonic() - since,
                    timeout=120,
                    what="all of that is in the journal",
                )
                passed = time.monotonic() - since
                assert monitor.metric("taskmon_history_lag_seconds") > passed
                monitor.kill()
        monitor.start()
        assert "come from its journal" in monitor.log_text()
        for task_id in known:
            assert monitor.task(task_id).get("state") == "SUCCESS", task_id
        monitor.stop()
        assert not list(tmp_path.glob("*-unwritten-*"))
    finally:
        monitor.kill()


# PostgreSQL


def test_listings_are_those_of_the_memory(database: PostgresDatabase) -> None:
    state = make_tasks()
    tasks = held_tasks(state)
    for task in tasks:
        finish(task)  # where events are missing, the row says what follows from those that came
    write(database, tasks)
    check_listings(database, state)
    assert list_names(database) == sorted(state.task_names())
    parents = [task.uuid for task in tasks]
    assert read_children(database, parents) == {p: c for p in parents if (c := state.children(p))}


def test_a_search_asks_the_index(database: PostgresDatabase) -> None:
    write(database, [Task(f"id-{n}", timestamp=START + n, args=f"('order-{n}',)") for n in range(3000)])
    with database.writing() as connection:
        connection.exec_driver_sql("ANALYZE taskmon_tasks")
    assert read_ids(database, search=parse_search("order-2999")) == ["id-2999"]
    condition = database.match(_texts("order-2999")).compile(database.reader, compile_kwargs={"literal_binds": True})
    with database.reading() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # so few rows are read as quickly without it
        found = connection.exec_driver_sql(f"EXPLAIN SELECT uuid FROM taskmon_tasks WHERE {condition}")
        plan = found.scalars().all()
    assert any("taskmon_tasks_search" in line for line in plan), plan


def test_a_search_finds_letters_that_fold_to_several(database: PostgresDatabase) -> None:
    letters = [letter for letter in map(chr, range(128, 0xFB00)) if len(letter.casefold()) > 1]
    write(database, [Task(f"id-{n}", timestamp=START, args=f"a{letter}B%") for n, letter in enumerate(letters)])
    for number, letter in enumerate(letters):
        for text in (f"a{letter}b%", f"A{letter.casefold()}B%"):
            assert f"id-{number}" in read_ids(database, search=parse_search(f'"{text}"')), text


def _texts(*members: str) -> Any:
    from taskmon.history.search_sql import Texts

    return Texts(True, members)


@FEW
@given(st.data(), lives())
def test_two_taskmons_make_one_right_row(
    database: PostgresDatabase, data: st.DataObject, events: list[Event]
) -> None:
    written = data.draw(watched(events))
    with database.writing() as connection:
        connection.exec_driver_sql("TRUNCATE taskmon_tasks")
    for task in written:
        write(database, [task])
    assert_same(read_all_rows(database)["a"], events)
    assert plain(read_all_rows(database)["a"]) == plain(reduce(merge_tasks, written))


def test_two_that_write_the_same_at_once_do_not_lock_each_other_out(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    other = PostgresDatabase(postgres.url("history"), name_cluster(make_app()))
    other.open()
    life = [make_life(f"id-{n}", "received", "started", "succeeded") for n in range(200)]
    early = [
        Task(f"id-{n}", state="RECEIVED", received=life[n][0].timestamp, timestamp=START, name="n")
        for n in range(200)
    ]
    late = [Task(f"id-{n}", state="SUCCESS", succeeded=life[n][2].timestamp, timestamp=START + 1) for n in range(200)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            jobs = [pool.submit(write, database, early), pool.submit(write, other, late[::-1])]
            assert [job.result().refused for job in jobs] == [0, 0]
    rows = read_all_rows(database)
    assert {(row.state, row.name) for row in rows.values()} == {("SUCCESS", "n")}
    assert len(rows) == 200
    other.close()


def test_what_comes_back_is_of_the_same_cluster(database: PostgresDatabase, postgres: PostgresServer) -> None:
    other = PostgresDatabase(postgres.url("history"), "there")
    other.open()
    worker = '{"hostname":"celery@one","seen":5.0}'
    write(database, [Task("a", timestamp=START, seen=2.0), Task("b", timestamp=START, seen=1.0)], counters="here")
    write(other, [Task("c", timestamp=START)], workers=[("celery@one", 5.0, worker)], counters="there", monitor="x")
    write(database, [], counters="later", monitor="y", now=START + 1)
    restored = read_all(database, 10, "here")
    assert [task.uuid for task in restored.tasks] == ["b", "a"]
    assert (restored.workers, restored.counters) == ([], "here")
    assert read_all(database, 10, "a new one").counters == "later"
    assert read_all(other, 10, "here").workers == [Worker("celery@one", seen=5.0)]
    write(other, [], workers=[("celery@one", 4.0, "an older one")])
    assert read_all(other, 10, "here").workers == [Worker("celery@one", seen=5.0)]
    assert sorted(read_ids(database)) == ["a", "b"]
    retention = Retention(database, 60.0, 1)
    while retention.step():
        pass
    assert read_ids(database) == []
    assert read_ids(other) == ["c"]
    assert read_all(other, 10, "x").workers == [Worker("celery@one", seen=5.0)]
    other.close()


def test_texts_that_postgresql_does_not_hold(database: PostgresDatabase) -> None:
    told = Task("nul", timestamp=START, args="a\0b", kwargs="\\u0000", result="a\ud800b")
    plain_one = Task("plain", timestamp=START, args="\\u0000")
    assert write(database, [told, plain_one]).cleaned == 1
    rows = read_all_rows(database)
    assert (rows["nul"].args, rows["nul"].kwargs, rows["nul"].result) == ("a\ufffdb", "\\u0000", "a?b")
    assert rows["plain"].args == "\\u0000"
    assert write(database, [Task("big", timestamp=START, clock=2**70), Task("small", timestamp=START)]).cleaned == 1
    assert set(read_all_rows(database)) == {"nul", "plain", "big", "small"}


def test_what_will_not_pass_is_refused(postgres: PostgresServer) -> None:
    for url, said in (
        (f"postgresql://postgres@127.0.0.1:{postgres.port}/missing", "does not exist"),
        (f"postgresql://nobody@127.0.0.1:{postgres.port}/postgres", "does not exist"),
        (f"{postgres.url('history')}?colour=blue", "invalid connection option"),
        (f"{postgres.url('history')}?sslmode=perhaps", "invalid sslmode"),
    ):
        database = PostgresDatabase(url)
        with pytest.raises(HistoryRefused, match=said):
            database.open()
        database.close()
    newer = PostgresDatabase(postgres.url("newer"))
    newer.open()
    with newer.writing() as connection:
        connection.exec_driver_sql(f"UPDATE taskmon_schema SET version = {VERSION + 1}")
    with pytest.raises(HistoryRefused, match=f"this one knows {VERSION}"):
        newer.open()
    newer.close()
    away = PostgresDatabase("postgresql://postgres@127.0.0.1:1/history")
    with pytest.raises(Away):
        away.open()
    with pytest.raises(HistoryRefused, match="URL"):
        PostgresDatabase("postgresql://host:port/history")


async def _list(served: Served, query: str = "") -> list[str]:
    response = await served.get(f"/api/tasks{query}")
    assert response.header("X-Taskmon-History") is None
    return list(response.json())


async def test_each_of_two_taskmons_answers_for_all(database: PostgresDatabase, postgres: PostgresServer) -> None:
    url = postgres.url("history")
    async with serving(history=url, port=0) as one, serving(history=url, max_tasks=5) as two:
        for number in range(20):
            life = make_life(f"id-{number:02}", "received", "started", "succeeded", name="tasks.add")
            (one if number % 2 else two).apply(*life)
        shared = make_life("shared", "received", "started", "succeeded", name="tasks.add", parent_id="id-03")
        one.apply(*shared[:2])
        two.apply(*shared)
        await asyncio.gather(*(served.taskmon.services.history.flush() for served in (one, two)))  # type: ignore[union-attr]
        expected = ["shared", *(f"id-{number:02}" for number in range(19, -1, -1))]
        for served in (one, two):
            assert await _list(served) == expected
            assert await _list(served, "?limit=2&offset=1&sort_by=-received") == expected[1:3]
            for task_id in ("id-02", "id-03", "shared"):
                assert (await served.get(f"/api/task/info/{task_id}")).json()["state"] == "SUCCESS"
            assert (await served.get("/api/task/info/id-03")).json()["children"] == ["shared"]
            tree = (await served.get("/api/task/tree/id-03")).json()
            assert list(tree["tasks"]) == ["id-03", "shared"]


async def test_a_mark_is_taken_away_without_a_newer_event(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    async with serving(history=postgres.url("history")) as served:
        history, reconciled = served.taskmon.services.history, served.state.reconciled
        assert history is not None
        served.apply(make_event("started", "a"), make_event("started", "b"))
        for task_id in ("a", "b"):
            reconciled.orphan(task_id)
        for step, marked in ((reconciled.adopt, "b"), (reconciled.orphan, "ab"), (reconciled.adopt, "b")):
            await history.flush()
            step("a")
            await history.flush()
            rows = read_all_rows(database).values()
            assert "".join(sorted(row.uuid for row in rows if row.reconciled == ORPHANED)) == marked
            assert (await served.get("/api/task/info/a")).json()["orphaned"] is ("a" in marked)
