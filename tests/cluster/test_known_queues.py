"""Which queues are known, and when they are forgotten."""

from collections.abc import Iterable

import pytest
from celery import Celery
from kombu import Exchange, Queue
from serving import make_app

from taskmon.cluster import known_queues as module
from taskmon.cluster.app_queues import list_app_exchanges, list_app_queues
from taskmon.cluster.known_queues import EMPTY_FOR, KnownQueues
from taskmon.cluster.queue_lengths import QueueLength


class Bench:
    """KnownQueues, the names that their sources give, and a clock."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.of_workers: list[str] = []
        self.of_tasks: list[str] = []
        self.known = KnownQueues((lambda: self.of_workers,), (lambda: self.of_tasks,), clock=lambda: self.now)

    def find(self, **messages: int | None) -> None:
        self.known.note([QueueLength(name, count) for name, count in messages.items()])


def test_a_queue_outlives_its_last_worker_until_it_has_been_empty_for_a_day() -> None:
    bench = Bench()
    bench.of_workers = ["mail", "idle"]
    assert bench.known.names() == ["idle", "mail"]
    bench.of_workers = []
    for _ in range(5):
        bench.now += EMPTY_FOR / 2
        assert "mail" in bench.known.names()
        bench.find(mail=3, idle=0)
    assert bench.known.names() == ["mail"]
    bench.find(mail=0)
    bench.now += EMPTY_FOR - 1
    assert bench.known.names() == ["mail"]
    bench.now += 2
    assert bench.known.names() == []


def test_a_queue_whose_length_is_not_known_is_not_taken_to_be_empty() -> None:
    bench = Bench()
    bench.of_tasks = ["mail"]
    bench.known.names()
    bench.of_tasks = []
    for _ in range(3):
        bench.now += EMPTY_FOR - 1
        bench.find(mail=None, never_named=3)
        assert bench.known.names() == ["mail"]


def test_a_queue_is_not_empty_while_workers_hold_its_messages() -> None:
    bench = Bench()
    bench.of_tasks = ["mail"]
    bench.known.names()
    bench.of_tasks = []
    for _ in range(3):
        bench.now += EMPTY_FOR - 1
        bench.known.note([QueueLength("mail", 0, unacknowledged=2)])
        assert bench.known.names() == ["mail"]


def test_a_later_run_goes_on() -> None:
    bench, later = Bench(), Bench()
    bench.of_workers = ["mail"]
    bench.known.names()
    saved = bench.known.save()
    bench.now += 60
    assert bench.known.save() == saved  # else there would be something to write every few seconds
    later.known.restore({**saved, "": bench.now, "x" * 256: bench.now})
    assert later.known.names() == ["mail"]
    later.now += EMPTY_FOR + 3600
    assert later.known.names() == []


@pytest.mark.parametrize("kept", [["lasting"], ["lasting", "b"], ["lasting", "b", "d"]])
def test_too_many_queues(kept: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.of_workers, bench.of_tasks = ["lasting"], ["b"]
    bench.known.names()
    bench.find(lasting=0, b=1)
    bench.of_tasks = ["a", "b", "c", "d"]
    bench.known.names()
    bench.now += 1
    bench.of_tasks = ["d"]
    monkeypatch.setattr(module, "MAX_QUEUES", len(kept))
    assert bench.known.names() == sorted(kept)


def test_names_that_events_invent_push_out_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PASSING", 2)
    bench = Bench()
    bench.of_workers, bench.of_tasks = ["lasting"], ["full"]
    bench.known.names()
    bench.find(lasting=0, full=3)
    bench.of_tasks = [f"invented-{number}" for number in range(10)]
    assert bench.known.names() == ["full", "invented-0", "invented-1", "lasting"]
    bench.find(full=0)
    bench.now += 1
    assert bench.known.names() == ["invented-0", "invented-1", "lasting"]


def make_shop(**conf: object) -> Celery:
    app = make_app("memory://", task_default_queue="orders", **conf)

    @app.task(name="shop.pay", queue="payments", shared=False)
    def pay() -> None: ...

    return app


ROUTES: Iterable[tuple[object, set[str]]] = [
    ({"a.*": {"queue": "r1"}, "b": {"queue": Queue("r2")}, "c": "r3", "d": {"exchange": "x"}}, {"r1", "r2", "r3"}),
    ([{"a": {"queue": "r1"}}, ("b", {"queue": "r2"}), [("c", {"queue": "r3"})]], {"r1", "r2", "r3"}),
    ((lambda name, *args, **kwargs: {"queue": "never"}, {"a": {"queue": "r1"}}), {"r1"}),
    ("proj.routers.route", set()),
]


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")  # the task's own queue
@pytest.mark.parametrize(("routes", "names"), ROUTES)
def test_the_queues_of_an_app(routes: object, names: set[str]) -> None:
    app = make_shop(
        task_routes=routes,
        task_queues=[Queue("mail", Exchange("post")), Queue("orders"), Queue()],
        beat_schedule={"nightly": {"task": "shop.pay", "options": {"queue": "night"}}, "odd": None},
    )
    assert set(list_app_queues(app)) == {"mail", "night", "orders", "payments"} | names
    assert "post" in list_app_exchanges(app)


def test_the_default_queue_of_an_app_made_for_a_url_is_no_queue_of_the_cluster() -> None:
    assert list_app_queues(make_app("memory://")) == []
    assert list_app_queues(make_app("memory://", task_default_queue="orders")) == ["orders"]
    assert list_app_queues(make_app("memory://", task_queues={"mail": {}})) == ["mail"]
