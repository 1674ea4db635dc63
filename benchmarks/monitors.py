"""The monitors under test, each as the process its users start, and what it says of itself over HTTP."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.request import ProxyHandler, build_opener

from .children import ROOT, cpu_seconds

#: Seconds until an answer is given up: Flower's loop is busy for long in a burst.
_PATIENCE = 10.0

_open = build_opener(ProxyHandler({})).open


class Monitor:
    """A monitor of a broker; ends with the block it is used in."""

    name: ClassVar[str]
    #: The metric that counts events, summed over its labels.
    metric: ClassVar[re.Pattern[str]]

    def __init__(self, broker_url: str, port: int, max_tasks: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = self.command(broker_url, port, max_tasks)

    def command(self, broker_url: str, port: int, max_tasks: int) -> list[str]:
        """Give the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give the variables that it needs besides."""
        return {}

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+")
        self._popen = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def cpu_seconds(self) -> float:
        """Give the processor time used so far."""
        return cpu_seconds(self._popen.pid)

    def events(self) -> int | None:
        """Count the events it has applied; None while it does not answer."""
        if self._popen.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._popen.returncode}:\n{self.log_tail()}")
        with suppress(OSError):
            text = self.get("/metrics").decode()
            return int(sum(float(value) for value in self.metric.findall(text)))
        return None

    def states(self) -> Counter[str]:
        """Count the tasks it holds, by state."""
        return Counter(task["state"] for task in json.loads(self.get("/api/tasks")).values())

    def task_ids(self) -> list[str]:
        """List the ids of the tasks it holds."""
        return list(json.loads(self.get("/api/tasks")))

    def log_tail(self) -> str:
        """Give the last lines that it has written."""
        self._log.seek(0)
        return self._log.read()[-2000:]

    def get(self, path: str) -> bytes:
        """Ask it something; raises OSError."""
        with _open(self.url + path, timeout=_PATIENCE) as response:
            body: bytes = response.read()
            return body

    def wait_for_events(self, probe: Callable[[], None], seconds: float = 30.0) -> int:
        """Send probes until one is counted and no more come; give the count so far."""
        deadline = time.monotonic() + seconds
        sent = 0
        while not (count := self.events()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} saw no event within {seconds:g} s:\n{self.log_tail()}")
            if count is not None:
                probe()
                sent += 1
            time.sleep(0.2)
        while True:
            time.sleep(0.5)
            before, count = count, self.events() or count
            if count == before:
                return count


class Taskmon(Monitor):
    """taskmon, in this environment."""

    name = "taskmon"
    metric = re.compile(r"^taskmon_events_applied_total (\S+)$", re.MULTILINE)

    def __init__(self, broker_url: str, port: int, max_tasks: int, *options: str) -> None:
        self._options = options
        super().__init__(broker_url, port, max_tasks)

    def command(self, broker_url: str, port: int, max_tasks: int) -> list[str]:
        """Give the command line."""
        return [
            *(sys.executable, "-m", "taskmon", "--broker", broker_url, "--port", str(port)),
            *("--max-tasks", str(max_tasks), "--anonymous-role", "viewer"),
            *self._options,
        ]


class Flower(Monitor):
    """Flower, in its own environment."""

    name = "flower"
    metric = re.compile(r"^flower_events_total\{[^}]*\} (\S+)$", re.MULTILINE)

    def __init__(self, broker_url: str, port: int, max_tasks: int, python: Path) -> None:
        self._python = python
        super().__init__(broker_url, port, max_tasks)

    def command(self, broker_url: str, port: int, max_tasks: int) -> list[str]:
        """Give the command line."""
        return [
            *(str(self._python), "-m", "celery", "--broker", broker_url, "flower", f"--port={port}"),
            *("--address=127.0.0.1", f"--max-tasks={max_tasks}"),
        ]

    def environment(self) -> dict[str, str]:
        """Let us ask without a login."""
        return {"FLOWER_UNAUTHENTICATED_API": "true"}
