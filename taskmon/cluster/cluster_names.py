"""The name of the cluster that a Celery app belongs to: what its broker and its events are addressed by.

Two names are equal where two taskmons see the same tasks. Credentials, TLS and the order of several brokers change
nothing of that, so they are not part of the name, and a name may be logged. Reads the configuration only.
"""

import re
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qs

from celery import Celery
from kombu.utils.url import parse_url

from .connections import describe_broker

#: Transports that reach the same broker, and the ports where no other is given.
_SAME: Final = {"amqps": "amqp", "pyamqp": "amqp", "librabbitmq": "amqp", "rediss": "redis"}
_PORTS: Final = {"amqp": 5672, "redis": 6379, "sentinel": 26379}
_TLS_PORTS: Final = {"amqps": (5671, 5672)}
_LOOPBACK: Final = ("", "127.0.0.1", "::1")

#: Transport options that decide which messages are seen.
_TRANSPORT_OPTIONS: Final = ("master_name", "global_keyprefix", "queue_name_prefix", "data_folder_in")

_CREDENTIALS: Final = re.compile(r"(?<=//)[^/@]*@")


def name_cluster(celery_app: Celery) -> str:
    """Return the name of the cluster, such as `redis://localhost:6379/0`; empty where its URL cannot be read."""
    conf = celery_app.conf
    try:
        connection = celery_app.connection_for_read()
        brokers = [_name_broker(parse_url(url)) for url in connection.alt] or [_name_broker(vars(connection))]
    except (ValueError, KeyError, TypeError):  # the consumer says so
        brokers = []
    told = conf.broker_transport_options or {}
    options = [f"{name}={told[name]}" for name in _TRANSPORT_OPTIONS if told.get(name)]
    if conf.event_exchange != "celeryev":
        options.append(f"event_exchange={conf.event_exchange}")
    return " ".join([";".join(sorted(set(brokers))), *options])


def name_cluster_as_before(celery_app: Celery) -> str:
    """Return the name that the histories of earlier versions have for the cluster."""
    return sha256(f"{describe_broker(celery_app)} {celery_app.conf.event_exchange}".encode()).hexdigest()[:16]


def _name_broker(parts: dict[str, Any]) -> str:
    """Return the address of one broker, from a URL's parts or a connection's."""
    scheme = str(parts.get("transport") or parts.get("transport_cls") or "amqp")
    host, port = str(parts["hostname"] or "").lower().rstrip("."), parts["port"]
    if "://" in host:  # a Unix socket, or another library's URL: its path has a case
        return f"{scheme}+{_without_credentials(str(parts['hostname']))}"
    transport = _SAME.get(scheme, scheme)
    own, plain = _TLS_PORTS.get(scheme, (None, None))
    port = plain if own is not None and (port or own) == own else port or _PORTS.get(transport)
    host = "localhost" if host in _LOOPBACK else f"[{host}]" if ":" in host else host
    path = str(parts["virtual_host"] or "").strip("/") or ("0" if transport in ("redis", "sentinel") else "")
    return f"{transport}://{host}{f':{port}' if port else ''}/{path}"


def _without_credentials(url: str) -> str:
    address, _, query = url.partition("?")
    database = parse_qs(query).get("virtual_host", [""])[0]
    return _CREDENTIALS.sub("", address) + (f"?virtual_host={database}" if database else "")
