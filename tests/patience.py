"""taskmon's own time limits, so long that no busy machine reaches them. To be imported before any other part of it.

Most tests are not about how long taskmon waits for a broker, a result backend, a provider or a thread. A machine that
stands still for seconds must not turn their answers into 503. Tests that are about that set the limits themselves, or
start taskmon as it is.
"""

from importlib import import_module

#: Seconds. Longer than this takes nothing that comes to an end, however busy the machine is.
PATIENCE = 120.0

#: In an order in which no module has been imported by another before its limits are set: others copy them.
_LIMITS = {
    "taskmon.cluster.calls": ("LIMIT",),
    "taskmon.cluster.connections": ("CONNECT_TIMEOUT", "ANSWER_TIMEOUT"),
    "taskmon.cluster.mailbox": ("SEND_LIMIT", "_GRACE"),
    "taskmon.cluster.results": ("_LAST_LOOK",),
    "taskmon.credentials.fetching": ("TIMEOUT",),
    "taskmon.history.recording": ("FLUSHING",),
}

#: The limits as users have them, by name.
REAL: dict[str, float] = {}

for _module, _names in _LIMITS.items():
    for _name in _names:
        REAL[_name] = getattr(import_module(_module), _name)
        setattr(import_module(_module), _name, PATIENCE)

# A default of a function keeps the value that the limit had.
import_module("taskmon.cluster.calls").Deadline.__init__.__defaults__ = (PATIENCE,)
