"""What pytest does with `tests/live`: its marks, and no way around it.

Every test there has the mark `live`. pytest-rerunfailures runs it once more when it fails, and pytest-xdist runs the
tests of a file that use the same broker in one process. Where CI=true a skip is a failure. A run of the whole suite
fails when no live test ran. A live test, in what follows, is one that has asked for a broker.
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

LIVE = Path(__file__).parent / "live"
BROKERS = {"broker", "broker_server", "redis_broker", "rabbitmq_broker", "redis_server", "rabbitmq_server"}
USED_A_BROKER = "used_a_broker"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of the directory."""
    if not item.path.is_relative_to(LIVE):
        return
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    names = [str(parameters[name]) for name in ("broker", "broker_server") if name in parameters]
    item.add_marker("live")
    item.add_marker(pytest.mark.flaky(reruns=1))
    item.add_marker(pytest.mark.xdist_group("-".join([item.path.stem, *names])))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a live test ran; where CI=true make a skip a failure."""
    report = yield
    if item.path.is_relative_to(LIVE):
        if report.when == "call" and not report.skipped and not BROKERS.isdisjoint(getattr(item, "fixturenames", ())):
            report.user_properties.append((USED_A_BROKER, True))
        if not hasattr(report, "wasxfail"):
            _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where CI=true make a skipped file of live tests a failure."""
    report = yield
    if collector.path.is_relative_to(LIVE):
        _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") == "true" and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"A live test may not be skipped where CI=true. {reason}"


class LiveTestCount:
    """Counts the live tests that ran, in the process that reports them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one."""
        if report.when == "call":
            self._ran += (USED_A_BROKER, True) in report.user_properties

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run of the whole suite in which none ran."""
        if self._none_ran() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why it failed."""
        if self._none_ran():
            terminalreporter.section("live tests", red=True)
            terminalreporter.line(
                "FAILED: no live test ran. The whole suite includes them; --ignore=tests/live does not."
            )

    def _none_ran(self) -> bool:
        option = self._config.option
        chosen = option.markexpr or option.keyword or option.collectonly
        return not chosen and _whole_suite(self._config) and not self._ran


def pytest_configure(config: pytest.Config) -> None:
    """Count in the one process that reports; those of pytest-xdist only run tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LiveTestCount(config))


def _whole_suite(config: pytest.Config) -> bool:
    """Whether `tests/live`, or a directory around it, was asked for, by name or by default."""
    here = config.invocation_params.dir
    if any(LIVE.is_relative_to((here / ignored).resolve()) for ignored in config.option.ignore or ()):
        return False
    return any(LIVE.is_relative_to((here / argument).resolve()) for argument in config.args if "::" not in argument)
