"""A real PostgreSQL for the live tests, in a process of its own and not as root, on a loopback port."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from brokers import STARTUP_TIMEOUT, find_program
from ports import LOOPBACK, free_port
from processes import Process

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_USER = "postgres"


def _program(name: str) -> str | None:
    """Find a program of PostgreSQL, which Debian does not put on PATH."""
    beside = [str(directory / name) for directory in _DEBIAN]
    return find_program(name, *beside)


class PostgresServer:
    """A server that tests may stop and start again: `url(name)` is that of a database, which is made."""

    packages = "postgresql"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._made: set[str] = set()
        self._server: Process | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Return why it cannot run here, None when it can."""
        if _program("initdb") is None or _program("postgres") is None:
            return f"PostgreSQL is not installed (package {cls.packages})"
        if os.geteuid() == 0 and shutil.which("setpriv") is None:
            return "PostgreSQL does not run as root, and there is no setpriv"
        return None

    def start(self) -> None:
        """Start the server, with a fresh cluster of databases at first, and wait until it answers."""
        if self._server is None:
            self._server = self._make()
        self._server.start()
        self._server.wait_until(
            lambda: self.query("SELECT 1") == "1", timeout=STARTUP_TIMEOUT, what="PostgreSQL answers"
        )

    def stop(self) -> None:
        """Stop the server at once; it loses nothing."""
        if self._server is not None:
            self._server.kill()

    def restore(self) -> None:
        """Make it answer again, whatever a test has done to it."""
        if self._server is None or not self._server.running:
            self.start()
        elif self._server.paused:
            self._server.resume()

    @property
    def process(self) -> Process:
        """The server's process."""
        assert self._server is not None
        return self._server

    def url(self, name: str) -> str:
        """Give the URL of an empty database."""
        if name not in self._made:
            self.query(f'CREATE DATABASE "{name}"')
            self._made.add(name)
        return f"postgresql://{_USER}@{LOOPBACK}:{self.port}/{name}"

    def query(self, sql: str, database: str = "postgres") -> str:
        """Ask by psql; empty when nothing answers."""
        command = [
            _program("psql") or "psql",
            "-h",
            LOOPBACK,
            "-p",
            str(self.port),
            "-U",
            _USER,
            "-Atqc",
            sql,
            database,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def _make(self) -> Process:
        data = self.directory / "data"
        if os.geteuid() == 0:
            shutil.chown(self.directory, _USER, _USER)
        initdb = [_program("initdb") or "initdb", "-D", str(data), "-U", _USER, "--auth=trust", "-E", "UTF8"]
        subprocess.run(self._as_user([*initdb, "--no-sync", "--locale=C.UTF-8"]), check=True, capture_output=True)
        options = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 50,
        }
        given = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Process(
            self._as_user([_program("postgres") or "postgres", "-D", str(data), *given]),
            directory=self.directory,
            log=self.directory / "postgres.log",
            environment=os.environ,
        )

    def _as_user(self, command: Sequence[str]) -> list[str]:
        if os.geteuid() != 0:
            return list(command)
        return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", *command]
