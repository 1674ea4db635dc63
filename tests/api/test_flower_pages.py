"""Flower's pages as programs read them."""

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from serving import Served, event, serving

from taskmon.records import Event


def heartbeat(hostname: str, **fields: Any) -> Event:
    return event("worker-heartbeat", hostname=hostname, at=1_700_000_000.0, freq=2.0, **fields)


@pytest.mark.parametrize("path", ["/workers?json=1", "/dashboard?json=1", "/workers?json=true", "/dashboard?json"])
async def test_a_row_for_each_worker(path: str) -> None:
    async with serving() as served:
        served.apply(
            heartbeat("celery@w1", active=3, processed=9, loadavg=[0.5, 0.25, 0.125], pid=7, sw_ver="5.7.0"),
            heartbeat("celery@é"),
            event("task-received", "a", name="add"),
            event("task-started", "a"),
            event("task-succeeded", "a", runtime=1.0),
            event("task-received", "b", name="mul"),
            event("task-progress", "b"),
        )
        rows = {row["hostname"]: row for row in (await served.get(path)).json()["data"]}
    busy, idle = rows["celery@w1"], rows["celery@é"]
    assert [busy[key] for key in ("status", "active", "processed", "loadavg")] == [True, 3, 9, [0.5, 0.25, 0.125]]
    assert busy["heartbeats"] == [1_700_000_000.0]
    counts = {key: value for key, value in busy.items() if key.startswith("task-")}
    assert counts == {
        **{"task-received": 2, "task-started": 1, "task-succeeded": 1, "task-failed": 0, "task-retried": 0},
        **{"task-revoked": 0, "task-rejected": 0, "task-progress": 1},
    }
    assert idle.keys() == busy.keys() - {"task-progress"}
    assert [idle[key] for key in ("task-received", "active", "loadavg")] == [0, None, None]


async def test_no_worker_is_an_empty_list() -> None:
    async with serving() as served:
        assert (await served.get("/workers?json=1")).json() == {"data": []}


async def test_what_is_counted_together_is_unknown_by_worker() -> None:
    async with serving(metrics_worker_label=False) as served:
        served.apply(heartbeat("celery@w1"), event("task-received", "a", name="add"))
        (row,) = (await served.get("/workers?json=1")).json()["data"]
    assert row["task-received"] is None
    assert row["task-failed"] is None


@pytest.mark.parametrize(
    "path", ["/workers", "/dashboard", "/worker/celery@w1", "/workers?json=0", "/workers?json=no"]
)
async def test_without_json_a_page_leads_to_the_first_page(path: str) -> None:
    async with serving(url_prefix="/flower") as served:
        answer = await served.get("/flower" + path)
    assert (answer.status, answer.header("Location")) == (302, "/flower/")


async def test_json_must_be_a_boolean() -> None:
    async with serving() as served:
        answer = await served.get("/workers?json=perhaps")
    assert answer.status == 400
    assert "json" in answer.error["message"]


@pytest.mark.parametrize("query", ["?json", "?json=1"])
async def test_one_worker(query: str) -> None:
    async with serving() as served:
        served.apply(heartbeat("celery@w1", active=3))
        page = (await served.get(f"/worker/celery@w1{query}")).json()
        api = (await served.get("/api/workers/celery@w1")).json()
        assert (await served.get(f"/worker/nobody@nowhere{query}")).status == 404
    assert page.pop("name") == "celery@w1"
    assert page == api


def table(start: int = 0, length: int = 10, search: str = "", column: str = "name", dir: str = "asc") -> str:
    """Return the arguments that DataTables sends for 17 columns, the last of them to sort by."""
    names = ["name"] * 16 + [column]
    columns: dict[str, object] = {}
    for index, name in enumerate(names):
        columns |= {f"columns[{index}][{key}]": "" for key in ("name", "searchable", "orderable", "search[value]")}
        columns |= {f"columns[{index}][data]": name, f"columns[{index}][search][regex]": "false"}
    more = {"draw": 3, "start": start, "length": length, "search[value]": search, "search[regex]": "false"}
    return urlencode(
        columns | more | {"order[0][column]": 16, "order[0][dir]": dir, "_": 1796079915}, quote_via=quote
    )


async def ask(served: Served, arguments: str, method: str = "GET") -> Any:
    if method == "GET":
        answer = await served.get(f"/tasks/datatable?{arguments}")
    else:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await served.request("POST", "/tasks/datatable", form, arguments.encode())
    assert answer.status == 200, answer.body
    return answer.json()


def received(count: int) -> list[Event]:
    return [event("task-received", f"id{n}", 1000.0 + n, name=f"name{n % 3}") for n in range(count)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_page_of_the_table_of_tasks(method: str) -> None:
    async with serving() as served:
        served.apply(*received(20))
        page = await ask(served, table(5, 3, column="received", dir="desc"), method)
        assert {key: page[key] for key in page.keys() - {"data"}} == {
            "draw": 3,
            "recordsTotal": 20,
            "recordsFiltered": 20,
        }
        assert [task["uuid"] for task in page["data"]] == ["id14", "id13", "id12"]
        assert page["data"][0] == (await served.get("/api/task/info/id14")).json()
        ascending = await ask(served, table(0, 2, column="received"), method)
        assert [task["uuid"] for task in ascending["data"]] == ["id0", "id1"]


async def test_a_search_counts_what_matches() -> None:
    async with serving() as served:
        served.apply(*received(20))
        page = await ask(served, table(2, 2, "name:name1", "received"))
        everything = await ask(served, table(0, -1, "name:name1", "received"))
        beyond = await ask(served, table(1000, 5, "name:name1", "received"))
        nothing = await ask(served, table(0, 5, "name:unheard-of"))
    assert (page["recordsTotal"], page["recordsFiltered"]) == (20, 7)
    assert [task["uuid"] for task in page["data"]] == ["id7", "id10"]
    assert len(everything["data"]) == 7
    assert (beyond["recordsFiltered"], beyond["data"]) == (7, [])
    assert (nothing["recordsFiltered"], nothing["data"]) == (0, [])


async def test_a_search_that_cannot_be_read_is_said_in_the_answer() -> None:
    async with serving() as served:
        served.apply(*received(2))
        page = await ask(served, table(search="NOT x"))
    assert page.pop("searchError")
    assert page == {"draw": 3, "recordsTotal": 2, "recordsFiltered": 0, "data": []}


async def test_a_column_that_has_no_order_leaves_the_newest_first() -> None:
    async with serving() as served:
        served.apply(*received(3))
        page = await ask(served, table(column="args"))
    assert [task["uuid"] for task in page["data"]] == ["id2", "id1", "id0"]


@pytest.mark.parametrize("arguments", ["", "draw=1", "draw=x&start=0&length=1&order[0][column]=0", "draw=1&start=-1"])
async def test_bad_arguments_of_the_table(arguments: str) -> None:
    async with serving() as served:
        answer = await served.get(f"/tasks/datatable?{quote(arguments, safe='=&')}")
    assert answer.status == 400
    assert answer.error["message"]


async def test_what_a_viewer_may_not_see_is_not_in_the_table() -> None:
    async with serving(show_args="operator", anonymous_role="viewer") as served:
        served.credentials = {}
        served.apply(event("task-received", "a", name="add", args="('hunter2',)"))
        page = await ask(served, table())
        found = await ask(served, table(search="args:hunter2"))
    assert "hunter2" not in str(page)
    assert found["recordsFiltered"] == 0


async def test_a_read_only_taskmon_shows_the_table_to_a_post() -> None:
    async with serving(read_only=True) as served:
        assert (await ask(served, table(), "POST"))["data"] == []
