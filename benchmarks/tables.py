"""Tables of fixed width, and what is said of the machine above them."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Cell = str | float | int | None

_OURS = ("taskmon", "celery", "kombu", "amqp", "redis", "hiredis", "tornado", "msgspec")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    lines = [list(columns), *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    print(f"\n{title}\n")
    for number, line in enumerate(lines):
        cells = [
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
        if not number:
            print("  ".join("-" * width for width in widths))
    print(f"(load average over the last minute: {os.getloadavg()[0]:.1f})\n", flush=True)


def print_machine(flower: Path | None = None) -> None:
    """Print what the figures depend on: cores, interpreter, versions, and what else the machine is doing."""
    ours = ", ".join(f"{name} {found}" for name in _OURS if (found := _version(name)))
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(ours)
    if flower is not None:
        print(f"flower {_flower_version(flower)}", flush=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _flower_version(python: Path) -> str:
    command = [
        str(python),
        "-c",
        "from importlib.metadata import version as v; print(v('flower'), 'celery', v('celery'))",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.2f}"
