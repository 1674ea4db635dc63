"""Connections to the broker: the only place where taskmon opens one. Every step has a time limit.

Celery's own connections wait for a broker as long as it takes, and to most brokers they restore messages of others. A
connection made here does neither. Where a broker has several addresses, each is tried once, with a limit of its own,
and the one that answered last is tried first. A connection belongs to the thread that uses it.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from ..broker_faults import BrokerBlocked, explain, is_blocked
from ..transports import protect_messages

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for connecting to one address of a broker, and for each answer on a connection that is open.
CONNECT_TIMEOUT: Final = 1.0
ANSWER_TIMEOUT: Final = 2.0

#: Seconds after which a connection that is kept and was not used is opened anew: the broker may have closed it.
MAX_IDLE: Final = 20.0

#: A second attempt is not begun later than this, in seconds: the caller would no longer hear of it.
LATEST_RETRY: Final = 0.7

#: Seconds for connecting to an address to receive events from, and between two signs of life on that connection.
_EVENTS_CONNECT_TIMEOUT: Final = 5.0
_HEARTBEAT: Final = 20

#: Redis would be waited for without an end otherwise; the app's own options go before these.
_REDIS_EVENTS_OPTIONS: Final = {
    "socket_connect_timeout": _EVENTS_CONNECT_TIMEOUT,
    "socket_timeout": _EVENTS_CONNECT_TIMEOUT,
    "socket_keepalive": True,
    "health_check_interval": _HEARTBEAT,
}


class BrokerAway(Exception):
    """The broker could not be reached, or went away; the text says why and holds no password."""


def open_connection(celery_app: Celery) -> Connection:
    """Connect to the broker that a Celery app publishes to; raises BrokerAway."""

    def open_address(url: str | None) -> Connection:
        connection: Connection = celery_app.connection_for_write(url=url, connect_timeout=CONNECT_TIMEOUT)
        _limit(connection)
        _establish(connection, CONNECT_TIMEOUT)
        sock = getattr(connection.connection, "sock", None)
        if sock is not None:  # RabbitMQ's client waits for an answer for ever otherwise
            sock.settimeout(ANSWER_TIMEOUT)
        return connection

    return _open_any(celery_app, celery_app.conf.broker_write_url, open_address)


def open_events_connection(celery_app: Celery) -> Connection:
    """Connect to the broker from which a Celery app receives, for long; raises BrokerAway."""

    def open_address(url: str | None) -> Connection:
        connection = _make_events_connection(celery_app, url)
        _establish(connection, _EVENTS_CONNECT_TIMEOUT)
        return connection

    return _open_any(celery_app, celery_app.conf.broker_read_url, open_address)


def describe_broker(celery_app: Celery) -> str:
    """Return the URL from which a Celery app receives, without passwords; empty where it cannot be read."""
    with suppress(Exception):  # connecting says what is wrong with it
        return str(celery_app.connection_for_read().as_uri())
    return ""


def find_rabbitmq_host(celery_app: Celery) -> str | None:
    """Return the virtual host where the broker is RabbitMQ, else None. It connects to nothing."""
    with suppress(Exception):  # connecting says what is wrong with it
        connection = celery_app.connection_for_read()
        if connection.transport.driver_type == "amqp":
            return connection.virtual_host or "/"
    return None


class KeptConnection:
    """One connection to a Celery app's broker, for short calls of any thread; it is opened when it is first used."""

    def __init__(self, celery_app: Celery) -> None:
        self._app = celery_app
        self._lock = threading.Lock()
        self._idle: Connection | None = None
        self._used = 0.0

    def call(self, function: Callable[[Connection], T]) -> T:
        """Return what a function makes of the connection, calling it again on a new one where the kept one is lost.

        A call during another gets a connection of its own. Raises BrokerAway.
        """
        began = time.monotonic()
        kept = self._take(began)
        connection = open_connection(self._app) if kept is None else kept
        try:
            result = function(connection)
        except (*away_errors(connection), *connection.channel_errors) as exc:
            drop_connection(connection)
            if kept is None or is_blocked(exc) or time.monotonic() - began > LATEST_RETRY:
                raise BrokerAway(say_why(exc)) from exc
            return self.call(function)
        except BaseException:
            drop_connection(connection)
            raise
        self._keep(connection)
        return result

    def close(self) -> None:
        """Close the connection, if it is open and not in use."""
        with self._lock:
            connection, self._idle = self._idle, None
        if connection is not None:
            drop_connection(connection)

    def _take(self, now: float) -> Connection | None:
        """Return the connection, unless it is in use, not open yet, or was unused for too long."""
        with self._lock:
            connection, self._idle = self._idle, None
        if connection is None or now - self._used < MAX_IDLE:
            return connection
        drop_connection(connection)
        return None

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            keep = self._idle is None
            if keep:
                self._idle, self._used = connection, time.monotonic()
        if not keep:
            drop_connection(connection)


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
    return str(explain(exc))


def _refuse_blocked(reason: str) -> None:
    """End the wait for a broker that has said that it accepts nothing."""
    raise BrokerBlocked


def _open_any(celery_app: Celery, configured: Any, open_address: Callable[[str | None], Connection]) -> Connection:
    """Connect to the address that answered last, else to the first that answers; raises BrokerAway."""
    protect_messages(celery_app)
    known = celery_app.amqp.Connection.last_addresses
    addresses = _list_addresses(configured)
    last = known.get(tuple(addresses))
    failure: Exception = OSError("no address is configured")
    for address in sorted(addresses, key=lambda address: address != last):
        try:
            connection = open_address(address)
        except ValueError:  # it quotes what it takes for a port: part of a password with a slash
            raise BrokerAway("the broker's URL cannot be read") from None
        except BrokerAway as exc:
            failure = exc
        except Exception as exc:  # options of an app's own can make kombu raise anything
            log.debug("Opening a connection failed", exc_info=True)
            failure = BrokerAway(f"its options in Celery's configuration do not work ({say_why(exc)})")
        else:
            known[tuple(addresses)] = address
            return connection
    raise failure


def _make_events_connection(celery_app: Celery, url: str | None) -> Connection:
    connection: Connection = celery_app.connection_for_read(
        url=url, heartbeat=_HEARTBEAT, connect_timeout=_EVENTS_CONNECT_TIMEOUT
    )
    if connection.transport.driver_type == "redis":
        connection.transport_options = {**_REDIS_EVENTS_OPTIONS, **(connection.transport_options or {})}
    return connection


def _list_addresses(configured: Any) -> list[str | None]:
    """List the addresses of a broker; those of Redis Sentinel are one, as each knows all servers."""
    if not configured:
        return [None]
    urls = [url for part in ([configured] if isinstance(configured, str) else configured) for url in part.split(";")]
    urls = [url for url in urls if url]
    return [";".join(urls)] if any(url.startswith("sentinel") for url in urls) else list(urls)


def _establish(connection: Connection, timeout: float) -> None:
    """Connect, once; raises BrokerAway."""
    try:
        connection.ensure_connection(max_retries=0, interval_start=0, timeout=timeout)
    # RabbitMQ refuses a wrong password as it refuses what is asked of a channel.
    except (*away_errors(connection), *connection.channel_errors) as exc:
        drop_connection(connection)
        raise BrokerAway(say_why(exc)) from exc


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
        limits |= {"confirm_publish": True, "on_blocked": _refuse_blocked}
    connection.transport_options = {**given, **limits}
