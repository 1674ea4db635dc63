"""Real brokers for the live tests: a Redis and a RabbitMQ, each in a process of its own, on loopback ports.

A broker keeps its port for life, so a test may stop, kill or pause it and start it again under the same URL.
RabbitMQ then still has its durable queues; Redis, which runs without persistence, has lost everything.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ports import LOOPBACK, free_port
from processes import Process

STARTUP_TIMEOUT = 180.0  # RabbitMQ takes 4 to 8 s; a machine shared by several test runs is much slower


def find_program(*names: str) -> str | None:
    """Return the path of the first of these programs that exists, on PATH or in the sbin directories."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def ask(port: int, question: bytes, timeout: float = 1.0) -> bytes:
    """Send bytes to a loopback port and return the start of the answer; empty when nothing answers."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout) as connection:
        connection.sendall(question)
        return connection.recv(64)
    return b""


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as client:
        return client.connect_ex((LOOPBACK, port)) == 0


class Broker(ABC):
    """A broker that tests may break: `start`, `stop`, `kill`, `pause`, `resume`, and `restore` after any."""

    name: ClassVar[str]
    packages: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._server: Process | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for Celery, the same for life."""

    @classmethod
    @abstractmethod
    def program(cls) -> str | None:
        """Return the path of the server program, None when it is not installed."""

    @classmethod
    def missing(cls) -> str | None:
        """Return why this broker cannot run here, None when it can."""
        return None if cls.program() else f"{cls.name} is not installed (package {cls.packages})"

    @property
    def server(self) -> Process:
        """The server's process."""
        if self._server is None:
            self._server = self.make_server()
        return self._server

    @abstractmethod
    def make_server(self) -> Process:
        """Write the configuration and return the process, not started."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client that connects now is answered."""

    def start(self) -> None:
        """Start the broker and wait until it answers."""
        self.server.start()
        self.server.wait_until(self.answers, timeout=STARTUP_TIMEOUT, what=f"{self.name} answers on {self.port}")

    def stop(self) -> None:
        """Stop the broker in its own good time."""
        self.server.stop(timeout=60.0)

    def kill(self) -> None:
        """Kill the broker: its clients see their connections break."""
        self.server.kill()

    def pause(self) -> None:
        """Freeze the broker: connections stay open, and new ones are even accepted, but nothing answers."""
        self.server.pause()

    def resume(self) -> None:
        """Let a paused broker go on."""
        self.server.resume()

    def restore(self) -> None:
        """Make the broker answer again, whatever a test has done to it."""
        if not self.server.running:
            self.start()
        elif self.server.paused:
            self.resume()
            self.server.wait_until(self.answers, timeout=STARTUP_TIMEOUT, what=f"{self.name} answers again")


class RedisBroker(Broker):
    """A Redis without persistence, with or without a password."""

    name = "redis"
    packages = "redis-server"

    def __init__(self, directory: Path, password: str | None = None) -> None:
        super().__init__(directory)
        self.password = password

    @property
    def url(self) -> str:
        """The URL for Celery: database 0, the password inside."""
        user_info = f":{self.password}@" if self.password else ""
        return f"redis://{user_info}{LOOPBACK}:{self.port}/0"

    @classmethod
    def program(cls) -> str | None:
        """Return the path of redis-server."""
        return find_program("redis-server")

    def make_server(self) -> Process:
        """Configure a server that writes nothing but its log."""
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            'save ""',
            "appendonly no",
            f'dir "{self.directory}"',
        ]
        if self.password:
            lines.append(f'requirepass "{self.password}"')
        configuration = self.directory / "redis.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return Process(
            [self.program() or "redis-server", str(configuration)],
            directory=self.directory,
            log=self.directory / "redis.log",
            environment=os.environ,
        )

    def answers(self) -> bool:
        """Whether PING gets an answer; being refused without the password is one."""
        return ask(self.port, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))


class RabbitBroker(Broker):
    """A RabbitMQ node with data, ports and Erlang port mapper (epmd) to itself; any user can run it."""

    name = "rabbitmq"
    packages = "rabbitmq-server"
    plugins = ""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.distribution_port = free_port()
        self.epmd_port = free_port()
        # The node would start an epmd that outlives it; this one is ours to stop.
        self._epmd = Process(
            [find_program("epmd") or "epmd", "-port", str(self.epmd_port), "-address", LOOPBACK],
            directory=directory,
            log=directory / "epmd.log",
            environment=os.environ,
        )

    @property
    def url(self) -> str:
        """The URL for Celery: the user guest, the virtual host /."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    @classmethod
    def program(cls) -> str | None:
        """Return the path of the server's script.

        Debian's /usr/sbin/rabbitmq-server changes user and working directory, hence the script behind it.
        """
        return find_program("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")

    @classmethod
    def missing(cls) -> str | None:
        """Return why this broker cannot run here; epmd comes with Erlang."""
        return super().missing() or (None if find_program("epmd") else "epmd is not installed (package erlang-base)")

    def make_server(self) -> Process:
        """Configure a small node that shares nothing with another on the same machine."""
        (self.directory / "enabled_plugins").write_text(f"[{self.plugins}].\n")
        (self.directory / "rabbitmq-env.conf").write_text("")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {LOOPBACK}:{self.port}\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 1MB\n"
            "log.console = true\n"
            "log.file = false\n" + self.more_configuration()
        )
        return Process(
            [self.program() or "rabbitmq-server"],
            directory=self.directory,
            log=self.directory / "rabbitmq.log",
            environment=self._environment(),
        )

    def more_configuration(self) -> str:
        """Return what a subclass adds to the configuration."""
        return ""

    def _environment(self) -> Mapping[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        directory = self.directory
        return inherited | {
            "HOME": str(directory),  # the Erlang cookie
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": f"taskmon{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
            # With input "allowed" the script becomes the server instead of its parent: one process to signal.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": (
                "-noinput -start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +B i"
            ),
        }

    def start(self) -> None:
        """Start the port mapper, then the node, and wait until it answers."""
        if not self._epmd.running:
            self._epmd.start()
            self._epmd.wait_until(lambda: listens(self.epmd_port), timeout=120, what="epmd listens")
        super().start()

    def control(self, *command: str) -> str:
        """Give a command to the node; takes seconds, for it starts an Erlang of its own."""
        program = find_program("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl") or "rabbitmqctl"
        name = ["--node", f"taskmon{self.port}@localhost"]
        done = subprocess.run(
            [program, *name, *command], env=self._environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        """Stop the node, then the port mapper."""
        super().stop()
        self._epmd.stop()

    def answers(self) -> bool:
        """Whether the AMQP handshake begins: a method frame follows the protocol header."""
        return ask(self.port, b"AMQP\x00\x00\x09\x01").startswith(b"\x01")


class ManagedRabbitBroker(RabbitBroker):
    """A RabbitMQ with its management plugin."""

    plugins = "rabbitmq_management"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.management_port = free_port()

    def more_configuration(self) -> str:
        """Return where the plugin listens; it counts messages every second."""
        return (
            f"management.tcp.ip = {LOOPBACK}\n"
            f"management.tcp.port = {self.management_port}\n"
            "collect_statistics_interval = 1000\n"
        )

    @property
    def api(self) -> str:
        """The URL of the management API."""
        return f"http://guest:guest@{LOOPBACK}:{self.management_port}/api/"

    def answers(self) -> bool:
        """Whether the plugin listens too."""
        return super().answers() and listens(self.management_port)
