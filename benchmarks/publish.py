"""The publisher of a burst: a process that sends ready-made message bodies as fast as the broker takes them.

They go out as Celery's own dispatcher sends them, through a kombu Producer, but for the encoding, which is done
before the clock starts.
"""

import sys
import time
from collections.abc import Sequence

from celery import Celery
from celery.events.event import get_exchange
from kombu.messaging import Producer

from . import workload
from .children import say


class Publisher:
    """Sends bodies to the exchange for events of a broker."""

    def __init__(self, url: str) -> None:
        self._connection = Celery(broker=url, set_as_current=False).connection_for_write()
        self._exchange = get_exchange(self._connection)
        self._producer = Producer(self._connection.channel(), exchange=self._exchange, auto_declare=False)

    def send(self, body: bytes) -> None:
        """Send one message."""
        self._producer.publish(
            body.decode(),
            routing_key="task.multi",
            declare=[self._exchange],
            content_type="application/json",
            content_encoding="utf-8",
            headers={"hostname": workload.worker(1)},
            delivery_mode=1,
        )

    def close(self) -> None:
        """Take leave of the broker: it has then taken everything, where a dropped connection may lose the end."""
        self._connection.close()


def make_bodies(count: int, size: int, under_way: int = 4 * workload.BATCH) -> list[bytes]:
    """Make messages with so many events in all, of tasks that begin now, so many at a time."""
    return list(workload.bodies(workload.events(count // 4, under_way, time.time()), size))


def publish(url: str, bodies: Sequence[bytes], interval: float = 0.0) -> float:
    """Send all, one every `interval` seconds at the most; give the seconds it took."""
    publisher = Publisher(url)
    began = time.perf_counter()
    for number, body in enumerate(bodies):
        early = began + number * interval - time.perf_counter()
        if early > 0:
            time.sleep(early)
        publisher.send(body)
    publisher.close()
    return time.perf_counter() - began


def main() -> None:
    """Be the child: make the bodies, say so, wait for a word, send them, tell how long that took."""
    url, (count, size, *steady) = sys.argv[2], map(int, sys.argv[3:])  # steady: events a second, tasks at a time
    bodies = make_bodies(count, size, *steady[1:])
    say(len(bodies))
    if sys.stdin.readline():
        say(publish(url, bodies, size / steady[0] if steady else 0.0))


if __name__ == "__main__":
    main()
