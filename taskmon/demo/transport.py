"""kombu's filesystem transport, made safe for processes that read while others write.

kombu creates a message's file before it writes into it. A reader that comes between finds an empty file,
raises a JSON error out of the consumer's loop and loses the message (measured: about 1 of 100, at 200 messages
a second read every 50 ms). Here a message is written aside and moved into place, and moved away to be read.
"""

import os
import shutil
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

#: The folders of the messages, of those half written or half read, and of the exchanges' tables.
MESSAGES, MOVING, TABLES = "messages", "moving", "tables"


def make_folders(broker: Path, exchanges: tuple[str, ...]) -> None:
    """Create the folders of a broker.

    The exchanges' tables exist from the start: kombu takes no lock between creating one and filling it.
    """
    for name in (MESSAGES, MOVING, TABLES):
        (broker / name).mkdir()
    for exchange in exchanges:
        (broker / TABLES / f"{exchange}.exchange").write_text("[]")


def remove_folders(broker: Path) -> None:
    """Remove the folder of a broker that other threads may still be writing to."""
    for _ in range(10):
        shutil.rmtree(broker, ignore_errors=True)


def transport_options(broker: Path, polling_interval: float) -> dict[str, Any]:
    """What a connection has to be told; all who share the folder are one cluster."""
    return {
        "data_folder_in": str(broker / MESSAGES),
        "data_folder_out": str(broker / MESSAGES),
        "processed_folder": str(broker / MOVING),
        "control_folder": str(broker / TABLES),
        "polling_interval": polling_interval,
    }


class Channel(filesystem.Channel):
    """A channel whose messages appear whole, once, and in the order of the clock."""

    # kombu's own two classes do not agree on the name of the second parameter.
    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        name = f"{time.monotonic_ns():020}_{uuid.uuid4().hex}.{queue}.msg"
        aside = Path(self.processed_folder, name)
        aside.write_text(dumps(payload))
        aside.rename(Path(self.data_folder_out, name))

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for name in sorted(os.listdir(self.data_folder_in)):  # noqa: PTH208
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            aside = Path(self.processed_folder, name)
            try:
                Path(self.data_folder_in, name).rename(aside)
            except FileNotFoundError:  # another consumer of the queue was quicker
                continue
            payload = aside.read_text()
            aside.unlink()
            return loads(payload)
        raise Empty


class Transport(filesystem.Transport):
    """The transport that Celery is given as `broker_transport`."""

    Channel = Channel
