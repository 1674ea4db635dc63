"""The live tests cannot be left out unnoticed, in one process or in several, and a few of them get a second try."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

HOOKS = Path(__file__).with_name("live_hooks.py")
PASSES = "def test_a(): pass"
LIVE = "import pytest\n@pytest.fixture\ndef broker(): pass\ndef test_c(broker): pass"
SKIPS = "import pytest\ndef test_b(): pytest.skip('no broker here')"
SKIPS_ITS_FILE = "import pytest\npytest.skip('no broker here', allow_module_level=True)"
FAILS_ONCE = """
import pytest
TRIES = set()
@pytest.fixture
def broker(): pass
@pytest.mark.parametrize("number", range({}))
def test_d(broker, number):
    first = number not in TRIES
    TRIES.add(number)
    assert not first
"""
IN_PROCESSES = ("-p", "xdist", "-n", "2", "--dist", "loadgroup")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite with one test of its own and the hooks, but without live tests yet."""
    tests = tmp_path / "tests"
    (tests / "live").mkdir(parents=True)
    shutil.copy(HOOKS, tests / "conftest.py")
    (tests / "test_unit.py").write_text(PASSES)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers =\n  live\n  xdist_group\n")
    return tmp_path


def run_pytest(suite: Path, *arguments: str, ci: bool = True) -> tuple[int, str]:
    """Run the suite; return the exit status and the output."""
    environment = {
        key: value for key, value in os.environ.items() if key != "CI" and not key.startswith(("PYTEST", "COV_"))
    }
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_rerunfailures", *arguments]
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
    return done.returncode, done.stdout


@pytest.mark.parametrize(("content", "how"), [(SKIPS, ()), (SKIPS_ITS_FILE, ()), (SKIPS, IN_PROCESSES)])
def test_a_skipped_live_test_fails_only_on_ci(suite: Path, content: str, how: tuple[str, ...]) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(LIVE)
    (suite / "tests" / "live" / "test_more.py").write_text(content)

    assert run_pytest(suite, *how, ci=False)[0] == 0
    status, output = run_pytest(suite, *how)

    assert status != 0
    assert "A live test may not be skipped where CI=true" in output
    assert "no broker here" in output


@pytest.mark.parametrize(("content", "how"), [(PASSES, ()), (SKIPS, ()), (SKIPS, IN_PROCESSES)])
def test_a_whole_suite_without_live_tests_fails(suite: Path, content: str, how: tuple[str, ...]) -> None:
    (suite / "tests" / "live" / "test_no_broker.py").write_text(content)

    status, output = run_pytest(suite, *how, ci=False)

    assert status == 1
    assert "no live test ran" in output


@pytest.mark.parametrize("how", [(), IN_PROCESSES])
def test_live_tests_that_ran_pass(suite: Path, how: tuple[str, ...]) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(LIVE)

    status, output = run_pytest(suite, *how)

    assert status == 0
    assert output.splitlines()[-1].strip("= ").startswith("2 passed")


@pytest.mark.parametrize("arguments", [("tests/test_unit.py",), ("-m", "not live"), ("--ignore=tests/live",)])
def test_a_part_of_the_suite_needs_no_live_tests(suite: Path, arguments: tuple[str, ...]) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(LIVE)

    assert run_pytest(suite, *arguments)[0] == 0


@pytest.mark.parametrize("how", [(), IN_PROCESSES])
def test_a_few_live_tests_get_a_second_try(suite: Path, how: tuple[str, ...]) -> None:
    live = suite / "tests" / "live" / "test_live.py"

    live.write_text(FAILS_ONCE.format(2))
    status, output = run_pytest(suite, "-raR", "--max-suite-reruns=2", *how)
    assert status == 0
    assert {"3 passed", "2 rerun"} <= set(re.split(", | in ", output.splitlines()[-1].strip("= ")))
    for number in range(2):
        assert f"RERUN tests/live/test_live.py::test_d[{number}]" in output

    live.write_text(FAILS_ONCE.format(3))
    assert run_pytest(suite, "-raR", "--max-suite-reruns=2", *how)[0] == 1


def test_tests_of_a_file_run_in_one_process(suite: Path) -> None:
    name_process = "import os\nimport pytest\n@pytest.mark.parametrize('number', range(8))\ndef test_{}(number):\n"
    for file in ("one", "two"):
        writes = f"    open({str(suite / file)!r}, 'a').write(f'{{os.getpid()}}\\n')"
        (suite / "tests" / "live" / f"test_{file}.py").write_text(name_process.format(file) + writes)

    run_pytest(suite, *IN_PROCESSES)

    for file in ("one", "two"):
        processes = (suite / file).read_text().split()
        assert len(processes) == 8
        assert len(set(processes)) == 1


def test_other_tests_get_none(suite: Path) -> None:
    (suite / "tests" / "live" / "test_live.py").write_text(LIVE)
    (suite / "tests" / "test_unit.py").write_text(FAILS_ONCE.format(1))

    assert run_pytest(suite)[0] == 1
