"""What can never work of an app's configuration is found without connecting, and is no 500 where it was not."""

from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from celery import Celery
from serving import serving

from taskmon.celery_app import load_app
from taskmon.cluster import requirements
from taskmon.cluster.requirements import find_backend_fault, find_broker_fault, find_setting_fault, has_broker
from taskmon.settings import Settings
from taskmon.usage import BadUsage

pytestmark = pytest.mark.usefixtures("process_as_before")


def make(broker: str | None = None, **conf: Any) -> Celery:
    app = Celery("own", broker=broker, set_as_current=False)
    app.conf.update(conf)
    return app


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no package that is not there in a plain installation."""
    extras = {"redis", "packaging", "boto3", "pymongo", "psycopg", "confluent_kafka"}
    real = requirements.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in extras else real(name)

    monkeypatch.setattr(requirements, "find_spec", find_spec)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("redis://127.0.0.1/0", "celery-taskmon[redis]"),
        ("rediss://127.0.0.1/0", "celery-taskmon[redis]"),
        ("sentinel://127.0.0.1;sentinel://127.0.0.2", "celery-taskmon[redis]"),
        ("amqp://127.0.0.1//;redis://127.0.0.1", "celery-taskmon[redis]"),
        ("sqs://", "kombu[sqs]"),
        ("SQS://", "kombu[sqs]"),
        ("mongodb://127.0.0.1", "kombu[mongodb]"),
        ("kafka://127.0.0.1", "kombu[confluentkafka]"),
    ],
)
def test_a_missing_package_is_named(url: str, package: str) -> None:
    fault = find_broker_fault(make(url))
    assert fault is not None
    assert fault.endswith(f": pip install '{package}'")
    with pytest.raises(BadUsage, match="The broker cannot be used: it needs the Python package"):
        load_app(Settings(broker=url))


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redsi://127.0.0.1", "kombu has no transport 'redsi'; did you mean redis?"),
        ("qqqqqqqq://127.0.0.1", "kombu has no transport 'qqqqqqqq'"),
        ("amqp://127.0.0.1//;redsi://127.0.0.1", "kombu has no transport 'redsi'; did you mean redis?"),
        ("rediss://127.0.0.1?ssl_cert_reqs=wrong", "its URL cannot be read"),
        ("redis://u:pass/word@127.0.0.1", "its URL cannot be read"),
        ("amqp://127.0.0.1//", None),
        ("amqps://127.0.0.1//", None),
        ("redis://127.0.0.1;redis://127.0.0.2", None),
        ("memory://", None),
        ("filesystem://", None),
    ],
)
def test_transports(url: str, fault: str | None) -> None:
    assert find_broker_fault(make(url)) == fault


@pytest.mark.usefixtures("bare")
def test_backends() -> None:
    fault = find_backend_fault(make(result_backend="redis://127.0.0.1"))
    assert fault == "it needs the Python package redis: pip install 'celery-taskmon[redis]'"
    assert "celery[mongodb]" in str(find_backend_fault(make(result_backend="mongodb://127.0.0.1")))
    fault = find_backend_fault(make(result_backend="redsi://127.0.0.1"))
    assert fault == "Celery has no result backend 'redsi'; did you mean redis?"
    for url in (None, "rpc://", "file:///tmp/x", "cache+memory://", "db+sqlite://"):
        assert find_backend_fault(make(result_backend=url)) is None, url


def test_a_backend_that_is_not_there_ends_the_start_only_where_it_was_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, process_as_before: None
) -> None:
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "")  # which is set below, and is to be as before after the test
    monkeypatch.delenv("CELERY_RESULT_BACKEND")
    with pytest.raises(BadUsage, match="--result-backend cannot be used: Celery has no result backend 'redsi'"):
        load_app(Settings(broker="memory://x", result_backend="redsi://127.0.0.1"))
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redsi://127.0.0.1")
    load_app(Settings(broker="memory://x", result_backend="redsi://127.0.0.1"))
    assert "Results cannot be read: Celery has no result backend 'redsi'" in caplog.text


@pytest.mark.parametrize(
    ("conf", "fault"),
    [
        ({}, None),
        ({"task_serializer": "josn"}, "task_serializer"),
        ({"event_serializer": None}, "event_serializer"),
        ({"accept_content": ["josn"]}, "accept_content"),
        ({"accept_content": 5}, "accept_content"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
    ],
)
def test_settings(conf: dict[str, Any], fault: str | None) -> None:
    found = find_setting_fault(make("memory://x", **conf))
    assert (found is None) == (fault is None)
    assert found is None or found.startswith(str(fault))


def test_which_broker_is_one() -> None:
    assert not has_broker(make())
    for conf in ({"broker_url": "x"}, {"broker_read_url": "x"}, {"broker_write_url": "x"}, {"broker_transport": "x"}):
        assert has_broker(make(**conf))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://127.0.0.1:1/0", {"socket_timeout": "long"}),
        ("redis://127.0.0.1:1/0", {"max_connections": "many"}),
        ("redis://127.0.0.1:1/0", {"health_check_interval": "x"}),
        ("redis://127.0.0.1:1/notanumber", {}),
        ("sentinel://127.0.0.1:1", {}),
        ("rediss://127.0.0.1:1?ssl_cert_reqs=wrong", {}),
        ("amqp://127.0.0.1:1//", {"client_properties": 5}),
        ("amqp://127.0.0.1:1//", {"nonsense": 5}),
        ("redsi://127.0.0.1:1", {}),
        ("qpid://127.0.0.1:1", {}),
    ],
)
async def test_no_request_fails_because_of_the_configuration(url: str, options: dict[str, Any]) -> None:
    app = make(url, broker_transport_options=options)
    async with serving(app) as served:
        for method, path, body in (
            ("GET", "/api/workers?refresh=1", b""),
            ("GET", "/api/queues/length", b""),
            ("POST", "/api/task/send-task/x", b"{}"),
            ("POST", "/api/task/revoke/x", b""),
            ("GET", "/readyz", b""),
            ("GET", "/api/diagnostics", b""),
            ("GET", "/api/workers", b""),
            ("GET", "/metrics", b""),
        ):
            answer = await served.request(method, path, {"Content-Type": "application/json"} if body else None, body)
            assert answer.status in (200, 503), (path, answer.body)
            if answer.status == 503 and path != "/readyz":
                assert len(answer.error["message"]) > 20
