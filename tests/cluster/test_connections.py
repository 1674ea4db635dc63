"""Connections fail in time, and say why without passwords."""

import time
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from patience import PATIENCE, REAL
from serving import AWAY, make_app, silent_server

from taskmon.cluster import connections
from taskmon.cluster.connections import (
    BrokerAway,
    KeptConnection,
    drop_connection,
    open_connection,
    open_events_connection,
    say_why,
)


def test_a_broker_that_is_there(memory_broker: str) -> None:
    connection = open_connection(make_app(memory_broker))
    assert connection.connected
    drop_connection(connection)


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_refuses(scheme: str) -> None:
    with pytest.raises(BrokerAway) as error:
        open_connection(make_app(AWAY.replace("redis", scheme)))
    assert str(error.value)
    assert "wrong-horse" not in str(error.value)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_says_nothing(scheme: str) -> None:
    with silent_server() as port:
        began = time.monotonic()
        with pytest.raises(BrokerAway):
            open_connection(make_app(f"{scheme}://u:p@127.0.0.1:{port}//".replace("//", "//", 1)))
        assert time.monotonic() - began < PATIENCE


def test_who_asks_is_answered_within_three_seconds() -> None:
    assert REAL["CONNECT_TIMEOUT"] + REAL["ANSWER_TIMEOUT"] <= 3
    assert max(REAL["LIMIT"], REAL["SEND_LIMIT"]) < 3


def test_a_url_that_cannot_be_read() -> None:
    with pytest.raises(BrokerAway, match="the broker's URL cannot be read") as error:
        open_connection(make_app("redis://:pass/word@127.0.0.1:6379/0"))
    assert "word" not in str(error.value)


def test_limits_of_the_app_stay_where_they_are_shorter() -> None:
    options = {"socket_timeout": 0.5, "socket_connect_timeout": 2 * PATIENCE, "visibility_timeout": 5}
    app = make_app("redis://127.0.0.1:1/0", broker_transport_options=options)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        original = app.connection_for_write
        patch.setattr(app, "connection_for_write", lambda **more: made.append(original(**more)) or made[0])
        with pytest.raises(BrokerAway):
            open_connection(app)
    limits = made[0].transport_options
    assert (limits["socket_timeout"], limits["socket_connect_timeout"]) == (0.5, PATIENCE)
    assert limits["visibility_timeout"] == 5


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("open_one", [open_connection, open_events_connection])
@pytest.mark.parametrize("scheme", ["amqp", "redis"])
@pytest.mark.parametrize("as_list", [False, True])
def test_after_an_address_that_says_nothing_comes_the_next(
    memory_broker: str, open_one: Any, scheme: str, as_list: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_EVENTS_CONNECT_TIMEOUT", 0.1)
    monkeypatch.setitem(connections._REDIS_EVENTS_OPTIONS, "socket_timeout", 0.1)
    with silent_server() as port:
        addresses = [AWAY, f"{scheme}://127.0.0.1:{port}//", f"{scheme}://127.0.0.1:{port}/1", memory_broker]
        app = make_app(addresses if as_list else ";".join(addresses))  # type: ignore[arg-type]
        for _ in range(2):
            connection = open_one(app)
            assert connection.as_uri().startswith("memory")
            drop_connection(connection)


def test_the_address_that_answered_last_is_tried_first(memory_broker: str) -> None:
    app = make_app(f"{AWAY};{memory_broker}")
    tried: list[str | None] = []
    original = app.connection_for_write

    def connect(url: str | None = None, **more: Any) -> Connection:
        tried.append(url)
        return original(url=url, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "connection_for_write", connect)
        for _ in range(3):
            drop_connection(open_connection(app))
    assert tried == [AWAY, memory_broker, memory_broker, memory_broker]


def test_the_addresses_of_sentinel_stay_together() -> None:
    urls = ["sentinel://a:1", "sentinel://b:1"]
    assert connections._list_addresses(urls) == ["sentinel://a:1;sentinel://b:1"]
    assert connections._list_addresses(";".join(urls)) == ["sentinel://a:1;sentinel://b:1"]
    assert connections._list_addresses(None) == [None]


class Opened:
    """Counts the connections that are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[Connection] = []
        monkeypatch.setattr(connections, "open_connection", self._open)

    def _open(self, app: Celery) -> Connection:
        self.all.append(open_connection(app))
        return self.all[-1]


def test_a_kept_connection_is_opened_once(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    kept = KeptConnection(make_app(memory_broker))
    used = [kept.call(lambda connection: connection) for _ in range(5)]
    assert used == opened.all * 5
    inner = kept.call(lambda outer: kept.call(lambda connection: connection is not outer))
    assert inner
    kept.close()
    assert not any(connection.connected for connection in opened.all)
    kept.call(lambda connection: connection)
    monkeypatch.setattr(connections, "MAX_IDLE", 0.0)
    kept.call(lambda connection: connection)
    assert len(opened.all) == 4
    kept.close()


def test_a_kept_connection_that_was_lost_is_replaced(memory_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LATEST_RETRY", PATIENCE)
    opened = Opened(monkeypatch)
    kept = KeptConnection(make_app(memory_broker))
    kept.call(lambda connection: connection)

    def fail_on_the_first(connection: Connection) -> str:
        if connection is opened.all[0]:
            raise ConnectionResetError("gone")
        return "done"

    def fail(connection: Connection) -> None:
        raise ConnectionResetError("gone")

    assert kept.call(fail_on_the_first) == "done"
    with pytest.raises(BrokerAway, match="gone"):
        kept.call(fail)
    with pytest.raises(ZeroDivisionError):
        kept.call(lambda connection: 1 / 0)
    assert not any(connection.connected for connection in opened.all)


def test_an_error_without_words() -> None:
    assert say_why(ValueError()) == "ValueError"
    assert say_why(ValueError("redis://:secret@host failed")) == "redis://:***@host failed"
