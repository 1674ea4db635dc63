"""How long a taskmon takes to say that it is alive, measured from another process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from monitor import Monitor

#: Asks `/healthcheck` until its standard input ends; prints how often, and the most seconds that an answer took.
#: Those in which the machine woke nobody do not count: a thread that only sleeps tells how late it was woken.
MEASURE = """
import gc, http.client, select, sys, threading, time
gc.disable()
late = 0.0
def sleep():
    global late
    while True:
        began = time.monotonic()
        time.sleep(0.01)
        late += max(0.0, time.monotonic() - began - 0.02)
threading.Thread(target=sleep, daemon=True).start()
connection = http.client.HTTPConnection(sys.argv[1], timeout=120)
took, ended = [], []
while not ended:
    began, before = time.monotonic(), late
    connection.request("GET", "/healthcheck")
    assert connection.getresponse().read() == b"OK"
    seconds = time.monotonic() - began
    ended = select.select([sys.stdin], [], [], 0.02)[0]
    took.append(seconds - (late - before))
print(len(took), max(took), late)
"""


@contextmanager
def measuring_health(monitor: Monitor) -> Iterator[Callable[[], float]]:
    """Ask `/healthcheck` all the time, from another process; gives what tells how many seconds the slowest took."""
    command = [sys.executable, "-I", "-c", MEASURE, urlsplit(monitor.url).netloc]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        slowest: list[float] = []
        try:
            yield lambda: slowest[0]
        finally:
            count, seconds, late = process.communicate()[0].split()
            slowest.append(float(seconds))
            print(f"/healthcheck {count} times, the slowest in {slowest[0]:.3f} s; woken {float(late):.3f} s late")
