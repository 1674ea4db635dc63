"""Writes down which tests passed and which failed, an id a line, where the variable TALLY says where: `run-tests.sh`.

pytest's own last line counts a test that passed and could not be taken down as passed, too.
"""

import os
from pathlib import Path

import pytest

_OUTCOMES: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what became of a test: whatever failed of it, it failed."""
    if report.failed:
        _OUTCOMES[report.nodeid] = "failed"
    elif report.when == "call" and report.passed:
        _OUTCOMES.setdefault(report.nodeid, "passed")


def pytest_sessionfinish() -> None:
    """Write it."""
    place = os.environ.get("TALLY")
    for outcome in ("passed", "failed") if place else ():
        ids = [node for node, found in _OUTCOMES.items() if found == outcome]
        Path(f"{place}.{outcome}").write_text("".join(f"{node}\n" for node in ids), encoding="utf-8")
