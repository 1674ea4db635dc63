"""The Celery project the live workers run, configured by environment variables.

`celery -A project` imports `app`; the tests build an app like it, in their own process, with `make_app`.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.app.control import Control
from celery.exceptions import Reject

BROKER_VARIABLE = "LIVE_BROKER"
BACKEND_VARIABLE = "LIVE_RESULT_BACKEND"  # a result backend's URL; empty: none
QUEUE_VARIABLE = "LIVE_QUEUE"
SETTINGS_VARIABLE = "LIVE_SETTINGS"  # further settings of Celery, as JSON

#: Seconds that whoever commands a worker waits for its reply: one that starts the processes of its pool is busy.
REPLY_LIMIT = 60.0


class PatientControl(Control):  # type: ignore[misc]
    """Celery's control, which gives a worker that is named no second to reply, but as long as it takes.

    A command that a worker finds after that second has expired: then nothing happens, and Flower, which asks with
    this, says that it failed.
    """

    def broadcast(self, command: str, *args: Any, **options: Any) -> Any:
        """Send a command, and give the replies."""
        if options.get("destination") or (len(args) > 1 and args[1]):
            options["timeout"] = REPLY_LIMIT
        return super().broadcast(command, *args, **options)


def add(x: Any, y: Any) -> Any:
    """Return x + y."""
    return x + y


def sleep(seconds: float) -> float:
    """Keep the worker busy."""
    time.sleep(seconds)
    return seconds


def wait(path: str) -> None:
    """Keep the worker busy until there is such a file."""
    while not Path(path).exists():
        time.sleep(0.1)


def fail(message: str) -> None:
    """Fail with a ValueError."""
    raise ValueError(message)


def retry_then_succeed(self: Task, times: int, path: str | None = None) -> int:
    """Ask for a retry `times` times, not before there is such a file, then return how many there were."""
    if path is not None:
        wait(path)
    if self.request.retries < times:
        raise self.retry(countdown=0, max_retries=times)
    return times


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def progress(self: Task, percent: int) -> int:
    """Tell of the progress by an event of its own type."""
    self.send_event("task-progress", percent=percent)
    return percent


def reject(self: Task) -> None:
    """Reject the message."""
    raise Reject("on purpose", requeue=False)


def put_back(self: Task, path: str) -> None:
    """Have the message put back until there is such a file, which the first run makes."""
    if not Path(path).exists():
        Path(path).touch()
        raise Reject("not yet", requeue=True)


def not_a_number() -> float:
    """Return what JSON does not have."""
    return math.nan


def make_app(
    broker_url: str,
    result_backend: str | None,
    queue: str,
    settings: Mapping[str, Any] | None = None,
) -> Celery:
    """Build the app, with the tasks `project.add`, `project.sleep` and so on."""
    app = Celery("project", broker=broker_url, backend=result_backend, control=PatientControl, set_as_current=False)
    app.conf.update(
        task_default_queue=queue,
        task_send_sent_event=True,
        task_track_started=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    app.conf.update(settings or {})
    for function in (add, sleep, wait, fail, echo, not_a_number):
        app.task(function, name=f"project.{function.__name__}", shared=False)
    for function in (retry_then_succeed, progress, reject, put_back):
        late = function in (reject, put_back)
        app.task(function, name=f"project.{function.__name__}", bind=True, acks_late=late, shared=False)
    return app


app = make_app(
    os.environ.get(BROKER_VARIABLE, "memory://"),
    os.environ.get(BACKEND_VARIABLE) or None,
    os.environ.get(QUEUE_VARIABLE, "celery"),
    json.loads(os.environ.get(SETTINGS_VARIABLE, "{}")),
)
if BROKER_VARIABLE in os.environ:  # a process of this project alone, where whoever asks for the app means this one
    app.set_current()
