"""Kills what the live tests started when the test run itself dies without cleaning up.

Run as a process of its own. Reads `+<process group>` and `-<process group>` lines; when its standard input
ends, which also happens when the test run is killed, it kills every group that was not taken back.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def read_groups(lines: Iterable[str]) -> set[int]:
    """Return the process groups that are still watched when the lines end."""
    groups: set[int] = set()
    for line in lines:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    return groups


def main() -> None:
    """Wait for the end of standard input, then kill."""
    for group in read_groups(sys.stdin):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
