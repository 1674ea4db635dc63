"""The queue for events: what is acknowledged when. The rest needs a RabbitMQ: tests/live/test_durable_queue.py."""

from typing import Any

import pytest

from taskmon.receiving import queue
from taskmon.receiving.queue import Acks


class Channel:
    def __init__(self) -> None:
        self.acked: list[tuple[int, bool]] = []

    def basic_ack(self, tag: int, multiple: bool) -> None:
        self.acked.append((tag, multiple))


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may change."""
    moment = [100.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: moment[0])
    return moment


def test_what_was_applied_is_acknowledged_together(channel: Channel, now: list[float]) -> None:
    acks = Acks(channel)
    for tag, received in [(0, 0), (3, 30), (3, 30), (5, 50), (9, 90)]:
        acks.note(tag, received)
    acks.ack(29)
    assert channel.acked == []
    now[0] += 1
    acks.ack(89)
    now[0] += 0.01
    acks.ack(90)
    assert channel.acked == [(5, True)]
    now[0] += queue.ACK_INTERVAL
    acks.ack(90)
    assert channel.acked == [(5, True), (9, True)]
    now[0] += 1
    acks.ack(90)
    acks.note(9, 95)
    now[0] += 1
    acks.ack(95)
    assert channel.acked[2:] == []


def test_messages_without_events_are_acknowledged_too(channel: Channel, now: list[Any]) -> None:
    acks = Acks(channel)
    acks.note(7, 0)
    acks.ack(0)
    assert channel.acked == [(7, True)]
