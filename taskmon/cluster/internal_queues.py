"""Names in a broker that are no destinations of tasks, whatever a worker or an event says. Pure.

On Redis a queue is a key, and so is what kombu keeps there. On RabbitMQ events, commands and replies have exchanges
and queues beside those of tasks.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from celery import Celery

#: What belongs to Celery, kombu and taskmon by their defaults, with any prefix in front of it.
_FIXED: Final = (
    r".*unacked_(?:index|mutex)",
    r"(?:.*\W)?unacked",
    r".*_kombu\..*",
    r".*celery-(?:task|taskset)-meta-.*",
    r".*\.pidbox",
    r"(?:.*\W)?celeryev(?:\..*)?",
    r"celery_delayed_.*",
    r"ae\.undeliver",
    r"taskmon\..*",
    r"amq\.rabbitmq\..*",
)

#: What has the form of a reply queue, of a broker's own, or of kombu's: only somebody's word makes it a destination.
_RESERVED: Final = re.compile(
    r"amq\..*|reply\..*|unacked.*|[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE | re.DOTALL
)

_REDIS_SEPARATOR: Final = "\x06\x16"


class Plumbing:
    """The names that one Celery app's own machinery uses; `own` are further queues of taskmon."""

    def __init__(self, celery_app: Celery, *own: str) -> None:
        patterns = (*_FIXED, *_configured(celery_app), *map(re.escape, own))
        self._pattern: Final = re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)

    def has(self, name: str) -> bool:
        """Whether a name belongs to the machinery: then no task is ever sent there."""
        return self._pattern.fullmatch(name) is not None

    def is_reserved(self, name: str) -> bool:
        """Whether a name looks as if it did: then only the app or an option can make it a destination."""
        return _RESERVED.fullmatch(name) is not None


def _configured(celery_app: Celery) -> Iterator[str]:
    """Yield patterns of the names that are configured otherwise than by default."""
    conf = celery_app.conf
    options = _mapping(conf.broker_transport_options)
    for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key"):
        if isinstance(options.get(name), str):
            yield re.escape(options[name])
    for name in ("keyprefix_queue", "keyprefix_fanout"):
        if isinstance(options.get(name), str) and options[name].partition("%")[0]:
            yield re.escape(options[name].partition("%")[0]) + ".*"
    separator = options.get("sep")
    separator = separator if isinstance(separator, str) and separator else _REDIS_SEPARATOR
    yield rf".+{re.escape(separator)}\d+"  # the list of one priority
    yield rf"{re.escape(str(conf.event_exchange))}(?:\..*)?"
    yield rf"{re.escape(str(conf.event_queue_prefix))}(?:\..*)?"
    prefix = _mapping(conf.result_backend_transport_options).get("global_keyprefix")
    if isinstance(prefix, str) and prefix and prefix != options.get("global_keyprefix"):
        yield re.escape(prefix) + ".*"
    yield rf"{re.escape(str(conf.control_exchange))}\.pidbox"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
