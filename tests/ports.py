"""Ports for what is to listen on one that is known before it starts."""

import socket
import sys

LOOPBACK = "127.0.0.1"

_held: list[socket.socket] = []


def free_port() -> int:
    """Return a loopback port that the system gives to nobody else while this process lives.

    A socket that never listens keeps it. A server that sets SO_REUSEADDR, as all do, may listen on it beside that, be
    stopped and listen again. No client that keeps trying to connect is given the port as its own end meanwhile.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, 0))
    _held.append(holder)
    port: int = holder.getsockname()[1]
    if sys.platform != "linux":  # elsewhere nobody may listen beside it
        _held.pop().close()
    return port
