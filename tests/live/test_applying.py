"""Publishing and results before real brokers, workers and result backends."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, RabbitBroker, RedisBroker
from celery.contrib.abortable import AbortableAsyncResult
from kombu import Connection, Queue
from monitor import PATIENT, TASKMON, Monitor
from patience import PATIENCE
from processes import wait_until
from waiting import quickest
from workers import Project

WAITERS = 200


@pytest.fixture
def start_monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of running taskmons that have the app of a project: `start_monitor(project)`."""
    with ExitStack() as running:

        def start(project: Project, program: Sequence[str] = PATIENT, *more: str) -> Monitor:
            options = ["--app", "project", *more]
            monitor = Monitor(tmp_path, None, options=options, program=program, environment=project.environment())
            running.callback(monitor.kill)
            monitor.start()
            monitor.wait_ready()
            return monitor

        yield start


def post(monitor: Monitor, path: str, body: object = None) -> tuple[int, Any]:
    """Ask with POST; give the status and the JSON of the body."""
    return monitor.post(path, b"" if body is None else json.dumps(body).encode())


def took(function: Callable[[], Any]) -> tuple[float, Any]:
    """Call a function; give the seconds it took and what it gave."""
    began = time.monotonic()
    given = function()
    return time.monotonic() - began, given


def test_a_task_is_published_and_its_result_answered(
    project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor], tmp_path: Path
) -> None:
    start_worker(project, pool="threads", concurrency=4)
    monitor = start_monitor(project)
    status, body = post(monitor, "/api/task/apply/project.add", {"args": [1, 2], "task_id": "mine"})
    assert (status, body) == (200, {"task-id": "mine", "state": "SUCCESS", "result": 3})
    assert post(monitor, "/api/task/apply/project.add", {"args": [1, 2], "task_id": "mine"})[0] == 409
    status, body = post(monitor, "/api/task/apply/project.fail", {"kwargs": {"message": "no stock"}})
    assert (status, body["state"], body["result"]) == (200, "FAILURE", "ValueError('no stock')")
    assert body["traceback"].endswith("ValueError: no stock\n")
    for route in ("async-apply", "send-task"):
        status, body = post(monitor, f"/api/task/{route}/project.add", {"args": ["it's ", "é\\n"]})
        assert status == 200
        assert body.keys() == {"task-id", "state"}
        status, body = monitor.get(f"/api/task/result/{body['task-id']}?timeout=60")
        assert (status, body["state"], body["result"]) == (200, "SUCCESS", "it's é\\n")
    status, body = post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2], "countdown": 3600})
    assert (status, body["state"]) == (200, "PENDING")
    late = body["task-id"]
    assert monitor.get(f"/api/task/result/{late}?timeout=0.2") == (200, {"task-id": late, "state": "PENDING"})
    assert monitor.wait_for(late, "RECEIVED")["eta"] is not None
    status, body = post(monitor, "/api/task/apply/project.wait?timeout=1", {"args": [str(tmp_path / "go")]})
    assert status == 504
    (tmp_path / "go").touch()
    assert monitor.get(f"/api/task/result/{body['error']['task-id']}?timeout=60")[1]["state"] == "SUCCESS"


def test_a_finished_task_is_published_again(
    project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor]
) -> None:
    start_worker(project)
    monitor = start_monitor(project)
    text = "C:\\temp\\new\nit's \\' é"
    sent = project.send("echo", {text: (1, 2.5, None, True)})
    monitor.wait_for(sent.id, "SUCCESS")
    status, body = post(monitor, f"/api/task/retry/{sent.id}")
    assert status == 200
    assert body["task-id"] != sent.id
    again = body["task-id"]
    assert monitor.wait_for(again, "SUCCESS")["name"] == "project.echo"
    # Who publishes a task tells its queue, and does that after.
    wait_until(lambda: monitor.task(again)["queue"] == project.queue, timeout=120, what="its queue is told")
    status, body = monitor.get(f"/api/task/result/{body['task-id']}?timeout=60")
    assert (status, body["result"]) == (200, {text: [1, 2.5, None, True]})
    cut = project.send("echo", "x" * 3000)
    monitor.wait_for(cut.id, "SUCCESS")
    status, body = post(monitor, f"/api/task/retry/{cut.id}")
    assert (status, "are cut" in body["error"]["message"]) == (409, True)


def test_many_who_wait_hold_up_nobody(
    project: Project, start_worker: Callable[..., Any], start_monitor: Callable[..., Monitor], tmp_path: Path
) -> None:
    start_worker(project, pool="threads", concurrency=WAITERS)
    monitor = start_monitor(project)
    known = post(monitor, "/api/task/apply/project.add", {"args": [1, 2]})[1]["task-id"]
    monitor.wait_for(known, "SUCCESS")

    def under_way() -> int:
        return len(monitor.get("/api/tasks?taskname=project.wait&state=STARTED")[1])

    def ask(go: Path) -> tuple[float, list[tuple[int, Any]]]:
        """Let many wait for tasks; give the seconds that another request takes, and what they were answered."""
        call = {"args": [str(go)], "timeout": 60}
        with ThreadPoolExecutor(WAITERS) as callers:
            waiting = [callers.submit(post, monitor, "/api/task/apply/project.wait", call) for _ in range(WAITERS)]
            wait_until(lambda: under_way() > WAITERS // 2, timeout=120, what="they run", detail=monitor.log_tail)
            times = sorted(took(lambda: monitor.get(f"/api/task/info/{known}"))[0] for _ in range(30))
            go.touch()
            return times[15], [one.result() for one in waiting]

    for number in range(3):  # where the machine takes longer than anybody may wait, all of them wait once more
        median, answers = ask(tmp_path / f"go-{number}")
        print(f"half of the answers took no longer than {median:.3f} s")
        if {status for status, _ in answers} == {200}:
            break
    assert median < 2
    assert [(status, body["state"]) for status, body in answers] == [(200, "SUCCESS")] * WAITERS


@pytest.mark.parametrize("harm", ["kill", "pause"])
def test_a_broker_that_is_away(
    harm: str, broker: Broker, new_project: Callable[..., Project], start_monitor: Callable[..., Monitor]
) -> None:
    project = new_project(broker)
    monitor = start_monitor(project, TASKMON)

    def is_there() -> bool:
        return bool(post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2]})[0] == 200)

    wait_until(is_there, timeout=120, what="publishing works", detail=monitor.log_tail)
    getattr(broker, harm)()

    def is_away() -> bool:  # the last message may still get through
        return bool(post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2]})[0] == 503)

    try:
        wait_until(is_away, timeout=120, what="publishing is refused", detail=monitor.log_tail)
        for _ in range(2):
            for path in ("apply/project.add", "async-apply/project.add", "send-task/any"):
                seconds, (status, body) = took(lambda path=path: post(monitor, f"/api/task/{path}", {"args": [1, 2]}))
                assert (status, seconds < PATIENCE) == (503, True), (seconds, body)
            seconds, (status, _) = took(lambda: monitor.get("/api/task/result/some"))
            assert (status, seconds < PATIENCE) == (503, True)
        assert quickest(lambda: took(lambda: monitor.get("/healthcheck"))[0], 2) < 2
    finally:
        broker.restore()

    def is_back() -> bool:
        return bool(post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2], "task_id": "back"})[0] == 200)

    wait_until(is_back, timeout=120, what="publishing works again", detail=monitor.log_tail)
    wait_until(lambda: monitor.get("/api/task/result/back")[0] == 200, timeout=120, what="results are read again")


def test_a_result_backend_that_is_away(
    rabbitmq_broker: RabbitBroker,
    new_redis: Callable[..., RedisBroker],
    new_project: Callable[..., Project],
    start_monitor: Callable[..., Monitor],
) -> None:
    store = new_redis()
    project = new_project(rabbitmq_broker, "redis", store)
    monitor = start_monitor(project, TASKMON)
    store.pause()
    seconds, (status, body) = took(lambda: post(monitor, "/api/task/apply/project.add", {"args": [1, 2]}))
    assert (status, seconds < PATIENCE) == (503, True)
    assert "result backend" in body["error"]["message"]
    seconds, (status, _) = took(lambda: post(monitor, "/api/task/abort/some"))
    assert (status, seconds < PATIENCE) == (503, True)
    with Connection(project.broker_url) as connection:
        declared = Queue(project.queue)(connection.default_channel).queue_declare()
    assert declared.message_count == 0, "nothing is published when there would be no result"

    def publishes() -> bool:  # RabbitMQ has 2.8 s to answer
        return list(post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2]})[1]) == ["task-id"]

    wait_until(publishes, timeout=120, what="a task is published without its state", detail=monitor.log_tail)
    store.resume()
    pending = (200, {"task-id": "some", "state": "PENDING"})
    wait_until(lambda: monitor.get("/api/task/result/some") == pending, timeout=120, what="results are read again")


def test_no_result_backend(
    broker: Broker, new_project: Callable[..., Project], start_monitor: Callable[..., Monitor]
) -> None:
    monitor = start_monitor(new_project(broker, "none"))
    for status, body in (
        monitor.get("/api/task/result/some"),
        post(monitor, "/api/task/abort/some"),
        post(monitor, "/api/task/apply/project.add", {"args": [1, 2]}),
    ):
        assert (status, "none is configured" in body["error"]["message"]) == (503, True)
    status, body = post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2]})
    assert (status, list(body)) == (200, ["task-id"])


def test_redis_keeps_no_subscription_for_a_published_task(
    redis_broker: RedisBroker, new_project: Callable[..., Project], start_monitor: Callable[..., Monitor]
) -> None:
    project = new_project(redis_broker)
    monitor = start_monitor(project)
    for _ in range(3):
        assert post(monitor, "/api/task/async-apply/project.add", {"args": [1, 2]})[0] == 200
    client = project.app.backend.client
    assert [name for name in client.pubsub_channels() if b"celery-task-meta" in name] == []


def test_abort_stores_the_state_that_an_abortable_task_looks_for(
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    start_monitor: Callable[..., Monitor],
) -> None:
    project = new_project(redis_broker)
    start_worker(project)
    monitor = start_monitor(project)
    assert post(monitor, "/api/task/abort/some") == (200, {"message": "Aborted 'some'"})
    assert AbortableAsyncResult("some", app=project.app).is_aborted()
    assert monitor.get("/api/task/result/some") == (200, {"task-id": "some", "state": "ABORTED"})
    done = post(monitor, "/api/task/apply/project.add", {"args": [1, 2]})[1]["task-id"]
    status, body = post(monitor, f"/api/task/abort/{done}")
    assert (status, "SUCCESS" in body["error"]["message"]) == (409, True)
    assert monitor.get(f"/api/task/result/{done}")[1]["result"] == 3


def test_results_over_rpc_on_redis(
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    start_monitor: Callable[..., Monitor],
) -> None:
    project = new_project(redis_broker, "rpc")
    start_worker(project)
    monitor = start_monitor(project)
    for number in range(5):
        status, body = post(monitor, "/api/task/apply/project.add", {"args": [number, 2]})
        assert (status, body["result"]) == (200, number + 2)
        assert monitor.get(f"/api/task/result/{body['task-id']}")[1]["result"] == number + 2


def test_what_rabbitmq_refuses(
    rabbitmq_broker: RabbitBroker, new_project: Callable[..., Project], start_monitor: Callable[..., Monitor]
) -> None:
    project = new_project(rabbitmq_broker, "none")
    monitor = start_monitor(project, PATIENT, "--publish-queues=no-such,*-other")
    body = {"args": [1, 2], "exchange": "no-such", "routing_key": "x"}
    status, answer = post(monitor, "/api/task/async-apply/project.add", body)
    assert (status, "no-such" in answer["error"]["message"]) == (409, True)
    name = f"{project.queue}-other"
    with Connection(project.broker_url) as connection:
        queue = Queue(name, queue_arguments={"x-max-priority": 5})(connection.default_channel)
        queue.queue_declare()
        assert post(monitor, "/api/task/send-task/any", {"queue": name, "priority": 3})[0] == 200
        assert queue.get(no_ack=True).headers["task"] == "any"
        queue.delete()
