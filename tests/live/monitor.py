"""A real taskmon for the live tests, in a process of its own, and a client of its API.

It waits long for brokers and result backends, as `patience.py` says, so that a machine that is busy for seconds fails
no test. A test that is about how long it waits starts `program=TASKMON`.
"""

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patience import PATIENCE
from processes import Process, wait_until

PASSWORD = "correct horse"

#: taskmon with patience, and as users start it.
PATIENT = (sys.executable, str(Path(__file__).with_name("patient.py")))
TASKMON = (sys.executable, "-m", "taskmon")

_URL = re.compile(r"Serving on (http://\S+)")


class Monitor(Process):
    """taskmon on a free port, for `user` with PASSWORD; `program` is the way to start it."""

    def __init__(
        self,
        directory: Path,
        broker_url: str | None,
        *,
        options: Sequence[str] = (),
        program: Sequence[str] = PATIENT,
        environment: dict[str, str] | None = None,
    ) -> None:
        command = [*program, *(["--broker", broker_url] if broker_url else []), "--port", "0"]
        super().__init__(
            [*command, "--basic-auth", f"user:{PASSWORD}", *options],
            directory=Path(__file__).parent,
            log=directory / "taskmon.log",
            environment=os.environ | (environment or {}),
        )
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it serves; its broker may be away."""
        before = len(self.log_text())
        super().start()
        self.wait_until(lambda: _URL.search(self.log_text(), before), timeout=PATIENCE, what="taskmon serves")
        found = _URL.search(self.log_text(), before)
        assert found is not None
        self.url = found[1]

    def get(self, path: str, password: str = PASSWORD) -> tuple[int, Any]:
        """Ask; give the status and the JSON of the body, or its text."""
        return self._send(path, password, None)

    def post(self, path: str, body: bytes = b"") -> tuple[int, Any]:
        """Ask for a change; give the same."""
        return self._send(path, PASSWORD, body)

    def _send(self, path: str, password: str, data: bytes | None) -> tuple[int, Any]:
        credentials = base64.b64encode(f"user:{password}".encode()).decode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"Basic {credentials}"})
        try:
            with urllib.request.urlopen(request, timeout=2 * PATIENCE) as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as refused:
            with refused:
                status, body = refused.code, refused.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode()

    def task(self, task_id: str) -> dict[str, Any]:
        """Give the task object, an empty one while the task is not known."""
        status, body = self.get(f"/api/task/info/{task_id}")
        return body if status == 200 else {}

    def metric(self, name: str) -> float:
        """Give the value of a metric that has no labels, 0 when it is not there."""
        found = re.search(rf"^{name} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_ready(self) -> None:
        """Wait until it takes events from its broker."""
        self.wait_until(lambda: self.get("/readyz")[0] == 200, timeout=PATIENCE, what="taskmon is connected")

    def wait_for(self, task_id: str, state: str) -> dict[str, Any]:
        """Wait until a task has a state; give its task object."""
        wait_until(
            lambda: self.task(task_id).get("state") == state,
            timeout=PATIENCE,
            what=f"{task_id} becomes {state}",
            detail=lambda: f"{self.task(task_id)}\n{self.log_tail()}",
        )
        return self.task(task_id)
