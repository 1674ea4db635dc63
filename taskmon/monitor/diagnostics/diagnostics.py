"""Diagnostics: all that makes the answers of taskmon incomplete, and what changes it. Event loop only.

It counts nothing by itself but the heartbeats of each worker, and never looks at more than the newest few hundred
tasks. What is found is logged once, when it first shows.
"""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from ...broker_status import BrokerStatus
from ...cluster.inspection import Inspector
from ...cluster.mailbox import Mailbox
from ...receiving.intake import IntakeCounts
from ...records import Event, Task, Worker
from ...settings import Settings
from ..state import State
from .app_facts import AppFacts
from .event_dates import examine_dates
from .findings import Finding, count_of
from .heartbeats import Heartbeats
from .silence import Silence
from .tasks import examine_tasks

log = logging.getLogger(__package__)

#: Seconds after which the last refused event is no news any more.
RECENT: Final = 600.0

#: Seconds after which a time for which events were missed is no news any more.
RECENT_OUTAGE: Final = 3600.0

#: What lets in events that are refused, by the reason for which they are.
_REFUSALS: Final = {"too-large": "--max-message", "content-type": "event_serializer"}

_WITHOUT_RESULTS: Final = (
    "results are not shown, and only the workers can say what became of a task whose end was missed. A task that no"
    " worker has any more is called orphaned, even if it ended while its events were missed"
)


class Diagnostics:
    """Finds what is missing; `observe` is to hear of workers' events, `forget` of workers that go."""

    def __init__(
        self,
        state: State,
        settings: Settings,
        facts: AppFacts,
        broker: BrokerStatus,
        intake: IntakeCounts,
        mailbox: Mailbox,
        inspector: Inspector,
        exchange: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._facts = facts
        self._broker = broker
        self._intake = intake
        self._mailbox = mailbox
        self._clock = clock
        self._heartbeats = Heartbeats(state, settings, broker, clock)
        self._silence = Silence(state, broker, intake, inspector, exchange, clock)
        self.forget: Final = self._heartbeats.forget
        self._count_lost: Callable[[], int] | None = None
        self._lost: tuple[int, float] = 0, 0.0
        self._refused: dict[str, tuple[int, float]] = {}
        self._shown: set[tuple[str, str | None]] = set()

    def watch_history(self, count_lost: Callable[[], int]) -> None:
        """Watch a history, too: `count_lost` returns how many changes it has lost."""
        self._count_lost = count_lost

    def observe(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Note what workers tell of themselves."""
        self._silence.observe(changes)
        self._heartbeats.observe(changes)

    def examine(self) -> list[Finding]:
        """List what is found now, the worst first; log what was not there the last time."""
        findings = [
            *self._examine_broker(),
            *self._silence.examine(),
            *self._heartbeats.examine(),
            *examine_dates(self._state.dated_ahead, self._clock()),
            *self._examine_replies(),
            *self._examine_refusals(),
            *self._examine_history(),
            *examine_tasks(self._state),
            *self._examine_backend(),
        ]
        self._report(findings)
        return findings

    @property
    def no_worker_heard(self) -> bool:
        """Whether that was found last: then workers are to be asked why, if there are any."""
        return ("no-worker-heard", None) in self._shown

    @property
    def unheard_workers(self) -> list[str]:
        """Workers that answered while no event came from them, as of the last look: they are to be asked why."""
        return self._silence.unheard

    @property
    def worker_went_silent(self) -> bool:
        """Whether a worker has gone silent lately: then all are to be asked which of them still run."""
        return self._silence.must_ask()

    def report_backend(self) -> None:
        """Log at the start what is known then: whether there is a result backend."""
        self._report(list(self._examine_backend()))

    def _report(self, findings: list[Finding]) -> None:
        """Log what was not there the last time."""
        for finding in findings:
            if (finding.code, finding.reason) not in self._shown:
                log.warning("%s: %s", finding.code, finding.text())
        self._shown = {(finding.code, finding.reason) for finding in findings}

    def _examine_broker(self) -> Iterator[Finding]:
        if not self._broker.connected:
            reason = self._broker.reason
            yield Finding("broker-away", f"No events come in: the broker is away ({reason})", "broker_url")
        if (missed := self._broker.missed) is not None:
            until, seconds, why = missed
            if self._clock() - until < RECENT_OUTAGE:
                at = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                yield Finding(
                    "events-missed", f"The events of {seconds:.0f} s until {at} were missed: {why}", "--durable-queue"
                )

    def _examine_replies(self) -> Iterator[Finding]:
        """Find whether workers have lately replied with what is never loaded."""
        pickled = self._mailbox.pickled
        if pickled is not None and self._clock() - pickled < RECENT:
            yield Finding(
                "replies-pickled",
                "Workers reply with pickles, which taskmon never loads: they count as silent, though they do as told",
                "task_serializer",
            )

    def _examine_refusals(self) -> Iterator[Finding]:
        """Find the reasons for which events have been refused lately."""
        now = self._clock()
        for reason, count in self._intake.rejected.items():
            before, since = self._refused.get(reason, (0, now))
            if count != before:
                since = now
            self._refused[reason] = (count, since)
            if now - since < RECENT:
                yield Finding(
                    "events-refused",
                    f"Messages or events were refused, {count_of(count, 'time')}: {reason}",
                    _REFUSALS.get(reason),
                    count=count,
                    reason=reason,
                )

    def _examine_history(self) -> Iterator[Finding]:
        """Find whether the history has lately lost what it was to keep."""
        if self._count_lost is None:
            return
        now = self._clock()
        count, since = self._count_lost(), self._lost[1]
        if count != self._lost[0]:
            since = now
        self._lost = count, since
        if count and now - since < RECENT_OUTAGE:
            yield Finding(
                "history-incomplete",
                f"The history has lost {count_of(count, 'change')} of tasks since the start",
                count=count,
                causes=(
                    "Its database takes less than comes in, or was away for too long: the log says 'The history has"
                    " lost', and why. A higher --max-tasks lets more changes wait",
                    "Its database refuses rows: the log says 'refuses', and which",
                ),
            )

    def _examine_backend(self) -> Iterator[Finding]:
        facts = self._facts
        if not facts.has_backend or not facts.readable:
            yield Finding("no-result-backend", f"{_why_no_results(facts)}: {_WITHOUT_RESULTS}", "result_backend")
        elif not facts.of_url and not facts.result_extended:
            message = "The result backend does not store names and arguments of tasks"
            yield Finding("result-extended-off", message, "result_extended")


def _why_no_results(facts: AppFacts) -> str:
    if facts.has_backend:
        return "taskmon cannot read the result backend that is configured"
    if facts.of_url:
        return "No result backend is known from a broker's URL alone (--result-backend or --app names one)"
    return "The Celery app has no result backend"
