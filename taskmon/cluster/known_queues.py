"""KnownQueues: which queues are asked about. Event loop only.

A queue is known while anything names it, and after that until it has been empty for a day: its last worker may be
gone while its messages stay.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

#: As many queues are known at the most.
MAX_QUEUES: Final = 1000

#: As many of these may be empty and named by nothing that lasts: whoever sends events can invent names, and RabbitMQ
#: closes a channel over each queue that is not there.
MAX_PASSING: Final = 200

#: Seconds that a queue must have been empty before it is forgotten.
EMPTY_FOR: Final = 86_400.0

_MAX_NAME_BYTES: Final = 255

#: A source of names: an option, the app, the workers, the tasks held.
Source = Callable[[], Iterable[str]]


class Length(Protocol):
    """What is read of a queue's length."""

    @property
    def name(self) -> str: ...
    @property
    def messages(self) -> int | None: ...
    @property
    def unacknowledged(self) -> int | None: ...


class KnownQueues:
    """The names of the queues; `lasting` are sources whose names go first where there are too many."""

    def __init__(
        self, lasting: Sequence[Source], passing: Sequence[Source], clock: Callable[[], float] = time.time
    ) -> None:
        self._lasting = lasting
        self._passing = passing
        self._clock = clock
        self._last: dict[str, float] = {}  # when each was last named, or not known to be empty
        self._filled: set[str] = set()

    def names(self) -> list[str]:
        """Return the names of all known queues, sorted; forget those that were empty for long."""
        now = self._clock()
        lasting = set(_valid(self._lasting))
        self._last.update(dict.fromkeys((*_valid(self._passing), *lasting), now))
        kept = {name: at for name, at in self._last.items() if abs(now - at) <= EMPTY_FOR}
        sure = [*(lasting & kept.keys()), *(self._filled & kept.keys() - lasting)]
        others = sorted(kept.keys() - sure, key=lambda name: (-kept[name], name))
        self._last = {name: kept[name] for name in [*sure, *others[:MAX_PASSING]][:MAX_QUEUES]}
        return sorted(self._last)

    def note(self, lengths: Iterable[Length]) -> None:
        """Note what was found: a queue that is not known to be empty stays."""
        now = self._clock()
        lengths = list(lengths)
        filled = {queue.name for queue in lengths if queue.messages or queue.unacknowledged}
        self._filled = (self._filled - {queue.name for queue in lengths}) | (filled & self._last.keys())
        self._last.update(
            {
                queue.name: now
                for queue in lengths
                if queue.name in self._last and (queue.messages != 0 or queue.unacknowledged)
            }
        )

    def save(self) -> dict[str, float]:
        """Return what a later run goes on from, to the hour: whoever stores it has little to store again."""
        return {name: at - at % 3600 for name, at in self._last.items()}

    def restore(self, saved: Mapping[str, float]) -> None:
        """Go on from what an earlier run knew."""
        self._last.update((name, at) for name, at in saved.items() if is_queue_name(name))


def is_queue_name(name: Any) -> bool:
    """Whether something that a worker or an event says can be the name of a queue."""
    return isinstance(name, str) and 0 < len(name.encode("utf-8", "replace")) <= _MAX_NAME_BYTES


def _valid(sources: Iterable[Source]) -> Iterator[str]:
    return (name for source in sources for name in source() if is_queue_name(name))
