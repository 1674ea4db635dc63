"""Where CI=true the live tests cannot be left out unnoticed: the hooks of `guard.py`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

GUARD = Path(__file__).with_name("guard.py")
PASSES = "def test_a(): pass"
LIVE = "import pytest\n@pytest.fixture\ndef broker(): pass\ndef test_c(broker): pass"
SKIPS = "import pytest\ndef test_b(): pytest.skip('no broker here')"
SKIPS_ITS_FILE = "import pytest\npytest.skip('no broker here', allow_module_level=True)"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite with one test of its own and the guard, but without live tests yet."""
    live = tmp_path / "tests" / "live"
    live.mkdir(parents=True)
    shutil.copy(GUARD, live / "conftest.py")
    (tmp_path / "tests" / "test_unit.py").write_text(PASSES)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = live: real brokers\n")
    return tmp_path


def run_pytest(suite: Path, *arguments: str, ci: bool) -> tuple[int, str]:
    """Run the suite; return the exit status and the output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
    return done.returncode, done.stdout


@pytest.mark.parametrize("content", [SKIPS, SKIPS_ITS_FILE])
def test_a_skipped_live_test_fails_only_on_ci(suite: Path, content: str) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(f"{PASSES}\n{content}")

    assert run_pytest(suite, ci=False)[0] == 0
    status, output = run_pytest(suite, ci=True)

    assert status != 0
    assert "A live test may not be skipped where CI=true" in output
    assert "no broker here" in output


def test_a_whole_suite_without_live_tests_fails_only_on_ci(suite: Path) -> None:
    (suite / "tests" / "live" / "test_no_broker.py").write_text(PASSES)

    assert run_pytest(suite, ci=False)[0] == 0
    status, output = run_pytest(suite, ci=True)

    assert status == 1
    assert "no live test ran" in output


def test_live_tests_that_ran_pass_on_ci(suite: Path) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(LIVE)

    status, output = run_pytest(suite, ci=True)

    assert status == 0
    assert output.splitlines()[-1].strip("= ").startswith("2 passed")


@pytest.mark.parametrize("arguments", [("tests/test_unit.py",), ("-m", "not live"), ("--ignore=tests/live",)])
def test_a_part_of_the_suite_needs_no_live_tests(suite: Path, arguments: tuple[str, ...]) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(LIVE)

    assert run_pytest(suite, *arguments, ci=True)[0] == 0
