"""Workers that are nothing but their mailbox: kombu's own, on the memory broker of this process, in a thread.

`with answering(app, "celery@w1", ping=lambda state: {"ok": "pong"})` is a worker that answers one command. It
hears all of them, as `heard` says, and is silent on those that it has no handler for.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from patience import PATIENCE

Handler = Callable[..., Any]


@dataclass
class Remote:
    """One worker, as the one who tests sees it: the commands that it heard, with their arguments."""

    hostname: str
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def count(self, name: str) -> int:
        """Count how often a command was heard."""
        return sum(heard == name for heard, _ in self.heard)


@contextmanager
def answering(app: Celery, hostname: str = "celery@w1", **handlers: Handler) -> Iterator[Remote]:
    """Run a worker that answers these commands with what the handlers return or raise."""
    remote = Remote(hostname)
    ready, stop = threading.Event(), threading.Event()

    def on_message(node: Any, body: dict[str, Any], message: Any) -> None:
        if body["destination"] and hostname not in body["destination"]:
            return
        remote.heard.append((body["method"], body["arguments"]))
        if body["method"] in handlers:
            node.handle_message(body, message)

    def run() -> None:
        with app.connection_for_read() as connection:
            mailbox = app.control.mailbox(connection)
            node = mailbox.Node(hostname, state=None, handlers=handlers, channel=connection.default_channel)
            connection.transport.polling_interval = 0.002
            with node.listen(callback=lambda body, message: on_message(node, body, message)):
                ready.set()
                while not stop.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.01)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield remote
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def fine(text: str = "done") -> Handler:
    """Do as told."""
    return lambda state, **arguments: {"ok": text}


def refusing(reason: object) -> Handler:
    """Refuse."""
    return lambda state, **arguments: {"error": reason}


def saying(value: Any) -> Handler:
    """Reply with a value."""
    return lambda state, **arguments: value


#: What a worker answers to inspects.
ANSWERS: dict[str, Any] = {
    "stats": {
        "total": {"app.rotate_keys": 3},
        "pool": {"max-concurrency": 4},
        "broker": {
            "userid": "u",
            "alternates": ["redis://:horse@other/0"],
            "transport_options": {"sentinel_kwargs": {"password": "horse"}, "global_keyprefix": "p"},
        },
    },
    "active_queues": [{"name": "orders", "routing_key": "orders.#"}, {"name": "mail"}],
    "registered": ["app.add [rate_limit=10/m]"],
    "conf": {
        "broker_url": "redis://:horse@h/0",
        "result_backend": "db+postgresql://u:horse@h/db?password=horse",
        "task_default_routing_key": "orders",
        "security_key_password": "horse",
        "redis_password": ["horse", None, True, 7],
        "timezone": "UTC",
    },
    "scheduled": [],
    "active": [{"id": "a", "time_start": {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}}],
    "reserved": [],
    "revoked": ["b"],
}


def inspectable(**other: Any) -> dict[str, Handler]:
    """Answer all inspects, some of them otherwise."""
    return {name: saying(value) for name, value in (ANSWERS | other).items()}
