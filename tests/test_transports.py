"""Connections of taskmon restore, declare and delete nothing that is another's, on whatever transport."""

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem, memory, pyamqp, redis, virtual
from serving import make_app

import taskmon
from taskmon.cluster.connections import drop_connection, open_connection, open_events_connection
from taskmon.transports import claim_queue, is_protected, monitor_transport, protect_messages

SOURCES = Path(taskmon.__file__).parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a broker of its own: kombu remembers the exchanges of all folders of a process together."""
    monkeypatch.setattr(filesystem.Transport, "global_state", virtual.BrokerState())
    for name in ("messages", "moving", "tables"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def options(folder: Path) -> dict[str, Any]:
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "processed_folder": str(folder / "moving"),
        "control_folder": str(folder / "tables"),
        "polling_interval": 0.005,
    }


def make_files_app(options: dict[str, Any]) -> Celery:
    return make_app("filesystem://", broker_transport_options=options)


def test_connections_are_opened_in_one_place() -> None:
    opening = re.compile(
        r"connection_for_(read|write)|broker_connection\(|connection_or_acquire|producer_or_acquire|producer_pool"
        r"|\.pool\.acquire|amqp\.Connection\(|app\.connection\(|establish_connection|app\.control\.(?!mailbox)"
    )
    made = re.compile(r"from kombu[\w. ]* import .*\bConnection\b[\s\S]*\bConnection\(")
    texts = {
        str(path.relative_to(SOURCES)): re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text())
        for path in SOURCES.rglob("*.py")
    }
    found = {name for name, text in texts.items() if opening.search(text) or made.search(text)}
    reading = found - {"cluster/connections.py"}  # what a URL says, without connecting
    assert reading <= {"cluster/cluster_names.py", "cluster/destinations.py", "cluster/requirements.py"}
    using = re.compile(
        r"\.(connect|ensure_connection|default_channel|channel|connection|Producer|Consumer)\b(?! import)"
    )
    assert not [name for name in reading if using.search(texts[name])]


@pytest.mark.parametrize("open_one", [open_connection, open_events_connection])
def test_every_connection_is_protected(memory_broker: str, open_one: Any) -> None:
    app = make_app(memory_broker)
    connection = open_one(app)
    assert is_protected(connection)
    assert is_protected(connection.clone())
    assert is_protected(app.connection_for_write())
    assert not is_protected(make_app(memory_broker).connection_for_write())
    drop_connection(connection)


def test_what_a_connection_fails_over_to_is_protected_too() -> None:
    app = make_app("memory://")
    protect_messages(app)
    protect_messages(app)
    connection = app.connection_for_write("amqp://127.0.0.1:1;redis://127.0.0.1:1")
    assert connection.get_transport_cls() is pyamqp.Transport
    connection.maybe_switch_next()
    assert connection.get_transport_cls() is monitor_transport(redis.Transport)


def test_every_transport_that_emulates_acknowledgements_cannot_restore() -> None:
    kinds = [memory.Transport, filesystem.Transport, redis.Transport, redis.SentinelTransport]
    assert {"memory", "filesystem", "redis", "sentinel"} <= TRANSPORT_ALIASES.keys()
    for kind in kinds:
        channel = monitor_transport(kind).Channel
        for owner, names in (
            (channel, ("_restore", "_restore_at_beginning")),
            (channel.QoS, ("restore_visible", "restore_unacked", "restore_by_tag")),
        ):
            for name in names:
                assert getattr(owner, name).__module__ == "taskmon.transports"
        assert not channel.do_restore
        assert monitor_transport(kind) is monitor_transport(kind)
        assert monitor_transport(monitor_transport(kind)) is monitor_transport(kind)


def test_what_was_taken_and_not_acknowledged_is_not_put_back(options: dict[str, Any], folder: Path) -> None:
    app = make_files_app(options)
    with Connection("filesystem://", transport_options=options) as other:
        other.Producer().publish({}, routing_key="orders")
    connection = open_connection(app)
    message = connection.default_channel.basic_get("orders")
    assert message is not None
    connection.release()
    assert not list((folder / "messages").iterdir())


def test_looking_at_a_queue_makes_none(memory_broker: str) -> None:
    connection = open_connection(make_app(memory_broker))
    with pytest.raises(ChannelError):
        connection.default_channel.queue_declare("missing", passive=True)
    assert "missing" not in memory.Channel.queues
    drop_connection(connection)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, for what kombu does
def test_looking_at_a_queue_in_sql_makes_none(tmp_path: Path) -> None:
    url = f"sqla+sqlite:///{tmp_path}/broker.sqlite"
    with Connection(url) as other, other.SimpleQueue("orders") as orders:
        orders.put({})
    connection = open_connection(make_app(url))
    channel: Any = connection.default_channel
    assert channel.queue_declare("orders", passive=True).message_count == 1
    with pytest.raises(ChannelError):
        channel.queue_declare("missing", passive=True)
    assert [name for (name,) in channel.session.query(channel.queue_cls.name)] == ["orders"]
    drop_connection(connection)


unbinding = pytest.mark.skipif(
    "_delete" not in vars(filesystem.Channel), reason="this kombu leaves bindings in a folder"
)


def bind_own(connection: Connection, name: str) -> None:
    channel = connection.default_channel
    claim_queue(channel, name)
    Queue(name, Exchange("celeryev", type="fanout"), auto_delete=True)(channel).declare()


@unbinding
def test_a_queue_in_a_folder_goes_with_its_connection(options: dict[str, Any], folder: Path) -> None:
    connection = open_connection(make_files_app(options))
    bind_own(connection, "mine")
    assert (folder / "tables" / "mine.taskmon").exists()
    connection.release()
    assert (folder / "tables" / "celeryev.exchange").read_text() == "[]"
    assert [path.name for path in (folder / "tables").iterdir()] == ["celeryev.exchange"]


@unbinding
def test_the_queues_of_a_killed_monitor_are_removed_by_the_next(options: dict[str, Any], folder: Path) -> None:
    killed, running = open_connection(make_files_app(options)), open_connection(make_files_app(options))
    bind_own(running, "running")
    bind_own(killed, "killed")
    channel: Any = killed.default_channel
    channel._locks.pop("killed").close()  # as the end of the process would
    with Connection("filesystem://", transport_options=options) as worker:
        other = worker.default_channel
        Queue("of-another", Exchange("celeryev", type="fanout"))(other).declare()
        worker.Producer().publish({}, exchange="celeryev")
    started = open_connection(make_files_app(options))
    bind_own(started, "started")
    table = (folder / "tables" / "celeryev.exchange").read_text()
    assert "killed" not in table
    assert all(name in table for name in ("running", "started", "of-another"))
    left = {path.name.partition(".")[2] for path in (folder / "messages").iterdir()}
    assert left == {"running.msg", "of-another.msg"}
    for connection in (killed, running, started):
        connection.release()
