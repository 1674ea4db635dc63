"""The demo as a user runs it, and its parts: what it prints works, and nothing is left when it has ended."""

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Producer, Queue
from patience import PATIENCE
from ports import free_port
from waiting import quickest, timing, wait_until

from taskmon.demo import tasks
from taskmon.demo.tasks import DECLINED_CARD, EXCHANGES, GOOD_CARDS, CardDeclined, Shop, make_celery
from taskmon.demo.transport import MESSAGES, MOVING, make_folders, transport_options

# The demo as a process


class Demo:
    """A running demo, all of its output so far, and the processes it has started."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self.lines)),
            threading.Thread(target=self._read, args=(process.stderr, self.errors)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        with stream:
            lines.extend(iter(stream.readline, ""))

    def curl_lines(self) -> list[str]:
        """Wait for the lines to paste."""
        wait_until(lambda: sum(line.startswith("curl ") for line in self.lines) == 3 or self.ended())
        assert not self.ended(), "".join(self.lines + self.errors)
        return [line for line in self.lines if line.startswith("curl ")]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def assert_nothing_left(self, processes: list[psutil.Process]) -> None:
        wait_until(lambda: not any(map(is_alive, processes)))
        wait_until(lambda: not list(self.folder.iterdir()))

    def close(self) -> None:
        """End it if it still runs, by force if it must be."""
        self.process.terminate()
        try:
            self.process.wait(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            for reader in self._readers:
                reader.join()


@contextmanager
def run_demo(folder: Path, *options: str) -> Iterator[Demo]:
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmon", "demo", *options],
        env={**os.environ, "TMPDIR": str(folder), "CELERY_BROKER_URL": "redis://127.0.0.1:1/"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    demo = Demo(process, folder)
    try:
        yield demo
    finally:
        demo.close()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended, but that its parent has not asked after, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def paste(line: str) -> tuple[str, int, bytes]:
    """Do what curl would; return the URL, the status and the body."""
    command, dash_h, header, url = shlex.split(line)
    assert (command, dash_h) == ("curl", "-H")
    name, _, value = header.partition(": ")
    request = urllib.request.Request(url, headers={name: value})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return url, response.status, response.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_lines_work_and_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    with run_demo(tmp_path / "tmp", "--port", str(port)) as demo:
        info, failed, metrics = demo.curl_lines()

        url, status, body = paste(info)
        assert url.startswith(f"http://127.0.0.1:{port}/api/task/info/")
        task = json.loads(body)
        assert status == 200
        assert task["uuid"] == url.rpartition("/")[2]
        assert task["state"] == "SUCCESS"
        assert task["name"].startswith("shop.")

        wait_until(lambda: json.loads(paste(failed)[2]))
        assert {task["state"] for task in json.loads(paste(failed)[2]).values()} == {"FAILURE"}
        assert paste(metrics)[1] == 200

        children = demo.children()
        assert children
        os.killpg(demo.process.pid, number)
        assert demo.process.wait(timeout=PATIENCE) == 0
        assert not any(map(is_alive, children))
        demo.assert_nothing_left(children)
        # What makes answers incomplete, which is the same in every demo, is told after ten seconds.
        assert [line for line in demo.errors if "no-result-backend" not in line] == []


def test_it_ends_within_seconds(tmp_path: Path) -> None:
    folders = count()

    def end() -> float:
        with run_demo(tmp_path / f"tmp-{next(folders)}", "--port", "0") as demo:
            demo.curl_lines()
            with timing() as passed:
                os.killpg(demo.process.pid, signal.SIGINT)
                demo.process.wait(timeout=PATIENCE)
                return passed()

    assert quickest(end, 5) < 5


def test_second_signal_leaves_nothing_behind_either(tmp_path: Path) -> None:
    with run_demo(tmp_path / "tmp", "--port", "0") as demo:
        demo.curl_lines()
        children = demo.children()
        os.killpg(demo.process.pid, signal.SIGINT)
        wait_until(lambda: not any(map(is_alive, children)))
        with suppress(ProcessLookupError):
            os.killpg(demo.process.pid, signal.SIGINT)
        demo.process.wait(timeout=PATIENCE)
        demo.assert_nothing_left(children)


def test_killed_demo_takes_its_worker_and_its_folder_along(tmp_path: Path) -> None:
    with run_demo(tmp_path / "tmp", "--port", "0") as demo:
        demo.curl_lines()
        children = demo.children()
        assert children
        demo.process.kill()
        demo.assert_nothing_left(children)


def test_demo_that_loses_its_worker_says_so_and_ends(tmp_path: Path) -> None:
    with run_demo(tmp_path / "tmp", "--port", "0") as demo:
        demo.curl_lines()
        children = demo.children()
        for child in children:
            child.kill()
        assert demo.process.wait(timeout=PATIENCE) == 1
        demo.assert_nothing_left(children)
        wait_until(lambda: len(demo.errors) > 5)
        assert demo.errors[0] == "taskmon demo: the worker ended by itself, with exit code -9\n"
        assert any("shop.check_stock" in line for line in demo.errors), "the end of the worker's log"


def test_taken_port_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with run_demo(tmp_path / "tmp", "--port", str(port)) as demo:
            info = demo.curl_lines()[0]
            assert demo.lines[0] == f"Port {port} is taken; the demo uses a free one.\n"
            assert f":{port}/" not in info
            assert paste(info)[1] == 200


def test_lines_for_a_unix_socket_and_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with run_demo(tmp_path / "tmp", "--unix-socket", str(path), "--url-prefix", "mon") as demo:
        command = shlex.split(demo.curl_lines()[0])
        assert command[3:5] == ["--unix-socket", str(path)]
        assert command[5].startswith("http://localhost/mon/api/task/info/")


def test_demo_that_cannot_listen_says_so(tmp_path: Path) -> None:
    with run_demo(tmp_path / "tmp", "--unix-socket", str(tmp_path / "no" / "socket")) as demo:
        assert demo.process.wait(timeout=PATIENCE) == 1
        demo.assert_nothing_left([])
        wait_until(lambda: demo.errors)
        assert demo.errors == [f"taskmon demo: cannot listen on {tmp_path}/no/socket: No such file or directory\n"]


# The broker


def connect(broker: Path) -> Connection:
    return Connection(
        transport="taskmon.demo.transport:Transport", transport_options=transport_options(broker, 0.001)
    )


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    make_folders(tmp_path, EXCHANGES)
    return tmp_path


def test_messages_come_whole_once_and_in_order_while_others_write(broker: Path) -> None:
    exchange = Exchange("celeryev", "topic")
    queues = [Queue(name, exchange, routing_key="#") for name in ("first", "second")]
    received: dict[str, list[int]] = {"first": [], "second": []}

    def publish() -> None:
        with connect(broker) as connection:
            producer = Producer(connection)
            for number in range(300):
                producer.publish(number, exchange=exchange, routing_key="task.sent", retry=False)

    with connect(broker) as connection, connection.channel() as channel:

        def consumer(queue: Queue) -> Consumer:
            def on_message(body: int, message: Any) -> None:
                received[queue.name].append(body)
                message.ack()

            return Consumer(channel, [queue], callbacks=[on_message])

        with consumer(queues[0]), consumer(queues[1]):
            publisher = threading.Thread(target=publish)
            publisher.start()
            while any(len(numbers) < 300 for numbers in received.values()):
                connection.drain_events(timeout=PATIENCE)
            publisher.join()

    assert received == {"first": list(range(300)), "second": list(range(300))}
    assert list((broker / MESSAGES).iterdir()) == list((broker / MOVING).iterdir()) == []


def test_two_consumers_share_a_queue(broker: Path) -> None:
    queue = Queue("shared", Exchange("celery"), routing_key="shared")
    received: list[int] = []
    with connect(broker) as connection:
        queue(connection).declare()
        producer = Producer(connection)
        for number in range(200):
            producer.publish(number, exchange=queue.exchange, routing_key="shared", retry=False)

    def consume() -> None:
        with connect(broker) as connection:
            bound = queue(connection)
            while message := bound.get(no_ack=True):
                received.append(message.payload)

    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()
    assert sorted(received) == list(range(200))


# The shop


@pytest.fixture
def shop_app(broker: Path) -> Iterator[Celery]:
    app = make_celery(broker)
    yield app
    app.close()


def published(broker: Path) -> list[dict[str, Any]]:
    files = sorted((broker / MESSAGES).glob("*.celery.msg"))
    return [json.loads(file.read_text())["headers"] for file in files]


def test_a_day_of_the_shop_has_tasks_of_every_kind(broker: Path, shop_app: Celery) -> None:
    with connect(broker) as connection:
        Queue("celery", Exchange("celery"), routing_key="celery")(connection).declare()
    shop = Shop(shop_app, random.Random(1))
    ids = [shop.publish_next() for _ in range(10)]

    sent = published(broker)
    assert {headers["task"] for headers in sent} == {
        "shop.check_stock",
        "shop.charge_card",
        "shop.resize_photo",
        "shop.build_sales_report",
        "shop.remind_of_cart",
    }
    assert len(set(ids)) == 10
    assert len({headers["group"] for headers in sent} - {None}) == 1
    assert sum(DECLINED_CARD in headers["kwargsrepr"] for headers in sent) == 1
    assert sum(headers["eta"] is not None for headers in sent) == 1


def test_sample_tasks(shop_app: Celery) -> None:
    def run(name: str, **kwargs: Any) -> Any:
        return shop_app.tasks[f"shop.{name}"].apply(kwargs=kwargs)

    card = GOOD_CARDS[0]
    assert run("check_stock", sku="SKU-1", quantity=1).get() is True
    assert run("charge_card", order=1, card=card, amount=9.5).get() == {
        "order": 1,
        "paid": 9.5,
        "currency": "EUR",
    }
    assert run("send_receipt", order=1, to="ada@example.org").get().endswith("sent to ada@example.org")
    assert run("resize_photo", photo="mug.jpg", width=320).get() == "mug-320.jpg"
    assert run("remind_of_cart", customer="ada@example.org").get() == "reminded ada@example.org"
    with pytest.raises(CardDeclined, match=r"order 2: the bank declined 9\.50 EUR on card \*\*\*0002"):
        tasks.charge_card(order=2, card=DECLINED_CARD, amount=9.5)
