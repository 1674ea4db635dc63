"""Real Celery workers for the live tests, each in a process of its own, and the project they run."""

import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import celery
from brokers import Broker, RedisBroker
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.canvas import Signature
from celery.result import AsyncResult
from kombu import pools
from processes import Process
from project import BACKEND_VARIABLE, BROKER_VARIABLE, QUEUE_VARIABLE, SETTINGS_VARIABLE, make_app

Pool = Literal["prefork", "threads", "solo"]
Backend = Literal["rpc", "redis", "none"]
READY_TIMEOUT = 180.0  # 2 to 3 s when the machine has nothing else to do


def new_queue() -> str:
    """Return a queue name nobody else uses, so that no test sees another's leftovers."""
    return f"live-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class Project:
    """`project.py` on one broker, with one queue to itself. Use `close` when done."""

    broker_url: str
    result_backend: str | None
    queue: str = field(default_factory=new_queue)
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def on(cls, broker: Broker, backend: Backend | None = None, redis: RedisBroker | None = None) -> "Project":
        """Build a project for a broker; without a backend named: redis on Redis, rpc elsewhere.

        The backend redis on another broker needs the Redis that shall hold the results.
        """
        store = broker if isinstance(broker, RedisBroker) else redis
        chosen = backend or ("redis" if isinstance(broker, RedisBroker) else "rpc")
        if chosen == "redis":
            assert store is not None, "the result backend redis needs a Redis"
            return cls(broker.url, store.url)
        return cls(broker.url, "rpc://" if chosen == "rpc" else None)

    @cached_property
    def app(self) -> Celery:
        """The app as a client in this process; it is not the current app."""
        return make_app(self.broker_url, self.result_backend, self.queue, self.settings)

    def environment(self) -> dict[str, str]:
        """Return the variables that configure `project.py` in another process."""
        return {
            BROKER_VARIABLE: self.broker_url,
            BACKEND_VARIABLE: self.result_backend or "",
            QUEUE_VARIABLE: self.queue,
            SETTINGS_VARIABLE: json.dumps(self.settings),
        }

    def signature(self, task: str, *args: Any, **kwargs: Any) -> Signature:
        """Return the signature of a task of `project.py`: `signature("add", 2, 3)`."""
        return self.app.tasks[f"project.{task}"].s(*args, **kwargs)

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        """Publish a task; the options are those of `apply_async` (kwargs, countdown, queue, task_id, ...)."""
        return self.signature(task, *args).apply_async(**options)

    def chain(self, *signatures: Signature) -> Signature:
        """Return a chain of signatures, each given the result of the one before."""
        return celery.chain(*signatures, app=self.app)

    def group(self, *signatures: Signature) -> Signature:
        """Return a group of signatures that run side by side."""
        return celery.group(*signatures, app=self.app)

    def close(self) -> None:
        """Close every connection of the app in this process."""
        app = self.__dict__.get("app")
        if app is None:
            return
        broker = app.connection_for_write()
        with contextlib.suppress(*broker.connection_errors):
            close_backend(app.backend)
        # kombu's pools are global and stay closed: the next app on this broker must not find them.
        for group in (pools.producers, pools.connections):
            if pool := group.pop(broker.__eqhash__(), None):
                pool.force_close_all()
        app.close()


def close_backend(backend: Any) -> None:
    """Close the connections of a result backend, for which Celery has no call."""
    if isinstance(backend, RedisBackend):
        backend.result_consumer.stop()
        backend.client.connection_pool.disconnect()
    elif isinstance(backend, RPCBackend) and backend.result_consumer._connection:
        backend.result_consumer.stop()
    # A result that somebody still holds, such as the traceback of a failed test, would connect again when it goes.
    backend.remove_pending_result = lambda result: result


class Worker(Process):
    """`celery worker` with its pool, in a process group of its own."""

    def __init__(
        self,
        project: Project,
        directory: Path,
        *,
        pool: Pool = "solo",
        concurrency: int = 1,
        name: str | None = None,
        events: bool = True,
        timezone: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.project = project
        name = name or f"worker-{uuid.uuid4().hex[:8]}"
        self.hostname = f"{name}@{socket.gethostname()}"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "project",
            "worker",
            "-n",
            f"{name}@%h",
            "-Q",
            project.queue,
        ]
        command += ["--pool", pool, "--concurrency", str(concurrency), "--loglevel", "INFO"]
        command += ["--without-mingle", "--without-gossip", *(["-E"] if events else []), *options]
        super().__init__(
            command,
            directory=Path(__file__).parent,
            log=directory / f"{name}.log",
            environment=dict(os.environ) | project.environment() | ({"TZ": timezone} if timezone else {}),
        )

    def start(self) -> None:
        """Start the worker and wait until it takes tasks and commands."""
        seen = len(self.log_text())
        super().start()
        ready = f"{self.hostname} ready."
        self.wait_until(
            lambda: ready in self.log_text()[seen:], timeout=READY_TIMEOUT, what=f"{self.hostname} is ready"
        )


@contextlib.contextmanager
def running(*workers: Worker) -> Iterator[None]:
    """Start workers; stop them at the end."""
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        for worker in workers:
            worker.stop()
