"""What all tests share: tests that are coroutines run on a loop of their own, and nothing may go wrong on it unseen.

pytest-tornado runs a test that is `async def`, for 600 s at most (`pyproject.toml`). It fails, too, when a callback
or a task of the loop raised and nobody looked.
"""

import asyncio
import inspect
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import patience  # before anything imports taskmon
import pytest
from celery._state import _tls
from hypothesis import HealthCheck, settings
from kombu.transport import memory
from tornado.ioloop import IOLoop

pytest_plugins = ["live_hooks"]

patience.be_patient_with_the_history()

# With a mask of 002, as some machines have it, the files that tests write could be changed by their group: taskmon
# would not obey them.
os.umask(0o022)

# An example that takes long says nothing on a machine that has other things to do. `--hypothesis-profile=thorough`
# tries more of them, in every test.
settings.register_profile("taskmon", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("taskmon"), max_examples=500)
settings.load_profile("taskmon")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have pytest-tornado run every test that is a coroutine."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.gen_test)


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """pytest-tornado's loop of a test, made and ended by asyncio: the plugin's own calls are deprecated."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        yield IOLoop.current()
    assert not unseen, f"nobody looked at: {unseen}"


@pytest.fixture(autouse=True)
def leaving_no_trace() -> Iterator[None]:
    """Undo what a program that ran in this process leaves to later tests: its Celery app, and how much it logs."""
    root, app = logging.getLogger(), _tls.current_app
    level = root.level
    yield
    root.setLevel(level)
    _tls.current_app = app


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what `configure_logging` does to its process; it closes the handlers that it finds, so it finds none."""
    root, access = logging.getLogger(), logging.getLogger("tornado.access")
    before = (root.handlers[:], root.level, access.level, sys.excepthook, threading.excepthook)
    shown = warnings.showwarning
    root.handlers[:] = []
    yield
    for handler in root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    logging.getLogger("tornado.general").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    warnings.showwarning = shown
    root.handlers[:], root.level, access.level, sys.excepthook, threading.excepthook = before


@pytest.fixture
def process_as_before(logging_as_before: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty directory and environment; undo what a program may do to its own process."""
    environ, path, modules = dict(os.environ), sys.path[:], set(sys.modules)
    monkeypatch.chdir(tmp_path)
    for name in environ:
        if name.startswith(("TASKMON_", "FLOWER_", "CELERY_")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(environ)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("proj"):
            del sys.modules[name]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a silent broker a tenth as long as otherwise."""
    monkeypatch.setattr("taskmon.cluster.connections.CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr("taskmon.cluster.connections.ANSWER_TIMEOUT", 0.2)


@pytest.fixture
def memory_broker() -> Iterator[str]:
    """The URL of an empty broker in this process: kombu's own, which is one for all connections."""
    _clear_memory()
    yield "memory://"
    _clear_memory()


def _clear_memory() -> None:
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()
