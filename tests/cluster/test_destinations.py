"""Where tasks may be sent: what the app, options, workers and tasks say, and what nobody can make a destination."""

from typing import Any

import msgspec
import pytest
from celery import Celery
from destinations import Consuming
from kombu import Exchange, Queue
from serving import make_app

from taskmon.cluster.destinations import Destinations
from taskmon.cluster.inspection import Inspection
from taskmon.cluster.queue_keys import QueueKeys
from taskmon.errors import PermissionDenied

W1 = "celery@w1"

#: Names of the machinery, which nothing makes a destination.
MACHINERY = (
    "unacked", "unacked_index", "unacked_mutex", "prod:unacked", "prod_unacked_index", "UNACKED_INDEX",
    "_kombu.binding.celery", "prod:_kombu.binding.celeryev", "celery-task-meta-1234", "shop.celery-task-meta-1234",
    "celery-taskset-meta-1", "celeryev", "celeryev.1c9a", "celeryev.taskmon.8d3f", "celery@w1.celery.pidbox",
    "8d3f.reply.celery.pidbox", "reply.celery.pidbox", "celery.pidbox", "celery_delayed_27",
    "celery_delayed_delivery", "ae.undeliver", "taskmon.replies.8d3f", "amq.rabbitmq.reply-to", "celery\x06\x163",
)  # fmt: skip

#: Names that look like a broker's own or a reply queue, which only the app or an option makes a destination.
RESERVED = (
    "amq.gen-JzTY20BRgKO", "amq.topic", "reply.customers", "unacked-orders",
    "0a7cf1d2-8b7e-3c65-9f3e-2f1f5a0c9c11", "0a7cf1d28b7e3c659f3e2f1f5a0c9c11",
)  # fmt: skip


class Redis(Consuming):
    """A broker that is Redis, with these keys."""

    def __init__(self, keys: dict[str, QueueKeys], *queues: str) -> None:
        super().__init__(*queues)
        self.keys = keys

    async def look_at_keys(self, name: str) -> QueueKeys:
        """Return what is under a key."""
        return self.keys.get(name, QueueKeys(None, False))


def make(celery_app: Celery | None = None, cluster: Consuming | None = None, **more: Any) -> Destinations:
    """Make the destinations of an app, behind which are these workers and this broker."""
    cluster = cluster or Consuming()
    return Destinations(celery_app or make_app(), cluster, cluster, **more)


async def is_allowed(destinations: Destinations, **options: Any) -> bool:
    """Whether tasks may be sent there."""
    try:
        await destinations.require(options)
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize("name", MACHINERY)
async def test_what_belongs_to_the_machinery_is_never_a_destination(name: str) -> None:
    app = make_app(task_queues=[Queue(name, Exchange(name))])
    everything = make(app, Consuming(name), patterns=("*", name), named=(name,), seen=lambda: [name])
    for options in (
        {"queue": name},
        {"exchange": "", "routing_key": name},
        {"exchange": name, "routing_key": "celery"},
        {"exchange": name},
        {"queue": "celery", "exchange": name, "routing_key": "task.multi"},
        {"queue": name, "exchange": "celery", "routing_key": "celery"},
    ):
        with pytest.raises(PermissionDenied, match="no option allows it"):
            await everything.require(options)
    with pytest.raises(PermissionDenied, match="no option allows it"):
        await everything.require_queue(name)
    with pytest.raises(PermissionDenied, match="no option allows it"):
        await everything.require({"queue": name}, is_seen=True)


async def test_a_name_with_a_slash_leads_to_no_file() -> None:
    name = "../orders"
    app = make_app("filesystem://", task_queues=[Queue(name, Exchange(name))])
    assert not await is_allowed(make(app, patterns=("*", name)), queue=name)
    assert not await is_allowed(make(app, patterns=("*", name)), exchange="", routing_key=name)
    assert not await is_allowed(make(app, patterns=("*", name)), exchange=name, routing_key="x")
    assert await is_allowed(make(app), queue="celery")
    elsewhere = make(make_app("amqp://", task_queues=[Queue(name, Exchange(name))]))
    assert await is_allowed(elsewhere, queue=name)


@pytest.mark.parametrize("name", RESERVED)
async def test_a_reserved_name_takes_the_word_of_the_app_or_of_an_option(name: str) -> None:
    for weak in (
        make(cluster=Consuming(name), seen=lambda: [name]),
        make(patterns=("*",)),
        make(patterns=(f"{name[:5]}*",)),
    ):
        assert not await is_allowed(weak, queue=name)
        assert not await is_allowed(weak, exchange="", routing_key=name)
        assert not await is_allowed(weak, exchange=name, routing_key="x")
    app = make_app(task_queues=[Queue(name, Exchange(name))])
    for strong in (make(app), make(patterns=(name,))):
        assert await is_allowed(strong, queue=name)
        assert await is_allowed(strong, exchange=name, routing_key="x")


@pytest.mark.parametrize(
    ("conf", "names"),
    [
        (
            {"broker_transport_options": {"unacked_key": "held", "unacked_index_key": "held_by", "sep": ":"}},
            ("held", "held_by", "celery:3"),
        ),
        ({"broker_transport_options": {"keyprefix_queue": "bound-to.%s"}}, ("bound-to.celery",)),
        ({"event_exchange": "shop-events", "event_queue_prefix": "shop-ev"}, ("shop-events", "shop-ev.1c9a")),
        ({"control_exchange": "shop"}, ("shop.pidbox", "celery@w1.shop.pidbox")),
        ({"result_backend_transport_options": {"global_keyprefix": "results:"}}, ("results:anything",)),
    ],
)
async def test_names_that_are_configured_otherwise(conf: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        assert not await is_allowed(make(make_app(**conf), Consuming(name), patterns=("*",)), queue=name), name


async def test_a_queue_of_ours_is_none_for_tasks() -> None:
    assert not await is_allowed(make(own=("events-for-us",), patterns=("*",)), queue="events-for-us")


async def test_who_can_say_that_a_queue_is_for_tasks() -> None:
    app = make_app(task_queues=[Queue("declared")], task_routes={"a.*": {"queue": "routed"}})
    destinations = make(app, Consuming("consumed"), patterns=("new-*",), named=("watched",), seen=lambda: ["seen"])
    for name in ("declared", "routed", "celery", "consumed", "new-queue", "watched", "seen"):
        assert await is_allowed(destinations, queue=name), name
        assert await is_allowed(destinations, exchange="", routing_key=name), name
    for name in ("other", "Declared", "new", "seen "):
        assert not await is_allowed(destinations, queue=name), name
    assert await is_allowed(destinations)
    assert await is_allowed(destinations, routing_key="any", priority=3)


async def test_the_workers_are_asked_before_a_queue_is_refused() -> None:
    cluster = Consuming()

    async def refresh(hostname: str | None, awaited: Any = ()) -> None:
        cluster.inspections[W1] = Inspection(queues=("just-now",))

    cluster.refresh = refresh  # type: ignore[method-assign]
    assert await is_allowed(make(cluster=cluster), queue="just-now")
    asked = Consuming()
    with pytest.raises(PermissionDenied, match=r"'other' is not known to be for tasks.*--publish-queues"):
        await make(cluster=asked).require({"queue": "other"})
    assert asked.asked == [None]


async def test_exchanges() -> None:
    app = make_app(task_queues=[Queue("mail", Exchange("shop", type="topic"), "mail.#")])
    cluster = Consuming("live")
    answer = [{"name": "live", "exchange": {"name": "live-x", "type": "topic"}}, {"name": "odd", "exchange": None}]
    cluster.inspections[W1].answers["active_queues"] = msgspec.Raw(msgspec.json.encode(answer))
    destinations = make(app, cluster, patterns=("new",), seen=lambda: ["seen"])
    for exchange, key in (
        ("shop", "mail.x"),
        ("live-x", "any"),
        ("new", "any"),
        ("celery", "celery"),
        ("shop", None),
    ):
        assert await is_allowed(destinations, exchange=exchange, routing_key=key), exchange
    for exchange, key in (("payments", "x"), ("amq.direct", "mail"), ("amq.topic", "x"), ("seen", "payments")):
        assert not await is_allowed(destinations, exchange=exchange, routing_key=key), exchange
    with pytest.raises(PermissionDenied, match="--publish-queues with this name would allow it"):
        await destinations.require({"exchange": "payments", "routing_key": "x"})


async def test_an_answer_of_a_worker_that_makes_no_sense_allows_nothing() -> None:
    cluster = Consuming()
    for answer in (b"{}", b'[{"exchange": 5}]', b"[1]", b'[{"exchange": {"name": ["payments"]}}]'):
        cluster.inspections[W1].answers["active_queues"] = msgspec.Raw(answer)
        assert not await is_allowed(make(cluster=cluster), exchange="payments", routing_key="x")


async def test_what_redis_holds_decides() -> None:
    keys = {"cache": QueueKeys("hash", True), "bound": QueueKeys(None, True), "foreign": QueueKeys(None, False)}
    redis = Redis(keys, "cache", "foreign-but-consumed")
    destinations = make(cluster=redis, patterns=("fresh",), seen=lambda: ["cache", "bound", "foreign"])
    with pytest.raises(PermissionDenied, match="is a hash, and no queue"):
        await destinations.require({"queue": "cache"})
    with pytest.raises(PermissionDenied, match="may be another program's"):
        await destinations.require({"queue": "foreign"})
    with pytest.raises(PermissionDenied, match="may be another program's"):
        await destinations.require({"queue": "never-heard-of"}, is_seen=True)
    for name in ("bound", "fresh", "foreign-but-consumed"):
        assert await is_allowed(destinations, queue=name), name


async def test_a_worker_leaves_only_what_it_consumes() -> None:
    cluster = Consuming("mail")
    destinations = make(cluster=cluster, patterns=("*",))
    await destinations.require_consumed(W1, "mail")
    assert cluster.asked == []
    for hostname, queue in ((W1, "other"), ("celery@w2", "mail"), (W1, "unacked_index")):
        with pytest.raises(PermissionDenied, match="does not consume"):
            await destinations.require_consumed(hostname, queue)
    assert cluster.asked == [W1, "celery@w2", W1]
