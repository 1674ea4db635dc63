"""What taskmon does on each signal: a program in a process of its own, started, and sent them."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from serving import serving
from tls import make_certificates
from waiting import wait_until

from taskmon.auth import Role
from taskmon.cli import main
from taskmon.credentials.passwords import hash_password
from taskmon.credentials.token_commands import create
from taskmon.credentials.tokens import new_token
from taskmon.signals import DUMPING, IGNORED, MAX_TASKS_DUMPED, RELOADING, STOPPING, StopRequested, dump

ROOT = Path(__file__).parent.parent


class Program:
    """`python -m taskmon` with a broker that never answers."""

    def __init__(self, directory: Path, *options: str, broker: str = "memory://x", **more: Any) -> None:
        self.errors = directory / "errors.txt"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("TASKMON", "FLOWER"))}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskmon", "--port=0", *([f"--broker={broker}"] if broker else []), *options],
                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **more},
                stderr=errors,
                cwd=directory,
                env={**environ, "PYTHONPATH": str(ROOT)},
            )

    def log(self) -> str:
        return self.errors.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= times or self.process.poll() is not None, text)
        assert self.log().count(text) >= times, self.log()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(PATIENCE)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    programs: list[Program] = []

    def start(*options: str, **more: Any) -> Program:
        programs.append(Program(tmp_path, *options, **more))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


def test_every_signal_is_decided_on() -> None:
    faults = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"}
    harmless = {"SIGCHLD", "SIGCONT", "SIGWINCH", "SIGURG", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
    elsewhere = faults | harmless | {"SIGKILL", "SIGSTOP", "SIGPIPE", "SIGXFSZ"}  # Python ignores the last two
    decided = STOPPING | RELOADING | DUMPING | IGNORED
    left = {int(number) for number in signal.valid_signals()} - decided
    assert {signal.Signals(number).name for number in left} <= elsewhere
    assert not decided & {getattr(signal, name) for name in elsewhere if hasattr(signal, name)}


def test_signals_that_are_ignored_do_not_end_it(run: Any) -> None:
    program = run("--anonymous-role=viewer")
    program.wait_for("Serving on")
    for number in sorted({*IGNORED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGWINCH, signal.SIGURG}):
        program.send(number)
    program.send(signal.SIGHUP)
    program.wait_for("Reloaded on SIGHUP")
    program.send(signal.SIGTERM)
    assert program.end() == 0
    assert len(re.findall("SIG", program.log())) == 2
    assert "Traceback" not in program.log()


@pytest.mark.parametrize("number", sorted(STOPPING), ids=lambda number: signal.Signals(number).name)
def test_signals_that_stop_it(run: Any, number: int) -> None:
    program = run("--anonymous-role=viewer")
    program.wait_for("Serving on")
    program.send(number)
    assert program.end() == 0
    assert f"Stopping on {signal.Signals(number).name}" in program.log()
    assert program.log().rstrip().endswith("Stopped")


def test_a_group_that_is_sent_signals_keeps_its_history(run: Any, tmp_path: Path) -> None:
    program = run("--anonymous-role=viewer", "--persistent", start_new_session=True)
    program.wait_for("Serving on")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.killpg(program.process.pid, number)
    program.wait_for("Reloaded on SIGHUP")
    program.wait_for("Thread MainThread")
    os.killpg(program.process.pid, signal.SIGQUIT)
    assert program.end() == 0
    assert "Traceback" not in program.log()
    assert "The history cannot" not in program.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_while_an_app_is_loaded(run: Any, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nPath('loading').touch()\nwhile True:\n    time.sleep(0.01)\n"
    )
    program = run("-A", "slow", broker=None)
    wait_until(lambda: (tmp_path / "loading").exists())
    for ignored in (signal.SIGHUP, signal.SIGUSR2, signal.SIGALRM):
        program.send(ignored)
    program.send(signal.SIGUSR1)
    program.wait_for("slow.py")
    assert program.process.poll() is None
    program.send(number)
    assert program.end() == 0
    assert f"Stopping on {number.name}" in program.log()
    assert "Traceback" not in program.log()


def test_a_signal_while_a_database_is_waited_for(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x"
        program = run("--anonymous-role=viewer", "--history", url)
        with silent.accept()[0]:
            program.send(signal.SIGTERM)
            assert program.end() == 0
    assert "Stopping on SIGTERM" in program.log()
    assert "Serving on" not in program.log()
    assert "Traceback" not in program.log()


def test_sighup_reloads(run: Any, tmp_path: Path) -> None:
    _, line = new_token("one", Role.VIEWER)
    tokens, log, users = tmp_path / "tokens", tmp_path / "taskmon.log", tmp_path / "users"
    tokens.touch(0o600)
    users.write_text("")
    users.write_text(f"ann:{hash_password('pass')}\n")
    program = run(f"--token-file={tokens}", f"--htpasswd={users}", f"--log-file={log}", f"--token={line}")
    wait_until(lambda: log.exists() and "Serving on" in log.read_text())
    log.rename(tmp_path / "old.log")
    create(tokens, "two", "viewer", None)
    program.send(signal.SIGHUP)
    wait_until(lambda: log.exists() and "Reloaded on SIGHUP" in log.read_text())
    assert "Reloaded on SIGHUP: --htpasswd, --token-file" in log.read_text()
    assert "The tokens were read again: 2" in log.read_text()
    assert "The users of --htpasswd were read again: 1" in log.read_text()
    assert "Serving on" not in log.read_text()
    users.write_text("ann:plain\n")
    program.send(signal.SIGHUP)
    wait_until(lambda: "The users of --htpasswd are not read again" in log.read_text())
    program.send(signal.SIGTERM)
    assert program.end() == 0
    assert log.read_text().rstrip().endswith("Stopped")
    assert program.log() == ""


@pytest.mark.parametrize("level", ["info", "critical"])
def test_sigusr1_dumps_threads_and_tasks(run: Any, level: str) -> None:
    program = run("--anonymous-role=viewer", f"--log-level={level}")
    if level == "info":
        program.wait_for("Connected to the broker")
    wait_until(lambda: _handles(program, signal.SIGUSR1))
    program.send(signal.SIGUSR1)
    program.wait_for("Thread MainThread")
    if level == "info":
        program.wait_for("Thread taskmon-events")
        program.wait_for(" serve\\n")
        assert "events.py" in program.log()
    assert all(re.match(r"\d{4}-\d\d-\d\dT", line) for line in program.log().splitlines())


def test_sigusr1_before_the_options_are_known(
    process_as_before: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def load_slowly(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: told.append(capfd.readouterr().err) or "Thread MainThread" in "".join(told))
        raise StopRequested("here")

    monkeypatch.setattr("taskmon.cli.load_settings", load_slowly)
    with pytest.raises(SystemExit) as ended:
        main(["--log-level=critical"])
    assert ended.value.code == 0


def test_the_end_of_a_terminal_stops_it(run: Any) -> None:
    ours, its = pty.openpty()
    program = run("--anonymous-role=viewer", stdin=its, start_new_session=True, preexec_fn=_take_terminal)
    os.close(its)
    program.wait_for("Serving on")
    program.send(signal.SIGHUP)
    program.wait_for("Reloaded on SIGHUP")
    os.close(ours)
    assert program.end() == 0
    assert "Stopping on SIGHUP" in program.log()


def test_a_dump_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def many() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(MAX_TASKS_DUMPED + 50)]
        await asyncio.sleep(0)
        dump(asyncio.get_running_loop())
        for task in tasks:
            task.cancel()

    asyncio.run(many())
    texts = [record.getMessage() for record in caplog.records]
    assert len([text for text in texts if text.startswith("Task ")]) == MAX_TASKS_DUMPED
    assert "51 more tasks" in texts


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _handles(program: Program, number: int) -> bool:
    """Whether a process handles a signal, as Linux tells."""
    found = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{program.process.pid}/status").read_text(), re.M)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


async def test_reloading_takes_up_certificates(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level("INFO")
    made = make_certificates()
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    certificate.write_bytes(made.certificate.read_bytes())
    key.write_bytes(made.key.read_bytes())
    async with serving(certfile=certificate, keyfile=key) as served:
        served.taskmon.reload()
        assert f"The certificate of {certificate} is taken up" in caplog.text
        assert caplog.records[-1].getMessage() == "Reloaded on SIGHUP: certificates"
        certificate.write_text("none")
        served.taskmon.reload()
        assert "The certificate has changed and is not taken up yet" in caplog.text
