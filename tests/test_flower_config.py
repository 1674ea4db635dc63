"""A flowerconfig.py: what is read of it, what is said of the rest, and that nothing in it runs."""

import tomllib
from pathlib import Path

import pytest
from commands import make_runner
from hypothesis import given
from hypothesis import strategies as st

from taskmon.cli import main
from taskmon.config_conversion import convert
from taskmon.errors import InvalidSetting
from taskmon.settings import FLOWER_FILE, OPTIONS, Loaded, load_settings, read_flower_file

SECRET = "hunter2horse"
LITERALS = f"""
import os
# The usual.
port = 5556
address = "0.0.0.0"
basic_auth = ["user:{SECRET}", "other:pass,word"]
url_prefix = 'flower'
max_tasks: int = 10_000
persistent = True
db = "/var/lib/flower/db"
inspect_timeout = 2500.5
task_runtime_metric_buckets = [0.5, 1.0, float("inf")] if False else [1, 2]
purge_offline_workers = None
certfile = ""
logging = "DEBUG"
broker_api = "http://guest:{SECRET}@rabbitmq:15672/api/"
natural_time = False
auto_refresh = True
helper = 5
cookie_secret = "short,{SECRET[:8]}"
"""


def write(folder: Path, text: str, name: str = FLOWER_FILE) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def load(folder: Path, flags: dict[str, object] | None = None, **environ: str) -> Loaded:
    return load_settings(flags or {}, environ, folder)


def test_literals_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, LITERALS)
    for settings, notes, _ in (
        load(tmp_path),
        load(tmp_path, {"conf": str(path)}),
        load(tmp_path, FLOWER_CONF=str(path)),
    ):
        assert (settings.port, settings.address, settings.url_prefix) == (5556, "0.0.0.0", "/flower")
        assert settings.basic_auth == (f"user:{SECRET}", "other:pass,word")
        assert (settings.max_tasks, settings.persistent, settings.db) == (10_000, True, "/var/lib/flower/db")
        assert (settings.inspect_timeout, settings.purge_offline_workers) == (2500.5, 3600.0)
        assert (settings.certfile, settings.log_level, settings.cookie_secret) == (None, "debug", ())
        assert settings.broker_api == f"http://guest:{SECRET}@rabbitmq:15672/api/"
        assert SECRET not in "".join(notes)
        computed, unneeded, short = sorted(notes, key=lambda note: ("task_runtime" not in note, "needed" not in note))
        assert "task_runtime_metric_buckets; set --task-runtime-metric-buckets or TASKMON_TASK_RUNTIME" in computed
        assert "natural_time in flowerconfig.py and auto_refresh in flowerconfig.py are not needed here" in unneeded
        assert short.startswith("cookie_secret in flowerconfig.py is ignored")


def test_what_a_flowerconfig_computes_is_named_and_not_run(tmp_path: Path) -> None:
    write(
        tmp_path,
        f"""
import os
open({str(tmp_path / "ran")!r}, "w").close()
port = int(os.environ.get("PORT", 5555))
basic_auth = [f"user:{{os.environ['PASSWORD']}}"]
max_workers = 5 * 10
max_tasks = 10
if os.environ.get("BIG"):
    max_tasks = 100
db = "a"
db += "b"
oauth2_key, oauth2_secret = "a", "b"
task_runtime_metric_buckets = [1]
task_runtime_metric_buckets.append(2)
""",
    )
    settings, notes, _ = load(tmp_path)
    assert not (tmp_path / "ran").exists()
    (note,) = notes
    for name in (
        *("port", "basic_auth", "max_workers", "max_tasks", "db", "oauth2_key", "oauth2_secret"),
        "task_runtime_metric_buckets",
    ):
        flag = f"--{name.replace('_', '-')} or TASKMON_{name.upper()}"
        assert f" {name}" in note
        assert flag in note
    assert "PASSWORD" not in note
    assert (settings.port, settings.max_tasks, settings.basic_auth) == (5555, 100_000, ())
    settings, notes, _ = load(tmp_path, {"max_workers": "7"}, FLOWER_PORT="5558", TASKMON_DB="x")
    note = next(text for text in notes if "not run" in text)
    assert not {"port", "max_workers", "db"} & set(note.partition(": ")[2].partition(";")[0].split(", "))


@pytest.mark.parametrize(
    ("text", "option", "closed"),
    [
        ("read_only = bool(1)", "read_only", True),
        ("auth = '.*@' + 'example.com'", "default_role", "none"),
        ("def format_task(task):\n    task.args = ''\n    return task", "show_args", "none"),
        ("from hiding import format_task", "show_args", "none"),
        ("format_task = lambda task: task", "show_args", "none"),
    ],
)
def test_what_cannot_be_read_stays_closed(tmp_path: Path, text: str, option: str, closed: object) -> None:
    path = write(tmp_path, text)
    settings, notes, _ = load(tmp_path)
    assert getattr(settings, option) == closed
    assert any(f"--{option.replace('_', '-')} is " in note for note in notes)
    name = read_flower_file(path).computed
    given = {"read_only": "no", "auth": "ann@example.com", "format_task": "m:f"}
    settings, notes, _ = load(tmp_path, {key: given[key] for key in name})
    assert getattr(settings, option) != closed
    assert notes == ()


def test_variables_go_before_a_flowerconfig(tmp_path: Path) -> None:
    write(tmp_path, "port = 1\nmax_tasks = 2\nmax_workers = 3\n")
    settings = load(tmp_path, {"max_workers": "33"}, FLOWER_PORT="11", TASKMON_MAX_TASKS="22").settings
    assert (settings.port, settings.max_tasks, settings.max_workers) == (11, 22, 33)


def test_toml_takes_its_place(tmp_path: Path) -> None:
    write(tmp_path, "port = 1\nmax_tasks = 2\n")
    write(tmp_path, "port = 3\n", "taskmon.toml")
    settings, notes, _ = load(tmp_path)
    assert (settings.port, settings.max_tasks) == (3, 100_000)
    assert notes == ("flowerconfig.py is not read, as there is taskmon.toml",)
    assert load(tmp_path, {"conf": "taskmon.toml"}).notes == ()


def test_a_name_that_is_nearly_one(tmp_path: Path) -> None:
    write(tmp_path, "bacis_auth = ['a:b']\nsome_thing = 5\n")
    assert load(tmp_path).notes == (
        "flowerconfig.py has 'bacis_auth', which is no option of Flower; did you mean basic_auth?",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"basic_auth = ['user:{SECRET}'", "it is not Python: line 1"),
        ("port = 'x'", "must be a whole number"),
        (f"basic_auth = ['{SECRET}']", "must be user:password"),
        ("port = {}", "must be a whole number"),
        ("\0", "it is not Python"),
        ("x = " + "(" * 5000, "it is not Python"),
        ("x = " + "-" * 100_000 + "1", "it is not Python"),
    ],
)
def test_a_flowerconfig_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path, text)
    with pytest.raises(InvalidSetting, match=reason) as caught:
        load(tmp_path)
    assert SECRET not in str(caught.value)
    assert str(tmp_path / FLOWER_FILE)[:60] in str(caught.value)  # long values are cut


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        load(tmp_path, {"conf": "other.py"})
    settings, notes, _ = load(tmp_path, {"conf": FLOWER_FILE})
    assert settings.port == 5555
    assert len(notes) == 1


@given(st.text())
def test_no_text_is_too_odd(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.py"
    path.write_text(text, encoding="utf-8", errors="surrogateescape" if text.isascii() else "replace")
    try:
        read_flower_file(path)
        tomllib.loads(convert(path))
    except InvalidSetting as exc:
        assert "it is not Python" in str(exc)


# Converting


def test_converting_gives_what_reading_gives(tmp_path: Path) -> None:
    path = write(tmp_path, LITERALS)
    read = load(tmp_path).settings
    text = convert(path)
    (tmp_path / "new").mkdir()
    write(tmp_path / "new", text, "taskmon.toml")
    converted, notes, _ = load(tmp_path / "new")
    assert notes == ()
    for option in OPTIONS:
        if option.name != "conf":
            assert getattr(converted, option.name) == getattr(read, option.name), option.name
    assert "# It holds secrets" in text
    assert "chmod 600" in text
    number = LITERALS.splitlines().index(next(line for line in LITERALS.splitlines() if "task_runtime" in line)) + 1
    assert f"# task_runtime_metric_buckets is computed in line {number}: set it here" in text
    assert "# natural_time is not needed." in text
    assert "# cookie_secret must be at least 32 bytes long; make one with" in text
    assert "short," not in text
    assert f'broker_api = "http://guest:{SECRET}@rabbitmq:15672/api/"' in text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_password_survives(tmp_path_factory: pytest.TempPathFactory, password: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.py"
    path.write_text(f"basic_auth = [{'user:' + password!r}]\nport = 1\n", encoding="utf-8")
    found = tomllib.loads(convert(path))
    assert found["port"] == 1
    assert found.get("basic_auth", [f"user:{password}"]) == [f"user:{password}"]
    assert "basic_auth" in found or not password.isprintable()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "port = 5\nread_only = bool(1)\n")
    for args in ([], [FLOWER_FILE], [str(tmp_path / FLOWER_FILE)]):
        result = make_runner().invoke(main, ["convert-config", *args])
        assert result.exit_code == 0
        assert tomllib.loads(result.stdout) == {"port": 5}
        assert (
            "# read_only is computed in line 2: set it here, by --read-only or by TASKMON_READ_ONLY." in result.stdout
        )
        assert "secret" not in result.stdout
    result = make_runner().invoke(main, ["convert-config", "missing.py"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "Error: missing.py must name a configuration of Flower that can be read (No such file"
    )
