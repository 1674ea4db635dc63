"""Secrets from files, of whom files are obeyed, and what others may read: from the options to a real program."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe

import pytest

from taskmon.auth import Role
from taskmon.credentials.passwords import hash_password, read_passwords
from taskmon.credentials.token_file import StoredToken, TokenFile, now_utc
from taskmon.credentials.tokens import new_token
from taskmon.errors import InvalidSetting
from taskmon.settings import OPTION, OPTIONS, Loaded, Option, Settings, load_settings
from taskmon.settings.secret_files import FILE_VARIABLES

ROOT = Path(__file__).parent.parent
MARK = token_urlsafe(32)
VALUES: dict[str, str] = {
    "broker": f"redis://:{MARK}@127.0.0.1:1/0",
    "result_backend": f"redis://:{MARK}@127.0.0.1:1/1",
    "broker_api": f"http://user:{MARK}@127.0.0.1:1/api/",
    "set": f"broker_password={MARK}",
    "basic_auth": f"ann:{MARK}",
    "token": new_token("ci", Role.VIEWER)[1],
    "oauth2_secret": MARK,
    "cookie_secret": MARK,
    "history": f"postgresql://user:{MARK}@127.0.0.1:1/name",
}
SECRET_OPTIONS = [option for option in OPTIONS if option.secret]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def test_there_is_a_value_for_each_secret() -> None:
    assert VALUES.keys() == {option.name for option in SECRET_OPTIONS}
    assert set(FILE_VARIABLES.values()) == VALUES.keys() - {"token"}  # TASKMON_TOKEN_FILE is an option itself


def load(folder: Path, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    return load_settings(flags or {}, environ or {}, folder)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def expected(option: Option) -> object:
    value = VALUES[option.name]
    return (value,) if option.multiple else value


# Where a secret may stand


@pytest.mark.parametrize("end", ["", "\n", "\r\n\n"])
@pytest.mark.parametrize("option", SECRET_OPTIONS, ids=lambda option: option.name)
def test_each_secret_may_stand_in_a_file(option: Option, end: str, tmp_path: Path) -> None:
    folder, credentials, conf = (tmp_path / name for name in ("work", "credentials", "conf"))
    for each in (folder, credentials, conf):
        each.mkdir()
    path = write(tmp_path / "secret", VALUES[option.name] + end)
    write(conf / "taskmon.toml", f'{option.name} = "file:{path}"')
    write(credentials / option.name, VALUES[option.name] + end, 0o440)
    sources = [
        load(folder, {option.name: (f"file:{path}",) if option.multiple else f"file:{path}"}),
        load(folder, environ={option.variable: f"file:{path}"}),
        load(conf),
        load(folder, environ={"CREDENTIALS_DIRECTORY": str(credentials)}),
    ]
    if option.name != "token":
        sources.append(load(folder, environ={f"{option.variable}_FILE": str(path)}))
        sources.append(load(tmp_path, environ={f"{option.variable}_FILE": "secret"}))
    if option.flower:
        sources.append(load(folder, environ={f"FLOWER_{option.flower.upper()}": f"file:{path}"}))
    for loaded in sources:
        assert getattr(loaded.settings, option.name) == expected(option)
        assert not [note for note in loaded.notes if "FLOWER_" not in note]
        assert MARK not in str(loaded)
    assert sources[0].files == (path,)
    assert sources[2].files == (conf / "taskmon.toml", path)
    assert sources[3].files == (credentials / option.name,)


def test_a_file_of_many_values_has_one_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "users", "ann:one\nbob:two\n\neve:three,dan:four\n")
    users = ("ann:one", "bob:two", "eve:three", "dan:four")
    assert load(tmp_path, environ={"TASKMON_BASIC_AUTH_FILE": str(path)}).settings.basic_auth == users
    write(tmp_path / "taskmon.toml", f'basic_auth = ["zoe:five", "file://{path}"]')
    assert load(tmp_path).settings.basic_auth == ("zoe:five", *users)


def test_which_source_goes_first(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    write(tmp_path / "taskmon.toml", "broker = 'redis://toml'")
    write(credentials / "broker", "redis://short")
    write(credentials / "taskmon.broker", "redis://long")
    path = write(tmp_path / "secret", "redis://file")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert load(tmp_path, environ=environ).settings.broker == "redis://long"
    environ["FLOWER_BROKER_API"] = "http://api"  # Flower has no variable for the broker
    environ["TASKMON_BROKER_FILE"] = str(path)
    assert load(tmp_path, environ=environ).settings.broker == "redis://file"
    assert load(tmp_path, {"broker": "redis://flag"}, environ).settings.broker == "redis://flag"
    # What does not count is not read.
    assert load(tmp_path, {"broker": "redis://flag"}, {"TASKMON_BROKER_FILE": "/missing"}).settings.broker
    with pytest.raises(InvalidSetting, match="must be given once, in TASKMON_BROKER or in TASKMON_BROKER_FILE"):
        load(tmp_path, environ={**environ, "TASKMON_BROKER": "redis://twice"})


def test_what_only_looks_like_a_file(tmp_path: Path) -> None:
    assert load(tmp_path, {"result_backend": "file:///var/results"}).settings.result_backend == "file:///var/results"
    assert load(tmp_path, {"basic_auth": ("file:pass",)}).settings.basic_auth == ("file:pass",)
    with pytest.raises(InvalidSetting, match="must have an absolute path behind file:"):
        load(tmp_path, {"oauth2_secret": "file:secret"})


def test_a_file_that_cannot_be_taken_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    faults = {
        tmp_path / MARK: "No such file",
        tmp_path: "(",
        tmp_path / "pipe": "no regular file",
        Path("/dev/zero"): "no regular file",
        write(tmp_path / "large", MARK * 2000): "larger than 64 KiB",
        write(tmp_path / "empty", "\n"): "it is empty",
        write(tmp_path / "open", MARK, 0o606): "everybody may write to it",
        write(tmp_path / "group", MARK, 0o620): "its group or everybody may write to it",
        write(tmp_path / "lines", f"{MARK}\n{MARK}"): "control characters or line breaks",
        write(tmp_path / "weak", "changeme" * 5): "must be random",
    }
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + MARK.encode())
    faults[tmp_path / "binary"] = "no text in UTF-8"
    for path, reason in faults.items():
        name = "oauth2_secret" if path.name == "lines" else "cookie_secret"
        for environ in ({f"TASKMON_{name.upper()}_FILE": str(path)}, {f"TASKMON_{name.upper()}": f"file:{path}"}):
            with pytest.raises(InvalidSetting) as caught:
                load(tmp_path / "nowhere", environ=environ)
            sentence = str(caught.value)
            assert reason in sentence
            assert next(iter(environ)) in sentence
            assert MARK not in sentence


@needs_root
def test_credentials_that_must_not_be_read_are_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.seteuid(65_534)
    try:
        with pytest.raises(InvalidSetting, match=r"--broker must name a file .* \(given in .*taskmon.broker\)"):
            load(Path("/nonexistent"), environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    finally:
        os.seteuid(0)


def test_a_secret_in_place_of_its_file_is_not_shown(tmp_path: Path) -> None:
    for name, value in VALUES.items():
        if name != "token":
            with pytest.raises(InvalidSetting) as caught:
                load(tmp_path, environ={f"TASKMON_{name.upper()}_FILE": value})
            assert MARK not in str(caught.value)


# Secrets that others may read


@pytest.mark.parametrize("option", SECRET_OPTIONS, ids=lambda option: option.name)
def test_a_secret_that_others_may_read_is_a_warning(option: Option, tmp_path: Path) -> None:
    value = VALUES[option.name]
    (note,) = load(tmp_path, {option.name: (value,) if option.multiple else value}).notes
    assert note.startswith("Secrets on a command line can be read by others:")
    assert option.flag in note
    assert MARK not in note
    assert load(tmp_path, environ={option.variable: value}).notes == ()
    for mode, warned in ((0o600, False), (0o644, True), (0o640, True), (0o604, True)):
        path = write(tmp_path / "secret", value, mode)
        conf = write(tmp_path / "conf.toml", f"{option.name} = {value!r}", mode)
        for loaded in (
            load(tmp_path, {"conf": str(conf)}),
            load(tmp_path, environ={option.variable: f"file:{path}"}),
        ):
            assert [option.flag in note for note in loaded.notes] == [True] * warned
            assert MARK not in str(loaded.notes)


def test_several_secrets_are_one_warning_each(tmp_path: Path) -> None:
    write(tmp_path / "taskmon.toml", f"broker_api = {VALUES['broker_api']!r}\ncookie_secret = '{MARK}'", 0o644)
    flags = {name: VALUES[name] for name in ("broker", "oauth2_secret")}
    line, file = load(tmp_path, flags).notes
    assert re.findall(r"--[a-z0-9-]+", line) == ["--broker", "--oauth2-secret"]
    assert re.findall(r"--[a-z0-9-]+", file) == ["--broker-api", "--cookie-secret"]


def test_what_holds_no_secret_is_no_warning(tmp_path: Path) -> None:
    write(tmp_path / "taskmon.toml", "broker = 'redis://host/0'\nset = ['event_exchange=events']", 0o644)
    flags = {"result_backend": "redis://host/1", "history": "sqlite:///x.sqlite3", "set": ("task_acks_late=true",)}
    assert load(tmp_path, flags).notes == ()


def test_a_key_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "tls.key", "key", 0o644)
    assert "--keyfile" in load(tmp_path, {"keyfile": str(path)}).notes[0]
    path.chmod(0o600)
    assert load(tmp_path, {"keyfile": str(path)}).notes == ()


# Whose files are obeyed


CONFS = ["taskmon.toml", "flowerconfig.py"]


@contextmanager
def refused(rule: str) -> Iterator[None]:
    with pytest.raises(InvalidSetting, match=rule) as caught:
        yield
    assert str(caught.value).startswith("--conf must")
    assert MARK not in str(caught.value)


@pytest.mark.parametrize("name", CONFS)
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_not_obeyed(name: str, mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / name, f"port = 7\n# {MARK}", mode)
    for flags in ({}, {"conf": str(path)}):
        with refused(r"only its owner may write to: .* chmod go-w"):
            load(tmp_path, flags)
    path.chmod(0o644)
    assert load(tmp_path).settings.port == 7
    assert load(tmp_path).files == (path,)


@needs_root
@pytest.mark.parametrize("name", CONFS)
def test_a_file_of_another_user_is_not_obeyed(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "port = 7")
    os.chown(path, 12_345, 0)
    for flags in ({}, {"conf": str(path)}):
        with refused(r"belongs to uid 12345"):
            load(tmp_path, flags)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / name).symlink_to(path)
    with refused(r"belongs to uid 12345"):
        load(tmp_path / "links")


@needs_root
@pytest.mark.parametrize("name", CONFS)
def test_a_link_of_another_user_is_not_followed(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "own", "port = 7")
    (tmp_path / "between").symlink_to(path.name)
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / name).symlink_to("../between")
    assert load(folder).settings.port == 7
    for link in (folder / name, tmp_path / "between"):
        os.chown(link, 12_345, 0, follow_symlinks=False)
        for flags in ({}, {"conf": str(folder / name)}):
            with refused(r"belongs to uid 12345"):
                load(folder, flags)
        os.chown(link, 0, 0, follow_symlinks=False)


@pytest.mark.parametrize("name", CONFS)
def test_a_directory_that_everybody_may_write_to(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "open" / "inner"
    folder.mkdir(parents=True)
    path = write(folder / name, "port = 7")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / name
    link.symlink_to(path)
    for directory in (folder, tmp_path / "open"):
        directory.chmod(0o777)
        for flags in ({}, {"conf": str(path)}, {"conf": str(link)}):
            with refused("everybody may write"):
                load(folder, flags)
        directory.chmod(0o1777)
        assert load(folder).settings.port == 7
        directory.chmod(0o755)
    assert load(tmp_path, {"conf": str(link)}).settings.port == 7


# The program


def start(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start taskmon with what ends it at once behind its options: an address that is none of this machine's."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TASKMON_BROKER": "redis://127.0.0.1:1/0"}
    return subprocess.run(
        [sys.executable, "-m", "taskmon", "--address=192.0.2.1", "--broker-api=http://127.0.0.1:1/", *arguments],
        cwd=folder,
        env={**variables, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_names_its_files_and_warns_once(tmp_path: Path) -> None:
    conf = write(tmp_path / "taskmon.toml", "port = 0")
    secret = write(tmp_path / "secret", VALUES["basic_auth"])
    ended = start(tmp_path, f"--cookie-secret={MARK}", TASKMON_BASIC_AUTH_FILE=str(secret))
    assert ended.returncode == 1, ended.stderr
    assert f"Options were read from {conf}, {secret}" in ended.stderr
    assert ended.stderr.count("--cookie-secret") == 1
    assert MARK not in ended.stderr + ended.stdout


def test_the_program_ends_for_files_that_are_not_to_be_obeyed(tmp_path: Path) -> None:
    config = write(tmp_path / "celeryconfig.py", "raise SystemExit('it was run')", 0o666)
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    for arguments in ((f"--celery-config={config}",), (f"--workdir={folder}",), ("--cookie-secret=changeme",)):
        ended = start(tmp_path, *arguments)
        assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
        assert "it was run" not in ended.stderr
        assert ended.stderr.strip().splitlines()[-1].startswith(f"Error: {arguments[0].partition('=')[0]} must")


def test_the_spelling_of_flower_goes_on_without_a_weak_secret(tmp_path: Path) -> None:
    ended = start(tmp_path, "--cookie_secret=changeme")
    assert ended.returncode == 1, ended.stderr
    assert "--cookie_secret is ignored, as it must be at least 32 bytes long" in ended.stderr


# The samples of the manual


def test_no_sample_of_the_manual_is_a_secret_that_works() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").iterdir()]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert not re.search(r"tm_[0-9a-f]{8}_[0-9a-f]{40}|tm_[0-9a-f]{8}:[0-9a-f]{64}", text)
    assert not re.search(r"\$scrypt\$ln=\d+,r=\d+,p=\d+\$[A-Za-z0-9+/]{22}", text)
    found = re.findall(r"(?i)(cookie.secret|oauth2.secret|\btoken)(?: = \[?|=)[\"']?(file:)?([^\s\"'`\])]+)", text)
    assert {name.lower().replace("-", "_") for name, _, _ in found} >= {"cookie_secret", "oauth2_secret", "token"}
    for name, file, value in found:
        option = OPTION[name.lower().replace("-", "_")]
        if not file:
            with pytest.raises(InvalidSetting):
                load(Path("/nonexistent"), {option.name: (value,) if option.multiple else value})


def test_no_file_of_users_or_tokens_has_a_sample(tmp_path: Path) -> None:
    hashed = "$scrypt$ln=14,r=8,p=1$GSGJTcMz0+KMn1/P06YDvA$dmsORyqq5J0sLmAgwj//7NroUomQGsn472wMpWqFAjs"
    users = write(tmp_path / "users", f"ann:{hash_password('x')}\nbob:{hashed}\n")
    with pytest.raises(InvalidSetting, match=r"that no manual shows, .* line 2 of .* does not"):
        read_passwords(Settings(htpasswd=users))
    users.chmod(0o664)
    with pytest.raises(InvalidSetting, match="only its owner may write to"):
        read_passwords(Settings(htpasswd=users))
    sha256 = "782c8cf333353d2eed0bba82f58212acacbe05366c6df448ce1e89a12dd56bfe"
    file = TokenFile(tmp_path / "tokens")
    file.add(StoredToken("tm_664be2dc", sha256, "grafana", "viewer", now_utc()))
    with pytest.raises(InvalidSetting, match="no sample of a manual, which everybody knows, as line 1"):
        file.read()


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("token", f"tm_664be2dc:782c8cf333353d2eed0bba82f58212acacbe05366c6df448ce1e89a12dd56bfe:admin:me{end}")
        for end in ("", ":2030-12-31")
    ]
    + [
        ("basic_auth", "a:$scrypt$ln=14,r=8,p=1$GSGJTcMz0+KMn1/P06YDvA$dmsORyqq5J0sLmAgwj//7NroUomQGsn472wMpWqFAjs"),
        ("oauth2_secret", "the client secret"),
        ("cookie_secret", "a random text of 16 characters or more"),
        ("cookie_secret", "32 random bytes, in base64"),
    ],
)
def test_what_earlier_manuals_showed_is_refused(name: str, sample: str, tmp_path: Path) -> None:
    write(tmp_path / "taskmon.toml", f"{name} = [{sample!r}]" if OPTION[name].multiple else f"{name} = {sample!r}")
    for directory, environ in ((tmp_path, {}), (tmp_path / "none", {f"TASKMON_{name.upper()}": sample})):
        with pytest.raises(InvalidSetting) as caught:
            load(directory, environ=environ)
        assert sample not in str(caught.value)
