"""Queue: ids in the order in which they were added, of which hardly one is ever moved. Event loop only."""

from collections import OrderedDict, deque


class Queue:
    """Ids, each once, the one to go next first.

    To add one is an append, and nothing is hashed. One that is moved or removed leaves its old place behind, which is
    passed over when it comes first; `_left` has these. What is moved waits in `_late`, by how many ids had been added
    until then: it goes after those, and before what is added later.
    """

    __slots__ = ("_added", "_late", "_left", "_line")

    def __init__(self) -> None:
        self._line: deque[str] = deque()
        self._added = 0  # ids that were ever put in line
        self._left: set[str] = set()
        self._late: OrderedDict[str, int] = OrderedDict()

    def add(self, key: str) -> None:
        """Add an id, as the last."""
        if key in self._left:  # else it would be in line twice
            self._late[key] = self._added
        else:
            self._line.append(key)
            self._added += 1

    def move_to_end(self, key: str) -> None:
        """Let an id that is here be the last."""
        if self._late.pop(key, None) is None:
            self._left.add(key)
        self._late[key] = self._added

    def remove(self, key: str) -> None:
        """Take out an id that is here."""
        if self._late.pop(key, None) is None:
            self._left.add(key)

    def pop(self) -> str:
        """Take out the first id; raises IndexError where there is none."""
        line, left, late = self._line, self._left, self._late
        while left and line and line[0] in left:
            left.remove(line.popleft())
        if late:
            key, before = next(iter(late.items()))
            if before <= self._added - len(line):
                del late[key]
                return key
        return line.popleft()
