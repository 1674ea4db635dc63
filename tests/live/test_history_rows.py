"""Rows that PostgreSQL refuses, and several clusters in one database: each keeps its own."""

import random

import pytest
from databases import PostgresServer
from factories import START, make_event, make_worker_event
from serving import make_app, serving
from stored import read_all_rows, read_ids, write
from waiting import eventually

from taskmon.history.postgres import PostgresDatabase
from taskmon.history.reading import list_names, read_task
from taskmon.history.restoring import read_all
from taskmon.history.retention import Retention
from taskmon.history.task_names import NAMES_KNOWN
from taskmon.records import CUT_MARK, Task


def noise(length: int) -> str:
    """Make a text that no compression shortens much."""
    return "".join(random.Random(length).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


def test_a_row_that_is_refused_holds_up_no_other(database: PostgresDatabase) -> None:
    tasks = [Task(f"id-{number:03}", timestamp=START + number, name="plain") for number in range(60)]
    tasks[3].name, tasks[3].queue, tasks[3].worker = noise(10_000), noise(10_001), noise(10_002)
    tasks[5].name, tasks[5].args, tasks[5].state = "nul\0", "\ud800", "ODD\0"
    tasks[7].clock, tasks[7].runtime = 2**70, float("inf")
    tasks[11].uuid = "nul\0"
    tasks[13].uuid = noise(20_000)
    workers = [
        ("celery@\0", 1.0, '{"hostname":"celery@\\u0000"}'),
        (noise(9_000), 1.0, "{}"),
        ("fine", 1.0, "no JSON"),
    ]
    written = write(database, tasks, workers=workers, gone=["a\0"], adopted=["b\0"], counters='{"a": "\0"}')
    assert (written.inserted, written.cleaned, written.refused) == (59, 4, 2)
    assert any(noise(20_000)[:20] in example for example in written.examples)
    rows = read_all_rows(database)
    assert len(rows) == 59
    assert rows["id-003"].name == noise(10_000)[:1_000] + CUT_MARK
    assert (rows["id-005"].name, rows["id-005"].state) == ("nul\ufffd", "ODD\ufffd")
    assert (rows["id-007"].clock, rows["id-007"].runtime) == (None, None)
    found = read_task(database, "nul\0")
    assert found is not None
    assert found.uuid == "nul\ufffd"
    restored = read_all(database, 100, "here")
    assert [worker.hostname for worker in restored.workers] == ["celery@\0"]
    assert restored.counters == '{"a": "\ufffd"}'
    assert write(database, [Task("next", timestamp=START)]).refused == 0


async def test_a_worker_with_a_nul_in_its_name_stops_nothing(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    async with serving(history=postgres.url("history")) as served:
        history = served.taskmon.services.history
        assert history is not None
        for number in range(3):
            hostname = f"celery@\0{number}"
            served.apply(
                make_worker_event("heartbeat", hostname), make_event("received", f"a{number}", hostname=hostname)
            )
            await history.flush()
        assert history.status.failures == 0
        for argument in ("taskname", "workername", "search", "state"):
            assert (await served.get(f"/api/tasks?{argument}=a%00b&sort_by=name")).status in (200, 400)
        await eventually(lambda: len(read_ids(database)) == 3)
        assert history.status.available


async def test_each_cluster_in_one_database_keeps_its_own(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    options = {"history": postgres.url("history"), "port": 0}
    async with (
        serving(make_app("redis://127.0.0.1:1/3"), **options) as one,
        serving(make_app("redis://127.0.0.1:1/4"), history_max_tasks=2, **options) as two,
    ):
        for number in range(9):
            one.apply(make_event("received", f"one-{number}", timestamp=START + number, name="one.name"))
            two.apply(make_event("received", f"two-{number}", timestamp=START + 9 + number, name="two.name"))
        one.apply(make_event("received", "same", timestamp=START + 50, name="one.name"))
        two.apply(make_event("received", "same", timestamp=START + 50, name="two.name"))
        for served in (one, two):
            await served.taskmon.services.history.flush()  # type: ignore[union-attr]
        retention = two.taskmon.services.history._recorder._upkeep  # type: ignore[union-attr]
        await eventually(lambda: retention.deleted == 8)
        assert len((await one.get("/api/tasks?sort_by=name")).json()) == 10
        assert set((await two.get("/api/tasks?sort_by=name")).json()) == {"two-8", "same"}
        assert (await one.get("/api/task/info/same")).json()["name"] == "one.name"
        assert (await one.get("/api/task/types")).json() == {"task-types": ["one.name"]}
        assert (await one.get("/api/task/info/two-8")).status == 404
        refused = await one.request("POST", "/api/task/retry/two-8")
        assert refused.status == 409
        assert "redis://localhost:1/4" in refused.error["message"]


def test_a_name_that_another_taskmon_deleted_comes_back(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database, [Task("a", timestamp=START, name="n")])
    retention = Retention(database, None, 1)
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM taskmon_names")
    write(database, [Task("b", timestamp=START + 1, name="n")])
    assert list_names(database) == []
    database._names._until -= NAMES_KNOWN
    write(database, [Task("c", timestamp=START + 2, name="n")])
    assert list_names(database) == ["n"]
    while retention.step():
        pass
    assert read_ids(database) == ["c"]
    assert list_names(database) == ["n"]
