"""The command line: what each command prints, how faults end it, and what reaches `serve`."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from celery.bin.celery import celery as celery_group
from click.testing import Result
from commands import make_runner
from patience import PATIENCE

from taskmon import __version__
from taskmon.auth import Role
from taskmon.celery_app import load_app
from taskmon.cli import celery_command, main
from taskmon.credentials.tokens import new_token
from taskmon.settings import DEFAULT_FILE, OPTIONS, SCRYPT_HASH, Settings

ROOT = Path(__file__).parent.parent
SECRET = "hunter2horse"
COMMANDS = "convert-config, demo, hash-password, session, token"
_, LINE = new_token("grafana", Role.VIEWER)


pytestmark = pytest.mark.usefixtures("process_as_before")


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
    """Give the `celery` program with the plugin, as an installed taskmon puts it there."""
    before = celery_group.commands.get("taskmon")
    celery_group.add_command(celery_command)
    params = celery_command.params[:]
    yield celery_group
    celery_command.params[:] = params
    del celery_group.commands["taskmon"]
    if before is not None:
        celery_group.add_command(before)


def run(*args: str, input: str | None = None, **environ: str) -> Result:
    return make_runner().invoke(main, args, input=input, env=environ, prog_name="taskmon")


def failure(result: Result, code: int = 2) -> str:
    """Check that a run ended with one sentence and nothing else; give the sentence."""
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr + repr(result.exception)
    return result.stderr.removeprefix("Error: ").strip()


def write_project(folder: Path, text: str, name: str = "proj.py") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- help


def test_help_shows_every_option_once_and_no_value() -> None:
    result = run("--help", TASKMON_BASIC_AUTH=f"a:{SECRET}", TASKMON_BROKER=f"redis://:{SECRET}@h")
    assert result.exit_code == 0
    for option in OPTIONS:
        shown = f"--[no-]{option.flag[2:]}" if option.switch else option.flag
        assert len(re.findall(rf"^  (?:-\w, )?{re.escape(shown)}(?= |$)", result.output, re.MULTILINE)) == 1, shown
    for section in dict.fromkeys(option.section for option in OPTIONS):
        assert f"\n{section}:\n" in result.output
    for command in ("demo", "hash-password", "token"):
        assert f"\n  {command} " in result.output
    assert result.output.count("TASKMON_PORT") == 2
    assert "[5555]" in result.output
    assert SECRET not in result.output
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("args", [("token", "--help"), ("hash-password", "-h"), ("demo", "--help")])
def test_help_of_commands(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: taskmon {args[0]} [OPTIONS]")


def test_version() -> None:
    assert run("--version").output == f"taskmon, version {__version__}\n"


def test_help_as_a_module_and_quickly() -> None:
    code = "import sys, taskmon.cli; print(sorted({'celery', 'kombu', 'tornado', 'asyncio'} & sys.modules.keys()))"
    for args, expected in ((["-m", "taskmon", "--help"], "Usage: taskmon [OPTIONS]"), (["-c", code], "[]\n")):
        done = subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(expected)


# --- faults


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--port", "abc"], "--port must be a whole number between 0 and 65535, not 'abc'"),
        (["--max_tasks=0"], "--max-tasks must be a whole number between 1 and 100000000, not '0'"),
        (["--prt", "1"], "There is no option --prt; did you mean --port?"),
        (["--qqqq"], "There is no option --qqqq"),
        (["-x"], "There is no option -x"),
        (["--port"], "Option '--port' requires an argument."),
        (["--debug=perhaps"], "--debug must be yes or no, not 'perhaps'"),
        (["nonsense"], f"There is no such command; there are {COMMANDS}"),
        (["token"], "Missing option '--name'."),
        (["token", "--name", "a b"], "--name must be 1 to 64 letters, digits or . _ @ -, not 'a b'"),
        (["token", "--name", "a", "b"], "There is no such command; there are create, list, revoke"),
        (["token", "create"], "Missing option '--name'."),
        (["token", "create", "--name", "a"], "There is no file of tokens; name it with --file"),
        (["token", "list", "b"], "There is an argument too many; options begin with --"),
        (["token", "--nam", "a"], "There is no option --nam; did you mean --name?"),
        (["--workdir", "missing"], "--workdir must be a directory one may enter: No such file or directory"),
        (["--basic-auth", SECRET], "--basic-auth must be user:password"),
        (
            ["--basic_auth=a:b", f"c:{SECRET}"],
            f"There is no such command; there are {COMMANDS}",
        ),
        (["--basic-auht", f"a:{SECRET}"], "There is no option --basic-auht; did you mean --basic-auth?"),
        ([f"--basic-auht=a:{SECRET}"], "There is no option --basic-auht; did you mean --basic-auth?"),
        (["-b", SECRET], "--broker must be a URL such as redis://host:6379/0 or amqp://host/vhost"),
        (["--token", SECRET], "--token must be a line printed by `taskmon token`, which holds a hash"),
        (
            ["--public-url", f"https://u:{SECRET}@h"],
            "--public-url must be a URL such as https://taskmon.example.org/pre",
        ),
        (["--app", "no_such_project"], "--app no_such_project cannot be loaded: ModuleNotFoundError: "),
    ],
)
def test_fault_ends_with_one_sentence(args: list[str], sentence: str) -> None:
    assert failure(run(*args)).startswith(sentence)


def test_fault_of_environment_or_file(tmp_path: Path) -> None:
    assert failure(run(TASKMON_PRT="1")).endswith("'TASKMON_PRT'; did you mean TASKMON_PORT?")
    assert "(given in FLOWER_PORT)" in failure(run(FLOWER_PORT="x"))
    assert (
        failure(run(TASKMON_BASIC_AUTH=SECRET)) == "--basic-auth must be user:password (given in TASKMON_BASIC_AUTH)"
    )
    (tmp_path / DEFAULT_FILE).write_text(f"broker = 'redis://:{SECRET}@h\n")
    assert "must name a TOML file that can be read" in failure(run())


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("", "proj", "AttributeError: "),
        ("app = 5", "proj:app", "names no Celery app, but something of type int"),
        ("1 +", "proj", "SyntaxError: "),
        (f"raise OSError('redis://:{SECRET}@h\\nis away')", "proj", "OSError: redis://:***@h is away"),
        ("import no_such_thing", "proj", "No module named 'no_such_thing'"),
        ("raise SystemExit(3)", "proj", "SystemExit: 3"),
        ("", "proj:missing", "ModuleNotFoundError: No module named 'proj:missing'"),
    ],
)
def test_app_that_cannot_be_loaded(tmp_path: Path, text: str, name: str, sentence: str) -> None:
    write_project(tmp_path, text)
    message = failure(run("-A", name))
    assert message.startswith(f"--app {name} ")
    assert sentence in message


def test_debug_tells_why_an_app_cannot_be_loaded(tmp_path: Path) -> None:
    write_project(tmp_path, "1 / 0")
    result = run("-A", "proj", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.count("\n") == 2


# --- running


def test_options_reach_the_server(served: list[tuple[Settings, Celery]], tmp_path: Path) -> None:
    (tmp_path / DEFAULT_FILE).write_text("max_workers = 7\n")
    result = run(
        *(
            "--max_tasks",
            "5",
            "--enable_events=False",
            "--debug",
            "--broker",
            "memory://x",
            "--result-backend=rpc://",
        ),
        *("--basic-auth", f"a:{SECRET},b:c", "--basic-auth", "d:e", "--token", LINE, "--no-debug"),
        FLOWER_PORT="1234",
        TASKMON_URL_PREFIX="x",
    )
    assert (result.exit_code, result.stdout) == (0, "")
    settings, app = served[0]
    assert (settings.max_tasks, settings.max_workers, settings.port, settings.url_prefix) == (5, 7, 1234, "/x")
    assert (settings.enable_events, settings.debug) == (False, False)
    assert [entry.partition(":")[0] for entry in settings.basic_auth] == ["a", "b", "d"]
    assert all(SCRYPT_HASH.fullmatch(entry.partition(":")[2]) for entry in settings.basic_auth)
    assert settings.token == (LINE,)
    assert (app.main, app.conf.broker_url, app.conf.result_backend) == ("taskmon", "memory://x", "rpc://")
    assert "WARNING" in result.stderr
    assert "FLOWER_PORT" in result.stderr
    assert "1234" not in result.stderr
    assert SECRET not in result.output


def test_anonymous_role_is_warned_about(served: list[tuple[Settings, Celery]]) -> None:
    result = run("--anonymous-role", "operator", "--broker=memory://x")
    assert "Everybody has the role operator, without credentials" in result.stderr
    result = run("--broker=memory://x", FLOWER_UNAUTHENTICATED_API="true")
    assert "FLOWER_UNAUTHENTICATED_API is set: who gives no credentials has the role viewer" in result.stderr
    assert [settings.anonymous_role for settings, _ in served] == ["operator", "viewer"]
    assert run("--broker=memory://x").stderr == ""


@pytest.mark.parametrize("name", ["proj", "proj:app", "proj.app"])
def test_app_is_loaded_from_the_working_directory(
    served: list[tuple[Settings, Celery]], tmp_path: Path, name: str
) -> None:
    write_project(tmp_path / "sub", "from celery import Celery\napp = Celery('mine', broker='memory://own')\n")
    assert run("--workdir", str(tmp_path / "sub"), "-A", name).exit_code == 0
    assert (served[0][1].main, served[0][1].conf.broker_url) == ("mine", "memory://own")
    assert str(tmp_path / "sub") in sys.path
    assert run("-A", name, "-b", "memory://given").exit_code == 0
    assert served[1][1].conf.broker_url == "memory://given"
    assert sys.path.count(str(tmp_path / "sub")) == 1


def test_package_with_a_celery_module(served: list[tuple[Settings, Celery]], tmp_path: Path) -> None:
    write_project(
        tmp_path, "from celery import Celery\napp = Celery('packed', broker='memory://x')\n", "projpack/celery.py"
    )
    write_project(tmp_path, "", "projpack/__init__.py")
    assert run("--app", "projpack").exit_code == 0
    assert served[0][1].main == "packed"


def test_celery_variable_gives_the_broker(served: list[tuple[Settings, Celery]]) -> None:
    assert run(CELERY_BROKER_URL="memory://env").exit_code == 0
    assert served[0][0].broker == "memory://env"
    assert run("--broker", "memory://flag", CELERY_BROKER_URL="memory://env").exit_code == 0
    assert served[1][1].conf.broker_url == "memory://flag"


def test_no_broker_is_an_error(plugin: click.Group, served: list[tuple[Settings, Celery]], tmp_path: Path) -> None:
    write_project(tmp_path, "from celery import Celery\napp = Celery('mine')\n")
    sentence = "There is no broker to watch"
    for result in (run(), run("-A", "proj"), celery(plugin, "taskmon"), celery(plugin, "-A", "proj", "taskmon")):
        assert failure(result).startswith(sentence)
        assert "--broker" in result.stderr
    assert "the configuration of --app proj names none" in run("-A", "proj").stderr
    for args in (
        ["--celery-config", "own.toml"],
        ["--set", "broker_url=memory://x"],
        ["--set=broker_transport=memory"],
    ):
        (tmp_path / "own.toml").write_text("broker_url = 'memory://x'\n")
        assert run(*args).exit_code == 0
        assert run("-A", "proj", *args).exit_code == 0
    assert len(served) == 6


@pytest.mark.parametrize("text", ["broker_read_url='memory://r'", "broker_write_url='memory://w'", "broker_host='h'"])
def test_a_broker_by_another_name(served: list[tuple[Settings, Celery]], tmp_path: Path, text: str) -> None:
    write_project(tmp_path, f"from celery import Celery\napp = Celery('mine')\napp.conf.update({text})\n")
    assert run("-A", "proj").exit_code == 0


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, errors = start("--port", str(port), "--broker=memory://").communicate(timeout=PATIENCE)
    assert errors.endswith(f"Error: Cannot listen on 127.0.0.1 port {port}: Address already in use\n")
    assert "Traceback" not in errors


def test_server_that_cannot_listen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def serve(settings: Settings, celery_app: Celery) -> None:
        raise OSError("no errno here")

    monkeypatch.setenv("TASKMON_BROKER", "memory://x")
    monkeypatch.setattr("taskmon.app.serve", serve)
    message = failure(run("--unix-socket", str(tmp_path / "new.sock")), code=1)
    assert message == f"Cannot listen on {tmp_path}/new.sock: no errno here"
    (tmp_path / "file").write_text("x")
    message = failure(run("--unix-socket", str(tmp_path / "file")), code=1)
    assert message == f"Cannot listen on {tmp_path}/file: there is a file that is no socket"


def start(*args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "taskmon", *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal(number: signal.Signals) -> None:
    process = start("--port=0", "--broker=memory://")
    assert process.stdout is not None
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("curl "):
            break
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        watchdog.cancel()
        process.kill()
    token = re.search(r"tm_[0-9a-f]{8}_[0-9a-f]{40}_[0-9a-f]{8}", "".join(lines))
    assert process.returncode == 0, errors
    assert token is not None
    assert token[0] not in errors
    assert all(re.match(r"\d{4}-\d\d-\d\dT\S+Z (INFO|WARNING) ", line) for line in errors.splitlines())


def test_a_history_that_cannot_be_used_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x" * 5000)
    reason = f"there is no directory {tmp_path}/missing"
    for args, option in (
        (["--persistent", "--db=missing/db"], "--persistent"),
        (["--persistent", "--history", f"sqlite:///{tmp_path}/missing/x.sqlite3"], "--history"),
        (["--history", f"sqlite:///{tmp_path}/missing/x.sqlite3"], "--history"),
    ):
        assert failure(run("--broker=memory://x", "--port=0", *args)) == f"{option} cannot be used: {reason}"


# --- commands


def test_token_shows_the_secret_once_and_the_line_to_configure(served: list[tuple[Settings, Celery]]) -> None:
    result = run("token", "--name", "grafana", "--role", "Operator", "--expires", "2999-12-31")
    assert result.exit_code == 0
    secrets = re.findall(r"tm_[0-9a-f]{8}_[0-9a-f]{40}_[0-9a-f]{8}", result.output)
    assert len(secrets) == 2
    assert len(set(secrets)) == 1
    lines = set(re.findall(r"tm_[0-9a-f]{8}:[^\s\"']+", result.output))
    assert len(lines) == 1
    line = lines.pop()
    assert line.endswith(":operator:grafana:2999-12-31")
    for shown in (f'token = ["{line}"]', f"TASKMON_TOKEN={line}", f"--token={line}", f"Bearer {secrets[0]}'"):
        assert shown in result.output
    assert run(f"--token={line}", "--broker=memory://x").exit_code == 0
    assert served[0][0].token == (line,)


def test_token_is_a_viewer_unless_said() -> None:
    assert ":viewer:x\n" in run("token", "--name", "x", "--never").output


@pytest.mark.parametrize("command", ["hash-password", "hash_password"])
def test_hash_password_from_standard_input(served: list[tuple[Settings, Celery]], command: str) -> None:
    result = run(command, input=f"{SECRET}\n")
    assert (result.exit_code, result.stderr) == (0, "")
    hashed = result.stdout.strip()
    assert SCRYPT_HASH.fullmatch(hashed)
    assert run("--basic-auth", f"a:{hashed}", "--broker=memory://x").exit_code == 0
    assert served[0][0].basic_auth == (f"a:{hashed}",)


@pytest.mark.parametrize("given", ["", "\n", f"{SECRET}\n{SECRET}", SECRET * 60])
def test_hash_password_takes_one_line(given: str) -> None:
    assert failure(run("hash-password", input=given)) == "The password must be one line of 1 to 600 characters"


def test_hash_password_asks_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskmon.cli.is_terminal", lambda: True)
    result = run("hash-password", input=f"{SECRET}\n{SECRET}\n")
    assert result.exit_code == 0
    assert SECRET not in result.output
    assert SCRYPT_HASH.search(result.stdout)
    assert "basic_auth" in result.stderr


@pytest.mark.parametrize(("args", "port"), [(("--port", "7", "demo"), 7), (("--port=7", "demo", "--port=8"), 8)])
def test_demo_takes_options_before_and_behind(
    monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], port: int
) -> None:
    given: list[Settings] = []

    def run_demo(settings: Settings) -> int:
        given.append(settings)
        return 3

    monkeypatch.setattr("taskmon.demo.run_demo", run_demo)
    assert run(*args).exit_code == 3
    assert given[0].port == port
    assert failure(run("demo", "--port=x")).startswith("--port must be")
    assert failure(run("demo", "--broker=x")).startswith("There is no option --broker")


# --- celery taskmon


def celery(group: click.Group, *args: str, **environ: str) -> Result:
    return make_runner().invoke(group, args, env=environ, prog_name="celery", auto_envvar_prefix="CELERY")


def test_as_a_plugin_of_celery(plugin: click.Group, served: list[tuple[Settings, Celery]], tmp_path: Path) -> None:
    write_project(tmp_path, "from celery import Celery\napp = Celery('mine', broker='memory://own')\n")
    result = celery(plugin, "-A", "proj", "taskmon", "--max_tasks=5", CELERY_TASKMON_PORT="no option")
    assert (result.exit_code, result.output) == (0, "")
    assert served[0][0].max_tasks == 5
    assert (served[0][1].main, served[0][1].conf.broker_url) == ("mine", "memory://own")


@pytest.mark.parametrize(
    ("args", "broker"),
    [
        (["-A", "proj", "--broker", "memory://celery", "taskmon"], "memory://celery"),
        (["-A", "proj", "--broker", "memory://celery", "taskmon", "--broker", "memory://own"], "memory://own"),
        (["-A", "proj", "taskmon"], "memory://env"),
    ],
)
def test_broker_of_celery(
    plugin: click.Group, served: list[tuple[Settings, Celery]], tmp_path: Path, args: list[str], broker: str
) -> None:
    write_project(tmp_path, "from celery import Celery\napp = Celery('mine', broker='memory://app')\n")
    assert celery(plugin, *args, TASKMON_BROKER="memory://env").exit_code == 0
    assert served[0][0].broker == broker
    assert served[0][1].conf.broker_url == broker


def test_preload_options_of_the_app(plugin: click.Group, served: list[Any], tmp_path: Path) -> None:
    project = "from celery import Celery\nimport click\napp = Celery('mine', broker='memory://')\n"
    write_project(tmp_path, project + "app.user_options['preload'].add(click.Option(['--tenant']))\n")
    result = celery(plugin, "-A", "proj", "taskmon", "--tenant", "x")
    assert (result.exit_code, result.output) == (0, "")
    assert len(served) == 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--port", "x"], "--port must be a whole number"),
        (["--prt", "x"], "There is no option --prt; did you mean --port?"),
        ([f"a:{SECRET}"], "There is an argument too many"),
        (["--debug=x"], "--debug must be yes or no"),
    ],
)
def test_faults_of_the_plugin(plugin: click.Group, args: list[str], sentence: str) -> None:
    assert failure(celery(plugin, "taskmon", *args)).startswith(sentence)


def test_help_of_the_plugin(plugin: click.Group) -> None:
    result = celery(plugin, "taskmon", "--help")
    assert result.exit_code == 0
    assert "--max-tasks N" in result.output
    assert "--app" in result.output


def test_the_tasks_of_an_app_are_known_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_project.py").write_text(
        "from celery import Celery\napp = Celery('shop', broker='memory://', imports=['shop_tasks'])\n"
        "app.conf.imports = ['shop_tasks']\n"
    )
    (tmp_path / "shop_tasks.py").write_text(
        "from shop_project import app\n\n@app.task(name='shop.pack')\ndef pack() -> None: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    assert "shop.pack" in load_app(Settings(app="shop_project")).tasks
    (tmp_path / "broken_project.py").write_text(
        "from celery import Celery\napp = Celery('shop', broker='memory://')\napp.conf.imports = ['no_such_tasks']\n"
    )
    result = make_runner().invoke(main, ["--app", "broken_project"])
    assert result.exit_code == 2
    assert "The tasks of --app broken_project cannot be loaded: ModuleNotFoundError" in result.stderr
