"""The name of a cluster: the same for the same messages, another for others, and never with a credential."""

import pytest
from celery import Celery
from serving import make_app

from taskmon.cluster.cluster_names import name_cluster


def name(broker: str, **conf: object) -> str:
    return name_cluster(make_app(broker, **conf))


@pytest.mark.parametrize(
    ("broker", "expected"),
    [
        ("redis://:secret@127.0.0.1:6379/0", "redis://localhost:6379/0"),
        ("redis://user:other@LOCALHOST", "redis://localhost:6379/0"),
        ("redis://[::1]/3", "redis://localhost:6379/3"),
        ("redis://[fd00::7]/3", "redis://[fd00::7]:6379/3"),
        ("rediss://:secret@cache.example.com:6380/2?ssl_cert_reqs=none", "redis://cache.example.com:6380/2"),
        ("amqp://guest:guest@rabbit.example.com.//", "amqp://rabbit.example.com:5672/"),
        ("amqps://other:secret@rabbit.example.com", "amqp://rabbit.example.com:5672/"),
        ("pyamqp://rabbit.example.com:5673/shop", "amqp://rabbit.example.com:5673/shop"),
        ("amqp://b/shop;amqp://user:secret@a/shop", "amqp://a:5672/shop;amqp://b:5672/shop"),
        (
            "redis+socket:///run/Redis.sock?virtual_host=2&password=secret",
            "redis+socket:///run/Redis.sock?virtual_host=2",
        ),
        ("sqla+postgresql://user:secret@db/celery", "sqla+postgresql://db/celery"),
    ],
)
def test_what_a_cluster_is_called(broker: str, expected: str) -> None:
    assert name(broker) == expected


def test_options_that_decide_which_messages_are_seen() -> None:
    plain = name("redis://")
    prefixed = name("redis://", broker_transport_options={"global_keyprefix": "a:", "visibility_timeout": 60})
    assert prefixed == "redis://localhost:6379/0 global_keyprefix=a:"
    assert name("redis://", broker_transport_options={"visibility_timeout": 60}) == plain
    assert name("redis://", event_exchange="others") == "redis://localhost:6379/0 event_exchange=others"


def test_a_url_that_cannot_be_read() -> None:
    assert name_cluster(Celery("project", broker="redis://host:port/0", set_as_current=False)) == ""
