"""A TCP proxy before a broker that can stall: connections stay open and nothing comes through any more."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from selectors import EVENT_READ, DefaultSelector


class Proxy:
    """Listens on `port` of the loopback interface and passes everything on, until it is told to stall."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._selector = DefaultSelector()
        self._selector.register(self._listening, EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def stall(self) -> None:
        """Let nothing through any more; new connections are accepted by the system, and hear nothing."""
        self._flows.clear()

    def heal(self) -> None:
        """Go on, for new connections: what has stalled is cut off."""
        with self._lock:
            for sock in list(self._peers):
                self._drop(sock)
        self._flows.set()

    def close(self) -> None:
        """End it."""
        self._ended = True
        self.heal()
        self._thread.join(10)
        self._listening.close()

    def _run(self) -> None:
        while not self._ended:
            self._flows.wait()
            for key, _ in self._selector.select(timeout=0.05):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                with self._lock:
                    if self._flows.is_set():
                        self._accept() if sock is self._listening else self._pass_on(sock)
        with self._lock:
            for sock in list(self._peers):
                self._drop(sock)

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for sock, peer in ((client, server), (server, client)):
            self._peers[sock] = peer
            self._selector.register(sock, EVENT_READ)

    def _pass_on(self, sock: socket.socket) -> None:
        peer = self._peers.get(sock)
        if peer is None:  # dropped a moment ago
            return
        try:
            data = sock.recv(65_536)
            if data:
                peer.sendall(data)
                return
        except OSError:
            pass
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        peer = self._peers.pop(sock, None)
        for one in (sock, peer):
            if one is not None:
                self._peers.pop(one, None)
                with suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()


@contextmanager
def proxying(target: int) -> Iterator[Proxy]:
    """Run a proxy before a port."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
