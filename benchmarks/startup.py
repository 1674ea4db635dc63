"""How long from the command to the first answer, with an empty State: `python -m benchmarks.startup`."""

import argparse
import statistics
import time
from contextlib import suppress
from pathlib import Path

from .burst import running
from .flower import DEFAULT_VENV, prepare_flower
from .monitors import Flower, Monitor, Taskmon
from .tables import print_table

RUNS = 5
_PATIENCE = 60.0


def measure(monitor: Monitor) -> float:
    """Start a monitor; give the seconds until it answers `/healthcheck`."""
    began = time.monotonic()
    with monitor:
        while time.monotonic() - began < _PATIENCE:
            with suppress(OSError):
                monitor.get("/healthcheck")
                return time.monotonic() - began
            time.sleep(0.01)
    raise RuntimeError(f"{monitor.name} does not answer")


def run(flower: Path | None, runs: int = RUNS) -> None:
    """Start each monitor a few times and print a table."""
    rows = []
    with running("redis") as server:
        from ports import free_port

        for name in ("taskmon", *(["flower"] if flower is not None else [])):
            seconds = []
            for _ in range(runs):
                port = free_port()
                monitor = Flower(server.url, port, 1000, flower) if name == "flower" and flower else None
                seconds.append(measure(monitor or Taskmon(server.url, port, 1000)))
            rows.append([name, min(seconds), statistics.median(seconds), max(seconds)])
    print_table(
        f"From the command to the first answer, {runs} times", ["monitor", "best, s", "median, s", "worst, s"], rows
    )


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="default: %(default)s")
    parser.add_argument(
        "--flower-venv", type=Path, default=DEFAULT_VENV, help="where Flower is, or is put if missing"
    )
    options = parser.parse_args()
    run(prepare_flower(options.flower_venv), options.runs)


if __name__ == "__main__":
    main()
