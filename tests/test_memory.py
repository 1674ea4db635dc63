"""How much memory there is, how much of it tasks may take, and that the process stays within it."""

import json
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest
from factories import make_event

from taskmon.monitor.memory import MIN_LIMIT, MemoryBudget, default_limit, memory_of_machine
from taskmon.monitor.state import State

MB = 1 << 20


class Process:
    """A process of a size, and a clock."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now = 0.0

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def read(self) -> int:
        return self.size


def test_there_is_no_bound_while_the_process_is_small() -> None:
    process = Process(50 * MB)
    budget = MemoryBudget(100 * MB, process.read, process.clock)
    budget.check(10 * MB)
    assert budget.room == inf
    assert not budget.is_tight


def test_tasks_have_to_give_way_when_the_process_grows_and_only_then() -> None:
    process = Process(0)
    budget = MemoryBudget(100 * MB, process.read, process.clock)
    process.size = 93 * MB
    budget.check(80 * MB)
    first = budget.room
    assert 70 * MB < first < 80 * MB
    budget.check(80 * MB)
    assert budget.room == first, "memory that is free may stay with the process"
    process.size = 97 * MB
    budget.check(78 * MB)
    assert budget.room < first
    process.size = 60 * MB
    budget.check(60 * MB)
    assert budget.room == inf


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("0::/system.slice/taskmon.service\n", "sys/fs/cgroup/system.slice/memory.max"),
        ("0::/\n", "sys/fs/cgroup/memory.max"),
        ("5:cpu,memory:/docker/abc\n", "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes"),
        ("5:memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ],
)
def test_the_limit_of_a_control_group_counts(tmp_path: Path, lines: str, name: str) -> None:
    whole = memory_of_machine(tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(lines)
    limit = tmp_path / name
    limit.parent.mkdir(parents=True)
    limit.write_text(f"{300 * MB}\n")
    assert memory_of_machine(tmp_path) == 300 * MB
    assert default_limit(tmp_path) == 150 * MB
    limit.write_text("1000\n")
    assert default_limit(tmp_path) == MIN_LIMIT
    for unlimited in ("max\n", "9223372036854771712\n", ""):
        limit.write_text(unlimited)
        assert memory_of_machine(tmp_path) == whole


def test_texts_are_weighed_while_memory_is_short() -> None:
    process = Process(99 * MB)
    state = State(10, memory=MemoryBudget(100 * MB, process.read, process.clock))
    weights = state._indexes.weights
    for number in range(30):
        state.apply([make_event("task-received", f"t{number}", args="x" * 10_000)])
        state.apply([make_event("task-succeeded", f"t{number}", result="y" * 5_000)])
    assert len(state) == 10
    assert 9 * 15_000 < weights.texts < 10 * 16_000
    for number in range(30, 60):
        state.apply([make_event("task-succeeded", f"t{number}")])
    assert weights.texts < 10 * 1_000
    process.size = 10 * MB
    state.relieve_memory()
    assert weights.texts == 0
    assert not weights._known


def test_the_tasks_longest_without_an_event_go_and_some_always_stay() -> None:
    process = Process(10 * MB)
    state = State(100_000, memory=MemoryBudget(100 * MB, process.read, process.clock))
    state.apply([make_event("task-succeeded", f"t{number}") for number in range(5_000)])
    process.size = 200 * MB
    while state.relieve_memory():
        pass
    assert 100 <= len(state) < 5_000
    assert state.evicted_for_memory
    assert state.get("t4999")
    for _ in range(100):
        process.size += 10 * MB
        state.relieve_memory()
    assert len(state) >= 100


def test_groups_of_one_task_go_with_it() -> None:
    state = State(2_000)
    for number in range(6_000):
        state.apply([make_event("task-succeeded", f"t{number}", name=f"name{number}", queue=f"q{number}")])
    while state._indexes.flush_some():
        pass
    assert len(state._indexes.facets["name"].groups) < 3_500
    assert "name5999" in state.task_names()


FLOOD = """
import json, sys
from taskmon.monitor.memory import MemoryBudget, _ProcessSize
from taskmon.receiving.decoding import EventDecoder
from taskmon.settings import Settings
from taskmon.monitor.state import State

kind = sys.argv[1]
size = _ProcessSize()
settings = Settings()
refused = []
decoder = EventDecoder(set(), settings.max_message, settings.max_text, lambda *a: refused.append(a), lambda *a: None)
limit = size.read() + (70 << 20)
state = State(10_000_000, memory=MemoryBudget(limit))
peak = 0
for number in range(900 if kind == "texts" else 2_500):
    if kind == "texts":
        fields = {name: letter * 60_000 for name, letter in zip(("args", "kwargs", "exception", "traceback"), "abcd")}
        events = [{"type": "task-failed", "hostname": "w", "uuid": f"t{number}", "timestamp": 1e9, **fields}]
    else:
        events = [
            {"type": "task-succeeded", "uuid": f"t{n}", "name": f"name{n}", "hostname": f"w{n}", "queue": f"q{n}",
             "root_id": f"r{n}", "timestamp": 1e9}
            for n in range(24 * number, 24 * number + 24)
        ]
    state.apply(decoder.decode(json.dumps(events).encode()))
    peak = max(peak, size.read())
assert not refused
print(json.dumps([peak / limit, len(state), state.evicted_total]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how large a process is")
@pytest.mark.parametrize("kind", ["texts", "names"])
def test_a_flood_stays_within_the_limit(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", FLOOD, kind], check=True, capture_output=True, text=True)
    peak, held, evicted = json.loads(done.stdout)
    assert peak < 1.1
    assert held >= 100
    assert evicted > 0
