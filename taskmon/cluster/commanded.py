"""Commanded: workers that were told to change, whose earlier answers no longer hold. Pure; times are monotonic."""

from collections.abc import Collection
from math import inf
from typing import Final

#: Seconds for which an answer holds that a worker gives while it does as told: it may not have done it yet.
HOLD_WHILE_CHANGING: Final = 1.0

#: Seconds after which a command that took effect is forgotten: no earlier answer is held any more.
_FORGET_AFTER: Final = 60.0
_NEVER: Final = (-inf, -inf)


class Commanded:
    """When each worker was last told to change, and when it has done so at the latest."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, float]] = {}
        self._all = _NEVER

    def note(self, hostnames: Collection[str] | None, now: float, settles: float) -> None:
        """Note a command to these workers, or to all, that takes effect within `settles` seconds."""
        if hostnames is None:
            self._all = now, max(self._all[1], now + settles)
            return
        self._told = {name: told for name, told in self._told.items() if now - told[1] < _FORGET_AFTER}
        for name in hostnames:
            self._told[name] = now, max(self._told.get(name, _NEVER)[1], now + settles)

    def holds(self, hostname: str | None, asked: float, now: float) -> bool:
        """Whether an answer to a question asked then still holds; None for one to all, which commands to all end."""
        for told, settled in (self._all, _NEVER if hostname is None else self._told.get(hostname, _NEVER)):
            if asked < told or (asked < settled and (now >= settled or now - asked >= HOLD_WHILE_CHANGING)):
                return False
        return True

    def changed(self) -> Collection[str]:
        """Return the workers that were told something."""
        return self._told
