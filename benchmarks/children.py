"""Processes of the benchmarks: a function in a process of its own, and what a process has used so far."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


class Child:
    """`python -m <module> --child <arguments>`: tells what it has to say as one line of JSON each."""

    def __init__(self, module: str, *arguments: object, python: str | Path = sys.executable) -> None:
        self._module = module
        command = [str(python), "-m", module, "--child", *map(str, arguments)]
        self._popen = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def hear(self) -> Any:
        """Wait for the next thing it tells; raises RuntimeError if it ends without a word."""
        line = _pipe(self._popen.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with {self._popen.wait()}")
        return json.loads(line)

    def tell(self, word: str) -> None:
        """Send it a line."""
        _pipe(self._popen.stdin).write(word + "\n")

    def close(self) -> None:
        """Let it end: it sees the end of its input."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            with suppress(OSError):
                _pipe(pipe).close()
        try:
            self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


@contextmanager
def child(module: str, *arguments: object, python: str | Path = sys.executable) -> Iterator[Child]:
    """Start a child and end it after the block."""
    started = Child(module, *arguments, python=python)
    try:
        yield started
    finally:
        started.close()


def ask_child(module: str, *arguments: object, python: str | Path = sys.executable) -> Any:
    """Run a child to its end and give the one thing it tells."""
    with child(module, *arguments, python=python) as started:
        return started.hear()


def say(thing: Any) -> None:
    """Tell the parent something; for children."""
    print(json.dumps(thing), flush=True)


def cpu_seconds(pid: int) -> float:
    """Give the seconds of processor time, user and system, of all threads of a process and those it has started."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
