"""Processes the live tests start: each in a process group of its own, with a log file, never left behind.

A test run that ends in the usual way, also by Ctrl-C, stops its processes through the fixtures. For one that
is killed, `reaper.py` watches from outside.
"""

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class NotInTime(AssertionError):
    """Something did not happen before its deadline."""


def wait_until(
    predicate: Callable[[], object], *, timeout: float, what: str, detail: Callable[[], str] = str
) -> None:
    """Poll until the predicate holds; after `timeout` seconds raise NotInTime with `what` and `detail()`."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {timeout:g} s: {what}\n{detail()}")
        time.sleep(0.02)


def all_stopped(group: int) -> bool:
    """Tell whether each thread of a process group is stopped, or has ended: a busy one goes on for a while."""
    for place in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        try:
            state, _, its_group = place.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state not in "TtZX":
            return False
    return True


class Reaper:
    """The watching process: what is registered with it dies when this process does."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("reaper.py")
        # A session of its own: Ctrl-C must not end the watch before the fixtures have cleaned up.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(script)], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        atexit.register(self.close)

    def watch(self, group: int) -> None:
        """Kill this process group when the test run ends."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Take a process group back: it has been stopped, and its number may be given to others."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the watch; whatever is still registered is killed."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


@functools.cache
def reaper() -> Reaper:
    """Return the one reaper of this test run, started at its first use."""
    return Reaper()


class Process:
    """One program in a process group of its own. `start` may be called again after `stop` or `kill`."""

    def __init__(self, command: Sequence[str], *, directory: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.command = list(command)
        self.directory = directory
        self.log = log
        self.environment = dict(environment)
        self.paused = False
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, which is the number of the process group too."""
        assert self._popen is not None, f"never started: {self.command}"
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process lives, paused or not."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        assert not self.running, f"already running: {self.command}"
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.paused = False
        reaper().watch(self.pid)

    def stop(self, timeout: float = 60.0) -> None:
        """Ask it to end (SIGTERM), wait for that, and kill what is left of it and of its children."""
        if self._popen is None:
            return
        if self.running:
            self.resume()
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Kill it and its children (SIGKILL)."""
        if self._popen is None:
            return
        self.signal_group(signal.SIGKILL)
        self._popen.wait()
        reaper().forget(self.pid)
        self._popen = None

    def pause(self) -> None:
        """Freeze it and its children (SIGSTOP): connections stay open, nothing answers any more when this returns."""
        self.signal_group(signal.SIGSTOP)
        self.paused = True
        wait_until(lambda: all_stopped(self.pid), timeout=60.0, what=f"{self.command[0]} is stopped")

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self.signal_group(signal.SIGCONT)
        self.paused = False

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children; none left is fine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait_until(self, predicate: Callable[[], object], *, timeout: float, what: str) -> None:
        """Wait until the predicate holds; fail with the log's tail, at once when the process ends."""

        def holds_or_ended() -> object:
            return predicate() or not self.running

        wait_until(holds_or_ended, timeout=timeout, what=what, detail=self.log_tail)
        if not self.running:
            raise NotInTime(f"ended before: {what}\n{self.log_tail()}")

    def log_text(self) -> str:
        """Return what the process has written so far, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the log, under a heading that names it."""
        return "\n".join([f"--- the end of {self.log}", *self.log_text().splitlines()[-lines:]])
