"""How lengths are asked for: what each kind of broker says, and what it cannot say."""

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound
from kombu.connection import Connection
from kombu.transport import memory, virtual
from serving import make_app

from taskmon.cluster.queue_lengths import NOT_TOLD, Evidence, QueueLength, measure

ERRORS = {
    "missing": NotFound("NOT_FOUND - no queue 'missing' in vhost '/'", (50, 10)),
    "down": NotFound("NOT_FOUND - home node 'rabbit@two' of durable queue 'down' is down", (50, 10)),
    "private": AccessRefused("ACCESS_REFUSED - access to queue 'private' refused", (50, 10)),
}


class FakeRabbit:
    """What is seen of a connection to RabbitMQ: a channel that is closed once something was refused."""

    channel_errors = (NotFound, AccessRefused)
    transport = SimpleNamespace(driver_type="amqp")

    def __init__(self, product: str) -> None:
        self.channels = 0
        self.connection = SimpleNamespace(server_properties={"product": product})
        self._channel: Any = None

    @property
    def default_channel(self) -> Any:
        if self._channel is None:
            self._channel = self._make()
        return self._channel

    def revive(self, channel: None) -> None:
        self._channel = channel

    def _make(self) -> Any:
        self.channels += 1
        closed = False

        def queue_declare(queue: str, passive: bool) -> Any:
            nonlocal closed
            assert passive
            assert not closed
            if queue in ERRORS:
                closed = True
                raise ERRORS[queue]
            return SimpleNamespace(message_count=5, consumer_count=2)

        return SimpleNamespace(queue_declare=queue_declare)


def test_rabbitmq_says_which_queue_is_gone_and_which_it_cannot_look_at() -> None:
    rabbit: Any = FakeRabbit("RabbitMQ")
    found = list(measure(rabbit, ["a", "missing", "private", "down", "z"], Evidence()))
    assert [(one.name, one.messages, one.consumers) for one in found] == [
        ("a", 5, 2),
        ("missing", 0, 0),
        ("private", None, None),
        ("down", None, None),
        ("z", 5, 2),
    ]
    assert [bool(one.reason) for one in found] == [False, False, True, True, False]
    assert rabbit.channels == 4
    other: Any = FakeRabbit("LavinMQ")
    assert [one.messages for one in measure(other, ["down"], Evidence())] == [0]


def test_a_broker_that_tells_no_length_is_not_taken_to_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Channel, "_size", virtual.Channel._size)
    with make_app("memory://").connection_for_read() as connection:
        assert list(measure(connection, ["mail"], Evidence())) == [QueueLength("mail", None, reason=NOT_TOLD)]


@pytest.mark.parametrize("driver", ["sqs", "azureservicebus"])
def test_a_broker_that_makes_a_queue_when_asked_is_not_asked(driver: str) -> None:
    connection: Any = SimpleNamespace(transport=SimpleNamespace(driver_type=driver))
    assert list(measure(connection, ["mail"], Evidence())) == [QueueLength("mail", None, reason=NOT_TOLD)]


def test_no_queue_is_made_in_a_folder(tmp_path: Any) -> None:
    options = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path), "control_folder": str(tmp_path)}
    with Connection("filesystem://", transport_options=options) as connection:
        with connection.SimpleQueue("mail") as queue:
            queue.put({})
        before = sorted(path.name for path in tmp_path.iterdir())
        assert list(measure(connection, ["mail", "none"], Evidence())) == [
            QueueLength("mail", 1),
            QueueLength("none", 0),
        ]
        assert sorted(path.name for path in tmp_path.iterdir()) == before
