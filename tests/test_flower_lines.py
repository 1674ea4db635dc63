"""Command lines of Flower as they are found in public repositories: each starts taskmon, with `flower` replaced.

Names of projects, hosts and passwords are others; options, their spelling and their order are as they were found.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from celery.bin.celery import celery as celery_group
from click.testing import CliRunner, Result

from taskmon.cli import celery_command, main
from taskmon.settings import CELERY_ONLY, CELERY_SHORT, FLOWER_ONLY, OPTION, OPTIONS, Settings

BROKER = "memory://broker"
API = "http://guest:hunter2horse@rabbitmq:15672/api/"

#: Line, and what it says.
LINES: list[tuple[str, dict[str, Any]]] = [
    ("celery -A proj flower", {}),
    ("celery -A proj flower --port=5555", {"port": 5555}),
    ("celery -A proj.celery_app flower --port=8888 --address=0.0.0.0", {"port": 8888, "address": "0.0.0.0"}),
    ("celery flower -A proj --port=5555", {"port": 5555}),
    (
        "celery flower -A proj --port=5555 --address=0.0.0.0 --url_prefix=flower --basic_auth=user:password",
        {"url_prefix": "/flower", "address": "0.0.0.0"},
    ),
    (f"celery --broker={BROKER} flower --port=5555", {"broker": BROKER}),
    (f"celery -b {BROKER} flower --purge_offline_workers=1", {"purge_offline_workers": 1.0}),
    (f"celery flower --broker={BROKER} --port=5555", {"broker": BROKER}),
    (f"celery flower --address=0.0.0.0 --port=5555 --broker={BROKER} --basic_auth=user:password", {}),
    (f"celery -A proj --broker={BROKER} flower --url_prefix=flower --basic-auth=user:password", {"broker": BROKER}),
    (f"celery -A proj -b {BROKER} flower --basic_auth='user:password' --broker_api={API}", {}),
    (
        f"celery -A proj --broker {BROKER} flower --broker_api={API} --max_tasks=1000 --max_workers=500",
        {"max_tasks": 1000},
    ),
    (f"celery -A proj flower --port=5555 --broker_api={API}", {}),
    (f"celery flower -A proj --address=0.0.0.0 --port=5555 --broker_api={API}", {}),
    (f"celery --broker={BROKER} -A proj flower --broker_api={API} --address=127.0.0.1 --port=5555", {}),
    (
        f"celery flower -A proj -E -l INFO --persistent True --broker_api='{API}'",
        {"persistent": True, "log_level": "info"},
    ),
    ("celery -A proj flower -l info", {"log_level": "info"}),
    ("celery -A proj flower -l debug --address=127.0.0.1 --port=5555", {"log_level": "debug"}),
    ("celery -A proj flower --loglevel=DEBUG --port=5555 --url_prefix=flower", {"log_level": "debug"}),
    (
        "celery -A proj flower --address=0.0.0.0 --port=5555 --url_prefix=flower --loglevel=info --auto_refresh=True",
        {"log_level": "info"},
    ),
    (
        "celery flower -A proj --port=5555 --logging=info -log-file-prefix=flower.log",
        {"log_file": Path("flower.log")},
    ),
    ("celery -A proj flower --persistent=True --db=flower.db", {"persistent": True, "db": "flower.db"}),
    (
        f"celery -A proj flower --persistent=True --broker_api={API} --basic_auth=user:password"
        " --tasks_columns=name,uuid,state,result,received,eta,started,runtime,worker",
        {"persistent": True},
    ),
    ("celery -A proj flower --persistent=False --max_tasks=5000", {"persistent": False, "max_tasks": 5000}),
    (
        "celery --app proj.celery_app flower --basic_auth=flower:passWord! --port=5555 --persistent"
        " --state_save_interval=10000 --db=flower -n flower_monitor",
        {"persistent": True, "port": 5555},
    ),
    (
        f"celery -A proj flower --basic-auth=admin:password --broker={BROKER} --address=0.0.0.0 --port=5001"
        " --purge_offline_workers=3600 --inspect_timeout=10000 --persistent=True",
        {"inspect_timeout": 10_000.0, "purge_offline_workers": 3600.0},
    ),
    ("celery -A proj flower --basic_auth=user1:password,user2:password --address=0.0.0.0 --port=5555", {}),
    (f"celery -A proj flower --broker={BROKER} --pidfile=/tmp/celery-flower.pid", {"broker": BROKER}),
    ("celery -A proj:app flower --purge_offline_workers=180 --loglevel=info -Q 'gpu,cpu,control'", {}),
    ("celery -A proj flower --port=5555 --url_prefix=", {"url_prefix": ""}),
    ("celery -A proj flower --url_prefix=/flower", {"url_prefix": "/flower"}),
    ("celery -A proj flower --conf=conf/flowerconfig.py", {"max_tasks": 321}),
    ("celery -A proj flower --conf=flowerconfig.py", {}),
    (f"flower --broker={BROKER} --port=5555 --logging=warning --basic_auth=user:password", {"log_level": "warning"}),
    (f"flower --address=0.0.0.0 --broker='{BROKER}'", {"broker": BROKER}),
    (f"flower --broker='{BROKER}' --port='5556' --conf='conf/flowerconfig.py'", {"port": 5556, "max_tasks": 321}),
    (
        f"flower --address=0.0.0.0 --port=8080 --broker={BROKER} -l DEBUG --auto_refresh=False --debug=True"
        " --autoreload=False --url_prefix=flower",
        {"debug": True, "log_level": "debug"},
    ),
    ("flower -A proj --address=0.0.0.0 --port=5555 --log-file-prefix=flower --url_prefix=flower", {}),
    ("flower -A proj -p 5557 -conf=conf/flowerconfig.py", {"port": 5557, "max_tasks": 321}),
    (
        f"flower --broker={BROKER} --port=5555 --inspect-timeout=3000 --broker-api={BROKER}",
        {"inspect_timeout": 3000.0},
    ),
    (f"flower --broker_api='{API};{API}' --broker='{BROKER};{BROKER}'", {"broker": f"{BROKER};{BROKER}"}),
    (f"flower -A proj --broker_api={API} --port=9544", {"port": 9544}),
    (f"flower --broker={BROKER} --enable_events=False --xheaders=true --natural_time", {"enable_events": False}),
    (
        f"flower --broker={BROKER} --auth='.*@example\\.com' --oauth2_key=key --oauth2_secret=secret"
        " --auth_provider=flower.views.auth.GoogleAuth2LoginHandler"
        " --oauth2_redirect_uri=https://flower.example.com/login --cookie_secret=short",
        {"auth": ("@example.com",), "auth_provider": "google", "cookie_secret": ()},
    ),
    (
        f"flower --broker={BROKER} --certfile=tls.pem --keyfile=tls.key --ca_certs=ca.pem",
        {"certfile": Path("tls.pem")},
    ),
    (f"flower --broker={BROKER} --unix_socket=/tmp/flower.sock --debug", {"unix_socket": Path("/tmp/flower.sock")}),
]

_ENVIRON = {
    "FLOWER_PORT": "5556",
    "FLOWER_ADDRESS": "0.0.0.0",
    "FLOWER_BASIC_AUTH": "user:hunter2horse",
    "FLOWER_URL_PREFIX": "flower",
    "FLOWER_BROKER_API": API,
    "FLOWER_PERSISTENT": "true",
    "FLOWER_DB": "db",
    "FLOWER_LOG_FILE_PREFIX": "flower.log",
    "FLOWER_LOGGING": "none",
    "FLOWER_XHEADERS": "true",
    "CELERY_BROKER_URL": BROKER,
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, Celery]]:
    """Put a recorder in the place of the server."""
    calls: list[tuple[Settings, Celery]] = []

    async def serve(settings: Settings, celery_app: Celery) -> None:
        calls.append((settings, celery_app))

    monkeypatch.setattr("taskmon.app.serve", serve)
    return calls


@pytest.fixture
def plugin() -> Iterator[click.Group]:
    """Give the `celery` program with the plugin."""
    before = celery_group.commands.get("taskmon")
    celery_group.add_command(celery_command)
    params = celery_command.params[:]
    yield celery_group
    celery_command.params[:] = params
    del celery_group.commands["taskmon"]
    if before is not None:
        celery_group.add_command(before)


@pytest.fixture(autouse=True)
def project(process_as_before: None, tmp_path: Path) -> None:
    """Have a Celery app here, and a configuration of Flower."""
    package = tmp_path / "proj"
    package.mkdir()
    text = f"from celery import Celery\napp = Celery('proj', broker='{BROKER}', set_as_current=False)\n"
    (package / "__init__.py").write_text(text)
    (package / "celery_app.py").write_text("from proj import app\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "flowerconfig.py").write_text("import os\n\nmax_tasks = 321\n")


def start(plugin: click.Group, line: str, **environ: str) -> Result:
    """Start taskmon as a line has it that starts Flower."""
    program, *args = ["taskmon" if word == "flower" else word for word in shlex.split(line)]
    command = plugin if program == "celery" else main
    prefix = {"auto_envvar_prefix": "CELERY"} if program == "celery" else {}
    return CliRunner().invoke(command, args, env=environ, prog_name=program, **prefix)  # type: ignore[arg-type]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_a_command_line_of_flower_starts(
    plugin: click.Group, served: list[tuple[Settings, Celery]], line: str, expected: dict[str, Any]
) -> None:
    result = start(plugin, line)
    assert result.exit_code == 0, result.output
    ((settings, app),) = served
    for name, value in expected.items():
        assert getattr(settings, name) == value, name
    assert app.conf.broker_url in (BROKER, f"{BROKER};{BROKER}")
    assert app.main == ("proj" if " proj" in line else app.main)
    lines = [text for text in result.output.splitlines() if " needed here" in text]
    assert len(lines) <= 1
    assert "hunter2horse" not in result.output


def test_the_variables_of_flower_start(plugin: click.Group, served: list[tuple[Settings, Celery]]) -> None:
    for line in ("celery -A proj flower", "flower"):
        result = start(plugin, line, **_ENVIRON)
        assert result.exit_code == 0, result.output
        settings, _ = served.pop()
        assert (settings.port, settings.address, settings.url_prefix) == (5556, "0.0.0.0", "/flower")
        assert (settings.persistent, settings.db, settings.log_level) == (True, "db", "critical")
        assert "hunter2horse" not in result.output


def test_what_is_not_needed_is_named_once(plugin: click.Group, served: list[tuple[Settings, Celery]]) -> None:
    line = (
        "celery -A proj flower --tasks_columns=name --xheaders -E --tasks_columns=uuid --no-auto-refresh --pool=solo"
    )
    result = start(plugin, line, FLOWER_NATURAL_TIME="true")
    warnings = [text for text in result.output.splitlines() if "needed here" in text]
    assert len(warnings) == 1
    named = (
        "--tasks_columns, --xheaders (use --trusted-proxies), -E, --no-auto-refresh, --pool and FLOWER_NATURAL_TIME"
    )
    assert f"{named} are not needed here" in warnings[0]
    result = start(plugin, f"flower --broker={BROKER} --tasks-columns name")
    assert "--tasks-columns is not needed here" in result.output
    assert "hunter2horse" not in result.output


SPELLINGS = ("--{0}={1}", "--{0} {1}", "-{0}={1}")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_option_that_is_not_needed_is_taken(
    plugin: click.Group, served: list[tuple[Settings, Celery]], spelling: str
) -> None:
    for name, takes_value in (FLOWER_ONLY | CELERY_ONLY).items():
        for written in {name, name.replace("_", "-")}:
            for value in ("1",) if takes_value else ("true", "False"):
                option = spelling.format(written, value)
                result = start(plugin, f"celery -A proj flower {option} --port=7")
                assert result.exit_code == 0, (option, result.output)
                assert served.pop()[0].port == 7
        if not takes_value:
            result = start(plugin, f"celery -A proj flower --{name} --port=7")
            assert result.exit_code == 0, (name, result.output)
            assert served.pop()[0].port == 7


def test_every_short_option_of_a_worker_is_taken(plugin: click.Group, served: list[tuple[Settings, Celery]]) -> None:
    for name, takes_value in CELERY_SHORT.items():
        for option in (f"-{name} x", f"-{name}x") if takes_value else (f"-{name}",):
            result = start(plugin, f"celery -A proj flower {option} --port=7")
            assert result.exit_code == 0, (option, result.output)
            assert served.pop()[0].port == 7


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_switches_of_flower(plugin: click.Group, served: list[tuple[Settings, Celery]], spelling: str) -> None:
    for option in OPTIONS:
        if not option.switch or option.name == "persistent":
            continue
        for written in {option.name, option.name.replace("_", "-")}:
            for value, expected in (("True", True), ("false", False), ("1", True), ("0", False), ("yes", True)):
                result = start(plugin, f"celery -A proj flower {spelling.format(written, value)} --port=7")
                assert result.exit_code == 0, result.output
                settings = served.pop()[0]
                assert (getattr(settings, option.name), settings.port) == (expected, 7)
            result = start(plugin, f"flower -A proj --{written}")
            assert getattr(served.pop()[0], option.name) is True, result.output


@pytest.mark.parametrize("spelling", [*SPELLINGS, "-{2} {1}", "-{2}={1}", "-{2}{1}"])
def test_options_before_and_behind_the_command(
    plugin: click.Group, served: list[tuple[Settings, Celery]], spelling: str
) -> None:
    def spelt(name: str, short: str, value: str) -> str:
        return spelling.format(name, value, short)

    app, broker, level = (
        spelt("app", "A", "proj"),
        spelt("broker", "b", "memory://own"),
        spelt("loglevel", "l", "error"),
    )
    for line in (f"celery flower {app} {broker} {level}", f"flower {app} {broker} {level}"):
        result = start(plugin, line)
        assert result.exit_code == 0, result.output
        settings, celery_app = served.pop()
        assert (celery_app.main, celery_app.conf.broker_url, settings.log_level) == ("proj", "memory://own", "error")


def test_what_stands_behind_the_command_goes_first(
    plugin: click.Group, served: list[tuple[Settings, Celery]], tmp_path: Path
) -> None:
    (tmp_path / "proj2.py").write_text("from celery import Celery\napp = Celery('two', broker='memory://two')\n")
    assert start(plugin, "celery -A proj flower -A proj2").exit_code == 0
    assert served.pop()[1].main == "two"
    assert start(plugin, "celery -A proj flower", TASKMON_APP="proj2").exit_code == 0
    assert served.pop()[1].main == "proj"
    assert start(plugin, "celery flower", TASKMON_APP="proj2").exit_code == 0
    assert served.pop()[1].main == "two"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--prt=1", "There is no option --prt; did you mean --port?"),
        ("-l", "Option '-l' requires an argument."),
        ("-xrt=1", "There is no option"),
        ("--debug=perhaps", "--debug must be yes or no, not 'perhaps'"),
        ("-l loud", "--log-level must be debug, info, warning, error or critical, not 'loud'"),
    ],
)
def test_what_flower_does_not_know_is_still_an_error(plugin: click.Group, args: str, sentence: str) -> None:
    for line in (f"celery -A proj flower {args}", f"flower -A proj {args}"):
        result = start(plugin, line)
        assert (result.exit_code, result.stdout) == (2, "")
        assert sentence in result.stderr, result.stderr


def test_no_option_of_taskmon_is_ignored() -> None:
    assert not OPTION.keys() & FLOWER_ONLY.keys()
    assert not {option.short for option in OPTIONS} & CELERY_SHORT.keys()
