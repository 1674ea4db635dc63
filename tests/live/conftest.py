"""Fixtures of the live tests: real brokers and real workers, in processes of their own, on loopback ports.

Every test in this directory has the mark `live`. The fixtures:

- `redis_server`, `rabbitmq_server` (session): the brokers, started once, at their first use. For fixtures of
  a wider scope than one test; such tests must not break the broker.
- `redis_broker`, `rabbitmq_broker`, and `broker`, which runs the test against both (function): the same
  brokers, running when the test begins and repaired after it. A test may `stop()`, `start()`, `kill()`,
  `pause()` and `resume()` them; `url` and `port` stay the same. See `brokers.Broker`.
- `postgres_server` (session) and `postgres` (function): a PostgreSQL, likewise; see `databases.PostgresServer`.
- `database` (function): an empty history in it.
- `new_redis(password=None)` (function): a factory of Redis servers for one test alone.
- `project` (function): a `workers.Project` on `broker` with a queue to itself. `project.send("add", 2, 3)`
  publishes a task, `project.app` is the Celery app; the tasks are in `project.py`.
- `new_project(broker, backend=None, redis=None, **settings)` (function): a factory of such projects, closed after
  the test. The backend is "rpc", "redis" (elsewhere than on Redis: give the `redis` to use) or "none".
- `start_worker(project, pool="solo", concurrency=1, name=None, events=True, timezone=None, options=())`
  (function): starts a `workers.Worker`, waits until it is ready and returns it; it is stopped after the test.
  `events=False` leaves out `-E`, `timezone` is the TZ of the process, `options` go to `celery worker`.
- `chromium` (session): a headless browser, see `chromium.Chromium`.

A broker whose program is not installed makes its tests skip, with the reason. Where CI=true a skip is a
failure: see `live_hooks.py`.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from brokers import Broker, RabbitBroker, RedisBroker
from chromium import Chromium
from databases import PostgresServer
from serving import make_app
from workers import Backend, Project, Worker

from taskmon.cluster.cluster_names import name_cluster
from taskmon.history.postgres import PostgresDatabase

AnyBroker = TypeVar("AnyBroker", bound=Broker)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisBroker]:
    """The Redis of this test run."""
    yield from _serve(RedisBroker, tmp_path_factory)


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitBroker]:
    """The RabbitMQ of this test run."""
    yield from _serve(RabbitBroker, tmp_path_factory)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser of this test run."""
    if Chromium.program() is None:
        pytest.skip("chromium is not installed")
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    try:
        browser.start()
        yield browser
    finally:
        browser.stop()


def _serve(kind: type[AnyBroker], directories: pytest.TempPathFactory) -> Iterator[AnyBroker]:
    if reason := kind.missing():
        pytest.skip(reason)
    broker = kind(directories.mktemp(kind.name))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of this test run."""
    if reason := PostgresServer.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="taskmon-postgres-") as directory:  # pytest's own are for its user alone
        server = PostgresServer(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The PostgreSQL, running; the test may break it."""
    postgres_server.restore()
    yield postgres_server
    postgres_server.restore()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """An empty database, or one that has been emptied."""
    made = PostgresDatabase(postgres.url("history"), name_cluster(make_app()))
    made.open()
    with made.writing() as connection:
        connection.exec_driver_sql("TRUNCATE taskmon_tasks, taskmon_workers, taskmon_counters, taskmon_names")
    yield made
    made.close()


@pytest.fixture
def redis_broker(redis_server: RedisBroker) -> Iterator[RedisBroker]:
    """The Redis, running; the test may break it."""
    redis_server.restore()
    yield redis_server
    redis_server.restore()


@pytest.fixture
def rabbitmq_broker(rabbitmq_server: RabbitBroker) -> Iterator[RabbitBroker]:
    """The RabbitMQ, running; the test may break it."""
    rabbitmq_server.restore()
    yield rabbitmq_server
    rabbitmq_server.restore()


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the brokers in turn, running; the test may break it."""
    found: Broker = request.getfixturevalue(f"{request.param}_broker")
    return found


@pytest.fixture
def new_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisBroker]]:
    """A factory of Redis servers for this test alone: `new_redis(password="secret")`."""
    if reason := RedisBroker.missing():
        pytest.skip(reason)
    servers: list[RedisBroker] = []

    def start(password: str | None = None) -> RedisBroker:
        servers.append(RedisBroker(tmp_path_factory.mktemp("redis"), password))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def new_project() -> Iterator[Callable[..., Project]]:
    """A factory of projects: `new_project(broker, "none")`; see `Project.on`."""
    projects: list[Project] = []

    def make(
        broker: Broker, backend: Backend | None = None, redis: RedisBroker | None = None, **settings: Any
    ) -> Project:
        projects.append(replace(Project.on(broker, backend, redis), settings=settings))
        return projects[-1]

    yield make
    for project in projects:
        project.close()


@pytest.fixture
def project(broker: Broker, new_project: Callable[..., Project]) -> Project:
    """A project on `broker`, with the result backend that is natural there."""
    return new_project(broker)


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """A factory of running workers: `start_worker(project, pool="prefork", concurrency=2)`; see `Worker`."""
    workers: list[Worker] = []

    def start(project: Project, **settings: Any) -> Worker:
        workers.append(Worker(project, tmp_path, **settings))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
