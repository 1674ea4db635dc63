"""One database and several clusters: what each has stays its own."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from factories import START
from serving import event, make_app, serving
from stored import open_sqlite, read_all_rows, read_ids, write

from taskmon.history import schema
from taskmon.history.batches import Batch
from taskmon.history.columns import to_row
from taskmon.history.journal import Journal
from taskmon.history.journal_replay import write_leftovers
from taskmon.history.reading import find_foreign_cluster, list_names
from taskmon.history.restoring import read_all
from taskmon.history.retention import Retention
from taskmon.history.schema import VERSION
from taskmon.history.sqlite import SqliteDatabase
from taskmon.records import Task

FIRST, SECOND = "redis://127.0.0.1:1/0", "redis://127.0.0.1:1/7"


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"history": f"sqlite:///{tmp_path}/history.sqlite3", **more}


def life(uuid: str, name: str = "shop.order") -> Any:
    return [event(f"task-{kind}", uuid, name=name, args="()", kwargs="{}") for kind in ("received", "succeeded")]


async def test_a_file_that_was_of_another_broker_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(make_app(FIRST), **options(tmp_path)) as served:
        served.apply(*life("a"), *life("shared", "first.name"), event("worker-heartbeat", hostname="celery@first"))
    async with serving(make_app(SECOND), **options(tmp_path, max_tasks=1)) as served:
        assert "tasks of 'redis://localhost:1/0'" in caplog.text
        assert "--cluster-name='redis://localhost:1/0'" in caplog.text
        assert (await served.get("/api/tasks")).json() == {}
        assert served.state.workers == {}
        assert (await served.get("/api/task/info/a")).status == 404
        refused = await served.request("POST", "/api/task/retry/a")
        assert refused.status == 409
        assert "another cluster, redis://localhost:1/0" in refused.error["message"]
        assert (await served.request("POST", "/api/task/retry/nowhere")).status == 404
        served.apply(*life("b", "mail.send"), *life("shared", "second.name"))
        for query in ("", "?limit=9&sort_by=name", "?state=SUCCESS", "?search=shop", "?taskname=shop.order"):
            found = (await served.get(f"/api/tasks{query}")).json()
            assert set(found) <= {"b", "shared"}, query
        assert (await served.get("/api/task/info/shared")).json()["name"] == "second.name"
        assert (await served.get("/api/task/types")).json() == {"task-types": ["mail.send", "second.name"]}
        assert (await served.get("/api/task/tree/a")).status == 404
        assert not served.taskmon.services.history.is_all_in_memory  # type: ignore[union-attr]
        info = await served.get("/api/task/info/a")
        assert info.status == 404
        assert "redis://localhost:1/0" in info.error["reason"]
    async with serving(make_app(FIRST), **options(tmp_path)) as served:
        found = (await served.get("/api/tasks")).json()
        assert {uuid: task["name"] for uuid, task in found.items()} == {"a": "shop.order", "shared": "first.name"}
        assert set(served.state.workers) == {"celery@first", "celery@w1"}


async def test_a_broker_under_another_name(tmp_path: Path) -> None:
    async with serving(make_app(FIRST), **options(tmp_path)) as served:
        served.apply(*life("a"))
    for broker in (FIRST.replace("//", "//user:secret@"), "redis://localhost:1"):
        async with serving(make_app(broker), **options(tmp_path)) as served:
            assert set((await served.get("/api/tasks")).json()) == {"a"}
    moved = "redis://cache.example.com:1/0"
    async with serving(make_app(moved), **options(tmp_path, cluster_name="redis://localhost:1/0")) as served:
        assert set((await served.get("/api/tasks")).json()) == {"a"}
    async with serving(make_app(FIRST), **options(tmp_path, cluster_name="shop")) as served:
        assert set((await served.get("/api/tasks")).json()) == {"a"}
    async with serving(make_app(SECOND), **options(tmp_path, cluster_name="shop")) as served:
        assert set((await served.get("/api/tasks")).json()) == {"a"}


def open_two(directory: Path) -> tuple[SqliteDatabase, SqliteDatabase]:
    """Open a file for one cluster and then for another; only one may have it at a time."""
    first = SqliteDatabase(directory / "history.sqlite3", "first")
    first.open()
    first.close()
    second = SqliteDatabase(directory / "history.sqlite3", "second")
    second.open()
    first.expect(second._inode, second._ahead)
    with first.writing() as connection:
        first.claim(connection)
    return first, second


def test_each_keeps_its_own_within_bounds(tmp_path: Path) -> None:
    first, second = open_two(tmp_path)
    write(first, [Task(f"a{n}", timestamp=START + n) for n in range(5)], workers=[("one", 1.0, "{}")], counters="{}")
    write(second, [Task(f"b{n}", timestamp=START + 9 + n, name="n") for n in range(5)])
    assert find_foreign_cluster(second, "a1") == "first"
    assert find_foreign_cluster(second, "nowhere") is None
    for max_age, max_tasks, left in ((None, 2, ["b4", "b3"]), (60.0, None, [])):
        retention = Retention(second, max_age, max_tasks)
        while retention.step():
            pass
        retention._look_at = 0.0
        retention.step()  # looks at the names
        assert read_ids(second) == left
    assert list_names(second) == []
    assert len(read_ids(first)) == 5
    with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as connection:
        for table in ("taskmon_workers", "taskmon_counters"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
    first.close()
    second.close()


def test_what_one_left_in_its_journal_is_not_the_others(tmp_path: Path) -> None:
    first, second = open_two(tmp_path)
    journal = Journal(tmp_path / "history.sqlite3", "first")
    journal.begin()
    worker = ("celery@one", 1.0, '{"hostname":"celery@one"}')
    told = [to_row(Task(name, timestamp=START, seen=2.0)) for name in ("a", "b")]
    journal.note(Batch(told, [worker], [], "{}", "here", START))
    journal.close()
    write(first, [Task("b", timestamp=START, seen=3.0, args="newer")])
    journal = Journal(tmp_path / "history.sqlite3", "second")
    write_leftovers(second, journal, created=False)
    journal.close()
    restored = read_all(second, 10, "here")
    assert (restored.tasks, restored.workers, restored.counters) == ([], [], None)
    assert sorted(read_ids(first)) == ["a", "b"]
    assert read_all_rows(first)["b"].args == "newer"
    assert len(read_all(first, 10, "here").workers) == 1
    first.close()
    second.close()


def make_version_1(path: Path, *tasks: Task) -> None:
    """Make a file as the first version had it."""
    database = open_sqlite(path)
    write(database, tasks)
    database.close()
    with closing(sqlite3.connect(path / "history.sqlite3", isolation_level=None)) as connection:
        connection.execute("DROP INDEX taskmon_tasks_key")
        connection.execute("CREATE UNIQUE INDEX taskmon_tasks_uuid ON taskmon_tasks (uuid)")
        connection.execute("DROP TABLE taskmon_clusters")
        connection.execute("DROP TABLE taskmon_names")
        connection.execute("ALTER TABLE taskmon_tasks DROP COLUMN omitted")
        connection.execute("ALTER TABLE taskmon_tasks DROP COLUMN reported")
        connection.execute("UPDATE taskmon_tasks SET cluster = ''")
        connection.execute("UPDATE taskmon_schema SET version = 1")


async def test_a_file_of_the_first_version_is_the_first_clusters(tmp_path: Path) -> None:
    make_version_1(tmp_path, Task("a", timestamp=START, name="old.name"), Task("b", timestamp=START))
    async with serving(make_app(FIRST), **options(tmp_path)) as served:
        assert set((await served.get("/api/tasks")).json()) == {"a", "b"}
        served.apply(*life("a", "new.name"))
        names = (await served.get("/api/task/types")).json()["task-types"]
        assert "new.name" in names
    async with serving(make_app(SECOND), **options(tmp_path)) as served:
        assert (await served.get("/api/tasks")).json() == {}
    async with serving(make_app(FIRST), **options(tmp_path)) as served:
        assert set((await served.get("/api/tasks")).json()) == {"a", "b"}
    with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as connection:
        assert connection.execute("SELECT version FROM taskmon_schema").fetchone() == (VERSION,)
        assert connection.execute("SELECT name FROM taskmon_names ORDER BY name").fetchall() == [
            ("new.name",),
            ("old.name",),
        ]


def test_a_step_is_told_while_it_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_version_1(tmp_path, Task("a", timestamp=START))
    database = SqliteDatabase(tmp_path / "history.sqlite3", "first", ("",))
    step, told = schema.STEPS[0], []

    def note(connection: Any) -> None:
        told.append(database.migrating)
        step(connection)

    monkeypatch.setattr(schema, "STEPS", (note, *schema.STEPS[1:]))
    for _ in range(2):
        assert not database.open()
        assert not database.migrating
        database.close()
    assert told == [True]
    assert caplog.text.count("which may take minutes") == 1
