"""The pytest hooks of this directory: the mark `live`, and no way around the live tests where CI=true.

`conftest.py` takes them in, so pytest calls those about a test or a file only for this directory.
A live test, in what follows, is one that has asked for a broker.
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BROKERS = {"broker", "redis_broker", "rabbitmq_broker", "redis_server", "rabbitmq_server"}
LIVE_TESTS_RUN = pytest.StashKey[int]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this directory."""
    item.add_marker("live")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count the live tests that ran; where CI=true make a skip a failure."""
    report = yield
    if report.when == "call" and not report.skipped and not BROKERS.isdisjoint(item.fixturenames):
        item.config.stash[LIVE_TESTS_RUN] = item.config.stash.get(LIVE_TESTS_RUN, 0) + 1
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where CI=true make a skipped file of live tests a failure."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _on_ci() and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"A live test may not be skipped where CI=true. {reason}"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI=true fail a run of the whole suite in which no live test ran."""
    if _no_live_test_ran(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say why a run without live tests failed."""
    if _no_live_test_ran(config):
        terminalreporter.section("live tests", red=True)
        terminalreporter.line("FAILED: no live test ran. Where CI=true the whole suite includes them.")


def _on_ci() -> bool:
    return os.environ.get("CI") == "true"


def _no_live_test_ran(config: pytest.Config) -> bool:
    chosen = config.option.markexpr or config.option.keyword or config.option.collectonly
    return _on_ci() and not chosen and _whole_suite(config) and not config.stash.get(LIVE_TESTS_RUN, 0)


def _whole_suite(config: pytest.Config) -> bool:
    """Whether this directory, or one around it, was asked for, by name or by default."""
    asked_for = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    return any("::" not in argument for argument in config.args) and any(
        HERE.is_relative_to(path.resolve()) for path in asked_for
    )
