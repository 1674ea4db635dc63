"""Connections fail in time, and say why without passwords."""

import time

import pytest
from patience import PATIENCE, REAL
from serving import AWAY, make_app, silent_server

from taskmon.cluster.connections import BrokerAway, drop_connection, open_connection, say_why


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
    connections = []
    with pytest.MonkeyPatch.context() as patch:
        original = app.connection_for_write
        patch.setattr(
            app, "connection_for_write", lambda **more: connections.append(original(**more)) or connections[0]
        )
        with pytest.raises(BrokerAway):
            open_connection(app)
    limits = connections[0].transport_options
    assert (limits["socket_timeout"], limits["socket_connect_timeout"]) == (0.5, PATIENCE)
    assert limits["visibility_timeout"] == 5


def test_an_error_without_words() -> None:
    assert say_why(ValueError()) == "ValueError"
    assert say_why(ValueError("redis://:secret@host failed")) == "redis://:***@host failed"
