"""Flower, from PyPI, in a process of its own, and the tasks that it and taskmon are asked about."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brokers import listens
from celery.result import AsyncResult
from monitor import PASSWORD, Monitor
from patience import PATIENCE
from ports import LOOPBACK, free_port
from processes import Process, wait_until
from workers import Project, Worker

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-flower"

#: The name of a task with characters that HTML has other words for.
QUOTED = "it's & <so>"

#: Seconds that Flower listens when it asks all workers, however soon they have replied.
LISTENING = 3.0

#: What Flower shows of every worker, once it has heard all of it.
GENERAL = {"stats", "active_queues", "registered", "conf"}


def prepare_flower() -> str | None:
    """Make the virtual environment of Flower if it is missing; give why it cannot be had, if so."""
    made = subprocess.run(
        [str(ROOT / "scripts" / "make-flower.sh"), str(VENV)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return f"Flower cannot be installed: {made.stdout[-500:]}{made.stderr[-1500:]}" if made.returncode else None


class Flower(Monitor):
    """`celery flower` with the app of a project, for `user` with PASSWORD, asked as taskmon is."""

    def __init__(self, directory: Path, project: Project) -> None:
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        Process.__init__(
            self,
            [
                *(str(VENV / "bin" / "python"), "-m", "celery", "-A", "project", "flower"),
                *(f"--port={self.port}", f"--address={LOOPBACK}", f"--basic-auth=user:{PASSWORD}"),
                f"--inspect-timeout={LISTENING * 1000:.0f}",
            ],
            directory=Path(__file__).parent,
            log=directory / "flower.log",
            environment={**os.environ, **project.environment(), "TZ": "UTC"},
        )

    def start(self) -> None:
        """Start it and wait until it serves."""
        Process.start(self)
        self.wait_until(lambda: listens(self.port), timeout=PATIENCE, what="Flower serves")


@contextmanager
def in_utc() -> Iterator[None]:
    """Be in UTC: Flower shifts the times of events of another time zone than its own."""
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = "UTC"
        time.tzset()
        yield
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def run_tasks(project: Project, directory: Path, *monitors: Monitor) -> dict[str, str]:
    """Run tasks of all kinds; give their ids by kind once all monitors know how they ended."""
    add = project.signature
    chained = project.chain(add("add", 2, 3), add("add", 20), add("echo")).apply_async()
    group = project.group(add("add", 1, 1), add("add", 2, 2)).apply_async()
    sent = {
        "revoked": (revoke_in_time(lambda: project.send("sleep", 0, countdown=2), monitors[0]), "REVOKED"),
        "expired": (
            revoke_in_time(lambda: project.send("echo", 1, countdown=2, expires=1), monitors[0], False),
            "REVOKED",
        ),
        "success": (project.send("add", 2, 3), "SUCCESS"),
        "failure": (project.send("fail", kwargs={"message": "lost"}), "FAILURE"),
        "retried": (send_retrying(project, directory / "retry", monitors), "SUCCESS"),
        "rejected": (project.send("reject"), "FAILURE"),
        "progress": (project.send("progress", 50), "SUCCESS"),
        "cut": (project.send("echo", "x" * 3000), "SUCCESS"),
        "quoted": (project.send("echo", 'it\'s <é> "\\n" & more'), "SUCCESS"),
        "not-a-number": (project.send("not_a_number"), "SUCCESS"),
        "eta": (project.send("sleep", 0, eta=datetime.now(UTC) + timedelta(hours=1)), "RECEIVED"),
        "pending": (project.send("add", 1, 2, queue=f"{project.queue}-unattended"), "PENDING"),
        "quoted-name": (project.app.send_task(QUOTED, queue=f"{project.queue}-unattended"), "PENDING"),
        "chained": (chained, "SUCCESS"),
        "child": (chained.parent, "SUCCESS"),
        "parent": (chained.parent.parent, "SUCCESS"),
        "grouped": (group[0], "SUCCESS"),
        "last": (group[1], "SUCCESS"),
    }
    for monitor in monitors:
        for result, state in sent.values():
            monitor.wait_for(result.id, state)
    return {kind: result.id for kind, (result, _) in sent.items()}


def revoke_in_time(send: Callable[[], AsyncResult], monitor: Monitor, by_us: bool = True) -> AsyncResult:
    """Send a task with a countdown that never runs, revoked by us or expired, but that a worker has received.

    On a machine that stood still for the seconds that this takes, another one is sent.
    """
    found: list[AsyncResult] = []

    def revoked() -> bool:
        found.append(send())
        if by_us:
            found[-1].revoke()  # it shows when its time comes
        task_id = found[-1].id
        monitor.wait_until(
            lambda: monitor.task(task_id).get("state") in ("SUCCESS", "REVOKED"), timeout=PATIENCE, what="it ends"
        )
        task = monitor.task(task_id)
        return task["state"] == "REVOKED" and task["received"] is not None

    wait_until(revoked, timeout=PATIENCE, what="a task is revoked in time")
    return found[-1]


def send_retrying(project: Project, path: Path, monitors: Sequence[Monitor]) -> AsyncResult:
    """Send a task that is retried once all monitors have heard that it was sent, which is told only afterwards.

    A retry is a child of its own, and what Flower makes of the children depends on the order of these events.
    """
    sent = project.send("retry_then_succeed", 2, str(path))
    for monitor in monitors:
        monitor.wait_until(
            lambda monitor=monitor: monitor.task(sent.id).get("sent"), timeout=PATIENCE, what="is sent"
        )
    path.touch()
    return sent


def name_places(project: Project, worker: Worker, spare: Worker) -> dict[str, str]:
    """Give what the requests name besides tasks."""

    def minute(hours: int) -> str:
        return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%d %H:%M}"

    return {
        "worker": worker.hostname,
        "spare": spare.hostname,
        "queue": project.queue,
        "other-queue": f"{project.queue}-other",
        "named": QUOTED,
        "unknown": "00000000-0000-4000-8000-000000000000",
        "hour-ago": minute(-1),
        "in-an-hour": minute(1),
        "eta-date": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}",
        "eta-iso": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    }


def wait_for_workers(monitor: Monitor, *workers: Worker) -> None:
    """Wait until a monitor has heard of all workers, and asked them what they are."""

    def known() -> bool:
        refresh = "?refresh=1" if isinstance(monitor, Flower) else ""  # it asks at its start only
        found, alive = monitor.get(f"/api/workers{refresh}")[1], monitor.get("/api/workers?status=1")[1]
        return all(
            found.get(worker.hostname, {}).keys() >= GENERAL and alive.get(worker.hostname) for worker in workers
        )

    wait_until(known, timeout=2 * PATIENCE, what=f"{monitor.url} knows the workers", detail=monitor.log_tail)
