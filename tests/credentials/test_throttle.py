"""Failures are counted by key, in a window, and the keys are bounded."""

import pytest
from asking import Clock

from taskmon.credentials.throttle import Throttle
from taskmon.errors import TooManyRequests


def test_throttle_counts_in_a_window() -> None:
    clock = Clock()
    throttle = Throttle(window=60, clock=clock)
    for _ in range(3):
        throttle.check("a", 3)
        throttle.failed("a")
    clock.now += 10
    with pytest.raises(TooManyRequests) as caught:
        throttle.check("a", 3)
    assert caught.value.retry_after == 50
    throttle.check("b", 3)
    clock.now += 50
    throttle.check("a", 3)
    throttle.failed("a")
    throttle.check("a", 3)


def test_attempts_under_way_count_until_they_end() -> None:
    throttle = Throttle(window=60, clock=Clock())
    throttle.failed("a")
    throttle.begin("a", "b")
    throttle.check("a", 3)
    throttle.begin("a")
    with pytest.raises(TooManyRequests) as caught:
        throttle.check("a", 3)
    assert caught.value.retry_after == 1
    throttle.end("a", "b")
    throttle.check("a", 3)
    throttle.end("a")
    assert not throttle._under_way


def test_throttle_is_bounded() -> None:
    throttle = Throttle(most_keys=10)
    for number in range(1000):
        throttle.failed(str(number))
    assert len(throttle) == 10
    with pytest.raises(TooManyRequests):
        throttle.check("999", 1)
