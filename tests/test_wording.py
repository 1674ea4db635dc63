"""Numbers, durations and times as people read them."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from taskmon.wording import say_duration, say_roughly, say_tasks, say_when

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def test_a_number_of_tasks() -> None:
    said = [say_tasks(number) for number in (0, 1, 999, 1_234_567)]
    assert said == ["0 tasks", "1 task", "999 tasks", "1,234,567 tasks"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-0.1, "0.0 seconds"),
        (0.04, "0.0 seconds"),
        (2.34, "2.3 seconds"),
        (61.2, "1 minute and 1 second"),
        (120, "2 minutes"),
        (3725, "1 hour, 2 minutes and 5 seconds"),
    ],
)
def test_a_duration(seconds: float, said: str) -> None:
    assert say_duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "a second"), (0.2, "a second"), (45, "45 seconds"), (185, "3 minutes"), (7200, "2 hours")],
)
def test_a_rough_duration(seconds: float, said: str) -> None:
    assert say_roughly(seconds) == said


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (NOW - timedelta(days=3), "3 days ago"),
        (NOW + timedelta(days=2, hours=1), "2 days from now"),
        (NOW - timedelta(days=1100), "3 years ago"),
        (NOW.astimezone() - timedelta(minutes=5), "5 minutes ago"),
    ],
)
def test_a_time(moment: datetime, said: str) -> None:
    assert say_when(moment, NOW) == said


def test_a_command_that_says_no_number_does_without_humanize() -> None:
    code = "import sys, taskmon.cli, taskmon.app; sys.exit('humanize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
