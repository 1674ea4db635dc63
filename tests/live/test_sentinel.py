"""A broker behind Redis Sentinel, without an app: --set and --celery-config name its master and the exchanges."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from brokers import STARTUP_TIMEOUT, RedisBroker, ask
from celery import Celery
from ports import LOOPBACK, free_port
from processes import Process, wait_until

PATIENCE = 120.0


@pytest.fixture
def sentinel(redis_broker: RedisBroker, tmp_path: Path) -> Iterator[int]:
    """The port of a Sentinel that watches the Redis under the name main."""
    port = free_port()
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind {LOOPBACK}\ndir {tmp_path}\nsentinel monitor main {LOOPBACK} {redis_broker.port} 1\n"
    )
    program = RedisBroker.program()
    assert program
    process = Process(
        [program, str(settings), "--sentinel"],
        directory=tmp_path,
        log=tmp_path / "sentinel.log",
        environment=dict(os.environ),
    )
    process.start()
    try:
        process.wait_until(lambda: ask(port, b"PING\r\n"), timeout=STARTUP_TIMEOUT, what="Sentinel answers")
        yield port
    finally:
        process.stop()


@pytest.mark.parametrize("by_file", [False, True])
def test_a_broker_behind_sentinel(redis_broker: RedisBroker, sentinel: int, tmp_path: Path, by_file: bool) -> None:
    (tmp_path / "celery.toml").write_text(
        'event_exchange = "events"\n[broker_transport_options]\nmaster_name = "main"\n'
    )
    chosen = ["--set", "event_exchange=events", "--set=broker_transport_options.master_name=main"]
    process = Process(
        [
            *(sys.executable, "-m", "taskmon", "--port=0", "--anonymous-role=viewer", "--token-file=tokens"),
            *("--broker", f"sentinel://{LOOPBACK}:{sentinel}"),
            *(["--celery-config=celery.toml"] if by_file else chosen),
        ],
        directory=tmp_path,
        log=tmp_path / "taskmon.log",
        environment=dict(os.environ),
    )
    process.start()
    try:
        process.wait_until(
            lambda: "Connected to the broker" in process.log_text(), timeout=PATIENCE, what="taskmon is connected"
        )
        url = re.search(r"Serving on (http://\S+)", process.log_text())
        assert url

        def held() -> bool:
            with urlopen(f"{url[1]}/api/tasks", timeout=PATIENCE) as answer:
                return "behind" in json.load(answer)

        app = Celery("sender", broker=redis_broker.url, set_as_current=False)
        app.conf.event_exchange = "events"
        with app.connection_for_write() as connection:
            sender = app.events.Dispatcher(connection, hostname="celery@here")
            sender.send("task-received", uuid="behind", name="project.add")
            wait_until(held, timeout=PATIENCE, what="the task is held", detail=process.log_tail)
    finally:
        process.stop()
