"""The rules of every option, the order of their sources, and that no secret gets out."""

import base64
import math
import secrets
import string
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskmon.errors import InvalidSetting
from taskmon.masking import mask_passwords
from taskmon.settings import (
    FLOWER_ONLY,
    OPTION,
    OPTIONS,
    Loaded,
    Settings,
    UnknownSetting,
    format_size,
    load_settings,
)

SECRET = "hunter2horse"
HASH = f"$scrypt$ln=14,r=8,p=1${'s' * 22}${'d' * 43}"
GOOD = secrets.token_urlsafe(32)
LINE = f"tm_0123abcd:{'ab' * 32}:viewer:grafana"
FOREIGN_HASHES = ("$2y$10$abc", "$apr1$x$y", "{SHA}abc", "$argon2id$v=19$x", "$scrypt$ln=2,r=8,p=1$x$y")


def make(**values: object) -> Settings:
    return Settings(**values)  # type: ignore[arg-type]


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path = Path("/nonexistent"),
) -> Loaded:
    return load_settings(flags or {}, environ or {}, directory)


def write(folder: Path, text: str, name: str = "taskmon.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- values


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("app", " proj.celery:app ", "proj.celery:app"),
        ("broker", "redis://:p%2Fw@host:6379/0", "redis://:p%2Fw@host:6379/0"),
        ("broker", "sentinel://a:1;sentinel://b:2", "sentinel://a:1;sentinel://b:2"),
        ("broker", "mongodb://a:1,b:2/db", "mongodb://a:1,b:2/db"),
        ("broker", "memory://", "memory://"),
        ("result_backend", "django-db", "django-db"),
        ("address", "0.0.0.0", "0.0.0.0"),
        ("address", "::1", "::1"),
        ("address", "localhost", "localhost"),
        ("port", "0", 0),
        ("port", 65_535, 65_535),
        ("unix_socket", "/run/taskmon.sock", Path("/run/taskmon.sock")),
        ("unix_socket", Path("a.sock"), Path("a.sock")),
        ("url_prefix", "", ""),
        ("url_prefix", "/", ""),
        ("url_prefix", "taskmon/", "/taskmon"),
        ("url_prefix", "/a/b-c", "/a/b-c"),
        ("public_url", "https://t.example.org/x/", "https://t.example.org/x"),
        ("public_url", "http://localhost:5555", "http://localhost:5555"),
        ("max_body", "64KiB", 65_536),
        ("max_body", "2 MB", 2 << 20),
        ("max_message", "1g", 1 << 30),
        ("max_message", 4096, 4096),
        ("basic_auth", "a:b,c:d:e", ("a:b", "c:d:e")),
        ("basic_auth", ["a:b,c"], ("a:b,c",)),
        ("basic_auth", f"a:{HASH}, b:x", (f"a:{HASH}", "b:x")),
        ("basic_auth", "a: b ", ("a: b ",)),
        ("token", LINE, (LINE,)),
        ("token", [f"{LINE}:2030-12-31"], (f"{LINE}:2030-12-31",)),
        ("anonymous_role", "Viewer", "viewer"),
        ("allowed_hosts", "T.Example.org.,[::1], 10.0.0.1", ("t.example.org", "::1", "10.0.0.1")),
        ("enable_events", "off", False),
        ("debug", 1, True),
        ("debug", "Yes", True),
        ("inspect_timeout", "1500.5", 1500.5),
        ("purge_offline_workers", 0, 0.0),
        ("metrics_prefix", "flower", "flower"),
        ("durable_queue", "taskmon.events@web-1:a", "taskmon.events@web-1:a"),
        ("task_runtime_metric_buckets", "0.5,1,5", (0.5, 1.0, 5.0, math.inf)),
        ("task_runtime_metric_buckets", [1, math.inf], (1.0, math.inf)),
        ("task_runtime_metric_buckets", 2, (2.0, math.inf)),
        ("log_level", "WARNING", "warning"),
        ("log_format", "json", "json"),
    ],
)
def test_value_is_normalised(name: str, given: object, expected: object) -> None:
    settings = make(**{name: given})
    assert getattr(settings, name) == expected
    assert replace(settings) == settings


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("app", "", "must be a text"),
        ("app", 5, "must be a text"),
        ("app", "a\nb", "control characters"),
        ("address", "http://x", "must be an IP address"),
        ("address", "a b", "must be an IP address"),
        ("port", "abc", "must be a whole number between 0 and 65535"),
        ("port", 70_000, "must be a whole number"),
        ("port", -1, "must be a whole number"),
        ("port", True, "must be a whole number"),
        ("port", 55.5, "must be a whole number"),
        ("port", None, "must be a whole number"),
        ("port", "9" * 5000, "must be a whole number"),
        ("unix_socket", "/" + "x" * 107, "at most 107 bytes"),
        ("unix_socket", "~nobody-at-all/x", "home directory"),
        ("url_prefix", "/a b", "must be a path such as"),
        ("url_prefix", "/../x", "must be a path such as"),
        ("url_prefix", 5, "must be a path such as"),
        ("public_url", "ftp://x", "must be a URL such as"),
        ("public_url", "https://user@x", "must be a URL such as"),
        ("public_url", "https://x:99999999", "must be a URL such as"),
        ("public_url", "https://x?y", "must be a URL such as"),
        ("max_body", "12 parsecs", "must be a size between 1 KiB and 1 GiB"),
        ("max_body", "1", "must be a size"),
        ("max_body", True, "must be a size"),
        ("anonymous_role", "root", "must be viewer, operator or admin"),
        ("allowed_hosts", "https://x", "must be host names"),
        ("allowed_hosts", "x:80", "must be host names"),
        ("allowed_hosts", "*", "must be host names"),
        ("enable_events", "maybe", "must be yes or no"),
        ("enable_events", None, "must be yes or no"),
        ("inspect_timeout", "nan", "must be a number between 1 and 600000"),
        ("inspect_timeout", "inf", "must be a number"),
        ("inspect_timeout", [1], "must be a number"),
        ("purge_offline_workers", True, "must be a number between 0 and 315360000"),
        ("metrics_prefix", "1x", "must be letters"),
        ("durable_queue", "amq.events", "must be 1 to 255 letters"),
        ("durable_queue", "a b", "must be 1 to 255 letters"),
        ("event_queue_max_length", "0", "must be a whole number between 1 and"),
        ("task_runtime_metric_buckets", "1,x", "must be numbers greater than 0"),
        ("task_runtime_metric_buckets", "0", "must be numbers greater than 0"),
        ("task_runtime_metric_buckets", "2,1", "each greater than the one before"),
        ("task_runtime_metric_buckets", "", "each greater than the one before"),
        ("log_level", "loud", "must be debug, info, warning, error or critical"),
        ("log_format", 5, "must be text or json"),
    ],
)
def test_bad_value_names_option_rule_and_value(name: str, given: object, rule: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        make(**{name: given})
    message = str(caught.value)
    assert message.startswith(OPTION[name].flag + " ")
    assert rule in message
    if isinstance(given, str) and given.isprintable() and "each" not in rule:
        assert given[:80] in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("broker", SECRET, "must be a URL"),
        ("broker", f"redis://:{SECRET} x@host", "must be a URL"),
        ("broker", f"redis://:{SECRET}/x@host/0", "%2F for / in a password"),
        ("broker", "", "must be a text"),
        ("result_backend", f"redis://:{SECRET}\n@host", "control characters"),
        ("basic_auth", SECRET, "must be user:password"),
        ("basic_auth", f":{SECRET}", "must be user:password"),
        ("basic_auth", f"a:{SECRET}\ud800", "control characters"),
        ("basic_auth", f"a:{SECRET},a:x", "must name each user once"),
        ("basic_auth", f"a:{SECRET * 60}", "at most 700 bytes"),
        ("basic_auth", "user:", "must be user:password"),
        *(("basic_auth", f"a:{text}", "taskmon hash-password") for text in FOREIGN_HASHES),
        ("token", SECRET, "must be a line printed by `taskmon token`"),
        ("token", f"{LINE}:2030-02-31", "must end in a date"),
        ("token", f"{LINE},{LINE}x", "must name each token once"),
    ],
)
def test_bad_secret_is_not_repeated(name: str, given: str, rule: str) -> None:
    with pytest.raises(InvalidSetting, match=rule) as caught:
        make(**{name: given})
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert caught.value.value is None
    assert caught.value.__cause__ is None


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_defaults_keep_the_rules() -> None:
    assert Settings() == make(**{option.name: option.default for option in OPTIONS})
    assert (Settings().address, Settings().port) == ("127.0.0.1", 5555)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("debug", "off"),
        ("enable_events", "on"),
        ("port", "5555"),
        ("max_message", "8 MiB"),
        ("inspect_timeout", "1000"),
        ("broker", ""),
        ("basic_auth", ""),
        ("url_prefix", ""),
        ("metrics_prefix", "taskmon"),
    ],
)
def test_default_as_text(name: str, text: str) -> None:
    assert OPTION[name].default_text == text


def test_default_of_many_numbers_as_text() -> None:
    assert OPTION["task_runtime_metric_buckets"].default_text.startswith("0.005, 0.01, 0.025, 0.05, 0.075, 0.1,")
    assert OPTION["task_runtime_metric_buckets"].default_text.endswith(" 7.5, 10")


@pytest.mark.parametrize(("size", "text"), [(1000, "1000"), (1 << 30, "1 GiB"), (3 << 19, "1536 KiB")])
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


def test_each_option_has_a_row() -> None:
    for option in OPTIONS:
        assert option.help.endswith(".")
        assert option.section
        assert option.variable == f"TASKMON_{option.name.upper()}"
        assert option.flower in (None, option.name, "logging", "log_file_prefix", "oauth2_okta_base_url")
    secret = {"broker", "broker_api", "result_backend", "basic_auth", "token", "oauth2_secret", "cookie_secret"}
    secret |= {"history", "set"}
    assert {o.name for o in OPTIONS if o.secret} == secret
    assert not FLOWER_ONLY.keys() & {option.flower for option in OPTIONS}


# --- secrets


def test_no_text_of_settings_shows_a_secret() -> None:
    settings = make(
        broker=f"amqp://u:{SECRET}@host//",
        result_backend=f"redis://:{SECRET}@host/0",
        basic_auth=f"a:{SECRET}",
        token=LINE,
    )
    for text in (repr(settings), str(settings), f"{settings}", repr([settings]), f"{settings!r}"):
        assert SECRET not in text
        assert "ab" * 32 not in text
        assert "amqp://u:***@host//" in text
        assert "port=5555" in text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("nothing here: a@b", "nothing here: a@b"),
        ("see http://host:5555/x?mail=a@b now", "see http://host:5555/x?mail=a@b now"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user@host/0", "redis://user@host/0"),
        ("to amqp://guest:guest@localhost:5672//: refused", "to amqp://guest:***@localhost:5672//: refused"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("redis://:p@w@host/0", "redis://:***@host/0"),
        ("redis://:p/w@host/0", "redis://:***@host/0"),
        ("redis://:12/w@host/0", "redis://:***@host/0"),
        ("redis://:p'w\"x@host/0", "redis://:***@host/0"),
        ("amqp://a:b@h1//;amqp://c:d@h2//", "amqp://a:***@h1//;amqp://c:***@h2//"),
        ("sqla+postgresql://u:1234@h/db", "sqla+postgresql://u:***@h/db"),
        ("rediss://h/0?password=pw&x=1", "rediss://h/0?password=***&x=1"),
        ("x://h?ssl_key_secret=pw'", "x://h?ssl_key_secret=***'"),
    ],
)
def test_mask_passwords(text: str, masked: str) -> None:
    assert mask_passwords(text) == masked


@given(st.text(min_size=1, max_size=40), st.sampled_from(["", "user", "a.b-c"]))
@example("@@", "")
@example("12345", "user")
def test_mask_passwords_hides_any_quoted_password(password: str, user: str) -> None:
    coded = quote(f"<{password}>", safe="")
    assert coded not in mask_passwords(f"cannot reach amqp://{user}:{coded}@host:5672//, trying again")


def test_mask_passwords_is_quick_on_long_texts() -> None:
    for text in ("a" * 100_000, "a://b:" * 20_000, "a://" + "b" * 100_000, "x://a:" + "@:" * 50_000):
        mask_passwords(f"://{text}")


# --- sources


def test_sources_in_order(tmp_path: Path) -> None:
    write(tmp_path, "port = 4\nmax_tasks = 4\nmax_workers = 4\nmax-text = 44\n")
    environ = {
        "TASKMON_PORT": "2",
        "TASKMON_MAX_TASKS": "2",
        "FLOWER_MAX_TASKS": "3",
        "FLOWER_MAX_WORKERS": "3",
    }
    settings, notes, _ = load({"port": "1", "max_text": None, "basic_auth": ()}, environ, tmp_path)
    assert (settings.port, settings.max_tasks, settings.max_workers, settings.max_text) == (1, 2, 3, 44)
    assert settings.max_connections == 1000
    assert settings.conf == tmp_path / "taskmon.toml"
    assert notes == ("Taken from the environment under Flower's names: FLOWER_MAX_WORKERS",)


def test_nothing_given_is_the_default() -> None:
    assert load() == Loaded(Settings(), ())


def test_repeated_flags_and_commas() -> None:
    assert load({"basic_auth": ("a:b,c:d", "e:f")}).settings.basic_auth == ("a:b", "c:d", "e:f")


def test_array_of_the_file_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, 'basic_auth = ["a:b,c"]\nallowed-hosts = "x,y"\ndebug = true\n')
    settings = load(directory=tmp_path).settings
    assert settings.basic_auth == ("a:b,c",)
    assert settings.allowed_hosts == ("x", "y")
    assert settings.debug


def test_empty_variables_count_as_not_set() -> None:
    environ = {"TASKMON_BROKER": "", "FLOWER_PORT": "", "FLOWER_DB": "", "CELERY_BROKER_URL": ""}
    assert load(environ=environ) == Loaded(Settings(), ())


def test_flower_variables_that_work() -> None:
    environ = {
        "FLOWER_BASIC_AUTH": f"u:{SECRET}",
        "FLOWER_LOGGING": "debug",
        "flower_port": "1",
        "FLOWER_X": "1",
    }
    settings, notes, _ = load(environ=environ)
    assert settings.basic_auth == (f"u:{SECRET}",)
    assert settings.log_level == "debug"
    assert notes == ("Taken from the environment under Flower's names: FLOWER_BASIC_AUTH, FLOWER_LOGGING",)


def test_flower_options_that_taskmon_does_not_have_are_named() -> None:
    environ = {f"FLOWER_{name.upper()}": SECRET for name in FLOWER_ONLY}
    settings, notes, _ = load(environ=environ)
    assert settings == Settings()
    assert len(notes) == 1
    assert all(f"FLOWER_{name.upper()}" in notes[0] for name in FLOWER_ONLY)
    assert SECRET not in notes[0]


@pytest.mark.parametrize(
    ("environ", "role", "note"),
    [
        ({}, "viewer", "is set: who gives no credentials has the role viewer"),
        ({"TASKMON_ANONYMOUS_ROLE": "operator"}, "operator", None),
        ({"FLOWER_BASIC_AUTH": "a:b"}, None, "Ignored, since there are other ways to log in"),
        ({"TASKMON_TOKEN": LINE}, None, "Ignored, since there are other ways to log in"),
        ({"FLOWER_AUTH": ".*@x"}, None, "Ignored, since there are other ways to log in"),
        ({"FLOWER_UNAUTHENTICATED_API": "no"}, None, None),
        ({"FLOWER_UNAUTHENTICATED_API": ""}, None, None),
    ],
)
def test_unauthenticated_api(environ: dict[str, str], role: str | None, note: str | None) -> None:
    settings, notes, _ = load(environ={"FLOWER_UNAUTHENTICATED_API": "true", **environ})
    assert settings.anonymous_role == role
    about = [text for text in notes if "UNAUTHENTICATED" in text]
    assert [note in text for text in about] == ([True] if note else [])


def test_unauthenticated_api_must_be_a_boolean() -> None:
    with pytest.raises(InvalidSetting, match=r"must be yes or no \(given in FLOWER_UNAUTHENTICATED_API\)"):
        load(environ={"FLOWER_UNAUTHENTICATED_API": "perhaps"})


def test_celery_variables_come_last(tmp_path: Path) -> None:
    environ = {"CELERY_BROKER_URL": "redis://celery", "CELERY_RESULT_BACKEND": "rpc://"}
    settings = load(environ=environ, directory=tmp_path).settings
    assert (settings.broker, settings.result_backend) == ("redis://celery", "rpc://")
    write(tmp_path, 'broker = "redis://file"\n')
    assert load(environ=environ, directory=tmp_path).settings.broker == "redis://file"


def test_service_links_of_kubernetes_are_no_options() -> None:
    links = {
        "TASKMON_PORT": "tcp://10.0.0.1:5555",
        "TASKMON_SERVICE_HOST": "10.0.0.1",
        "TASKMON_SERVICE_PORT": "5555",
        "TASKMON_SERVICE_PORT_HTTP": "5555",
        "TASKMON_PORT_5555_TCP": "tcp://10.0.0.1:5555",
        "TASKMON_PORT_5555_TCP_ADDR": "10.0.0.1",
        "TASKMON_API_PORT": "udp://10.0.0.1:1",
        "FLOWER_PORT": "tcp://10.0.0.2:5555",
    }
    assert load(environ=links) == Loaded(Settings(), ())


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [("TASKMON_PRT", "TASKMON_PORT"), ("TASKMON_MAXTASKS", "TASKMON_MAX_TASKS"), ("TASKMON_", None)],
)
def test_unknown_variable(variable: str, nearest: str | None) -> None:
    with pytest.raises(UnknownSetting, match="the environment has an option taskmon does not know") as caught:
        load(environ={variable: SECRET})
    assert caught.value.nearest == nearest
    assert variable in str(caught.value)
    assert (f"did you mean {nearest}?" in str(caught.value)) == (nearest is not None)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "'prot'; did you mean port?"),
        ('conf = "x"', "an option taskmon does not know, 'conf'"),
        ("port = 'abc'", r"--port must be a whole number .* \(given in .*taskmon.toml\), not 'abc'"),
        ("port = [1]", "--port must be a whole number"),
        ("port = 2020-01-01", "--port must be a whole number"),
        ("[port]\nx = 1", "--port must not be a table"),
        (f"basic_auth = '{SECRET}'", r"--basic-auth must be user:password \(given in"),
        (f"broker = '{SECRET}", "the fault is at end of document"),
        (f"broker = {SECRET}", "the fault is at line 1, column 10"),
        ("x = " + "9" * 5000, "--conf must name a TOML file"),
        ("x = " + "[" * 5000, "--conf must name a TOML file"),
    ],
)
def test_faults_of_the_file(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(InvalidSetting, match=message) as caught:
        load(directory=tmp_path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "taskmon.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match="it is no text in UTF-8"):
        load(directory=tmp_path)


@pytest.mark.parametrize("conf", ["missing.toml", "."])
def test_file_that_cannot_be_read(tmp_path: Path, conf: str) -> None:
    for flags, environ in (({"conf": conf}, {}), ({}, {"TASKMON_CONF": conf})):
        with pytest.raises(InvalidSetting, match="--conf must name a TOML file that can be read"):
            load(flags, environ, tmp_path)


def test_file_named_by_flag_or_variable(tmp_path: Path) -> None:
    write(tmp_path, "port = 1", "a.toml")
    write(tmp_path, "port = 2", "b.toml")
    write(tmp_path, "port = 3")
    assert load({"conf": "a.toml"}, {"TASKMON_CONF": "b.toml"}, tmp_path).settings.port == 1
    assert load({}, {"TASKMON_CONF": str(tmp_path / "b.toml")}, tmp_path).settings.port == 2
    write(tmp_path, "port = 5", "flower.conf")  # Flower takes any name
    assert load({}, {"FLOWER_CONF": "flower.conf"}, tmp_path).settings.port == 5
    assert load({}, {"FLOWER_CONF": "flower.conf", "TASKMON_CONF": "a.toml"}, tmp_path).settings.port == 1


@pytest.mark.parametrize(
    ("flags", "environ", "kept", "named"),
    [
        ({}, {"FLOWER_COOKIE_SECRET": "short"}, (), "FLOWER_COOKIE_SECRET is ignored"),
        ({}, {"FLOWER_COOKIE_SECRET": "x" * 40}, (), "FLOWER_COOKIE_SECRET is ignored"),
        ({"cookie_secret": ("short",)}, {}, (), "--cookie_secret is ignored"),
        ({}, {"FLOWER_COOKIE_SECRET": f"a,b,{GOOD}"}, (f"a,b,{GOOD}",), "Taken from the environment"),
        ({"cookie_secret": ("short", GOOD)}, {}, (GOOD,), "--cookie_secret is ignored"),
    ],
)
def test_a_short_cookie_secret_of_flower_is_a_warning(
    flags: dict[str, object], environ: dict[str, str], kept: tuple[str, ...], named: str
) -> None:
    settings, notes, _ = load_settings(flags, environ, Path("/nonexistent"), as_flower=["cookie_secret"])
    assert settings.cookie_secret == kept
    assert len([note for note in notes if note.startswith(named)]) == 1


@pytest.mark.parametrize(
    "weak",
    [
        "short",
        "a random text of 16 characters or more",
        "32 random bytes, in base64",
        *("a" * 40, "changeme" * 5, "secret" * 8, "0123456789abcdef" * 3, "abcdefghijklmnopqrstuvwxyz0123456789"),
        *("the-quick-brown-fox-jumps-over-the-lazy-dog", "password123" * 3, "deadbeef" * 8, "CHANGE_ME-" * 4),
        *("MySuperSecretCookieKey1234567890", "qwertyuiopasdfghjklzxcvbnm1234567", "\u00e9" * 20),
    ],
)
def test_a_weak_cookie_secret_is_an_error(tmp_path: Path, weak: str) -> None:
    write(tmp_path, f"cookie_secret = [{weak!r}]")
    flags: dict[str, object] = {"cookie_secret": (weak,)}
    for sources in ((flags, {}), ({}, {"TASKMON_COOKIE_SECRET": weak})):
        with pytest.raises(InvalidSetting, match="token_urlsafe") as caught:
            load(*sources)
        assert weak not in str(caught.value)
    with pytest.raises(InvalidSetting, match="token_urlsafe"):
        load({}, {}, tmp_path)


def test_a_generated_cookie_secret_is_taken() -> None:
    alphabet = string.ascii_letters + string.digits
    for made in (
        *(secrets.token_urlsafe(32), secrets.token_hex(32), secrets.token_hex(16)),
        *(base64.b64encode(secrets.token_bytes(32)).decode(), "".join(secrets.choice(alphabet) for _ in range(48))),
    ):
        assert load(environ={"TASKMON_COOKIE_SECRET": made}).settings.cookie_secret == (made,)


def test_bad_conf_is_one_sentence() -> None:
    with pytest.raises(InvalidSetting, match="--conf must be a text"):
        load({"conf": " "})


def test_bad_value_says_where_it_was_given() -> None:
    with pytest.raises(InvalidSetting, match=r"\(given in TASKMON_PORT\), not 'x'"):
        load(environ={"TASKMON_PORT": "x"})
    with pytest.raises(InvalidSetting, match=r"^--port must be a whole number between 0 and 65535, not 'x'$"):
        load({"port": "x"})
    with pytest.raises(InvalidSetting, match=r"\(given in CELERY_BROKER_URL\)$"):
        load(environ={"CELERY_BROKER_URL": SECRET})


@given(st.dictionaries(st.sampled_from([option.name for option in OPTIONS]), st.text(max_size=30)))
def test_any_text_gives_settings_or_one_sentence(values: dict[str, str]) -> None:
    values.pop("conf", None)
    try:
        loaded = load(values)
    except InvalidSetting as exc:
        assert str(exc).isprintable()
    else:
        assert replace(loaded.settings) == loaded.settings
