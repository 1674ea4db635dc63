"""What is found to be missing, when it shows, and when it is logged."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from factories import make_event, make_life, make_worker_event
from msgspec import Raw

from taskmon.cluster.inspection import Inspection
from taskmon.history.status import Status
from taskmon.monitor.diagnostics import AppFacts, Diagnostics, Finding, heartbeats
from taskmon.monitor.diagnostics.diagnostics import RECENT, RECENT_OUTAGE
from taskmon.monitor.diagnostics.findings import MAX_LISTED
from taskmon.monitor.diagnostics.heartbeats import MIN_DURATION
from taskmon.monitor.diagnostics.silence import ANSWER_HOLDS, SILENT_FOR
from taskmon.monitor.diagnostics.tasks import NEWEST
from taskmon.monitor.state import State
from taskmon.receiving.intake import IntakeCounts
from taskmon.records import CUT_MARK, Event, Worker
from taskmon.settings import Settings

ALL_WELL = AppFacts(has_backend=True, readable=True, result_extended=True)
BEAT = 2.0


class Broker:
    """A broker's status."""

    connected = True
    missed: tuple[float, float, str] | None = None
    reason = ""
    reconnects = 0


class Replies:
    """What workers replied."""

    pickled: float | None = None


class Inspector:
    """What workers answered."""

    def __init__(self) -> None:
        self.inspections: dict[str, Inspection] = {}
        self.answered: dict[str, float] = {}


class Bench:
    """A Diagnostics with all that it looks at, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, facts: AppFacts = ALL_WELL, **options: Any) -> None:
        self.now = 1_900_000_000.0  # later than any test dates the events of tasks
        monkeypatch.setattr("taskmon.monitor.state.time.time", lambda: self.now)
        monkeypatch.setattr(heartbeats, "ENABLING_LASTS", 0.0)
        self.state = State()
        self.broker = Broker()
        self.intake = IntakeCounts()
        self.replies = Replies()
        self.inspector = Inspector()
        self.diagnostics = Diagnostics(
            *(self.state, Settings(**options), facts, self.broker, self.intake, self.replies),
            *(self.inspector, "celeryev"),
            clock=lambda: self.now,
        )
        self.state.subscribe(self.diagnostics.observe, workers_only=True)
        self.state.on_worker_gone(self.diagnostics.forget)

    def beat(self, hostname: str = "w1", ahead: float = 0.0, kind: str = "heartbeat", **fields: Any) -> None:
        """Let a heartbeat come, of a worker whose clock is so far ahead."""
        self.state.apply([make_worker_event(kind, hostname, timestamp=self.now + ahead, freq=BEAT, **fields)])

    def beats(self, *processed: int | None, hostname: str = "w1", **fields: Any) -> None:
        """Let heartbeats come, one every two seconds."""
        for number in processed:
            self.now += BEAT
            self.beat(hostname, **({} if number is None else {"processed": number}), **fields)

    def codes(self) -> list[str]:
        """Give the codes of what is found."""
        return [finding.code for finding in self.diagnostics.examine()]

    def find(self) -> Finding:
        """Give the one thing that is found."""
        (finding,) = self.diagnostics.examine()
        return finding


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_nothing_is_found_where_nothing_is_wrong(bench: Bench) -> None:
    bench.state.apply(make_life("a", "sent", "received", "started", "succeeded", name="add", args="()", kwargs="{}"))
    bench.beats(1, 1, 1)
    assert bench.diagnostics.examine() == []


def test_of_long_texts_only_the_newest_are_looked_at(bench: Bench) -> None:
    for number in range(20):
        bench.state.apply(make_life(f"id{number}", "sent", name="add", args="x" * 64_000 + "...", kwargs="{}"))
    found = bench.find()
    assert (found.code, found.count) == ("arguments-shortened", 5)
    assert "5 tasks of the newest 5" in found.message


# Workers


def test_two_processes_of_one_name(bench: Bench) -> None:
    for _ in range(4):
        bench.beats(1, pid=7)
        bench.beats(1, pid=9)
    bench.beats(1, hostname="w2", pid=5)
    found = bench.find()
    assert (found.code, found.count, found.workers) == ("hostname-shared", 1, ("w1",))
    assert "(w1: pids 7, 9)" in found.message
    bench.beats(*[1] * 35, pid=9)
    assert bench.codes() == []


def test_three_processes_of_one_name(bench: Bench) -> None:
    for _ in range(4):
        for pid in (7, 8, 9):
            bench.beats(1, pid=pid)
    assert "(w1: pids 7, 8, 9)" in bench.find().message


def test_a_worker_that_is_started_again_and_again_is_one(bench: Bench) -> None:
    for pid in range(40):
        bench.beats(1, 1, pid=pid)
        assert bench.codes() == []
    bench.beats(1, pid=2)  # the system gave that number again
    assert bench.codes() == []


def test_a_worker_that_hands_over_to_another_of_its_name(bench: Bench) -> None:
    bench.beats(1, 1, pid=7)
    bench.beats(1, pid=9)
    bench.beats(1, pid=7)
    bench.beats(1, 1, 1, 1, pid=9)
    assert bench.codes() == []


def test_a_worker_that_runs_tasks_and_sends_no_events(bench: Bench) -> None:
    bench.beats(5, 6)
    assert bench.codes() == []
    bench.beats(*range(7, 7 + int(MIN_DURATION / BEAT)))
    found = bench.find()
    assert (found.code, found.setting) == ("task-events-off", "worker_send_task_events")
    assert (found.count, found.workers) == (1, ("w1",))
    assert found.message.startswith("Heartbeats of 1 worker (w1) say that tasks run, and no event")
    assert "-E" in found.causes[0]
    assert "send_events=False" in found.causes[1]


def test_the_option_is_named_where_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, enable_events=False)
    bench.beats(*range(20))
    assert "--no-enable-events" in bench.find().causes[0]


def test_a_heartbeat_that_a_command_asked_for_says_nothing_of_tasks(bench: Bench) -> None:
    """As Celery replies to a broadcast `heartbeat`: without numbers."""
    for _ in range(3):
        bench.beats(500, None, *[500] * QUIET)
        assert bench.codes() == []
    bench.beats(None, *[500] * QUIET)
    assert bench.codes() == []


def test_what_runs_while_events_are_enabled_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    monkeypatch.setattr(heartbeats, "ENABLING_LASTS", 10.0)
    bench.beats(5, 6, 7, *[8] * 2 * QUIET)
    assert bench.codes() == []
    bench.beats(*[9] * QUIET)
    assert bench.codes() == ["task-events-off"]


def test_what_ran_during_an_outage_is_no_evidence(bench: Bench) -> None:
    bench.beats(*[5] * QUIET)
    bench.broker.reconnects += 1
    bench.beats(*[50] * QUIET)
    assert bench.codes() == []
    bench.beats(*[51] * QUIET)
    assert bench.codes() == ["task-events-off"]


# The history


def test_what_the_history_has_lost(bench: Bench) -> None:
    history = SimpleNamespace(status=Status())
    bench.diagnostics.watch_history(lambda: history.status.dropped + history.status.unfit)
    assert bench.codes() == []
    history.status.dropped, history.status.unfit = 7, 2
    assert (bench.find().code, bench.find().count) == ("history-incomplete", 9)
    bench.now += RECENT_OUTAGE - 1
    bench.beat()
    history.status.dropped += 1
    assert bench.find().count == 10
    bench.now += RECENT_OUTAGE
    bench.beat()
    assert bench.codes() == []


# No worker


def test_no_worker_is_heard(bench: Bench) -> None:
    assert bench.codes() == []
    bench.now += SILENT_FOR - 1
    assert bench.codes() == []
    bench.now += 2
    found = bench.find()
    assert found.code == "no-worker-heard"
    words = ("No worker runs", "event_exchange", "global_keyprefix", "virtual host")
    assert [word in cause for word, cause in zip(words, found.causes, strict=True)] == [True] * 4
    bench.intake.reject("content-type", 7)
    assert bench.diagnostics.no_worker_heard
    assert bench.diagnostics.examine()[0].causes[0].startswith("7 messages came in a format")
    bench.beat()
    assert "no-worker-heard" not in bench.codes()
    bench.now += 10_000  # whoever has been heard once shares exchange, prefix and serializer
    assert "no-worker-heard" not in bench.codes()


def test_a_worker_that_answers_says_why_it_is_not_heard(bench: Bench) -> None:
    bench.codes()
    bench.now += SILENT_FOR
    bench.inspector.inspections["w1"] = Inspection(answers={"conf": Raw(b'{"event_exchange":"other"}')})
    found = bench.find()
    assert (found.setting, found.workers, found.causes) == ("event_exchange", ("w1",), ())
    assert "exchange other, and taskmon listens to celeryev" in found.message
    bench.inspector.inspections["w1"] = Inspection(answers={"conf": Raw(b'{"timezone":"UTC"}')})
    assert [cause[:42] for cause in bench.find().causes] == [
        "The workers send neither heartbeats nor ev",
        "The broker does not let them publish event",
    ]
    for answers in ({}, {"conf": Raw(b'{"event_exchange":7}')}):
        bench.inspector.inspections["w1"] = Inspection(answers=answers)
        assert "event_exchange" in bench.find().causes[-1]


def test_a_worker_that_answers_after_it_went_silent(bench: Bench) -> None:
    bench.codes()
    bench.beat("w1")
    bench.beat("w2")
    assert not bench.diagnostics.worker_went_silent
    bench.now += SILENT_FOR
    bench.beat("w1")
    assert bench.diagnostics.worker_went_silent
    bench.inspector.answered = {"w1": bench.now, "w2": bench.now - 3}
    assert bench.codes() == []  # it answered too soon after its last heartbeat
    bench.now += 1
    bench.inspector.answered["w2"] = bench.now
    found = bench.find()
    assert (found.code, found.workers, bench.diagnostics.unheard_workers) == ("worker-unheard", ("w2",), ["w2"])
    assert "event_exchange" in found.causes[-1]
    said = Raw(b'{"event_exchange":"other"}')
    bench.inspector.inspections["w2"] = Inspection(answers={"conf": said}, times={"conf": bench.now - SILENT_FOR - 9})
    assert bench.find().setting is None  # said before it was started anew
    bench.inspector.inspections["w2"].times["conf"] = bench.now
    assert (bench.find().setting, bench.find().causes) == ("event_exchange", ())
    bench.beat("w2")
    assert bench.codes() == []
    bench.now += SILENT_FOR
    bench.beat("w1")
    bench.inspector.answered["w2"] = bench.now
    assert bench.codes() == ["worker-unheard"]
    bench.now += ANSWER_HOLDS  # it has ended since
    bench.beat("w1")
    assert bench.codes() == []
    bench.now += 300
    bench.beat("w1")
    assert not bench.diagnostics.worker_went_silent


def test_a_worker_that_answers_and_was_never_heard(bench: Bench) -> None:
    bench.codes()
    bench.beat("w1")
    bench.now += SILENT_FOR
    bench.beat("w1")
    bench.inspector.answered["w2"] = bench.now
    bench.state.hear_of("w2")
    assert bench.codes() == []  # it may just be starting
    assert bench.diagnostics.worker_went_silent  # so that it is asked again
    bench.now += 15
    bench.beat("w1")
    bench.inspector.answered["w2"] = bench.now
    assert bench.find().workers == ("w2",)
    said = Raw(b'{"event_exchange":"other"}')
    bench.inspector.inspections["w2"] = Inspection(answers={"conf": said}, times={"conf": bench.now - 15})
    assert bench.find().setting == "event_exchange"
    bench.broker.reconnects += 1
    assert bench.codes() == []


def test_silence_counts_from_the_connection(bench: Bench) -> None:
    bench.broker.connected = False
    bench.now += 1000
    assert bench.codes() == ["broker-away"]
    bench.broker.connected = True
    assert bench.codes() == []
    bench.now += SILENT_FOR - 1
    bench.broker.reconnects += 1
    assert bench.codes() == []
    bench.now += SILENT_FOR - 1
    assert bench.codes() == []
    bench.now += 1
    assert bench.codes() == ["no-worker-heard"]


def test_a_worker_without_heartbeats_is_heard_by_its_tasks(bench: Bench) -> None:
    bench.codes()
    bench.state.apply([make_event("sent", "a", name="add", hostname="gen1@web")])
    bench.now += SILENT_FOR
    assert bench.codes() == ["no-worker-heard"]
    bench.state.workers["w8"] = Worker("w8", seen=bench.now - 99, busy=bench.now - 99)  # out of a history
    assert bench.codes() == ["no-worker-heard"]
    bench.state.apply([make_event("started", "a", hostname="w9")])
    assert bench.codes() == []


QUIET = int(MIN_DURATION / BEAT) + 5


@pytest.mark.parametrize(
    ("beats", "fields", "found"),
    [
        pytest.param([5] * QUIET, {}, False, id="idle"),
        pytest.param([5] * QUIET, {"active": 2}, False, id="one long task"),
        pytest.param([None] * QUIET, {}, False, id="no numbers"),
        pytest.param([5, *[6] * QUIET], {}, True, id="one task"),
        pytest.param([50, *[0] * QUIET], {}, False, id="started anew"),
        pytest.param([50, 0, *[1] * QUIET], {}, True, id="started anew, then a task"),
    ],
)
def test_what_heartbeats_say(bench: Bench, beats: list[int | None], fields: dict[str, Any], found: bool) -> None:
    bench.beats(*beats, **fields)
    assert bench.codes() == (["task-events-off"] if found else [])


def test_tasks_that_begin_show_in_active_too(bench: Bench) -> None:
    bench.beats(None, active=0)
    bench.beats(*[None] * QUIET, active=1)
    assert bench.codes() == ["task-events-off"]


@pytest.mark.parametrize(
    ("kind", "hostname", "still"),
    [
        ("task-started", "w1", False),
        ("task-mine", "w1", False),
        ("task-sent", "w1", True),
        ("task-started", "w2", True),
        ("my-event", "w1", True),
        ("worker-online", "w1", False),
    ],
)
def test_what_shows_that_a_worker_sends_events(bench: Bench, kind: str, hostname: str, still: bool) -> None:
    bench.beats(*range(QUIET))
    assert bench.codes() == ["task-events-off"]
    bench.state.apply([make_event(kind, "a", hostname=hostname)])
    assert bench.codes() == (["task-events-off"] if still else [])
    bench.beats(QUIET)
    assert bench.codes() == (["task-events-off"] if still else [])
    bench.beats(*range(QUIET, 3 * QUIET))
    assert bench.codes() == ["task-events-off"]


def test_a_worker_that_is_away_or_gone_is_not_named(bench: Bench) -> None:
    bench.beats(*range(QUIET), ahead=99)
    assert bench.codes() == ["task-events-off", "clocks-disagree"]
    bench.now += 10 * BEAT
    assert bench.codes() == []
    bench.beats(QUIET, ahead=99)
    assert bench.codes() == ["task-events-off", "clocks-disagree"]
    bench.state.purge_workers(bench.now + 1)
    assert bench.codes() == []


def test_a_worker_that_state_has_no_room_for_is_not_watched(bench: Bench) -> None:
    bench.state.max_workers = 1
    bench.state.apply([make_worker_event("heartbeat", hostname, processed=1) for hostname in ("w1", "w2")])
    assert set(bench.diagnostics._heartbeats._watches) == {"w2"}


def test_an_event_without_a_sender_says_nothing(bench: Bench) -> None:
    bench.state.apply([make_event("my-event", None, hostname=None)])
    assert bench.codes() == []


def test_of_many_workers_a_few_are_named(bench: Bench) -> None:
    names = [f"w{n}" + "x" * 100 for n in range(MAX_LISTED + 5)]
    for step in range(QUIET):
        bench.now += BEAT
        for name in names:
            bench.beat(name, processed=step, ahead=50)
    silent, skewed = bench.diagnostics.examine()
    for finding in (silent, skewed):
        assert finding.count == MAX_LISTED + 5
        assert len(finding.workers) == MAX_LISTED
        assert f" and {MAX_LISTED + 2} more" in finding.message
        assert len(finding.message) < 600
    assert len(skewed.seconds) == MAX_LISTED


# Clocks


@pytest.mark.parametrize(("ahead", "words"), [(45.0, "45 s ahead"), (-61.5, "61.5 s behind"), (1e9, "1e+09 s ahead")])
def test_a_clock_that_differs(bench: Bench, ahead: float, words: str) -> None:
    bench.beats(1, ahead=ahead)
    bench.beats(1, hostname="w2")
    assert bench.codes() == []
    for _ in range(QUIET):
        bench.beats(1, ahead=ahead)
        bench.beat("w2", processed=1)
    found = bench.find()
    assert (found.code, found.setting, found.count) == ("clocks-disagree", None, 1)
    assert (found.workers, found.seconds) == (("w1",), {"w1": ahead})
    assert f"(w1 {words})" in found.message
    bench.beats(1)
    assert bench.codes() == []


@pytest.mark.parametrize("ahead", [0.0, 29.0, -29.0])
def test_a_clock_that_hardly_differs(bench: Bench, ahead: float) -> None:
    bench.beats(*[1] * QUIET, ahead=ahead)
    assert bench.codes() == []


def test_what_comes_late_says_nothing_of_the_clock(bench: Bench) -> None:
    for late in range(600, 40, -20):
        bench.beats(1, ahead=-late)
        assert bench.codes() == []


def test_the_clock_that_differs_most_is_named_first(bench: Bench) -> None:
    for _ in range(QUIET):
        bench.now += BEAT
        bench.beat("w1", ahead=40)
        bench.beat("w2", ahead=-90)
    found = bench.find()
    assert found.workers == ("w2", "w1")
    assert found.seconds == {"w1": 40.0, "w2": -90.0}


# Tasks


def test_names_of_which_no_task_has_sent(bench: Bench) -> None:
    bench.state.apply(
        [
            *(make_event("received", f"a{n}", name="add", args="()", kwargs="{}") for n in range(3)),
            make_event("received", "m", name="mul", args="()", kwargs="{}"),
            *make_life("b1", "sent", "received", name="both", args="()", kwargs="{}"),
            make_event("received", "b2", name="both", args="()", kwargs="{}"),
            make_event("sent", "s", name="only_sent", args="()", kwargs="{}"),
            make_event("started", "n"),
        ]
    )
    found = bench.find()
    assert (found.code, found.setting) == ("task-sent-off", "task_send_sent_event")
    assert (found.count, found.tasks) == (4, ("add", "mul"))
    assert "add, mul" in found.message


def test_tasks_that_later_ones_have_overtaken(bench: Bench) -> None:
    common: dict[str, Any] = {"name": "add", "args": "()", "kwargs": "{}"}
    bench.state.apply(
        [
            make_event("sent", "unheard", timestamp=bench.now - 60, queue="q", **common),
            make_event("sent", "later", timestamp=bench.now - 60, queue="q", eta="2030-01-01T00:00:00", **common),
            make_event("sent", "elsewhere", timestamp=bench.now - 60, queue="other", **common),
            make_event("sent", "just now", timestamp=bench.now - 1, queue="q", **common),
        ]
    )
    assert bench.codes() == []
    bench.state.apply(
        [make_event(kind, "done", timestamp=bench.now, queue="q", **common) for kind in ("sent", "received")]
    )
    found = bench.find()
    assert (found.code, found.count, found.tasks) == ("tasks-overtaken", 1, ("add",))
    assert len(found.causes) == 3
    bench.state.apply([make_event("received", "unheard", timestamp=bench.now, **common)])
    assert bench.codes() == []


def test_only_the_newest_tasks_are_looked_at(bench: Bench) -> None:
    cut = make_life("old", "sent", "received", name="old", args="(...,)", kwargs="{}" + CUT_MARK)
    bench.state.apply([*cut, make_event("received", "older", name="older")])
    assert bench.codes() == ["task-sent-off", "arguments-shortened", "text-cut"]
    for n in range(NEWEST):
        bench.state.apply(make_life(f"a{n}", "sent", "received", name="add", args="()", kwargs="{}"))
    assert bench.codes() == []


@pytest.mark.parametrize(
    ("field", "text", "code", "setting"),
    [
        ("args", "(1, ...)", "arguments-shortened", "argsrepr_maxsize"),
        ("kwargs", "{'a': {...}}", "arguments-shortened", "argsrepr_maxsize"),
        ("result", "'" + "x" * 1024 + "...'", "arguments-shortened", "argsrepr_maxsize"),
        ("args", "('x" + CUT_MARK, "text-cut", "--max-text"),
        ("result", "'x" + CUT_MARK, "text-cut", "--max-text"),
    ],
)
def test_texts_that_are_cut(bench: Bench, field: str, text: str, code: str, setting: str) -> None:
    common: dict[str, Any] = {"name": "add", "args": "()", "kwargs": "{}"}
    bench.state.apply(make_life("a", "sent", "succeeded", **common | {field: text}))
    bench.state.apply(make_life("b", "sent", "succeeded", **common))
    found = bench.find()
    assert (found.code, found.setting, found.count) == (code, setting, 1)
    assert "1 task of the newest 2" in found.message


# The broker, what it brings, and the result backend


def test_a_broker_that_is_away(bench: Bench) -> None:
    bench.broker.connected, bench.broker.reason = False, "Connection refused"
    found = bench.find()
    assert (found.code, found.setting) == ("broker-away", "broker_url")
    assert "Connection refused" in found.message


def test_a_time_for_which_events_were_missed(bench: Bench) -> None:
    bench.broker.missed = (bench.now - 60, 37.4, "the exchange was deleted")
    found = bench.find()
    assert (found.code, found.setting) == ("events-missed", "--durable-queue")
    assert "37 s until 2030-03-17T17:45:40Z were missed: the exchange was deleted" in found.message
    bench.now += RECENT_OUTAGE
    assert "events-missed" not in {finding.code for finding in bench.diagnostics.examine()}


@pytest.mark.parametrize(
    ("reason", "setting"), [("too-large", "--max-message"), ("content-type", "event_serializer"), ("malformed", None)]
)
def test_events_that_are_refused(bench: Bench, reason: str, setting: str | None) -> None:
    bench.intake.reject(reason)
    found = bench.find()
    assert (found.code, found.reason, found.setting, found.count) == ("events-refused", reason, setting, 1)
    assert reason in found.message


def test_replies_that_are_pickles(bench: Bench) -> None:
    bench.beat()
    bench.replies.pickled = bench.now
    found = bench.find()
    assert (found.code, found.setting) == ("replies-pickled", "task_serializer")
    bench.now += RECENT
    assert bench.codes() == []


def test_what_was_refused_long_ago_is_no_news(bench: Bench) -> None:
    bench.beat()
    bench.intake.reject("malformed", 2)
    bench.intake.reject("encoding")
    assert bench.codes() == ["events-refused", "events-refused"]
    bench.now += RECENT / 2
    bench.intake.reject("malformed")
    assert bench.codes() == ["events-refused", "events-refused"]
    bench.now += RECENT / 2
    assert (bench.find().reason, bench.find().count) == ("malformed", 3)
    bench.now += RECENT / 2
    assert bench.codes() == []


@pytest.mark.parametrize(
    ("facts", "codes"),
    [
        (ALL_WELL, []),
        (AppFacts(False, False, False), [("no-result-backend", "result_backend")]),
        (AppFacts(True, False, True), [("no-result-backend", "result_backend")]),
        (AppFacts(True, True, False), [("result-extended-off", "result_extended")]),
        (AppFacts(True, True, False, of_url=True), []),  # the workers may have it
        (AppFacts(False, False, False, of_url=True), [("no-result-backend", "result_backend")]),
    ],
)
def test_the_result_backend(monkeypatch: pytest.MonkeyPatch, facts: AppFacts, codes: list[tuple[str, str]]) -> None:
    found = Bench(monkeypatch, facts).diagnostics.examine()
    assert [(finding.code, finding.setting) for finding in found] == codes


# The log


def test_what_is_missing_without_a_result_backend_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(monkeypatch, AppFacts(False, False, False, of_url=True))
    bench.diagnostics.report_backend()
    bench.diagnostics.examine()
    (line,) = caplog.messages
    assert "--result-backend" in line
    assert "orphaned" in line


def test_each_finding_is_logged_when_it_shows(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def logged() -> list[str]:
        lines = [record.getMessage().partition(":")[0] for record in caplog.records]
        assert {(record.name, record.levelno) for record in caplog.records} <= {
            ("taskmon.monitor.diagnostics", logging.WARNING)
        }
        caplog.clear()
        return lines

    bench.codes()
    assert logged() == []
    bench.broker.connected = False
    bench.codes()
    bench.codes()
    assert logged() == ["broker-away"]
    bench.intake.reject("malformed")
    bench.intake.reject("encoding")
    bench.codes()
    assert logged() == ["events-refused", "events-refused"]
    bench.broker.connected = True
    bench.codes()
    assert logged() == []
    bench.broker.connected = False
    bench.codes()
    assert logged() == ["broker-away"]


def test_a_batch_may_hold_events_of_many_senders(bench: Bench) -> None:
    for step in range(QUIET):
        bench.now += BEAT
        beats: list[Event] = [
            make_worker_event("heartbeat", hostname, timestamp=bench.now, processed=step) for hostname in ("w1", "w2")
        ]
        bench.state.apply([*beats, make_event("started", "a", hostname="w2", name="add", args="()", kwargs="{}")])
    assert bench.find().workers == ("w1",)
