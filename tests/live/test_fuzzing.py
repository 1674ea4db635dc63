"""Schemathesis before a real taskmon, Redis and worker: no 500, no answer that the OpenAPI document does not have.

By hand, and longer: start a taskmon, and give `schemathesis run` the URL of its document; see `fuzzing.py`.
"""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import RedisBroker
from monitor import PASSWORD, Monitor
from processes import wait_until
from workers import Project, Worker, running

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster(redis_server: RedisBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Monitor, Worker]]:
    """A taskmon that serves the project's tasks, and a worker; the pool is one that does not grow."""
    directory = tmp_path_factory.mktemp("fuzzing")
    project = Project.on(redis_server)
    worker = Worker(project, directory, pool="solo")
    monitor = Monitor(
        directory,
        project.broker_url,
        program=(sys.executable, "-m", "taskmon", "-A", "project"),
        environment=project.environment(),
        options=("--inspect-timeout", "2000"),
    )
    with running(worker):
        monitor.start()
        try:
            monitor.wait_ready()
            monitor.wait_for(project.send("add", 1, 2).id, "SUCCESS")
            monitor.wait_for(project.send("fail", "no stock").id, "FAILURE")
            yield monitor, worker
        finally:
            monitor.kill()
            project.close()


def run_schemathesis(monitor: Monitor, worker: Worker, *options: str) -> None:
    """Run it against all operations, and fail with its report."""
    credentials = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"{monitor.url}/api/openapi.json", "-H", f"Authorization: Basic {credentials}", *options]
    command += ["--suppress-health-check", "all", "--no-color", "--request-timeout", "120"]
    environment = os.environ | {
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "fuzzing",
        "FUZZED_WORKER": worker.hostname,
    }
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=monitor.log.parent
    )
    report = "\n".join(line[:500] for line in (ran.stdout + ran.stderr).splitlines())
    assert ran.returncode == 0, report[-20_000:]


def test_no_answer_is_outside_the_document(cluster: tuple[Monitor, Worker]) -> None:
    monitor, worker = cluster
    run_schemathesis(monitor, worker, "--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1")
    alive = (200, {worker.hostname: True})
    wait_until(lambda: monitor.get("/api/workers?status=1&refresh=1") == alive, timeout=120, what="its heart beats")
    assert worker.running
    assert "Traceback" not in monitor.log_text()
