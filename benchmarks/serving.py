"""A taskmon inside a child process, filled without a broker, served until the child's input ends."""

import asyncio
import sys
from typing import Any

from celery import Celery

from taskmon.app import Taskmon
from taskmon.receiving.decoding import EventDecoder
from taskmon.settings import Settings
from taskmon.tuning import tune_interpreter

from .children import say


def tune() -> None:
    """Set switch interval and garbage collector as a real taskmon does."""
    tune_interpreter()


def _refuse(what: str, detail: str) -> None:
    sys.exit(f"{what}: {detail}")


def make_decoder() -> EventDecoder:
    """Make a decoder with taskmon's own limits, that ends the process when it refuses anything."""
    settings = Settings()
    return EventDecoder(set(), settings.max_message, settings.max_text, _refuse, _refuse)


def make_taskmon(**options: Any) -> Taskmon:
    """Make a taskmon whose broker, in its own memory, stays silent."""
    return Taskmon(Settings(port=0, **options), Celery(broker="memory://"))


async def serve(taskmon: Taskmon) -> None:
    """Serve, tell the parent the URL, and stop when its end of the pipe is closed."""
    await taskmon.start()
    say(taskmon.url)
    await wait_for_parent()
    await taskmon.stop()


async def wait_for_parent() -> None:
    """Wait until the parent closes its end of the pipe."""
    await asyncio.to_thread(sys.stdin.read)
