"""Calls to a real broker: they leave nothing behind, and say why they fail."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import psutil
from brokers import Broker, RabbitBroker
from monitor import Monitor
from patience import PATIENCE
from serving import make_app
from waiting import eventually
from workers import new_queue

from taskmon.cluster.blocking_pool import BlockingPool
from taskmon.cluster.consumers import Consumers
from taskmon.cluster.known_queues import KnownQueues
from taskmon.cluster.mailbox import Command, Mailbox
from taskmon.cluster.queues import Queues


def test_a_call_leaves_no_connection_behind(broker: Broker) -> None:
    app = make_app(broker.url)

    def connections() -> list[Any]:
        return [one for one in psutil.Process().net_connections("tcp") if one.raddr and one.raddr[1] == broker.port]

    async def ask() -> None:
        lane = BlockingPool("The broker", threads=2, waiting=4)
        mailbox = Mailbox(app, lane, 0.1)
        queues = Queues(app, lane, KnownQueues((), ()), Consumers({}, {}))
        for _ in range(3):
            assert await mailbox.ask([Command("ping")]) == {}
            await mailbox.tell(Command("ping", reply=False))
            await queues.lengths([new_queue()])
        queues.close()
        await eventually(lambda: not connections(), "no connection is left", PATIENCE)
        lane.close()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(ask())
    finally:
        gc.enable()


def test_a_broker_that_lets_nobody_in(rabbitmq_broker: RabbitBroker, tmp_path: Path) -> None:
    refused = Monitor(tmp_path, rabbitmq_broker.url.replace("guest:guest", "guest:wrong"))
    refused.start()
    try:
        answers = refused.get("/api/queues/length"), refused.get("/api/workers?refresh=1")
        for status, body in answers:
            assert (status, "ACCESS_REFUSED" in body["error"]["message"]) == (503, True)
        assert "Traceback" not in refused.log_text()
    finally:
        refused.kill()
