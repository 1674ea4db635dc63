"""BrokerStatus: whether events come in, why not, and for how long they were missed. Event loop only."""

import logging
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .broker_faults import Fault
from .wording import say_roughly

log = logging.getLogger(__name__)

#: Seconds after which `describe` says how long the broker has been away.
_SAY_HOW_LONG_AFTER: Final = 60.0


class Outage(NamedTuple):
    """The last time for which events were missed: its end, in epoch seconds, how long it was, and why."""

    until: float
    seconds: float
    reason: str


@dataclass(slots=True)
class BrokerStatus:
    """Whether events come in; `reason` says why not, `summary` the same without any name.

    `silent` is what is wrong with a connection that is open.
    """

    connected: bool = False
    reason: str = "not connected yet"
    summary: str = "not connected"
    reconnects: int = 0
    away_since: float = field(default_factory=time.monotonic)
    missed: Outage | None = None
    silent: Fault | None = None

    def describe(self) -> str:
        """Return why no events come in, without any name, and for how long where that is over a minute."""
        away = time.monotonic() - self.away_since
        return self.summary if away < _SAY_HOW_LONG_AFTER else f"{self.summary}, for {say_roughly(away)} now"

    def note_connected(self, url: str, silence: float, kept: bool) -> None:
        """Note a connection: the first one, or one after a silence of which the queue may have `kept` the events."""
        reason = self.reason
        self._say_connected()
        if not silence:
            log.info("Connected to the broker %s", url)
        elif kept:
            log.info("Connected to the broker %s again; its queue has kept the events of %.0f s", url, silence)
        else:
            log.warning("Connected to the broker %s again; events were missed for %.0f s", url, silence)
            self.missed = Outage(time.time(), silence, reason)

    def note_disconnected(self, broker: str, fault: Fault, was_connected: bool, delay: float) -> None:
        """Note that there is no connection, and that another is tried after `delay` seconds."""
        self._say_away(fault)
        self.silent = None
        self.reconnects += was_connected
        log.warning("%s is away: %s; trying again in %.0f s", broker, fault, delay)

    def judge(self, fault: Fault | None) -> None:
        """Take what the prober says of a connection that is open: what is wrong, or None."""
        if fault is not None and self.connected:
            self._say_away(fault)
            self.silent = fault
            log.warning("No events come in from the broker: %s", fault)
        elif fault is None and self.silent is not None:
            silence = time.monotonic() - self.away_since
            self._say_connected()
            log.info("Events come in from the broker again, after %.0f s; the connection was not lost", silence)

    def _say_connected(self) -> None:
        self.connected, self.reason, self.silent = True, "", None

    def _say_away(self, fault: Fault) -> None:
        if self.connected:
            self.away_since = time.monotonic()
        self.connected, self.reason, self.summary = False, str(fault), fault.text or "not connected"
