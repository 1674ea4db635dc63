"""Run every benchmark: `python -m benchmarks [--tasks N] [--events N] [--flower-venv PATH]`."""

import argparse
from pathlib import Path

from . import (
    access,
    burst,
    flood,
    history,
    http,
    kill,
    latency,
    listing,
    masking,
    queries,
    search,
    startup,
    state,
    steady,
)
from .flower import DEFAULT_VENV, prepare_flower
from .tables import print_machine


def main() -> None:
    """Run all of them, one after the other: they would disturb each other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--tasks", type=int, help="tasks in the benchmarks of a large State, in place of their own")
    parser.add_argument("--events", type=int, default=burst.EVENTS, help="events of a burst (default: %(default)s)")
    parser.add_argument(
        "--flower-venv", type=Path, default=DEFAULT_VENV, help="where Flower is, or is put if missing"
    )
    options = parser.parse_args()
    flower = prepare_flower(options.flower_venv)
    print_machine(flower)
    state.run(options.tasks or state.TASKS, state.RUNS, flower)
    queries.run(options.tasks or queries.TASKS)
    search.run(options.tasks or search.TASKS)
    listing.run(options.tasks or listing.TASKS)
    masking.run()
    http.run()
    access.run()
    startup.run(flower)
    history.run_start(options.tasks or history.TASKS)
    for broker in burst.BROKERS:
        burst.run(broker, options.events, flower)
    for broker in burst.BROKERS:
        steady.run(broker)
    for broker in burst.BROKERS:
        flood.run(broker)
    for broker in burst.BROKERS:
        latency.run(broker, flower)
    for broker in burst.BROKERS:
        history.run_load(broker)
    for broker in burst.BROKERS:
        kill.run(broker)


if __name__ == "__main__":
    main()
