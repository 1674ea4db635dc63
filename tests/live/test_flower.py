"""taskmon beside Flower: one broker, one worker, the same requests to both, and what the page says may differ.

Both wait for a worker as long as it takes. Where an answer is about the moment, such as a heartbeat that came between
the two requests, both are asked again while they differ in what has no row: a difference is one that stays.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from brokers import Broker, RedisBroker
from comparing import Allowed, compare, is_error, read_allowed
from flower_beside import Flower, in_utc, name_places, prepare_flower, run_tasks, wait_for_workers
from flower_requests import COMMANDING, GROWING, PUBLISHING, READING, Answer, Request, read_table
from monitor import PASSWORD, Monitor
from patience import PATIENCE
from processes import wait_until
from workers import Project, Worker

REQUESTS = [request for table in (READING, GROWING, PUBLISHING, COMMANDING) for request in read_table(table)]

#: What a task object says of how a task was published.
PUBLISHED = ("name", "args", "kwargs", "exchange", "routing_key", "queue", "parent", "retries")
TIMES = ("eta", "expires")

CREDENTIALS = f"user:{PASSWORD}"
OPTIONS = [
    "--app",
    "project",
    "--metrics-prefix=flower",
    "--metrics-celery-exporter",
    "--inspect-timeout=20000",
    "--publish-queues=*-other",
]


@dataclass
class Pair:
    """Flower and taskmon over one broker, and what requests to them may name."""

    flower: Flower
    taskmon: Monitor
    worker: Worker
    spare: Worker
    known: dict[str, str]

    def ask(self, request: Request) -> tuple[Answer, Answer]:
        """Send a request to both, one after the other."""
        flower, taskmon = (
            request.send(monitor.url, CREDENTIALS, self.known | {"its own": worker, "new id": str(uuid4())})
            for monitor, worker in ((self.flower, self.known["spare"]), (self.taskmon, self.known["worker"]))
        )
        return flower, taskmon


@dataclass
class Compared:
    """What both answered, and what differs; the differences that the page allows."""

    allowed: list[Allowed]
    answers: dict[Request, tuple[Answer, Answer]] = field(default_factory=dict)
    differences: dict[Request, set[str]] = field(default_factory=dict)

    def without_row(self, request: Request) -> set[str]:
        """Give what differs without a row."""
        found = self.differences[request]
        return {one for one in found if not any(row.matches(request, one) for row in self.allowed)}


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker_server(request: pytest.FixtureRequest) -> Broker:
    """Each of the brokers in turn, running."""
    found: Broker = request.getfixturevalue(f"{request.param}_server")
    found.restore()
    return found


@pytest.fixture(scope="module")
def pair(
    broker_server: Broker, redis_server: RedisBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Both, with a worker and tasks of all kinds that both have seen."""
    if reason := prepare_flower():
        pytest.skip(reason)
    redis_server.restore()
    directory = tmp_path_factory.mktemp("flower")
    project = Project.on(broker_server, "redis", redis_server)
    worker = Worker(project, directory, pool="prefork", timezone="UTC")
    spare = Worker(Project(project.broker_url, project.result_backend), directory, timezone="UTC")
    flower = Flower(directory, project)
    taskmon = Monitor(directory, None, options=OPTIONS, environment=project.environment() | {"TZ": "UTC"})
    processes = (worker, spare, flower, taskmon)
    with ExitStack() as running, ThreadPoolExecutor() as starting:
        running.callback(project.close)
        for process in processes:
            running.callback(process.kill)
        list(starting.map(lambda process: process.start(), processes))
        taskmon.wait_ready()
        for monitor in (flower, taskmon):
            wait_for_workers(monitor, worker, spare)
        with in_utc():
            known = name_places(project, worker, spare) | run_tasks(project, directory, flower, taskmon)
        yield Pair(flower, taskmon, worker, spare, known)


@pytest.fixture(scope="module")
def compared(pair: Pair, broker_server: Broker) -> Compared:
    """Send every request to both, in the order of the tables, and compare the answers."""
    found = Compared(read_allowed(broker_server.name))
    for request in REQUESTS:
        began = time.monotonic()
        settled = False
        while not settled:
            answers = found.answers[request] = pair.ask(request)
            found.differences[request] = compare(request, *answers, pair.known.values())
            late = time.monotonic() > began + PATIENCE
            momentary = request.momentary or answers[0].status == 503  # the broker did not answer Flower in time
            settled = late or not momentary or not found.without_row(request)
        differ = ", ".join(sorted(found.differences[request]))
        print(f"{time.monotonic() - began:.2f} s, {found.answers[request][1].status} {request.line}: {differ}")
    return found


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda request: request.line)
def test_every_difference_has_a_row(asked: Request, compared: Compared) -> None:
    flower, taskmon = compared.answers[asked]
    unexplained = compared.without_row(asked)
    assert not unexplained, f"{', '.join(sorted(unexplained))}\nFlower: {flower!s:.1500}\ntaskmon: {taskmon!s:.1500}"
    assert taskmon.status < 400 or is_error(taskmon) or asked.words[1] == "HEAD", taskmon


def test_every_row_is_shown(pair: Pair, compared: Compared) -> None:
    seen = {(request, difference) for request, found in compared.differences.items() for difference in found}

    def find_unseen() -> list[Allowed]:
        return [row for row in compared.allowed if not any(row.matches(*one) for one in seen)]

    def ask_again() -> bool:
        """Whether all were shown, once they are asked again who may differ in what is only so for a moment."""
        for request in read_table(READING):
            if any(row.matches(request, row.difference) for row in find_unseen()):
                seen.update((request, found) for found in compare(request, *pair.ask(request), pair.known.values()))
        return not find_unseen()

    if find_unseen():
        wait_until(ask_again, timeout=PATIENCE, what="every row is shown", detail=lambda: str(find_unseen()))


#: What the dashboards and alerts of the celery-mixin ask for, and the labels that they choose and group by.
MIXIN = {
    **{f"celery_task_{what}_total": {"name", "queue_name"} for what in ("sent", "received", "succeeded", "retried")},
    **{f"celery_task_{what}_total": {"name", "queue_name"} for what in ("revoked", "rejected")},
    "celery_task_failed_total": {"name", "queue_name", "exception"},
    "celery_task_runtime_sum": {"name", "queue_name"},
    "celery_task_runtime_count": {"name", "queue_name"},
    "celery_task_runtime_bucket": {"name", "queue_name", "le"},
    "celery_worker_up": {"hostname"},
    "celery_worker_tasks_active": set(),
    "celery_queue_length": {"queue_name"},
}


@pytest.mark.parametrize("name", MIXIN)
def test_the_celery_mixin_finds_what_it_asks_for(name: str, compared: Compared) -> None:
    text = compared.answers[Request("GET /metrics")][1].body
    series = [
        (dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
        for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    ]
    assert series
    assert all(labels.keys() >= MIXIN[name] for labels, _ in series)
    assert sum(value for _, value in series) > 0 or name in ("celery_worker_tasks_active", "celery_queue_length")


def test_both_publish_the_same(pair: Pair, compared: Compared) -> None:
    ids = [
        (request.line, [answer.body["task-id"] for answer in answers])
        for request, answers in compared.answers.items()
        if "apply/project" in request.line and [answer.status for answer in answers] == [200, 200]
    ]
    assert len(ids) > 10

    def told() -> bool:
        return all(pair.taskmon.task(task_id).get("sent") for _, both in ids for task_id in both)

    wait_until(told, timeout=PATIENCE, what="all that was published has been told")
    for line, (by_flower, by_taskmon) in ids:
        theirs, ours = pair.taskmon.task(by_flower), pair.taskmon.task(by_taskmon)
        assert {name: ours[name] for name in PUBLISHED} == {name: theirs[name] for name in PUBLISHED}, line
        assert [ours[name] is None for name in TIMES] == [theirs[name] is None for name in TIMES], line
