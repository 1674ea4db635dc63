"""Settings of Celery without an app: --set and --celery-config, what they reach, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from taskmon.celery_app import load_app
from taskmon.celery_settings import apply_celery_settings
from taskmon.errors import InvalidSetting
from taskmon.settings import Settings
from taskmon.usage import BadUsage

pytestmark = pytest.mark.usefixtures("process_as_before")

SECRET = "hunter2horse"


def load(**values: Any) -> Celery:
    return load_app(Settings(**{"broker": "memory://x", **values}))


def test_texts_become_what_celery_takes() -> None:
    conf = load(
        set=(
            *(
                "event_exchange=my events",
                "control_exchange=commands",
                "task_serializer=pickle",
                "timezone=Europe/Berlin",
            ),
            *("accept_content=json,pickle", "broker_pool_limit=5", "enable_utc=false", "broker_heartbeat=7"),
            *("broker_transport_options.a=1", "broker_transport_options.b=true", "broker_transport_options.c=x=y"),
            *(
                "broker_transport_options.d.e=[1, 2]",
                "broker_transport_options.f='5'",
                "broker_use_ssl.ca_certs=/ca.pem",
            ),
            *("result_extended=yes", "CELERY_EVENT_SERIALIZER=yaml"),
        )
    ).conf
    assert (conf.event_exchange, conf.control_exchange, conf.task_serializer) == ("my events", "commands", "pickle")
    assert (conf.accept_content, conf.broker_pool_limit, conf.enable_utc) == (["json", "pickle"], 5, False)
    options = {"a": 1, "b": True, "c": "x=y", "d": {"e": [1, 2]}, "f": "5"}
    assert conf.broker_transport_options == options
    assert conf.broker_use_ssl == {"ca_certs": "/ca.pem"}
    assert (conf.result_extended, conf.event_serializer) == (True, "yaml")


def test_one_text_with_commas() -> None:
    settings = Settings(set="accept_content=json,yaml,event_exchange=a,b, broker_transport_options.x=1")
    assert settings.set == ("accept_content=json,yaml", "event_exchange=a,b", "broker_transport_options.x=1")


def test_the_exchanges_are_really_used() -> None:
    app = load(set=("event_exchange=events", "control_exchange=commands"))
    assert app.events.Receiver(None).exchange.name == "events"
    assert app.control.mailbox.namespace == "commands"


def test_settings_go_before_those_of_the_app(tmp_path: Path) -> None:
    app = Celery("own", broker="memory://x", set_as_current=False)
    app.conf.update(event_exchange="old", broker_transport_options={"a": 1, "b": 2})
    assert app.control.mailbox.namespace == "celery"  # which makes it
    (tmp_path / "own.toml").write_text("event_exchange = 'file'\ncontrol_exchange = 'file'\n")
    chosen = ("event_exchange=new", "broker_transport_options.b=3")
    apply_celery_settings(app, Settings(set=chosen, celery_config="own.toml"))  # type: ignore[arg-type]
    assert app.conf.event_exchange == "new"
    assert app.conf.broker_transport_options == {"a": 1, "b": 3}
    assert app.control.mailbox.namespace == "file"


PYTHON = """
import os
from datetime import timedelta
from kombu import Queue

host = "memory://"
broker_url = host + "file"
CELERY_EVENT_QUEUE_PREFIX = "old"
task_queues = (Queue("a"), Queue("b"))
result_expires = timedelta(hours=1)
broker_transport_options = {"polling_interval": 0.1}
event_exchange = os.environ.get("EXCHANGE", "events")

def route(name):
    return None
"""
TOML = 'broker_url = "memory://file"\nevent_exchange = "events"\n[broker_transport_options]\npolling_interval = 0.1\n'


@pytest.mark.parametrize(("name", "text"), [("celeryconfig.py", PYTHON), ("celery.toml", TOML), ("noending", PYTHON)])
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    conf = load(broker=None, celery_config=name).conf
    assert (conf.broker_url, conf.event_exchange) == ("memory://file", "events")
    assert conf.broker_transport_options == {"polling_interval": 0.1}
    if text is PYTHON:
        assert conf.event_queue_prefix == "old"
        assert [queue.name for queue in conf.task_queues] == ["a", "b"]
    assert load(broker="memory://flag", celery_config=name).conf.broker_url == "memory://flag"


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ("event_exchang=x", "--set event_exchang is no setting of Celery; did you mean event_exchange?"),
        ("qqqq=x", "--set qqqq is no setting of Celery"),
        ("broker_transport_option.a=1", "did you mean broker_transport_options?"),
        ("event_exchange.a=1", "--set event_exchange is no dict that could have the key a"),
        ("broker_pool_limit=many", "--set broker_pool_limit must be a number"),
        ("broker_transport_options=x", "--set broker_transport_options must be a dict, such as name.key=value"),
        ("enable_utc=perhaps", "--set enable_utc must be yes or no"),
        ("event_serializer=josn", "event_serializer names no serializer of kombu: 'josn'; did you mean json?"),
        ("accept_content=josn", "accept_content must list serializers of kombu: "),
        ("timezone=Mars/Olympus", "timezone names no time zone"),
        ("name", "--set must be name=value, or name.key=value for a setting that is a dict"),
    ],
)
def test_what_is_wrong_is_one_sentence(chosen: str, sentence: str) -> None:
    with pytest.raises((InvalidSetting, BadUsage), match=r".") as caught:
        load(set=(chosen,))
    assert sentence in str(caught.value)


def test_an_unknown_option_of_redis() -> None:
    with pytest.raises(InvalidSetting, match="is no option of the transport redis; did you mean master_name"):
        load(broker="redis://127.0.0.1:1", set=("broker_transport_options.mastername=x",))
    load(broker="redis://127.0.0.1:1", set=("broker_transport_options.visibility_timeout=5",))


def test_sentinel_needs_the_name_of_its_master() -> None:
    with pytest.raises(BadUsage, match=r"--set broker_transport_options\.master_name=NAME"):
        load(broker="sentinel://127.0.0.1:1")
    app = load(broker="sentinel://127.0.0.1:1", set=("broker_transport_options.master_name=main",))
    assert app.conf.broker_transport_options == {"master_name": "main"}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("missing.py", None, "No such file"),
        ("missing.toml", None, "No such file"),
        ("a.py", f"x = '{SECRET}'\n1 / 0", "ZeroDivisionError"),
        ("a.py", f"password = '{SECRET}", "SyntaxError"),
        ("a.py", "raise SystemExit", "SystemExit"),
        ("a.py", "broker_ulr = 'x'", "has 'broker_ulr', which is no setting of Celery; did you mean broker_url?"),
        ("a.py", "broker_transport_options = 5", "broker_transport_options must be a dict"),
        ("a.toml", f"password = '{SECRET}", "it is not TOML"),
        ("a.toml", "hostname = 'x'", "has 'hostname', which is no setting of Celery"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, name: str, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidSetting, match=r"^--celery-config ") as caught:
        load(celery_config=name)
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 1), (0o644, 1)])
@pytest.mark.parametrize("secret", ["redis_password = 'hunter2'", "broker_url = 'redis://:hunter2@127.0.0.1:1/0'"])
def test_a_secret_in_a_file_that_others_may_read_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: int, secret: str
) -> None:
    for name in ("celery.toml", "celeryconfig.py"):
        caplog.clear()
        path = tmp_path / name
        path.write_text(secret)
        path.chmod(mode)
        load(broker="memory://", celery_config=str(path))
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len([text for text in warnings if "--celery-config" in text]) == warned
        assert "hunter2" not in caplog.text


def test_a_file_that_others_may_write_to_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_text("raise SystemExit('it was run')")
    path.chmod(0o666)
    with pytest.raises(InvalidSetting, match="only its owner may write to"):
        load(broker="memory://", celery_config=str(path))
