"""taskmon's own time limits, so long that no busy machine reaches them. To be imported before any other part of it.

Most tests are not about how long taskmon waits for a broker, a result backend, a provider, a database or a thread. A
machine that stands still for seconds must not turn their answers into 503. Tests that are about that set the limits
themselves, or start taskmon as it is.
"""

from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter

#: Seconds. Longer than this takes nothing that comes to an end, however busy the machine is.
PATIENCE = 120.0

Names = Mapping[str, tuple[str, ...]]

#: In an order in which no module has been imported by another before its limits are set: others copy them.
_LIMITS = {
    "taskmon.cluster.blocking_pool": ("LIMIT",),
    "taskmon.cluster.connections": ("CONNECT_TIMEOUT", "ANSWER_TIMEOUT"),
    "taskmon.cluster.mailbox": ("SEND_LIMIT", "_GRACE"),
    "taskmon.cluster.results": ("_FINAL_READ_TIMEOUT",),
    "taskmon.credentials.https_fetch": ("TIMEOUT",),
}
_LIMITS_OF_THE_HISTORY = {
    "taskmon.history.watchdog": ("WARN_AFTER", "CUT_AFTER"),
    "taskmon.history.sqlite": ("_PREDECESSOR_TIMEOUT",),
    "taskmon.history.sqlite_subprocess": ("_EXIT_TIMEOUT",),
    "taskmon.history.journal_writer": ("_DISK_TIMEOUT",),
    "taskmon.history.recording": ("FLUSH_TIMEOUT",),
    "taskmon.history.history": ("_QUERY_TIMEOUT", "_LOOKUP_TIMEOUT", "_COMPLETION_TIMEOUT", "_OPEN_TIMEOUT"),
}

#: Functions of which a default, the only one, keeps the value that a limit had.
_DEFAULTS = {
    "taskmon.cluster.blocking_pool": ("Deadline.__init__",),
    "taskmon.cluster.event_enabler": ("Cluster._call",),
}
_DEFAULTS_OF_THE_HISTORY = {"taskmon.history.history": ("History._ask", "History.stop")}

#: The limits as users have them, by name.
REAL: dict[str, float] = {}


def be_patient_with_the_history() -> None:
    """Let the limits of the history be long too; to load it takes a moment, which most of the time is wasted."""
    _be_patient(_LIMITS_OF_THE_HISTORY, _DEFAULTS_OF_THE_HISTORY)
    import_module("taskmon.history.postgres")._OPTIONS["connect_timeout"] = round(PATIENCE)


def _be_patient(limits: Names, defaults: Names) -> None:
    for module, names in limits.items():
        for name in names:
            REAL[name] = getattr(import_module(module), name)
            setattr(import_module(module), name, PATIENCE)
    for module, places in defaults.items():
        for place in places:
            attrgetter(place)(import_module(module)).__defaults__ = (PATIENCE,)


_be_patient(_LIMITS, _DEFAULTS)
