"""The lock files agree with pyproject.toml, and what is said of installing is true."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from serving import repository

from taskmon import __version__

LOCKS = repository() / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((repository() / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
RUNNING: list[str] = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra),
    *GROUPS["build"],
]
WANTED = {"run": RUNNING, "dev": [*RUNNING, *GROUPS["dev"]], "flower": GROUPS["flower"]}


def read_lock(name: str) -> dict[str, Requirement]:
    """Read a lock file; refuse what is not pinned to one version and at least one hash."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", "")
    locked = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        pinned, *hashes = line.split("--hash=")
        requirement = Requirement(pinned.strip())
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), pinned
        assert hashes, pinned
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), pinned
        locked[canonicalize_name(requirement.name)] = requirement
    return locked


def version_of(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    return Version(specifier.version)


def missing(wanted: Iterable[str], locked: dict[str, Requirement]) -> list[str]:
    """List the requirements that a lock does not meet, on one platform or all."""
    return [
        one
        for one in map(Requirement, wanted)
        if (found := locked.get(canonicalize_name(one.name))) is None
        or not one.specifier.contains(version_of(found), prereleases=True)
        or (found.marker is not None and found.marker != one.marker)
    ]


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_meets_all_that_the_project_asks_for(name: str) -> None:
    assert not missing(WANTED[name], read_lock(name)), "run `make lock`"


def test_a_bound_that_the_lock_does_not_reach_is_noticed() -> None:
    locked = read_lock("run")
    assert missing(["tornado>=999"], locked)
    assert missing(["tornado[extra]<1"], locked)
    assert missing(["not-locked-at-all"], locked)


def test_running_and_developing_take_the_same_versions() -> None:
    run, dev = read_lock("run"), read_lock("dev")
    assert {name: dev.get(name) for name in run} == run
    assert not {"pytest", "mypy", "ruff", "schemathesis"} & run.keys()


def test_every_file_is_pinned_the_same_from_any_index() -> None:
    for path in LOCKS.iterdir():
        assert not re.search(r"://|--(extra-)?index-url|--find-links|file:| @ ", path.read_text(encoding="utf-8"))


def test_the_lock_covers_each_version_of_python() -> None:
    """A lock of one Python only has no markers for another."""
    for classifier in PROJECT["project"]["classifiers"]:
        if version := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier):
            environment = {"python_version": version[1], "python_full_version": f"{version[1]}.4", "os_name": "posix"}
            for name, wanted in WANTED.items():
                applicable = {
                    key: one
                    for key, one in read_lock(name).items()
                    if not one.marker or one.marker.evaluate(environment)
                }
                assert not missing(wanted, applicable), f"{name} on {version[1]}"


def test_each_lock_is_installed_by_a_script() -> None:
    named = "".join(Path(repository() / path).read_text("utf-8") for path in ("Makefile", "scripts/make-flower.sh"))
    assert {path.name for path in LOCKS.iterdir()} == set(re.findall(r"requirements/(\w+\.txt)", named))


def test_the_distribution_has_a_name_of_its_own() -> None:
    """`pip install taskmon` installs another program."""
    assert PROJECT["project"]["name"] == "celery-taskmon"
    assert version("celery-taskmon") == __version__
    assert {one.value for one in entry_points(name="taskmon")} == {"taskmon.cli:main", "taskmon.cli:celery_command"}


def test_every_command_that_installs_taskmon_names_its_distribution() -> None:
    said = []
    for pattern in ("taskmon/**/*.py", "docs/*.md", "examples/*", "*.md"):
        for path in repository().glob(pattern):
            said += re.findall(r"pip install [`'\"]?([\w.-]+)(?:\[([\w,]+)\])?", path.read_text(encoding="utf-8"))
    assert {name for name, _ in said} <= {".", "celery-taskmon"}
    named = {extra for _, extras in said for extra in extras.split(",") if extra}
    assert named <= PROJECT["project"]["optional-dependencies"].keys()
    assert {"htpasswd", "oidc", "postgres"} <= named
