"""What tests of the history share: tasks with every kind of value, and questions put to State and to a database."""

import random
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final

from factories import START, make_event, make_state
from hypothesis import strategies as st

from taskmon.history.columns import FIELDS, finish, to_row
from taskmon.history.databases import Batch, Database
from taskmon.history.reading import Listing
from taskmon.history.sqlite import SqliteDatabase
from taskmon.monitor.query import TaskQuery
from taskmon.monitor.search import parse_search
from taskmon.monitor.state import State
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.records import Event, Task

SEARCHES: Final = (
    *("order-1", "ORDER-12", "größe", "straße", "STRASSE", 'name:"tasks.m"', "worker:two state:failure"),
    *("order-3 OR order-4", "-order -größe", "(order-1 OR größe) state:success", "kwargs:customer=7", "result:done"),
    *(
        "exception:valueerror",
        "root:id-003",
        "parent:id-003 -state:success",
        "state:STARTED",
        "queue:mail",
        "nowhere",
    ),
    *("state:received OR worker:one", "%_%", "id-01 AND order", "100%"),
)


def open_sqlite(directory: Path) -> SqliteDatabase:
    """Open a database in a file."""
    database = SqliteDatabase(directory / "history.sqlite3")
    database.open()
    return database


def write(database: Database, tasks: Iterable[Task], **more: Any) -> int:
    """Write tasks as the recorder would."""
    batch = Batch(list(map(to_row, tasks)), [], [], None, "here", START)
    for name, value in more.items():
        setattr(batch, name, value)
    return database.write(batch)


def read(database: Database, query: TaskQuery) -> list[Task]:
    """Read all that a query asks for."""
    listing = Listing(database, query)
    found: list[Task] = []
    while (more := listing.read()) is not None:
        found += more
    return found


def read_ids(database: Database, **query: Any) -> list[str]:
    """Read the ids that a query asks for."""
    return [task.uuid for task in read(database, TaskQuery(**query))]


def read_all_rows(database: Database) -> dict[str, Task]:
    """Read every task there is."""
    return {task.uuid: task for task in read(database, TaskQuery())}


def make_tasks(count: int = 120, seed: int = 5) -> State:
    """Make a State with tasks in every state, and with values that are hard to fold, to quote and to sort."""
    rng = random.Random(seed)
    state = make_state()
    for number in range(count):
        state.apply(list(_live(number, rng)))
    return state


def _live(number: int, rng: random.Random) -> Iterator[Event]:
    uuid = f"id-{number:03}"
    at = START + 10 * number + rng.choice((0, 0, 0.125))
    worker = rng.choice(("celery@one", "celery@two", "celery@größe"))
    parent = f"id-{rng.randrange(number):03}" if number and number % 3 == 0 else None
    told: dict[str, Any] = {
        "name": rng.choice(("tasks.add", "tasks.mul", "tasks.Straße", "Tasks.add")),
        "args": rng.choice((f"('order-{number}',)", "('Größe',)", "('100%_\\\\',)", "()")),
        "kwargs": rng.choice(("{}", f"{{'customer': {number % 9}}}", "{'a': \"it's\"}")),
        "retries": rng.choice((0, 0, 1, 2)),
        "root_id": parent or uuid,
        "parent_id": parent,
    }
    if number % 4 == 0:
        yield make_event(
            "sent", uuid, timestamp=at, hostname="gen1@web", **told, queue=rng.choice(("mail", "celery"))
        )
    if number % 7 != 5:
        yield make_event("received", uuid, timestamp=at + 1, hostname=worker, **told, clock=number)
    if number % 7 != 4:
        yield make_event("started", uuid, timestamp=at + 2, hostname=worker)
    if number % 11 == 3:
        yield make_event("progress", uuid, timestamp=at + 3, hostname=worker)
    if number % 7 < 3:
        runtime = rng.choice((0.5, 0.25, rng.random()))
        yield make_event("succeeded", uuid, timestamp=at + 4, hostname=worker, result="'Done'", runtime=runtime)
    elif number % 7 == 3:
        yield make_event("failed", uuid, timestamp=at + 4, hostname=worker, exception="ValueError('ß')")


def list_queries() -> Iterator[TaskQuery]:
    """List queries by every order, filter and search, and some pairs of them, pages included."""
    filters: list[dict[str, Any]] = [
        {},
        {"worker": "celery@two"},
        {"name": "tasks.Straße"},
        {"state": "STARTED"},
        {"state": "PROGRESS"},
        {"queue": "mail"},
        {"client": "gen1@web"},
        {"client": "nobody", "state": "SUCCESS"},
        {"root_id": "id-003"},
        {"parent_id": "id-003"},
        {"parent_id": "nobody"},
        {"received_start": START + 300, "received_end": START + 700},
        {"started_end": START + 500, "worker": "celery@one"},
        {"state": "SUCCESS", "name": "tasks.add"},
    ]
    pages: list[dict[str, Any]] = [{}, {"limit": 5}, {"limit": 5, "offset": 7}, {"limit": 3, "offset": 1000}]
    for sort_by in (None, *SORT_KEYS):
        for descending in (False, True):
            for at, chosen in enumerate(filters):
                yield TaskQuery(sort_by=sort_by, descending=descending, **chosen, **pages[at % len(pages)])
    for at, text in enumerate(SEARCHES):
        sort_by = (None, "name", "-received")[at % 3]
        order = {"sort_by": sort_by.removeprefix("-"), "descending": sort_by[0] == "-"} if sort_by else {}
        yield TaskQuery(search=parse_search(text), **order)
        yield TaskQuery(search=parse_search(text), worker="celery@one", limit=2, offset=1)


def check_listings(database: Database, state: State) -> None:
    """Ask State and the database the same, and insist on the same answers."""
    for query in list_queries():
        expected = [task for task in state.find(query) if task is not None]
        assert read(database, query) == expected, query


# Two taskmons that see the same task


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """Draw the events of one task, in order: it may be retried, report progress, and end or not."""
    types: list[str] = []
    for _ in range(draw(st.integers(0, 2))):
        types += ["received", "started", "retried"]
    types += draw(
        st.sampled_from(
            [
                [],
                ["received"],
                ["received", "started"],
                ["received", "started", "progress"],
                ["received", "revoked"],
                ["received", "started", "failed"],
                ["received", "started", "progress", "succeeded"],
                ["received", "started", "succeeded"],
                ["received", "rejected"],
            ]
        )
    )
    if draw(st.booleans()):
        types = ["sent", *types]
    return [_tell(type, at, types[:at].count("retried")) for at, type in enumerate(types or ["sent"])]


def _tell(type: str, at: int, attempt: int) -> Event:
    """Make an event that says what one of its type says, in this attempt."""
    fields: dict[str, Any] = {"timestamp": START + at, "clock": at, "hostname": f"celery@{attempt}"}
    if type in ("sent", "received"):
        fields |= {"name": "tasks.add", "args": "(1,)", "kwargs": "{}", "retries": attempt, "root_id": "a"}
        fields |= {"eta": f"2026-01-0{attempt + 1}T00:00:00"} if attempt else {}
    if type == "sent":
        fields |= {"queue": "mail", "exchange": "", "routing_key": "mail", "hostname": "gen1@web"}
    elif type == "succeeded":
        fields |= {"result": "3", "runtime": 0.25}
    elif type in ("failed", "retried"):
        fields |= {"exception": f"ValueError({at})", "traceback": f"line {at}"}
    return make_event(type, "a", **fields)


@st.composite
def watched(draw: st.DrawFn, events: Sequence[Event]) -> list[Task]:
    """Draw what up to three taskmons wrote, in any order, of which every event was seen by one at least.

    Each sees the events of the worker in order, as brokers deliver them, and that of who sent the task at any time
    of the first attempt.
    """
    count = draw(st.integers(1, 3))
    missed = [draw(st.sets(st.integers(0, count - 1), max_size=count - 1)) for _ in events]
    written: list[Task] = []
    for watcher in range(count):
        seen = [event for event, away in zip(events, missed, strict=True) if watcher not in away]
        if seen and seen[0].type == "task-sent" and draw(st.booleans()):
            first = sum(event.hostname == "celery@0" for event in seen)  # its events in the first attempt
            seen.insert(draw(st.integers(0, first)), seen.pop(0))
        state = make_state()
        for event in seen:
            state.apply([event])
            if draw(st.booleans()) or event is seen[-1]:
                written.append(copy(state.get("a")))
                finish(written[-1])
    return draw(st.permutations(written))


def assert_same(merged: Task, events: Sequence[Event]) -> None:
    """Insist that a task is as in a State that saw all events in order."""
    expected = plain(make_state(*events).get("a"))
    if any(event.type == "task-progress" for event in events):
        del expected["timestamp"]  # memory knows no time of an event of its own, once another one came
    assert expected.items() <= plain(merged).items(), (expected, merged)


def plain(task: Task) -> dict[str, Any]:
    """Give all that does not depend on who saw it, and when; the clock of an event that came late is not known."""
    return {field: getattr(task, field) for field in FIELDS if field not in ("born", "seen", "clock")}
