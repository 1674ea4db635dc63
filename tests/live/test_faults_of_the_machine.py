"""Faults of the machine that taskmon runs on: too few open files."""

import contextlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

from brokers import RedisBroker
from monitor import TASKMON, Monitor

HALF_A_REQUEST = b"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\n"


def test_more_half_requests_than_open_files(redis_server: RedisBroker, tmp_path: Path) -> None:
    limited = ("bash", "-c", 'ulimit -n 400; exec "$@"', "bash", *TASKMON)
    options = ("--max-connections", "5000", "--max-connections-per-client", "5000")
    monitor = Monitor(tmp_path, redis_server.url, options=options, program=limited)
    try:
        monitor.start()
        monitor.wait_ready()
        where = urlsplit(monitor.url)
        with contextlib.ExitStack() as held:
            for _ in range(700):
                with contextlib.suppress(OSError):
                    one = held.enter_context(socket.create_connection((where.hostname, where.port), 120))
                    one.sendall(HALF_A_REQUEST)
            for _ in range(20):
                assert monitor.get("/api/tasks")[0] == 200
            assert monitor.get("/readyz")[0] == 200
            assert monitor.get("/api/workers?refresh=true")[0] == 200  # the broker can still be connected to
        assert "240 connections are allowed instead of 5000 (--max-connections)" in monitor.log_text()
        assert "Traceback" not in monitor.log_text()
        assert len(monitor.log_text().splitlines()) < 30
    finally:
        monitor.kill()
