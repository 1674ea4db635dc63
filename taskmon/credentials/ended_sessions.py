"""Which sessions were ended: single ones, and all of a person up to a moment. Event loop only, but for the file.

A row is what was ended and when: `session <key>` with the time at which the session began, or `person <name>` with
the time up to which every session of that person is over.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ..errors import InvalidSetting, TaskmonError, Unavailable
from ..private_files import OTHERS, locked, replace_private
from ..settings import Settings
from .signing import ReplayGuard

logger = logging.getLogger(__name__)

#: Seconds that a session lasts at the most, and for which it is remembered that it was ended.
MAX_SESSION_SECONDS: Final = 8 * 3600.0
MAX_FILE: Final = 16 << 20

Rows = Mapping[str, float]
_decode: Final = msgspec.json.Decoder(dict[str, float]).decode


class Store(Protocol):
    """Where rows outlast the process; what it raises is a TaskmonError."""

    async def read(self) -> Rows:
        """Return the rows, or none if they are as they were at the last time."""
        ...

    async def write(self, rows: Rows) -> None:
        """Add rows."""
        ...


def row_of_person(name: str) -> str:
    """Return the first half of the row that ends all sessions of a person."""
    return f"person {name.strip().lower()}"


def find_session_file(settings: Settings) -> Path | None:
    """Return the file of --session-file, else one beside a history in SQLite; None where there is neither."""
    if settings.session_file is not None:
        return settings.session_file
    history = settings.history or ""
    return Path(history.removeprefix("sqlite:///") + ".sessions") if history.startswith("sqlite:") else None


class EndedSessions:
    """What was ended here, and what the store says was ended elsewhere or earlier; `store` is None without one."""

    def __init__(self, most: int = 10_000, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sessions = ReplayGuard(MAX_SESSION_SECONDS, most, clock)
        self._people: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}
        self._warned = False
        self.store: Store | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def end(self, key: str, began: float) -> None:
        """End one session."""
        self._add({f"session {key}": began}, save=True)

    def end_all(self, person: str) -> None:
        """End all sessions of a person that have begun until now."""
        self._add({row_of_person(person): self._clock()}, save=True)

    def holds(self, key: str, began: float, names: tuple[str | None, ...]) -> bool:
        """Whether a session was ended: by itself, or with all of a person who has one of these names."""
        if self._sessions.holds(key, began):
            return True
        return any(began <= self._people.get(row_of_person(name), float("-inf")) for name in names if name)

    async def save(self) -> None:
        """Write what is not in the store yet; raises Unavailable."""
        if self.store is None or not self._unsaved:
            return
        rows = dict(self._unsaved)
        try:
            await self.store.write(rows)
        except TaskmonError as exc:
            raise Unavailable("The store of ended sessions", str(exc)) from exc
        self._unsaved = {what: at for what, at in self._unsaved.items() if rows.get(what) != at}

    async def refresh(self) -> None:
        """Write what is not in the store yet, and take from it what was ended elsewhere; log once that it is away."""
        if self.store is None:
            return
        try:
            await self.save()
            self._add(await self.store.read())
        except TaskmonError as exc:
            if not self._warned:
                logger.warning("Sessions that were ended elsewhere are not known here: %s", exc)
            self._warned = True
        else:
            self._warned = False

    def _add(self, rows: Rows, save: bool = False) -> None:
        for what, at in rows.items():
            kind, _, name = what.partition(" ")
            if kind == "session":
                self._sessions.add(name, at)
            else:
                self._people[what] = max(at, self._people.get(what, at))
        if save and self.store is not None:
            self._unsaved.update(rows)
        oldest = self._clock() - MAX_SESSION_SECONDS
        self._people = {what: at for what, at in self._people.items() if at >= oldest}


class SessionFile:
    """The rows in a file for its owner only; raises InvalidSetting for one that others may read, or is broken."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._version: tuple[int, ...] = ()

    async def read(self) -> Rows:
        """Return the rows if the file has changed."""
        return await asyncio.to_thread(self._read_changed)

    async def write(self, rows: Rows) -> None:
        """Add rows."""
        await asyncio.to_thread(self.add, rows)

    def add(self, rows: Rows) -> None:
        """Add rows, and leave out those that are older than any session."""
        try:
            with locked(self._path):
                oldest = self._clock() - MAX_SESSION_SECONDS
                kept = {what: at for what, at in self._read().items() if at >= oldest}
                kept |= {what: max(at, kept.get(what, at)) for what, at in rows.items()}
                replace_private(self._path, msgspec.json.encode(kept))
        except OSError as exc:
            raise self._broken(f"be a file that can be written ({exc.strerror})") from exc

    def check(self) -> None:
        """Raise InvalidSetting for a file that cannot be used."""
        self._read()

    def _read_changed(self) -> Rows:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise self._broken(f"be a file that can be read ({exc.strerror})") from exc
        version = found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
        if version == self._version:
            return {}
        rows = self._read()
        self._version = version
        return rows

    def _read(self) -> dict[str, float]:
        try:
            if self._path.stat().st_mode & OTHERS:
                raise self._broken("be readable for its owner only (chmod 600)")
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
            return _decode(content)
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise self._broken(f"be a file that can be read ({exc.strerror})") from exc
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise self._broken("hold what taskmon wrote into it") from exc

    def _broken(self, rule: str) -> InvalidSetting:
        return InvalidSetting("session_file", f"must {rule}", str(self._path))
