"""When the prober reports silence, when it has taskmon subscribe again, and that a probe is no event to others."""

import json
import time
from typing import Any

import pytest
from serving import make_app

from taskmon.broker_faults import BrokerBlocked, Fault
from taskmon.cluster.connections import BrokerAway
from taskmon.cluster.event_probe import (
    EXCHANGE_PROBE,
    EXCHANGE_QUIET,
    EXCHANGE_UNANSWERED,
    QUEUE_PROBE,
    QUIET,
    SUBSCRIBE_AGAIN,
    UNANSWERED,
    Prober,
    Subscription,
)
from taskmon.receiving.decoding import EventDecoder


class Probing(Prober):
    """A prober of which a test sees what it sends and reports; `error` is what sending raises."""

    def __init__(self) -> None:
        self.subscription = Subscription()
        self.reports: list[Fault | None] = []
        self.sent: list[str] = []
        self.error: Exception | None = None
        super().__init__(make_app(), "q", self.subscription, self.reports.append)
        self.subscription.begin()

    def _send(self, probe: str) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(probe)

    def look(self, times: int = 1, silent_for: float = QUIET, no_events_for: float = 0.0) -> None:
        """Look so often, after such a silence."""
        for _ in range(times):
            now = time.monotonic()
            self.subscription.heard = now - silent_for
            self.subscription.heard_events = now - max(silent_for, no_events_for)
            self._look()


@pytest.mark.parametrize("body", [QUEUE_PROBE, EXCHANGE_PROBE])
def test_a_probe_is_no_event(body: bytes) -> None:
    seen: list[Any] = []
    receiver = make_app().events.Receiver(None, handlers={"*": seen.append})
    receiver._receive(json.loads(body), None)
    decoder = EventDecoder(set(), 1000, 1000, lambda *refused: seen.append(refused), seen.append)
    assert decoder.decode(body) == []
    assert seen == []


def test_a_probe_of_the_queue_says_nothing_of_the_exchange() -> None:
    subscription = Subscription()
    subscription.note(2, 2 * len(QUEUE_PROBE))
    assert (subscription.heard > 0, subscription.heard_events, subscription.proven) == (True, 0, False)
    subscription.note(1, len(EXCHANGE_PROBE))
    assert subscription.heard_events == subscription.heard
    assert subscription.proven


def test_nothing_is_sent_while_events_come_in() -> None:
    prober = Probing()
    prober.look(100, silent_for=0)
    assert prober.sent == []
    assert set(prober.reports) == {None}


def test_silence_is_reported_before_taskmon_subscribes_again() -> None:
    prober = Probing()
    prober.look(UNANSWERED - 1)
    assert prober.reports == []
    prober.look(SUBSCRIBE_AGAIN - UNANSWERED)
    assert prober.subscription.lost is None
    assert {fault.text for fault in prober.reports if fault} == {"test messages to the broker do not come back"}
    prober.look()
    assert prober.subscription.lost is not None
    assert not prober.subscription.active


def test_a_subscription_that_brings_nothing_is_renewed_ever_more_rarely() -> None:
    prober = Probing()
    looks = []
    for _ in range(4):
        count = 0
        while prober.subscription.lost is None:
            prober.look(silent_for=0.5, no_events_for=EXCHANGE_QUIET)  # the queue answers
            count += 1
        looks.append(count)
        prober.subscription.begin()
    assert looks == [EXCHANGE_UNANSWERED * factor for factor in (1, 2, 4, 8)]
    prober.subscription.note(1, 100)
    prober.look(EXCHANGE_UNANSWERED, silent_for=0.5, no_events_for=EXCHANGE_QUIET)
    assert prober.subscription.lost is not None


@pytest.mark.parametrize("error", [BrokerAway("it hangs"), BrokerBlocked()])
def test_what_cannot_be_sent_is_reported_at_once_and_not_counted(error: Exception) -> None:
    prober = Probing()
    prober.error = error
    prober.look(10 * SUBSCRIBE_AGAIN)
    assert len(prober.reports) == 10 * SUBSCRIBE_AGAIN
    assert prober.subscription.lost is None


def test_nothing_is_judged_without_a_subscription_or_while_the_receiver_waits() -> None:
    prober = Probing()
    prober.subscription.busy = True
    prober.look(100)
    prober.subscription.busy, prober.subscription.active = False, False
    prober.look(100)
    assert (prober.sent, prober.reports) == ([], [])
