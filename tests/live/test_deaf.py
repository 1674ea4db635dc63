"""Whatever silently ends a subscription, or keeps events from it, is noticed, told and ended by subscribing again."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from brokers import Broker, RabbitBroker, RedisBroker
from celery.events.event import get_exchange
from kombu import Connection, Queue
from monitor import TASKMON, Monitor
from patience import PATIENCE
from processes import wait_until
from proxy import proxying
from workers import Project

NOT_READY_WITHIN = 10.0


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """A factory of taskmons as users start them, with these options."""
    monitors: list[Monitor] = []

    def start(broker: Broker, *options: str) -> Monitor:
        directory = tmp_path / f"taskmon-{len(monitors)}"
        directory.mkdir()
        monitors.append(Monitor(directory, broker.url, options=options, program=TASKMON))
        monitors[-1].start()
        monitors[-1].wait_ready()
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.kill()


def wait_for_log(monitor: Monitor, text: str) -> None:
    monitor.wait_until(lambda: re.search(text, monitor.log_text()), timeout=PATIENCE, what=f"the log says {text!r}")


def test_an_exchange_that_is_deleted_and_declared_anew(
    rabbitmq_broker: RabbitBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[..., Monitor],
) -> None:
    project = new_project(rabbitmq_broker, "rpc")
    monitor = watch(rabbitmq_broker)
    worker = start_worker(project)
    monitor.wait_for(project.send("add", 1, 2).id, "SUCCESS")
    worker.kill()
    with Connection(rabbitmq_broker.url) as connection:
        connection.default_channel.exchange_delete("celeryev")
    start_worker(project)
    wait_for_log(monitor, "the exchange of events was deleted, or its binding")
    wait_for_log(monitor, r"again; events were missed for \d+ s")
    monitor.wait_ready()
    monitor.wait_for(project.send("add", 3, 4).id, "SUCCESS")
    findings = {finding["code"] for finding in monitor.get("/api/diagnostics")[1]["findings"]}
    assert "events-missed" in findings


def test_a_queue_that_is_deleted_or_unbound(rabbitmq_broker: RabbitBroker, watch: Callable[..., Monitor]) -> None:
    monitor = watch(rabbitmq_broker, "--durable-queue", "test-deaf")
    with Connection(rabbitmq_broker.url) as connection:
        channel = connection.default_channel
        channel.queue_delete("test-deaf")
        wait_for_log(monitor, "the queue of events was deleted")
        monitor.wait_ready()
        channel.queue_unbind("test-deaf", "celeryev", "#")
        wait_for_log(monitor, "the exchange of events was deleted, or its binding")
        monitor.wait_ready()
        monitor.stop()
        channel.queue_delete("test-deaf")
    assert "None1" not in monitor.log_text()


def test_not_ready_while_the_broker_hangs(broker: Broker, watch: Callable[..., Monitor]) -> None:
    monitor = watch(broker)
    durations = []
    for _ in range(3):
        broker.pause()
        began = time.monotonic()
        monitor.wait_until(
            lambda: monitor.get("/readyz")[0] == 503, timeout=PATIENCE, what="the silence of the broker shows"
        )
        durations.append(time.monotonic() - began)
        status, body = monitor.get("/readyz")
        assert (status, body["error"]["message"]) == (503, "The broker is unavailable: no answer in time")
        assert monitor.get("/api/diagnostics")[1]["findings"][0]["code"] == "broker-away"
        broker.resume()
        monitor.wait_ready()
        if min(durations) < NOT_READY_WITHIN:
            break
    assert min(durations) < NOT_READY_WITHIN


def test_subscriptions_that_redis_ends(
    redis_broker: RedisBroker,
    new_project: Callable[..., Project],
    start_worker: Callable[..., Any],
    watch: Callable[..., Monitor],
) -> None:
    project = new_project(redis_broker)
    monitor = watch(redis_broker)
    start_worker(project)
    monitor.wait_for(project.send("add", 1, 2).id, "SUCCESS")
    with redis.Redis(port=redis_broker.port) as client:
        assert client.client_kill_filter(_type="pubsub")
    wait_for_log(monitor, r"again; events were missed for \d+ s")
    monitor.wait_for(project.send("add", 3, 4).id, "SUCCESS")


def test_a_connection_over_which_nothing_comes_any_more(broker: Broker, watch: Callable[..., Monitor]) -> None:
    with proxying(broker.port) as proxy:
        proxied = broker.url.replace(str(broker.port), str(proxy.port))
        monitor = watch(broker, "--broker", proxied, "--set", f"broker_write_url={broker.url}")
        proxy.stall()
        wait_for_log(monitor, "test messages to the broker do not come back")
        assert monitor.get("/readyz")[0] == 503
        wait_for_log(monitor, "is away: test messages to the broker do not come back: taskmon subscribes again")
        proxy.heal()
        monitor.wait_ready()
        wait_for_log(monitor, "again; (events were missed|its queue has kept the events)")


def test_an_alarm_of_rabbitmq_is_said_in_words(rabbitmq_broker: RabbitBroker, watch: Callable[..., Monitor]) -> None:
    monitor = watch(rabbitmq_broker)
    rabbitmq_broker.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        monitor.wait_until(lambda: monitor.get("/readyz")[0] == 503, timeout=PATIENCE, what="it is not ready")
        assert "because of a memory or disk alarm" in monitor.get("/readyz")[1]["error"]["message"]
        status, body = monitor.post("/api/task/send-task/any.task", b"{}")
        assert status == 503
        assert "what was sent is accepted then" in body["error"]["message"]
    finally:
        rabbitmq_broker.control("set_vm_memory_high_watermark", "absolute", "1GB")
    monitor.wait_ready()
    wait_for_log(monitor, "Events come in from the broker again, after")
    with Connection(rabbitmq_broker.url) as connection:  # RabbitMQ had the task before it said that it takes none
        channel = connection.default_channel
        assert channel.queue_declare("celery", passive=True)[1] == 1
        channel.queue_delete("celery")


def test_a_user_of_rabbitmq_that_may_not_publish(
    rabbitmq_broker: RabbitBroker, watch: Callable[..., Monitor]
) -> None:
    url = f"amqp://watcher:secret@127.0.0.1:{rabbitmq_broker.port}//"
    rabbitmq_broker.control("add_user", "watcher", "secret")
    try:
        for write in ("^celeryev", r"^celeryev\.taskmon"):  # first the exchange, but not that of queues, then none
            rabbitmq_broker.control("set_permissions", "watcher", ".*", write, ".*")
            monitor = watch(rabbitmq_broker, "--broker", url)
            if write != "^celeryev":
                wait_for_log(monitor, "taskmon may not publish to the exchange of events")
            began = time.monotonic()
            monitor.wait_until(
                lambda began=began: time.monotonic() - began > 25, timeout=PATIENCE, what="it is quiet"
            )
            assert monitor.get("/readyz")[0] == 200
            assert "No events come in" not in monitor.log_text()
            assert "away" not in monitor.log_text()
            monitor.stop()
    finally:
        rabbitmq_broker.control("delete_user", "watcher")


def test_a_user_of_redis_that_may_not_publish(redis_broker: RedisBroker, watch: Callable[..., Monitor]) -> None:
    with redis.Redis(port=redis_broker.port) as client:
        client.execute_command("ACL", "SETUSER", "watcher", "on", ">secret", "~*", "&*", "+@all", "-publish")
        monitor = watch(redis_broker, "--broker", f"redis://watcher:secret@127.0.0.1:{redis_broker.port}/0")
        wait_for_log(monitor, "taskmon may not publish to the exchange of events")
        began = time.monotonic()
        monitor.wait_until(lambda: time.monotonic() - began > 12, timeout=PATIENCE, what="it is quiet")
        assert monitor.get("/readyz")[0] == 200
        monitor.stop()
        client.execute_command("ACL", "DELUSER", "watcher")


def test_probes_leave_nothing_behind(rabbitmq_broker: RabbitBroker, watch: Callable[..., Monitor]) -> None:
    with Connection(rabbitmq_broker.url) as connection:
        channel = connection.default_channel
        exchange = get_exchange(connection)
        other = Queue("test-other-receiver", exchange, routing_key="#", durable=True)(channel)
        other.declare()
        monitor = watch(rabbitmq_broker)
        began = time.monotonic()  # nothing is sent by others, so taskmon probes the exchange after 15 s
        monitor.wait_until(lambda: time.monotonic() - began > 25, timeout=PATIENCE, what="probes were sent")
        assert monitor.get("/readyz")[0] == 200
        wait_until(lambda: not other.queue_declare(passive=True)[1], timeout=PATIENCE, what="no probe is kept")
        monitor.stop()
        other.delete()
