"""What an error of a broker means: errors as the client libraries make them, of real codes and of the system."""

import errno
import os
import socket
import ssl
from typing import Any

import pytest
from amqp.exceptions import ConnectionForced, ConsumerCancelled, RecoverableConnectionError, error_for_code
from kombu.exceptions import OperationalError
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import MasterNotFoundError, Sentinel

from taskmon.broker_faults import MAX_DETAIL, BrokerBlocked, SubscriptionLost, explain

LOGIN, QUEUE = (10, 50), (50, 10)


def amqp_error(code: int, text: str = "", method: tuple[int, int] = QUEUE) -> Exception:
    made: Exception = error_for_code(code, text, method, RecoverableConnectionError)
    return made


def redis_error(reply: str) -> Exception:
    made: Exception = BaseParser.parse_error(reply)
    return made


def raised_from(inner: Exception, outer: Exception, *, explicit: bool) -> Exception:
    try:
        try:
            raise inner
        except Exception as exc:
            if explicit:
                raise outer from exc
            raise outer  # noqa: B904
    except Exception as exc:
        return exc


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ConsumerCancelled(None, (60, 30)), "the queue of events was deleted"),
        (amqp_error(403, "ACCESS_REFUSED - Login was refused", LOGIN), "the user name or the password is refused"),
        (amqp_error(403, "ACCESS_REFUSED - write access to exchange"), "the user lacks a permission"),
        (amqp_error(404, "NOT_FOUND - no exchange"), "does not exist"),
        (amqp_error(406, "PRECONDITION_FAILED - inequivalent arg"), "exists with other settings"),
        (amqp_error(530, "NOT_ALLOWED - vhost x not found", LOGIN), "the virtual host does not exist"),
        (amqp_error(320, "CONNECTION_FORCED - broker forced", LOGIN), "the broker closed the connection"),
        (ConnectionForced("Too many heartbeats missed"), "no answer in time"),
        (RecoverableConnectionError("Socket was disconnected"), "the connection was closed"),
        (redis_error("NOAUTH Authentication required."), "a password is required"),
        (redis_error("WRONGPASS invalid username-password pair"), "the user name or the password is refused"),
        (redis_error("NOPERM this user has no permissions"), "the user lacks a permission"),
        (redis_error("READONLY You can't write against a read only replica."), "a read-only replica"),
        (redis_error("LOADING Redis is loading the dataset in memory"), "Redis is loading its data"),
        (redis_error("MISCONF Redis is configured to save RDB snapshots"), "cannot write its snapshot"),
        (redis_error("OOM command not allowed when used memory > 'maxmemory'."), "Redis is out of memory"),
        (redis_error("MASTERDOWN Link with MASTER is down"), "has lost its primary"),
        (redis_error("BUSY Redis is busy running a script"), "Redis is busy with a script"),
        (redis_error("ERR max number of clients reached"), "Redis does not accept the connection"),
        (RedisConnectionError("Connection closed by server."), "the connection was closed"),
        (RedisTimeoutError("Timeout reading from socket"), "no answer in time"),
        (BrokerBlocked(), "accepts no messages because of a memory or disk alarm"),
        (TimeoutError("timed out"), "no answer in time"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its host name cannot be resolved"),
        (OSError("Server unexpectedly closed connection"), "the connection broke"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), "its TLS certificate is not trusted"),
        (ssl.SSLError(1, "wrong version number"), "the TLS handshake failed"),
        (ssl.SSLEOFError(8, "EOF occurred"), "the connection was closed"),
        *[
            (OSError(number, os.strerror(number)), text)
            for number, text in {
                errno.EINVAL: "its address or a socket option is not valid",
                errno.ECONNREFUSED: "nothing listens",
                errno.ECONNRESET: "the connection was closed",
                errno.EPIPE: "the connection was closed",
                errno.EHOSTUNREACH: "no route",
                errno.ETIMEDOUT: "no answer in time",
                errno.EMFILE: "too many open files",
                errno.ENOSPC: "the disk is full",
            }.items()
        ],
    ],
    ids=repr,
)
def test_an_error_is_said_in_words(exc: Exception, text: str) -> None:
    wrapped = raised_from(exc, OperationalError(str(exc)), explicit=True)
    redis = type(exc).__module__.startswith("redis")
    outer = RuntimeError() if redis else RedisConnectionError("Error connecting")
    unchained = raised_from(exc, outer, explicit=False)
    for error in (exc, wrapped, unchained):
        fault = explain(error)
        assert text in fault.text
        assert "None1" not in str(fault)
        assert fault.advice


def test_what_has_no_code_keeps_its_own_text() -> None:
    for exc in (KeyError("x"), RuntimeError("odd thing")):
        assert str(explain(exc)) == str(exc)
    assert str(explain(RuntimeError())) == "RuntimeError"


def test_a_lost_subscription_says_why_itself() -> None:
    exc = raised_from(amqp_error(403, "in exclusive use"), SubscriptionLost("another reads", "wait"), explicit=True)
    assert str(explain(exc)) == "another reads: wait"


@pytest.mark.parametrize("make", [RuntimeError, OSError, RedisConnectionError, lambda text: amqp_error(406, text)])
def test_a_detail_is_one_short_line_without_passwords(make: Any) -> None:
    said = str(explain(make("refused\r\nby amqp://user:secret@host/vhost " + 2000 * "x")))
    assert "secret" not in said
    assert "\n" not in said
    assert len(said) < MAX_DETAIL + 300


def test_a_sentinel_that_is_not_there_is_not_said_to_know_no_primary() -> None:
    sentinel = Sentinel([("127.0.0.1", 1)])
    with pytest.raises(MasterNotFoundError) as caught:
        sentinel.discover_master("main")
    fault = explain(caught.value)
    assert fault.text == "no Sentinel names a primary"
    assert "answers at its address" in fault.advice
