"""Flower's pages as programs read them: JSON by the paths and with the keys of its pages. Event loop only."""

from collections.abc import Iterator, Mapping
from time import time
from typing import Annotated, Final

from msgspec import Meta, field, structs

from ..auth import Role
from ..errors import InvalidArgument, UnknownWorker
from ..http.arguments import read_query, read_texts
from ..http.base import ApiHandler
from ..http.serializers import datatable_error, datatable_opening, encode, worker_body, worker_row
from ..http.time_slice import Turn, send_members
from ..monitor.query import MAX_COUNT, TaskQuery
from ..monitor.search import parse_search
from ..monitor.task_fields import SORT_KEYS
from ..parameters import Parameters, parse_bool, parse_parameters
from ..records import Task
from .listing import encode_tasks, with_children
from .workers import WorkerHandler

#: Arguments that a request for the table of tasks may have: DataTables sends six for each column.
MAX_TABLE_ARGUMENTS: Final = 1_000


class FlowerPage(ApiHandler):
    """The base of the pages that answer JSON where `json` is given, and lead to the first page otherwise."""

    def wants_json(self) -> bool:
        """Whether `json` is among the arguments, on its own or as a true boolean; raises InvalidArgument."""
        value = read_query(self.request).get("json")
        return value is not None and (value == "" or parse_bool("json", value))

    def lead_home(self) -> None:
        """Redirect to the first page."""
        self.redirect(self.services.settings.url_prefix + "/")


class WorkersPage(FlowerPage):
    path = "/workers"
    summary = "The rows of Flower's page of workers, with `json=1`"
    role = Role.VIEWER

    async def get(self) -> None:
        """Answer a row for each worker: its heartbeat and the number of its events by type."""
        if not self.wants_json():
            self.lead_home()
            return
        await send_members(self, self._rows(time()), b'{"data":[', b"]}")

    def _rows(self, now: float) -> Iterator[bytes | None]:
        metrics = self.services.metrics
        totals: dict[str, dict[str, int]] = {}
        yield from metrics.add_up_by_worker(totals)
        for worker in list(self.monitor.state.workers.values()):
            label = metrics.find_label(worker.hostname)
            yield encode(worker_row(worker, None if label is None else totals.get(label, {}), now))


class DashboardPage(WorkersPage):
    path = "/dashboard"
    summary = "The same under the path that Flower's page of workers once had"


class WorkerPage(FlowerPage, WorkerHandler):
    path = "/worker/{name}"
    summary = "All that is known of a worker, with `json`"
    role = Role.VIEWER
    errors = (UnknownWorker,)

    def get(self, name: str) -> None:
        """Answer the worker as `/api/workers/<name>` does, and its name."""
        if not self.wants_json():
            self.lead_home()
            return
        worker = worker_body(self.find_worker(name), *self.all_of(name), time())
        self.finish(encode(worker)[:-1] + b',"name":' + encode(name) + b"}")


class TablePage(Parameters, kw_only=True):
    """What DataTables sends of a page of a table."""

    draw: Annotated[int, Meta(ge=0, le=MAX_COUNT, description="Number that comes back in the answer.")]
    start: Annotated[int, Meta(ge=0, le=MAX_COUNT, description="Number of tasks to skip.")]
    length: Annotated[int, Meta(ge=-1, le=MAX_COUNT, description="Number of tasks to return; -1 returns all.")]
    search: Annotated[str | None, Meta(description="A query in the search language.")] = field(
        default=None, name="search[value]"
    )
    column: Annotated[int, Meta(ge=0, le=MAX_COUNT, description="Number of the column to sort by.")] = field(
        name="order[0][column]"
    )
    direction: Annotated[str | None, Meta(description="`desc` sorts in descending order.")] = field(
        default=None, name="order[0][dir]"
    )


class TasksDataTable(ApiHandler):
    path = "/tasks/datatable"
    summary = "A page of the tasks in memory"
    role = Role.VIEWER
    allowed_when_read_only = True
    parameters = TablePage

    async def get(self) -> None:
        """Answer the page, the number of tasks held, and how many of them match the search."""
        texts = read_texts(self.request, MAX_TABLE_ARGUMENTS)
        given = parse_parameters(TablePage, texts, self.monitor.zone)
        total = len(self.monitor.state)
        try:
            query = self._make_query(given, texts)
        except InvalidArgument as exc:
            self.answer(datatable_error(given.draw, total, str(exc)))
            return
        page, matching = await self._find_page(query, given.start, given.length)
        await send_members(
            self,
            encode_tasks(self, with_children(self, page), as_members=False),
            datatable_opening(given.draw, total, matching),
            b"]}",
        )

    post = get

    def on_finish(self) -> None:
        """Leave no line in the audit log: a POST changes nothing here either."""

    def _make_query(self, given: TablePage, texts: Mapping[str, str]) -> TaskQuery:
        """Return the query; a column that cannot be sorted by leaves the newest tasks first."""
        column = texts.get(f"columns[{given.column}][data]", "")
        query = TaskQuery(
            sort_by=column if column in SORT_KEYS else None,
            descending=given.direction == "desc",
        )
        text = given.search
        if text is None or not text.strip():
            return query
        return self.restrict(structs.replace(query, search=parse_search(text)))

    async def _find_page(self, query: TaskQuery, start: int, length: int) -> tuple[list[Task], int]:
        """Return the tasks of a page, and how many there are in all; a search has to look at all of them for that."""
        state = self.monitor.state
        limit = None if length < 0 else length
        if query.search is None:
            query = structs.replace(query, offset=start, limit=limit)
        page: list[Task] = []
        matching, end = 0, MAX_COUNT if limit is None else start + limit
        turn = Turn()
        for task in state.find(query):
            if task is not None:
                if query.search is None or start <= matching < end:
                    page.append(task)
                matching += 1
            if turn.over:
                await turn.give_way()
        return page, len(state) if query.search is None else matching
