"""What is wrong with a broker or a result backend, in words: one table by type and code of the error.

A library's text is at most a detail in parentheses; what decides is the class of the error, its AMQP reply code, the
error code that Redis begins an answer with, or the error number of the operating system.
"""

import errno
from typing import Any, Final, NamedTuple

from .masking import mask_passwords

#: Errors of errors that are followed, and characters of a detail.
MAX_CAUSES: Final = 8
MAX_DETAIL: Final = 300


class Fault(NamedTuple):
    """What is wrong and what to do.

    `text` names no host, user or queue, so that it can be told to anyone, and is empty where only `detail` is known:
    what the other end or the library said.
    """

    text: str
    advice: str = ""
    detail: str = ""

    def __str__(self) -> str:
        if not self.text:
            return self.detail
        whole = f"{self.text}: {self.advice}" if self.advice else self.text
        return f"{whole} ({self.detail})" if self.detail else whole


class SubscriptionLost(ConnectionError):
    """Events no longer come in over this connection; the text says why, `advice` what to do."""

    def __init__(self, text: str, advice: str = "", detail: str = "") -> None:
        super().__init__(text)
        self.fault = Fault(text, advice, detail)


class BrokerBlocked(ConnectionError):
    """RabbitMQ accepts no messages, because of an alarm."""


_LOGIN: Final = Fault("the user name or the password is refused", "check the broker URL")
_PERMISSION: Final = Fault("the user lacks a permission", "grant it (rabbitmqctl set_permissions)")
_SILENT: Final = Fault("no answer in time", "it hangs, is overloaded, or the network drops packets")
_CLOSED: Final = Fault(
    "the connection was closed at the other end",
    "it was restarted, a proxy cut the connection, or the port expects TLS (amqps://, rediss://)",
)
_RESTARTED: Final = Fault("the broker closed the connection", "it is shutting down, or an administrator closed it")
_UNREACHABLE: Final = Fault("there is no route to its address", "check the host of the URL and the network")
_VHOST: Final = Fault(
    "the virtual host does not exist, or may not be used",
    "check the path of the broker URL, the permissions of the user, and the limits of the virtual host",
)
_FILES: Final = Fault("too many open files", "raise the limit of open files (ulimit -n, LimitNOFILE=)")
_CLUSTER: Final = Fault("the Redis Cluster cannot serve this", "check that its slots are covered")

#: By the reply code of AMQP. 403 is refined by what was refused.
_BY_AMQP_CODE: Final = {
    311: Fault("the message is too large for the broker", "raise its max_message_size"),
    320: _RESTARTED,
    402: _VHOST,
    403: _PERMISSION,
    404: Fault("a queue or an exchange does not exist", "it was deleted while in use"),
    405: Fault("a queue is locked", "another connection uses it exclusively"),
    406: Fault(
        "a queue or an exchange exists with other settings",
        "delete it, or give it the settings that Celery has for it",
    ),
    501: Fault("the broker does not understand the connection", "check that the port is that of AMQP"),
    504: Fault("the broker closed the channel", "see the log of the broker"),
    506: Fault("the broker lacks resources", "see the log of the broker"),
    530: _VHOST,
    541: Fault("the broker has an internal error", "see the log of the broker"),
}

#: By the word with which Redis begins an error.
_BY_REDIS_CODE: Final = {
    "NOAUTH": Fault("a password is required", "put it into the URL: redis://:password@host/0"),
    "WRONGPASS": _LOGIN,
    "NOPERM": Fault("the user lacks a permission", "extend its ACL by the command or the channel (ACL SETUSER)"),
    "READONLY": Fault(
        "this Redis is a read-only replica", "name the primary in the URL, or use Sentinel (sentinel://)"
    ),
    "LOADING": Fault("Redis is loading its data", "it answers when that is done"),
    "BUSY": Fault("Redis is busy with a script", "wait for it, or use SCRIPT KILL"),
    "MISCONF": Fault(
        "Redis cannot write its snapshot and refuses writes", "free disk space, or see the log of Redis"
    ),
    "OOM": Fault("Redis is out of memory and refuses writes", "raise maxmemory, or remove keys"),
    "MASTERDOWN": Fault(
        "this replica has lost its primary", "see replica-serve-stale-data, or wait for the failover"
    ),
    "NOREPLICAS": Fault("Redis has too few replicas and refuses writes", "see min-replicas-to-write"),
    "DENIED": Fault("Redis is in protected mode", "set a password, or bind it to an address"),
    "CLUSTERDOWN": _CLUSTER,
    "MOVED": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
}

#: By the error number of the operating system.
_BY_ERRNO: Final = {
    errno.ECONNREFUSED: Fault(
        "nothing listens at its address", "check that it runs, and the host and port of the URL"
    ),
    errno.ECONNRESET: _CLOSED,
    errno.EPIPE: _CLOSED,
    errno.ECONNABORTED: _CLOSED,
    errno.ENOTCONN: _CLOSED,
    errno.EBADF: _CLOSED,
    errno.ETIMEDOUT: _SILENT,
    errno.EAGAIN: _SILENT,
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: _UNREACHABLE,
    errno.EHOSTDOWN: _UNREACHABLE,
    errno.EADDRNOTAVAIL: Fault("its address cannot be connected to from here", "check the host and port of the URL"),
    errno.EINVAL: Fault(
        "its address or a socket option is not valid here",
        "check the host, the port and the socket options of the URL and of broker_transport_options",
    ),
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EACCES: Fault("the system does not allow the connection", "check firewall, SELinux and file permissions"),
    errno.EPERM: Fault("the system does not allow the connection", "check firewall, SELinux and file permissions"),
    errno.ENOENT: Fault("the socket or the directory does not exist", "check the path in the URL"),
    errno.ENOSPC: Fault("the disk is full", "free disk space"),
    errno.EROFS: Fault("the file system is read-only", "check the mount"),
}

#: By the class of an error or of one that it derives from.
_BY_TYPE: Final = {
    f"{__name__}.BrokerBlocked": Fault(
        "the broker accepts no messages because of a memory or disk alarm",
        "free memory or disk space on the broker (rabbitmq-diagnostics alarms); what was sent is accepted then",
    ),
    "amqp.exceptions.ConsumerCancelled": Fault(
        "the queue of events was deleted, or has moved to another node",
        "taskmon declares it again; look for a policy or a person that deletes queues",
    ),
    "amqp.exceptions.MessageNacked": Fault("the broker rejected the message", "the queue is full (x-overflow)"),
    "amqp.exceptions.RecoverableConnectionError": _CLOSED,
    "redis.exceptions.AuthenticationError": _LOGIN,
    "redis.exceptions.AuthorizationError": _PERMISSION,
    "redis.exceptions.TimeoutError": _SILENT,
    "redis.exceptions.ConnectionError": _CLOSED,
    "redis.sentinel.MasterNotFoundError": Fault(
        "no Sentinel names a primary",
        "check that one answers at its address, and master_name in broker_transport_options",
    ),
    "redis.sentinel.SlaveNotFoundError": Fault("Sentinel knows no replica", "check master_name"),
    "ssl.SSLCertVerificationError": Fault(
        "its TLS certificate is not trusted", "check ca_certs, the host name and the validity of the certificate"
    ),
    "ssl.SSLError": Fault(
        "the TLS handshake failed", "check that the port speaks TLS, and the certificates on both ends"
    ),
    "ssl.SSLEOFError": _CLOSED,
    "socket.gaierror": Fault("its host name cannot be resolved", "check the host of the URL and the DNS"),
    "builtins.UnicodeError": Fault("its host name is not valid", "check the host of the URL"),
    "builtins.TimeoutError": _SILENT,
    "builtins.ConnectionError": _CLOSED,
    "builtins.OSError": Fault(
        "the connection broke", "check the URL, and whether the port expects TLS (amqps://, rediss://)"
    ),
}

#: Details that add nothing, by the text of the fault.
_NO_DETAIL: Final = frozenset({_SILENT.text, _BY_TYPE["amqp.exceptions.ConsumerCancelled"].text})

#: The class of AMQP methods by which a connection begins and ends: what is refused there is the login.
_CONNECTION_METHODS: Final = 10

#: Redis begins an error without a code of its own so. Where it ends the connection, it did not accept it.
_REDIS_PLAIN: Final = "ERR"
_NOT_ACCEPTED: Final = Fault("Redis does not accept the connection", "see its maxclients and its log")


def explain(exc: BaseException) -> Fault:
    """Return what an error of a client library means; of an unknown one, its own text."""
    for cause in _causes(exc):
        if isinstance(cause, SubscriptionLost):
            return cause.fault
        fault = _find(cause)
        if fault is not None:
            detail = "" if fault.text in _NO_DETAIL else _detail(cause)
            return fault._replace(detail=detail)
    return Fault("", detail=_detail(exc))


def is_blocked(exc: BaseException) -> bool:
    """Whether an error comes from an alarm: what was sent then is accepted when the alarm ends."""
    return any(isinstance(cause, BrokerBlocked) for cause in _causes(exc))


def _causes(exc: BaseException) -> list[BaseException]:
    """Return an error and those that it came from: those with a code first, those of redis-py last."""
    chain: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and len(chain) < MAX_CAUSES and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return sorted(chain, key=_rank)


def _rank(exc: BaseException) -> int:
    if isinstance(exc, SubscriptionLost | BrokerBlocked) or _by_code(exc) is not None:
        return 0
    return 2 if _library(exc) == "redis" else 1


def _library(exc: BaseException) -> str:
    return type(exc).__module__.partition(".")[0]


def _find(exc: BaseException) -> Fault | None:
    return _by_code(exc) or next(
        (fault for kind in type(exc).__mro__ if (fault := _BY_TYPE.get(f"{kind.__module__}.{kind.__qualname__}"))),
        None,
    )


def _by_code(exc: BaseException) -> Fault | None:
    library = _library(exc)
    if library == "amqp":
        return _by_amqp_code(exc)
    if library == "redis":
        return _by_redis_code(exc)
    if isinstance(exc, OSError) and type(exc).__module__ not in ("socket", "ssl"):  # these number otherwise
        return _BY_ERRNO.get(exc.errno or 0)
    return None


def _by_amqp_code(exc: Any) -> Fault | None:
    fault = _BY_AMQP_CODE.get(getattr(exc, "reply_code", 0) or 0)
    sig = getattr(exc, "method_sig", None)
    if fault is _PERMISSION and sig and sig[0] == _CONNECTION_METHODS:
        return _LOGIN
    if fault is _RESTARTED and not sig:  # py-amqp says so itself when heartbeats are missing
        return _SILENT
    return fault


def _by_redis_code(exc: Any) -> Fault | None:
    code = getattr(exc, "status_code", None) or str(exc).partition(" ")[0]
    if code == _REDIS_PLAIN and type(exc).__name__ == "ConnectionError":
        return _NOT_ACCEPTED
    return _BY_REDIS_CODE.get(code)


def _detail(exc: BaseException) -> str:
    """Return what the other end said, without passwords, on one line."""
    said = getattr(exc, "reply_text", None) or str(exc)
    return mask_passwords(" ".join(str(said).split()))[:MAX_DETAIL] or type(exc).__name__
