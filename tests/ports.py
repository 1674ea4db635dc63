"""Ports for what is to listen on one that is known before: nobody else is given them, nor takes them by chance."""

import random
import socket
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_handed_out: set[int] = set()


def free_port() -> int:
    """Return a free loopback port below the range the system takes outgoing ports from.

    While a broker is down its port must stay free, and a client that keeps trying to connect to a port inside
    that range can be given the very same port as its own end: it is then connected to itself.
    """
    highest = 32_000
    if EPHEMERAL_RANGE.exists():
        highest = min(highest, int(EPHEMERAL_RANGE.read_text().split()[0]))
    for _ in range(200):
        port = random.SystemRandom().randrange(min(15_000, highest - 5_000), highest)
        if port not in _handed_out and _is_free(port) and _reserve(port):
            _handed_out.add(port)
            return port
    raise OSError("no free port found on the loopback interface")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """Keep a port from other test runs for as long as this process lives: by a name that no two sockets can have."""
    if sys.platform != "linux":
        return True
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0taskmon-tests-port-{port}")
    except OSError:
        name.close()
        return False
    name.detach()  # the system closes it at the end
    return True
