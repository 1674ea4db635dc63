"""The worker's process: a real Celery worker that lives as long as the demo does.

Its standard input is a pipe whose other end only the demo holds, so it ends even when the demo is killed and
can tell nobody.
"""

import os
import socket
import sys
import threading
from pathlib import Path

from .tasks import make_celery
from .transport import remove_folders


def _end_with_demo(broker: Path) -> None:
    """Wait for the end of standard input, then clear up and end the process; a thread of its own."""
    os.read(0, 1)
    remove_folders(broker)
    os._exit(1)


def main(broker: Path) -> None:
    """Run the worker until it is killed, or the demo is."""
    threading.Thread(target=_end_with_demo, args=(broker,), daemon=True).start()
    worker = make_celery(broker).Worker(
        hostname=f"shop@{socket.gethostname()}",
        pool_cls="threads",  # no children: to kill this process leaves nothing behind
        concurrency=4,
        loglevel="INFO",
        without_mingle=True,
        without_gossip=True,
    )
    worker.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
