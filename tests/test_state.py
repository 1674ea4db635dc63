"""What State holds, whom it evicts, whom it tells."""

import logging
import sys
from random import Random
from typing import Any

import pytest
from factories import (
    START,
    count_prefetched,
    find_ids,
    held_tasks,
    make_event,
    make_life,
    make_state,
    make_worker_event,
    small_blocks,
    tidy_up,
)
from hypothesis import given
from hypothesis import strategies as st

from taskmon.errors import UnknownTask
from taskmon.monitor import prefetched
from taskmon.monitor import state as state_module
from taskmon.monitor.state import Change, State
from taskmon.monitor.task_fields import SORT_KEYS
from taskmon.records import Event

TYPES = ["sent", "received", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "odd"]


def held(state: State) -> set[str]:
    return {task.uuid for task in held_tasks(state)}


# Eviction


def test_the_task_longest_without_an_event_goes_first() -> None:
    state = make_state(*[make_event("sent", uuid) for uuid in "abc"], make_event("received", "a"), max_tasks=3)
    state.apply([make_event("sent", "d")])
    assert held(state) == {"a", "c", "d"}
    assert state.evicted_total == 1
    assert len(state) == 3


def test_arrival_counts_and_not_the_time_of_the_event() -> None:
    state = make_state(make_event("sent", "a"), make_event("sent", "b", timestamp=START), max_tasks=2)
    state.apply([make_event("received", "a", timestamp=1.0)])
    state.apply([make_event("sent", "c", timestamp=0.0)])
    assert held(state) == {"a", "c"}


@pytest.mark.parametrize("end", ["succeeded", "failed", "revoked"])
def test_finished_tasks_go_before_unfinished_ones(end: str) -> None:
    state = make_state(make_event("sent", "old"), make_event(end, "done"), make_event("sent", "new"), max_tasks=3)
    state.apply([make_event("sent", "newer")])
    assert held(state) == {"old", "new", "newer"}


@pytest.mark.parametrize("type", ["rejected", "retried", "progress", "started"])
def test_these_are_not_finished(type: str) -> None:
    state = make_state(make_event(type, "a"), make_event("succeeded", "b"), max_tasks=2)
    state.apply([make_event("sent", "c")])
    assert held(state) == {"a", "c"}


def test_a_task_that_is_unfinished_again_goes_later() -> None:
    state = make_state(*make_life("a", "revoked", "progress"), make_event("succeeded", "b"), max_tasks=2)
    state.apply([make_event("sent", "c")])
    assert held(state) == {"a", "c"}


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_who_goes_is_as_a_simple_list_would_have_it(seed: int, max_tasks: int) -> None:
    """Reading between the events changes nothing."""
    random = Random(seed)
    state, order, finished = State(max_tasks=max_tasks), list[str](), dict[str, bool]()
    for _ in range(40):
        uuid = random.choice("abcdefgh")
        state.apply([make_event(random.choice(TYPES), uuid, timestamp=START + random.randrange(5))])
        order = [other for other in order if other != uuid] + [uuid]
        if uuid in held(state):
            finished[uuid] = state.get(uuid).state in ("SUCCESS", "FAILURE", "REVOKED")
        else:  # it had room for unfinished ones only
            finished[uuid] = True
        while len(order) > max_tasks:
            order.remove(next((other for other in order if finished[other]), order[0]))
        assert held(state) == set(order)
        for other in order[:1]:
            state.get(other)
            state.children(other)
            find_ids(state, sort_by=random.choice(SORT_KEYS), limit=2)
            state.task_names()
            state.maintain()


def test_an_unknown_task_says_why() -> None:
    state = make_state(*[make_event("sent", uuid) for uuid in "ab"], max_tasks=1)
    for uuid, reason in (("a", "evicted"), ("x", "never seen")):
        with pytest.raises(UnknownTask) as caught:
            state.get(uuid)
        assert (caught.value.task_id, caught.value.reason) == (uuid, reason)
    state.apply([make_event("received", "a")])
    assert state.get("a").sent is None  # it begins anew


def test_only_so_many_evicted_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_REMEMBERED", 2)
    state = make_state(*[make_event("sent", uuid) for uuid in "abcd"], max_tasks=1)
    reasons = []
    for uuid in "abc":
        with pytest.raises(UnknownTask) as caught:
            state.get(uuid)
        reasons.append(caught.value.reason)
    assert reasons == ["never seen", "evicted", "evicted"]


def test_many_small_tasks_do_not_pile_up_unindexed() -> None:
    """With room for fewer tasks than are indexed together, the number of changed ones alone never gets there."""
    with small_blocks(4, flush_at=8):
        state = make_state(*[make_event("sent", f"id{number}") for number in range(100)], max_tasks=2)
        assert len(state._indexes.created) <= 8


# Prefetched


@given(st.integers(0, 2**32), st.sampled_from([3, 8, 100]), st.sampled_from([1, 3, 10]))
def test_prefetched_equals_a_recount(seed: int, max_tasks: int, max_workers: int) -> None:
    random = Random(seed)
    state = State(max_tasks=max_tasks, max_workers=max_workers)
    for _ in range(60):
        fields: dict[str, Any] = {}
        if random.random() < 0.3:
            fields["eta"] = random.choice([None, "2026-01-01T00:00:00"])
        if random.random() < 0.5:
            fields["name"] = random.choice([None, "tasks.add", "tasks.mul"])
        hostname = random.choice([None, "celery@one", "celery@two", "celery@three", "celery@four"])
        state.apply([make_event(random.choice(TYPES), random.choice("abcdefghij"), hostname=hostname, **fields)])
        if random.random() < 0.1:
            state.purge_workers(random.choice([0.0, 1e12]))
        assert state.prefetched == count_prefetched(state)
        assert all(count > 0 for count in state.prefetched.values())


def test_counts_that_are_zero_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetched, "_MAX_COUNTS", 10)
    state = State()
    for number in range(50):
        named = {"name": f"tasks.{number}", "hostname": "celery@one"}
        state.apply([make_event("received", str(number), **named), make_event("started", str(number), **named)])
        state.apply([make_event("received", f"waiting {number % 3}", **named)])
    assert state.prefetched == {("celery@one", f"tasks.{number}"): 1 for number in (47, 48, 49)}
    assert len(state._prefetched) < 25


def test_a_task_that_another_worker_gets_waits_there() -> None:
    state = make_state(make_event("received", name="t", hostname="celery@one"))
    assert state.prefetched == {("celery@one", "t"): 1}
    state.apply([make_event("received", name="t", hostname="celery@two")])
    assert state.prefetched == {("celery@two", "t"): 1}
    state.apply([make_event("started", hostname="celery@two")])
    assert state.prefetched == {}


def test_a_task_with_an_eta_does_not_count_as_waiting() -> None:
    state = make_state(make_event("received", eta="2026-01-01T00:00:00"))
    assert state.prefetched == {}
    state.apply([make_event("received", "b", eta=None)])
    assert state.prefetched == {("celery@one", ""): 1}


def test_a_worker_that_comes_back_counts_what_still_waits() -> None:
    state = make_state(*[make_event("received", uuid, name="t") for uuid in "ab"])
    state.purge_workers(1e12)
    assert state.prefetched == {}
    state.apply([make_event("received", "c", name="t")])
    assert state.prefetched == {("celery@one", "t"): 3}
    state.apply([make_event("started", "a", name="t")])
    assert state.prefetched == {("celery@one", "t"): 2}


# Workers


def test_workers_appear_by_any_event_of_theirs_but_not_as_clients() -> None:
    state = make_state(
        make_event("sent", hostname="gen1@client"),
        make_event("received", hostname="celery@one"),
        make_worker_event("heartbeat", "celery@two", active=3),
        make_event("custom-event", None, hostname="celery@three"),
    )
    assert set(state.workers) == {"celery@one", "celery@two"}
    assert state.workers["celery@two"].active == 3
    assert state.workers["celery@one"].alive(state.workers["celery@one"].seen)


def test_a_worker_may_be_known_by_an_answer_alone() -> None:
    state = make_state(make_worker_event("heartbeat", "celery@one", active=3))
    before = state.workers["celery@one"].seen
    state.hear_of("celery@one")
    state.hear_of("celery@two")
    assert (state.workers["celery@one"].active, state.workers["celery@one"].seen) == (3, before)
    assert state.workers["celery@two"].seen >= before


def test_workers_are_bounded_and_those_longest_unheard_of_go() -> None:
    gone: list[str] = []
    state = State(max_workers=3)
    state.on_worker_gone(gone.append)
    for number in (1, 2, 3, 1, 4, 5):
        state.apply([make_worker_event("heartbeat", f"celery@{number}")])
    assert set(state.workers) == {"celery@1", "celery@4", "celery@5"}
    assert gone == ["celery@2", "celery@3"]


@pytest.mark.parametrize("count", [1, 19, 40, 100])
def test_never_more_workers_than_allowed(count: int) -> None:
    state = State(max_workers=count)
    for number in range(250):
        state.apply([make_event("received", f"id{number}", hostname=f"celery@{number}")])
        assert len(state.workers) <= count
    assert "celery@249" in state.workers


def test_workers_are_purged_by_when_they_were_heard_of() -> None:
    gone: list[str] = []
    state = make_state(make_worker_event("online", "celery@one"), make_worker_event("online", "celery@two"))
    state.on_worker_gone(gone.append)
    state.workers["celery@one"].seen = 100.0
    assert not state.purge_workers(before=100.0)
    assert gone == []
    state.purge_workers(before=100.5)
    assert (gone, set(state.workers)) == (["celery@one"], {"celery@two"})


def test_workers_are_purged_some_at_a_time() -> None:
    state = make_state(*(make_worker_event("online", f"celery@{n}") for n in range(5)))
    assert [state.purge_workers(1e12, limit=2) for _ in range(3)] == [True, True, False]
    assert not state.workers


# Subscribers and failures


def test_subscribers_hear_of_every_change_in_order() -> None:
    state, heard = State(), list[list[Change]]()
    end = state.subscribe(heard.append)
    events = [make_event("sent"), make_worker_event("online"), make_event("custom", None), make_event("received")]
    state.apply(events)
    subjects = [state.get("a"), state.workers["celery@one"], None, state.get("a")]
    assert heard == [list(zip(events, subjects, strict=True))]
    end()
    state.apply([make_event("sent", "b")])
    assert len(heard) == 1


def _fail(*arguments: Any) -> None:
    raise RuntimeError("on purpose")


def test_some_hear_of_workers_only() -> None:
    state, heard = State(), list[list[Change]]()
    end = state.subscribe(heard.append, workers_only=True)
    online = make_worker_event("online")
    state.apply([make_event("sent"), online, make_event("custom", None), make_event("received")])
    state.apply([make_event("started")])
    assert heard == [[(online, state.workers["celery@one"])]]
    end()
    state.apply([make_worker_event("heartbeat")])
    assert len(heard) == 1


def test_a_worker_is_busy_by_events_of_its_tasks_only() -> None:
    state = make_state(make_worker_event("heartbeat"), make_event("sent", hostname="celery@one"))
    worker = state.workers["celery@one"]
    assert worker.busy == 0.0 < worker.seen
    state.apply([make_event("started", hostname="celery@one")])
    assert worker.busy == worker.seen


def test_a_subscriber_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    state, heard = State(), list[list[Change]]()
    state.subscribe(_fail)
    state.subscribe(heard.append)
    state.apply([make_event("sent")])
    assert (len(heard), state.failed_total) == (1, 1)
    assert "A subscriber failed" in caplog.text


def test_a_subscriber_that_leaves_while_it_hears_costs_nobody_a_change() -> None:
    state, heard = State(), list[list[Change]]()
    end = state.subscribe(lambda changes: end())
    state.subscribe(heard.append)
    state.apply([make_event("sent")])
    assert len(heard) == 1


def test_a_callback_for_gone_workers_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    gone: list[str] = []
    state = State(max_workers=1)
    state.on_worker_gone(_fail)
    state.on_worker_gone(gone.append)
    state.apply([make_worker_event("online", "celery@one")])
    state.apply([make_event("received", "a", hostname="celery@two")])
    assert (gone, state.failed_total) == (["celery@one"], 1)
    assert state.get("a").worker == "celery@two"
    assert "gone failed" in caplog.text


def test_an_event_that_cannot_be_applied_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state, heard = State(), list[list[Change]]()
    state.subscribe(heard.append)
    merge = state_module.merge
    monkeypatch.setattr(state_module, "merge", lambda t, event: _fail() if event.name == "bad" else merge(t, event))
    with caplog.at_level(logging.ERROR):
        state.apply([make_event("sent", "a"), make_event("sent", "b", name="bad"), make_event("sent", "c")])
    assert [event.uuid for event, _ in heard[0]] == ["a", "c"]
    assert state.failed_total == 1
    assert "'task-sent' could not be applied" in caplog.text
    for field in (None, *SORT_KEYS):
        assert {"a", "c"} <= set(find_ids(state, sort_by=field))
    tidy_up(state)
    state.apply([make_event("received", "b")])
    assert set(find_ids(state)) == {"a", "b", "c"}


def test_an_event_without_a_time_happens_now() -> None:
    state = make_state(make_event("sent", timestamp=None))
    task = state.get("a")
    assert task.timestamp == task.sent == task.seen == task.born


def test_events_about_nobody_change_nothing() -> None:
    events = [make_event("sent", None), make_event("worker-online", None, hostname=None), make_event("odd-type", "a")]
    state = make_state(*events)
    assert (len(state), state.workers, state.failed_total) == (0, {}, 0)


# Reading


def test_children_are_the_tasks_held_whose_parent_it_is_oldest_first() -> None:
    state = make_state(
        make_event("sent", "late", parent_id="p", timestamp=START + 9),
        make_event("sent", "early", parent_id="p", timestamp=START),
        make_event("sent", "other", parent_id="q"),
        max_tasks=3,
    )
    assert state.children("p") == ["early", "late"]
    assert state.children("p") == ["early", "late"]
    assert state.children("nobody") == []
    state.apply([make_event("received", "early", timestamp=START + 99)])
    assert state.children("p") == ["late", "early"]
    state.apply([make_event("sent", "one more")])
    assert state.children("p") == ["early"]
    state.apply([make_event("received", "early", parent_id="q")])
    assert state.children("p") == []


def test_children_up_to_a_limit() -> None:
    with small_blocks(2, flush_at=1):
        state = make_state(*[make_event("sent", f"id{number}", parent_id="p") for number in range(9)])
        for number in (0, 0, 1):  # entries that are stale and entries that are there twice
            state.apply([make_event("received", f"id{number}", timestamp=START)])
        whole = state.children("p")
        assert sorted(whole) == [f"id{number}" for number in range(9)]
        assert [state.children("p", limit) for limit in range(12)] == [whole[:limit] for limit in range(12)]


def scan_children(state: State, task_id: str) -> list[str]:
    """List children by looking at every task."""
    children = [task for task in held_tasks(state) if task.parent_id == task_id]
    return [task.uuid for task in sorted(children, key=lambda task: (task.timestamp or 0.0, task.uuid))]


@given(st.randoms(use_true_random=False), st.sampled_from([2, 4, 1000]))
def test_children_are_exact_whatever_waits_to_be_indexed(random: Random, block: int) -> None:
    with small_blocks(block, flush_at=block):
        state = State(max_tasks=12)
        for _ in range(60):
            fields = {"timestamp": START + random.randrange(9), "parent_id": random.choice([None, "p", "q"])}
            state.apply([make_event(random.choice(TYPES), f"id{random.randrange(20)}", **fields)])
            if random.random() < 0.1:
                state.maintain()
            for parent in ("p", "q"):
                expected = scan_children(state, parent)
                assert state.children(parent) == expected
                assert state.children(parent, 2) == expected[:2]
                assert [child for child in state.find_children(parent, 3) if child] == expected[:3]


def test_reading_indexes_no_more_than_a_slice_at_a_time() -> None:
    state = make_state()
    state.apply([make_event("sent", f"id{number:05}", parent_id="p", name=f"n{number}") for number in range(19_000)])
    waiting = len(state._indexes.changed)
    assert waiting > 18_000
    assert len(state.task_names()) == 19_000
    assert state.states() == {"PENDING"}
    assert state.children("id00001") == []
    assert len(state.newest(300)) == 300
    assert len(state._indexes.changed) == waiting
    found = []
    for child in state.find_children("p"):
        assert waiting - len(state._indexes.changed) <= 200
        waiting = len(state._indexes.changed)
        found += [child] if child else []
    assert found == [f"id{number:05}" for number in range(19_000)]


def test_the_newest_tasks_are_those_of_which_was_heard_last() -> None:
    state = make_state(*[make_event("sent", uuid) for uuid in "abcdef"])
    state.apply([make_event("succeeded", "b"), make_event("started", "a")])
    assert [task.uuid for task in state.newest(4)] == ["a", "b", "f", "e"]


def test_task_names_are_named_once() -> None:
    state = make_state(*[make_event("sent", uuid, name=name) for uuid, name in zip("abcd", "yxyz", strict=True)])
    state.apply([make_event("sent", "e"), make_event("sent", "f", name=None), make_event("sent", "g", name="")])
    assert state.task_names() == {"x", "y", "z"}


def test_task_events_are_counted() -> None:
    state = make_state(*make_life("a"), make_worker_event("online"))
    assert state.task_events_total == 3


def test_texts_that_many_tasks_have_are_kept_once() -> None:
    def repeat(text: str) -> str:
        return "".join(list(text))

    texts = {"name": "tasks.add", "args": "()", "kwargs": "{}", "queue": "celery", "exchange": "", "routing_key": "r"}
    for uuid in "ab":
        fields = {field: repeat(text) for field, text in texts.items()}
        state_event = make_event(
            "received", repeat(uuid * 40), root_id=repeat(uuid * 40), hostname=repeat("h@w"), **fields
        )
        if uuid == "a":
            state = make_state(state_event, make_event("sent", uuid * 40, hostname=repeat("gen@c")))
        else:
            state.apply([state_event, make_event("sent", uuid * 40, hostname=repeat("gen@c"))])
    one, two = state.get("a" * 40), state.get("b" * 40)
    for field in (*texts, "worker", "client"):
        assert getattr(one, field) is getattr(two, field), field
    assert one.root_id is one.uuid


def test_an_event_is_small() -> None:
    assert sys.getsizeof(Event(type="task-sent")) < 300
