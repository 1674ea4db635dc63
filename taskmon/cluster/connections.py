"""Connections to the broker for calls that must not hang: every step of them has a time limit.

Celery's own connections wait for a broker as long as it takes. A connection made here fails within seconds instead.
It belongs to the thread that opened it.
"""

from contextlib import suppress
from typing import Any, Final

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from ..masking import mask_passwords

#: Seconds for connecting to one address of a broker, and for each answer on a connection that is open.
CONNECT_TIMEOUT: Final = 1.0
ANSWER_TIMEOUT: Final = 2.0


class BrokerAway(Exception):
    """The broker could not be reached, or went away; the text says why and holds no password."""


def open_connection(celery_app: Celery) -> Connection:
    """Connect to the broker that a Celery app publishes to; raises BrokerAway."""
    try:
        connection: Connection = celery_app.connection_for_write(connect_timeout=CONNECT_TIMEOUT)
    except ValueError as exc:  # it quotes what it takes for a port: a part of the password, where that holds a slash
        raise BrokerAway("the broker's URL cannot be read") from exc
    try:
        _limit(connection)
        others = max(len(connection.alt) - 1, 0)  # of a broker's addresses, each tried once
        connection.ensure_connection(max_retries=others, interval_start=0, timeout=CONNECT_TIMEOUT)
        sock = getattr(connection.connection, "sock", None)
        if sock is not None:  # RabbitMQ's client waits for an answer for ever otherwise
            sock.settimeout(ANSWER_TIMEOUT)
    # RabbitMQ refuses a wrong password as it refuses what is asked of a channel.
    except (*away_errors(connection), *connection.channel_errors) as exc:
        drop_connection(connection)
        raise BrokerAway(say_why(exc)) from exc
    return connection


def away_errors(connection: Connection) -> tuple[type[Exception], ...]:
    """List what a connection raises when the broker is away, or does not let us in."""
    return (OperationalError, OSError, *connection.connection_errors)


def close_connection(connection: Connection) -> None:
    """Take leave of the broker and let a connection go, even where what comes meanwhile is an error."""
    collect = getattr(connection._connection, "collect", None)  # `connection.connection` would connect again
    try:
        connection.release()
    finally:
        if collect is not None:
            collect()


def drop_connection(connection: Connection) -> None:
    """Let a connection go without a word to the broker, which may not listen."""
    with suppress(Exception):
        connection.collect()


def say_why(exc: Exception) -> str:
    """Put an error of a library into words, without passwords."""
    return mask_passwords(str(exc)).strip() or type(exc).__name__


def _limit(connection: Connection) -> None:
    """Set what the transport knows of time limits; shorter ones of the app stay."""
    given: dict[str, Any] = connection.transport_options or {}
    # A lost connection is never mended in the background of a call, which kombu would do without an end.
    limits: dict[str, Any] = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    driver = connection.transport.driver_type
    if driver == "redis":
        for name, most in (("socket_timeout", ANSWER_TIMEOUT), ("socket_connect_timeout", CONNECT_TIMEOUT)):
            limits[name] = min(given.get(name) or most, most)
    elif driver == "amqp":  # RabbitMQ's yes to each message: what it refuses would show with the next one otherwise
        limits["confirm_publish"] = True
    connection.transport_options = {**given, **limits}
