"""Runs the demo: a broker in a folder, a worker in its own process, orders, and taskmon watching them.

All of it but the worker lives on one event loop; publishing, which writes files, is done in a thread.
"""

import asyncio
import errno
import logging
import os
import random
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from celery import Celery
from tornado.netutil import bind_sockets

from ..app import Taskmon
from ..auth import Role
from ..credentials.tokens import new_token
from ..errors import UnknownTask
from ..settings import Settings
from ..signals import Signals
from .tasks import EXCHANGES, Shop, make_celery
from .transport import make_folders, remove_folders

#: Where the worker writes its log, in the demo's folder.
LOG = "worker.log"

#: Seconds between two publications, and until a first task must have run.
PAUSE = 0.4
START_TIMEOUT = 30.0


class _DemoFailed(Exception):
    """The demo cannot go on."""


def run_demo(settings: Settings) -> int:
    """Run the demo until Ctrl-C or SIGTERM, and return the exit code: 0, or 1 if it failed."""
    if settings.log_level == "info" and not settings.debug:
        logging.getLogger().setLevel(logging.WARNING)  # the lines to paste must not scroll away
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        del os.environ[name]  # meant for the user's own Celery, and stronger than what the demo's is told
    with tempfile.TemporaryDirectory(prefix="taskmon-demo-", ignore_cleanup_errors=True) as folder:
        try:
            asyncio.run(_run(settings, Path(folder)))
        except _DemoFailed as exc:
            print(f"taskmon demo: {exc}", *_tail(Path(folder, LOG)), sep="\n", file=sys.stderr)
            return 1
    return 0


async def _run(settings: Settings, folder: Path) -> None:
    stop = asyncio.Event()
    make_folders(folder, EXCHANGES)
    token, line = new_token("demo", Role.ADMIN)
    settings = replace(_on_free_port(settings), token=(*settings.token, line), public_url=None)
    app = make_celery(folder)
    with Signals(stop.set, last_act=partial(remove_folders, folder)):
        async with _taskmon(settings, app) as taskmon, _worker(folder, stop) as worker:
            await _keep_shop(Shop(app, random.Random()), taskmon, token, stop)
            if worker.returncode is not None:
                raise _DemoFailed(f"the worker ended by itself, with exit code {worker.returncode}")


def _on_free_port(settings: Settings) -> Settings:
    """Give up the port that was asked for when another program has it."""
    if settings.unix_socket is not None or settings.port == 0:
        return settings
    try:
        sockets = bind_sockets(settings.port, settings.address)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            return settings  # taskmon will say it better
        print(f"Port {settings.port} is taken; the demo uses a free one.", flush=True)
        return replace(settings, port=0)
    for socket in sockets:
        socket.close()
    return settings


@asynccontextmanager
async def _taskmon(settings: Settings, app: Celery) -> AsyncIterator[Taskmon]:
    taskmon = Taskmon(settings, app)
    try:
        await taskmon.start()
    except OSError as exc:
        place = settings.unix_socket or f"{settings.address} port {settings.port}"
        raise _DemoFailed(f"cannot listen on {place}: {exc.strerror or exc}") from None
    try:
        yield taskmon
    finally:
        await taskmon.stop()


@asynccontextmanager
async def _worker(folder: Path, stop: asyncio.Event) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker, set `stop` if it ends by itself, and kill it in the end: it has nothing worth saving."""
    with (folder / LOG).open("wb") as log:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "taskmon.demo.worker", str(folder)),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # imports what this process would
            stdin=asyncio.subprocess.PIPE,  # never written to: see worker.py
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal is for the demo, which ends the worker
        )
    ended = asyncio.ensure_future(worker.wait())
    ended.add_done_callback(lambda _: stop.set())
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            worker.kill()
        await ended


async def _keep_shop(shop: Shop, taskmon: Taskmon, token: str, stop: asyncio.Event) -> None:
    """Publish tasks until `stop`, and say where to look as soon as one of them ran."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT
    publications = _publish(shop, stop)
    task_ids: list[str] = []
    async for task_id in publications:
        task_ids.append(task_id)
        if ran := _first_that_ran(taskmon, task_ids):
            _show(taskmon, ran, token)
            break
        if asyncio.get_running_loop().time() > deadline:
            raise _DemoFailed(f"no task has run in {START_TIMEOUT:g} s")
    async for _ in publications:
        pass


async def _publish(shop: Shop, stop: asyncio.Event) -> AsyncIterator[str]:
    while not stop.is_set():
        yield await asyncio.to_thread(shop.publish_next)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PAUSE)


def _first_that_ran(taskmon: Taskmon, task_ids: Iterable[str]) -> str | None:
    for task_id in task_ids:
        with suppress(UnknownTask):
            if taskmon.monitor.state.get(task_id).state == "SUCCESS":
                return task_id
    return None


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []


def _show(taskmon: Taskmon, task_id: str, token: str) -> None:
    """Print the lines to paste; each a command of its own."""
    settings = taskmon.settings

    def curl(path: str) -> str:
        where = [taskmon.url + path]
        if settings.unix_socket is not None:
            where = ["--unix-socket", str(settings.unix_socket), f"http://localhost{settings.url_prefix}{path}"]
        return shlex.join(("curl", "-H", f"Authorization: Bearer {token}", *where))

    print(
        "taskmon watches a small shop run by a Celery worker, four tasks a second. Ctrl-C ends it all.",
        "",
        "A task that ran (paste this into another terminal):",
        curl(f"/api/task/info/{task_id}"),
        "",
        "The last three that failed:",
        curl("/api/tasks?state=FAILURE&limit=3"),
        "",
        "Metrics for Prometheus:",
        curl("/metrics"),
        sep="\n",
        flush=True,
    )
