"""Control, workers and queues before real workers and brokers: what works, what is refused, and silence."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil
import pytest
from brokers import Broker
from health import measuring_health
from monitor import TASKMON, Monitor
from patience import PATIENCE
from processes import wait_until
from waiting import quickest
from workers import Project, Worker

from taskmon.api import control, revoking
from taskmon.routes import ROUTES

#: What all of them wait for a worker that says nothing, in seconds.
SILENCE = 1.0

#: What only a loop that is held up would reach, in seconds.
HELD_UP = 0.5

#: No worker consumes from it: only this makes it a destination.
FOR_TASKS = "--publish-queues=live-other"

#: Waits for a worker about as long as it takes; one that has begun to listen too late is asked again after that.
LONG = ["--inspect-timeout=20000", FOR_TASKS]


@pytest.fixture
def start_monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of running taskmons that are connected: `start_monitor(broker_url)`."""
    monitors: list[Monitor] = []

    def start(broker_url: str, **settings: Any) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitors.append(Monitor(directory, broker_url, **settings))
        monitors[-1].start()
        monitors[-1].wait_ready()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def post(monitor: Monitor, path: str, **arguments: Any) -> tuple[int, Any]:
    """Ask for a change; give the status and the JSON of the body."""
    return monitor.post(path, urlencode(arguments).encode())


def wait_known(monitor: Monitor, *workers: Worker) -> None:
    """Wait until the monitor knows these workers, and what they say of themselves."""

    def known() -> bool:
        found = monitor.get("/api/workers")[1]
        return all(found.get(worker.hostname, {}).get("stats") for worker in workers)

    wait_until(known, timeout=3 * PATIENCE, what="the workers are known", detail=monitor.log_tail)


def commands(hostname: str) -> list[tuple[str, dict[str, Any]]]:
    """List every command that is to one worker."""
    return [
        (f"/api/worker/pool/grow/{hostname}", {"n": 1}),
        (f"/api/worker/pool/shrink/{hostname}", {"n": 1}),
        (f"/api/worker/pool/restart/{hostname}", {}),
        (f"/api/worker/pool/autoscale/{hostname}", {"min": 1, "max": 2}),
        (f"/api/worker/queue/add-consumer/{hostname}", {"queue": "live-other"}),
        (f"/api/worker/queue/cancel-consumer/{hostname}", {"queue": "live-other"}),
        ("/api/task/timeout/project.add", {"workername": hostname, "soft": 30, "hard": 60}),
        ("/api/task/rate-limit/project.add", {"workername": hostname, "ratelimit": "10/m"}),
        (f"/api/worker/shutdown/{hostname}", {}),
    ]


def all_commands(hostname: str, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    """List every command that a worker with a task is to obey, whoever else is told."""
    return [
        *commands(hostname),
        (f"/api/task/revoke/{task_id}", {"terminate": "true"}),
        ("/api/tasks/revoke", {"workername": hostname, "state": "STARTED"}),
        ("/api/task/rate-limit/project.add", {"ratelimit": "10/m"}),
        ("/api/task/timeout/project.add", {"soft": 30}),
    ]


def test_a_worker_does_as_told(
    project: Project, start_worker: Callable[..., Worker], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url, options=LONG)
    worker = start_worker(project, pool="prefork", concurrency=1)
    name = worker.hostname
    wait_known(monitor, worker)

    def stats() -> dict[str, Any]:
        return monitor.get(f"/api/workers/{name}")[1]["stats"]["pool"]

    def queues() -> list[str]:
        return [queue["name"] for queue in monitor.get(f"/api/workers/{name}")[1]["active_queues"]]

    assert post(monitor, f"/api/worker/pool/grow/{name}", n=2) == (
        200,
        {"message": f"Growing '{name}' worker's pool by 2"},
    )
    wait_until(lambda: len(stats()["processes"]) == 3, timeout=120, what="it has grown", detail=monitor.log_tail)
    assert post(monitor, f"/api/worker/queue/add-consumer/{name}", queue="live-other") == (
        200,
        {"message": "add consumer live-other"},
    )
    wait_until(lambda: "live-other" in queues(), timeout=PATIENCE, what="it consumes", detail=monitor.log_tail)
    assert post(monitor, f"/api/worker/queue/cancel-consumer/{name}", queue="live-other") == (
        200,
        {"message": "no longer consuming from live-other"},
    )
    assert post(monitor, "/api/task/timeout/project.add", workername=name, soft=30, hard=60) == (
        200,
        {"message": "time limits set successfully"},
    )
    assert post(monitor, "/api/task/rate-limit/project.add", ratelimit="100/m") == (
        200,
        {"message": "new rate limit set successfully"},
    )
    assert post(monitor, "/api/task/rate-limit/project.nope", workername=name, ratelimit="1")[0] == 404
    for path, arguments in (
        (f"/api/worker/pool/restart/{name}", {}),
        (f"/api/worker/pool/autoscale/{name}", {"min": 1, "max": 2}),
    ):
        status, body = post(monitor, path, **arguments)
        assert status == 409
        assert "not enabled" in body["error"]["message"]
    assert post(monitor, f"/api/worker/shutdown/{name}") == (200, {"message": "Shutting down!"})
    wait_until(lambda: not worker.running, timeout=PATIENCE, what="the worker ends", detail=worker.log_tail)
    wait_until(
        lambda: monitor.get(f"/api/workers/{name}")[1]["status"] == "offline",
        timeout=PATIENCE,
        what="it shows as offline",
    )


def test_only_the_time_limit_that_is_named_changes(
    project: Project, start_worker: Callable[..., Worker], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url, options=LONG)
    worker = start_worker(project, pool="threads")
    name = worker.hostname
    wait_known(monitor, worker)

    def limits() -> str:
        inspect = project.app.control.inspect([name], timeout=PATIENCE, limit=1)
        found = inspect.registered("soft_time_limit", "time_limit")[name]
        return next(line for line in found if line.split()[0] == "project.add")

    for arguments, expected in (
        ({"soft": 30, "hard": "60.5"}, "project.add [soft_time_limit=30.0 time_limit=60.5]"),
        ({"soft": 20}, "project.add [soft_time_limit=20.0 time_limit=60.5]"),
        ({"hard": "none"}, "project.add [soft_time_limit=20.0]"),
        ({"hard": 40, "type": "hard", "workername": name}, "project.add [soft_time_limit=20.0 time_limit=40.0]"),
        ({"soft": 0}, "project.add [time_limit=40.0]"),
    ):
        answer = post(monitor, "/api/task/timeout/project.add", **arguments)
        assert answer == (200, {"message": "time limits set successfully"})
        assert limits() == expected
    assert post(monitor, "/api/task/timeout/project.add")[0] == 400
    assert post(monitor, "/api/task/timeout/project.add", soft=50)[0] == 409
    assert post(monitor, "/api/task/timeout/project.nope", soft=50)[0] == 404
    assert limits() == "project.add [time_limit=40.0]"


def test_tasks_are_revoked(
    project: Project, start_worker: Callable[..., Worker], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url, options=LONG)
    worker = start_worker(project, pool="prefork", concurrency=1)
    wait_known(monitor, worker)
    running = project.send("sleep", 300)
    monitor.wait_for(running.id, "STARTED")
    waiting = [project.send("sleep", 200) for _ in range(3)]
    for task in waiting:
        monitor.wait_for(task.id, "RECEIVED")
    status, body = post(monitor, "/api/tasks/revoke", taskname="project.sleep", state="RECEIVED", dry_run="true")
    assert status == 200
    assert set(body["matched"]) == {task.id for task in waiting}
    status, body = post(monitor, "/api/tasks/revoke", taskname="project.sleep", state="RECEIVED")
    assert (status, body["revoked"]) == (200, 3)
    assert post(monitor, f"/api/task/revoke/{running.id}", terminate="true", signal="SIGKILL") == (
        200,
        {"message": f"Revoked '{running.id}'"},
    )
    for task in (running, *waiting):
        monitor.wait_for(task.id, "REVOKED")


def test_what_is_inspected_and_how_long_queues_are(
    project: Project, start_worker: Callable[..., Worker], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url, options=LONG)
    worker = start_worker(project, pool="threads")
    wait_known(monitor, worker)
    busy = project.send("sleep", 600)
    monitor.wait_for(busy.id, "STARTED")
    later = project.send("add", 1, 2, countdown=3600)
    monitor.wait_for(later.id, "RECEIVED")
    status, body = monitor.get(f"/api/workers?refresh=1&workername={worker.hostname}")
    assert (status, list(body)) == (200, [worker.hostname])
    found = body[worker.hostname]
    assert [task["id"] for task in found["active"]] == [busy.id]
    assert [task["request"]["id"] for task in found["scheduled"]] == [later.id]
    assert found["reserved"] == []
    assert found["revoked"] == []
    assert found["age"] < PATIENCE
    assert "project.add" in found["registered"]
    assert [queue["name"] for queue in found["active_queues"]] == [project.queue]
    assert found["stats"]["pool"]["max-concurrency"] == 1
    assert "guest:guest" not in json.dumps(body)
    alive = (200, {worker.hostname: True})
    wait_until(lambda: monitor.get("/api/workers?status=1") == alive, timeout=PATIENCE, what="its heart beats")
    worker.kill()
    for _ in range(3):
        project.send("add", 1, 2)

    def length() -> dict[str, Any]:
        (queue,) = monitor.get("/api/queues/length")[1]["active_queues"]
        return queue

    # What the dead worker had taken and not finished comes back, on RabbitMQ at once.
    wait_until(lambda: length()["messages"] >= 3, timeout=PATIENCE, what="the messages wait", detail=monitor.log_tail)
    assert length()["name"] == project.queue
    wait_until(lambda: length()["consumers"] == 0, timeout=PATIENCE, what="nobody consumes", detail=monitor.log_tail)
    wait_until(
        lambda: monitor.get(f"/api/workers/{worker.hostname}")[1]["status"] in ("stale", "offline"),
        timeout=PATIENCE,
        what="the killed worker shows as stale",
    )


def test_a_worker_that_is_killed_in_the_middle_is_silence(
    project: Project, start_worker: Callable[..., Worker], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(project.broker_url, options=[FOR_TASKS])
    answers: dict[str, tuple[int, float]] = {}

    def call(path: str, arguments: dict[str, Any]) -> None:
        began = time.monotonic()
        status, _ = post(monitor, path, **arguments)
        answers[f"{path} {arguments}"] = status, time.monotonic() - began

    def connections() -> int:
        open_ones = psutil.Process(monitor.pid).net_connections()
        port = urlsplit(project.broker_url).port
        return sum(one.status == "ESTABLISHED" and one.raddr.port == port for one in open_ones)

    asked = set()

    def ask_all(part: int) -> float:
        """Give half of the commands, no more at a time than there are threads, to a worker that is killed then."""
        worker = start_worker(project, pool="prefork")
        wait_known(monitor, worker)
        running = project.send("sleep", 300)
        monitor.wait_for(running.id, "STARTED")
        calls = all_commands(worker.hostname, running.id)[part::2]
        asked.update(path for path, _ in calls)
        threads = [threading.Thread(target=call, args=one) for one in calls]
        wanted = connections() + len(calls)

        def under_way() -> bool:  # or over, where the machine stood still
            return connections() >= wanted or not any(thread.is_alive() for thread in threads)

        # Frozen, the worker cannot reply. It is killed once all calls are under way, each with a connection.
        worker.pause()
        with measuring_health(monitor) as slowest:
            for thread in threads:
                thread.start()
            wait_until(under_way, timeout=PATIENCE, what="all calls are under way")
            worker.kill()
            for thread in threads:
                thread.join()
        post(monitor, f"/api/task/revoke/{running.id}")  # RabbitMQ gives it to the next worker
        return slowest()

    for part in range(2):
        assert quickest(lambda part=part: ask_all(part), HELD_UP) < HELD_UP
    print({path: (status, round(took, 2)) for path, (status, took) in answers.items()})
    assert {status for status, _ in answers.values()} == {504}
    assert max(took for _, took in answers.values()) < SILENCE + PATIENCE
    controlling = [path for path, handler in ROUTES if handler.__module__ in (control.__name__, revoking.__name__)]
    assert all(any(re.fullmatch(path, one) for one in asked) for path in controlling)


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_broker_that_is_away(
    how: str, broker: Broker, new_project: Callable[..., Project], start_worker: Callable[..., Worker],
    start_monitor: Callable[..., Monitor],
) -> None:  # fmt: skip
    project = new_project(broker, "none")
    monitor = start_monitor(broker.url, program=TASKMON)
    worker = start_worker(project)
    wait_known(monitor, worker)
    if how == "stop":
        broker.stop()
    else:
        broker.pause()

    def ask_all() -> float:
        with measuring_health(monitor) as slowest:
            for ask in (
                lambda: post(monitor, f"/api/worker/pool/grow/{worker.hostname}"),
                lambda: post(monitor, "/api/task/revoke/some-task"),
                lambda: monitor.get("/api/workers?refresh=1"),
                lambda: monitor.get("/api/queues/length"),
            ):
                began = time.monotonic()
                status, body = ask()
                took = time.monotonic() - began
                print(f"{status} in {took:.2f} s")
                assert (status, took < PATIENCE) == (503, True), body
        return slowest()

    assert quickest(ask_all, HELD_UP) < HELD_UP
    status, found = monitor.get(f"/api/workers/{worker.hostname}")
    assert status == 200
    assert found["age"] > 0
