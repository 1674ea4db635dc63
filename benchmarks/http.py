"""What taskmon adds to an HTTP answer: `python -m benchmarks.http`.

`/api/task/info/<id>` of a taskmon against a bare Tornado handler that writes the same bytes. Server and load each
have a process of their own; the two servers take turns.
"""

import argparse
import asyncio
import base64
import statistics
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlsplit

from . import workload
from .children import Child, child, cpu_seconds, say
from .load import KeepAlive, requests_per_second
from .tables import Cell, print_table

SECONDS = 2.0
ROUNDS = 6
CONNECTIONS = 16

USER, PASSWORD = "bench", "a password for the benchmark"


def serve_taskmon(method: str) -> None:
    """Be the child: a taskmon that knows some tasks; tell the id of one and the headers that let one in."""
    from taskmon.auth import Role
    from taskmon.credentials.tokens import new_token

    from .serving import make_decoder, make_taskmon, serve, tune

    if method == "token":
        token, line = new_token("bench", Role.VIEWER)
        options, headers = {"token": (line,)}, {"Authorization": f"Bearer {token}"}
    elif method == "proxy":
        options = {"proxy_preset": "oauth2-proxy", "trusted_proxies": ("127.0.0.1",), "roles": ("admin=group:ops",)}
        headers = {"X-Forwarded-User": USER, "X-Forwarded-Email": "bench@example.com", "X-Forwarded-Groups": "a,ops"}
        headers["X-Forwarded-For"] = "192.0.2.7"
    else:
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        options, headers = {"basic_auth": (f"{USER}:{PASSWORD}",)}, {"Authorization": f"Basic {credentials}"}

    async def be_asked() -> None:
        taskmon = make_taskmon(**options)
        for body in workload.bodies(workload.events(1000)):
            taskmon.monitor.state.apply(make_decoder().decode(body))
        task = next(task for task in islice(taskmon.monitor.state.find(TaskQuery()), 500, None) if task)
        say([task.uuid, headers])
        await serve(taskmon)

    from taskmon.monitor.query import TaskQuery

    tune()
    asyncio.run(be_asked())


def serve_bare(body: bytes) -> None:
    """Be the child: a Tornado that writes these bytes and knows nothing else."""
    from tornado.web import Application, RequestHandler

    from .serving import tune, wait_for_parent

    class Bare(RequestHandler):
        def get(self, task_id: str) -> None:
            self.set_header("Content-Type", "application/json; charset=UTF-8")
            self.write(body)

    async def be_asked() -> None:
        server = Application([(r"/api/task/info/(.+)", Bare)]).listen(0, "127.0.0.1")
        port = next(iter(server._sockets.values())).getsockname()[1]
        say(f"http://127.0.0.1:{port}")
        await wait_for_parent()

    tune()
    asyncio.run(be_asked())


Pick = Callable[[list[float]], float]


class Round(NamedTuple):
    """One turn of a server under load: requests a second, and the processor time that each cost the server."""

    rate: float
    microseconds: float


def measure(server: Child, url: str, headers: Mapping[str, str], seconds: float) -> Round:
    """Load a server for so long."""
    began = cpu_seconds(server.pid)
    rate = requests_per_second(url, headers, CONNECTIONS, seconds)
    return Round(rate, 1e6 * (cpu_seconds(server.pid) - began) / (rate * seconds))


def run(seconds: float = SECONDS, rounds: int = ROUNDS) -> None:
    """Load both servers in turn, for each way to authenticate, and print a table."""
    rows: list[list[Cell]] = []
    for method in ("token", "basic", "proxy"):
        with child("benchmarks.http", "taskmon", method) as ours:
            task_id, headers = ours.hear()
            url = f"{ours.hear()}/api/task/info/{task_id}"
            body = asyncio.run(_get(url, headers))
            with child("benchmarks.http", "bare", body.decode()) as bare:
                servers = ((bare, f"{bare.hear()}/api/task/info/{task_id}"), (ours, url))
                for server, target in servers:
                    measure(server, target, headers, 1.0)  # to warm up
                turns = [
                    [measure(server, target, headers, seconds) for server, target in servers] for _ in range(rounds)
                ]
        rows.append(_row(f"{method}, median of {rounds}", turns, statistics.median, statistics.median))
        rows.append(_row(f"{method}, best of {rounds}", turns, max, min))
    print_table(
        f"GET /api/task/info/<id> over {CONNECTIONS} connections, {len(body):,} bytes an answer; bare: Tornado alone",
        [
            "authentication",
            "bare req/s",
            "taskmon req/s",
            "ratio, %",
            "bare us CPU/req",
            "taskmon us CPU/req",
            "ratio, %",
        ],
        rows,
    )


def _row(what: str, turns: list[list[Round]], rate: Pick, cost: Pick) -> list[Cell]:
    """Pick one rate and one cost out of the turns of each server, and compare them."""
    (bare_rate, our_rate), (bare_cost, our_cost) = (
        [pick([getattr(turn, field) for turn in server]) for server in zip(*turns, strict=True)]
        for field, pick in (("rate", rate), ("microseconds", cost))
    )
    return [
        *(what, bare_rate, our_rate, 100 * our_rate / bare_rate),
        *(bare_cost, our_cost, 100 * bare_cost / our_cost),
    ]


async def _get(url: str, headers: Mapping[str, str]) -> bytes:
    async with KeepAlive(url, headers) as client:
        return await client.get(urlsplit(url).path)


def main() -> None:
    """Run it from the command line, or as one of the children that serve."""
    if sys.argv[1:2] == ["--child"]:
        which, what = sys.argv[2:]
        serve_taskmon(what) if which == "taskmon" else serve_bare(what.encode())
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    options = parser.parse_args()
    run(options.seconds, options.rounds)


if __name__ == "__main__":
    main()
