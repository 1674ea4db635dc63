"""The database answers as State does: the same tasks, in the same order, page by page."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from factories import find_tasks, held_tasks
from stored import check_listings, list_queries, make_tasks, open_sqlite, read, read_ids, write

from taskmon.history import reading
from taskmon.history.databases import Database
from taskmon.history.reading import list_names, read_children, read_task, read_tasks
from taskmon.history.schema import SEARCHED
from taskmon.monitor.query import TaskQuery
from taskmon.monitor.search import parse_search
from taskmon.monitor.state import State
from taskmon.records import Task


@pytest.fixture(scope="module")
def state() -> State:
    return make_tasks()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, state: State) -> Iterator[Database]:
    made = open_sqlite(tmp_path_factory.mktemp("history"))
    write(made, held_tasks(state))
    made.index_some(70)  # the rest is not in the search index yet
    yield made
    made.close()


def test_listings_are_those_of_the_memory(database: Database, state: State) -> None:
    check_listings(database, state)


def test_long_listings_are_read_in_parts(database: Database, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MIN_ROWS_PER_READ", 2)
    monkeypatch.setattr(reading, "_MAX_ROWS_PER_READ", 7)
    check_listings(database, state)


def test_a_search_that_matches_much_walks_the_order(
    database: Database, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SORTABLE", 3)
    monkeypatch.setattr(reading, "_MIN_ROWS_PER_READ", 5)
    check_listings(database, state)


def test_a_search_asks_the_index(database: Database) -> None:
    listing = reading.Listing(database, TaskQuery(search=parse_search("order-12 OR größe")))
    term = listing._term()
    assert term is not None
    sql = str(term.compile(database.reader, compile_kwargs={"literal_binds": True}))
    plan = f"EXPLAIN QUERY PLAN SELECT uuid FROM taskmon_tasks WHERE {sql}"
    with database.reading() as connection:
        steps = [row[3] for row in connection.exec_driver_sql(plan)]
    assert any("VIRTUAL TABLE INDEX" in step for step in steps)
    assert not any(step.startswith("SCAN taskmon_tasks") for step in steps)


def test_every_order_and_filter_has_an_index(database: Database) -> None:
    for query in list_queries():
        if query.search is not None or query.limit is None:
            continue
        listing = reading.Listing(database, query)
        for order in listing._orders(reading._filters(query)):
            page = reading._page(order, None, 10, 0)
            sql = str(page.compile(database.reader, compile_kwargs={"literal_binds": True}))
            with database.reading() as connection:
                steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
            assert not any(step == "SCAN taskmon_tasks" for step in steps), (query, steps)


def test_single_tasks_children_and_names(database: Database, state: State) -> None:
    assert read_task(database, "id-007") == state.get("id-007")
    assert read_task(database, "nobody") is None
    assert set(read_tasks(database, ["id-001", "id-002", "nobody"])) == {"id-001", "id-002"}
    parents = [task.uuid for task in held_tasks(state)]
    expected = {parent: children for parent in parents if (children := state.children(parent))}
    assert read_children(database, parents) == expected
    assert read_children(database, []) == {}
    parent, children = max(expected.items(), key=lambda item: len(item[1]))
    assert read_children(database, [parent], limit=1) == {parent: children[:1]}
    assert list_names(database) == sorted(state.task_names())


def test_an_empty_name_is_no_name(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path)) as database:
        write(database, [Task("a", name=""), Task("b"), Task("c", name="shop.mail")])
        assert list_names(database) == ["shop.mail"]


def test_no_limit_and_no_tasks(database: Database, state: State) -> None:
    assert len(read(database, TaskQuery())) == len(state)
    assert read_ids(database, limit=0) == []
    assert read_ids(database, sort_by="received", offset=10_000) == []


def test_an_offset_may_reach_over_stretches(database: Database, state: State) -> None:
    for offset in range(0, len(state), 13):
        query = TaskQuery(sort_by="runtime", offset=offset, limit=4)
        assert read(database, query) == find_tasks(state, sort_by="runtime", offset=offset, limit=4)


def test_searched_fields_are_those_of_the_search() -> None:
    assert set(SEARCHED) == {"uuid", "name", "state", "worker", "queue", "args", "kwargs", "result", "exception"}
