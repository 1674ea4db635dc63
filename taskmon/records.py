"""Event, Task and Worker, and how an event merges into a task or a worker.

Pure: no clock, no thread, no broker. The rules of merging are those of `celery.events.state`, which the tests hold
this module against. Structs are made with `gc=False`: a million of them would otherwise be walked by every full
garbage collection, so none of them may ever refer to another.
"""

from sys import intern
from typing import Annotated, Final, Literal

from celery import states
from msgspec import Meta, Struct

#: The bounds of numbers: of a time in epoch seconds, of other numbers, of whole numbers, and of the seconds between
#: two heartbeats: with a larger one, a worker that is dead would count as online.
TIME_BOUNDS: Final = (0.0, 1e11)
NUMBER_BOUNDS: Final = (-1e15, 1e15)
INTEGER_BOUNDS: Final = (-(2**62), 2**62)
FREQ_BOUNDS: Final = (0.1, 3600.0)

#: Seconds between two heartbeats of a worker that does not say, as of Celery's.
DEFAULT_FREQ: Final = 2.0

MAX_IDENTIFIER: Final = 1024
MAX_LOADS: Final = 16

Identifier = Annotated[str, Meta(min_length=1, max_length=MAX_IDENTIFIER)]
Time = Annotated[float, Meta(ge=TIME_BOUNDS[0], le=TIME_BOUNDS[1])]
Number = Annotated[float, Meta(ge=NUMBER_BOUNDS[0], le=NUMBER_BOUNDS[1])]
Integer = Annotated[int, Meta(ge=INTEGER_BOUNDS[0], le=INTEGER_BOUNDS[1])]
Freq = Annotated[float, Meta(ge=FREQ_BOUNDS[0], le=FREQ_BOUNDS[1])]
Loads = Annotated[list[Number], Meta(max_length=MAX_LOADS)]


class Event(Struct, gc=False):
    """One event as a worker or a client sent it; None is a field that did not come, or a JSON null: not known.

    Fields that are not listed are dropped while decoding. Times are epoch seconds, `runtime` and `freq` seconds. The
    fields stand in the order in which Celery sends them, in which they are decoded a sixth quicker.
    """

    type: Identifier
    hostname: Identifier | None = None
    pid: Integer | None = None
    clock: Integer | None = None
    uuid: Identifier | None = None
    root_id: str | None = None
    parent_id: str | None = None
    name: str | None = None
    args: str | None = None
    kwargs: str | None = None
    retries: Integer | None = None
    eta: str | None = None
    expires: str | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    result: str | None = None
    runtime: Number | None = None
    timestamp: Time | None = None
    exception: str | None = None
    traceback: str | None = None
    freq: Freq | None = None
    active: Integer | None = None
    processed: Integer | None = None
    loadavg: Loads | None = None
    sw_ident: str | None = None
    sw_ver: str | None = None
    sw_sys: str | None = None
    requeue: bool | None = None


class PartialEvent(Event, gc=False):
    """An event without the fields that its sender got wrong; `omitted` names them. Never decoded from a message."""

    omitted: tuple[str, ...] = ()


#: What a text of an event ends with that was too long and has been cut by taskmon.
CUT_MARK: Final = "…[cut]"

#: The fields of an event whose length its sender chooses freely.
TEXT_FIELDS: Final = (
    *("name", "args", "kwargs", "root_id", "parent_id", "eta", "expires", "queue", "exchange", "routing_key"),
    *("result", "exception", "traceback", "sw_ident", "sw_ver", "sw_sys"),
)


class Task(Struct, gc=False):
    """What is known of one task; None is "not known".

    `sent` to `revoked` are the times of its events, `timestamp` that of the last one, all in epoch seconds of the
    sender's clock. `args`, `kwargs` and `result` are `repr` text, `eta` and `expires` ISO 8601, `worker` and
    `client` hostnames. `born` and `seen` are when taskmon applied the first and the last event, by its own clock.
    `reconciled` is None as long as all this comes from events, else what was found out otherwise: see `outcomes.py`.
    `omitted` names the fields, with blanks in between, that an event had and that could not be read. An event dated
    too far ahead has the time of receipt; its own is in `reported`: see `monitor/dated_ahead.py`.
    """

    uuid: str
    born: float = 0.0
    seen: float = 0.0
    state: str = states.PENDING
    name: str | None = None
    sent: float | None = None
    received: float | None = None
    started: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    rejected: float | None = None
    timestamp: float | None = None
    runtime: float | None = None
    args: str | None = None
    kwargs: str | None = None
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None
    eta: str | None = None
    expires: str | None = None
    retries: int | None = None
    worker: str | None = None
    client: str | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    clock: int | None = 0
    reconciled: str | None = None
    omitted: str | None = None
    reported: str | None = None


#: After so many missing heartbeats a worker counts as offline, killed or cut off.
OFFLINE_AFTER_BEATS: Final = 30


class Worker(Struct, gc=False):
    """What a worker's own events say of it.

    `seen` is when taskmon last heard of it, `busy` when of one of its tasks, by its own clock.
    """

    hostname: str
    seen: float = 0.0
    busy: float = 0.0
    online: bool = True
    timestamp: float | None = None
    freq: float = DEFAULT_FREQ
    pid: int | None = None
    clock: int | None = None
    active: int | None = None
    processed: int | None = None
    loadavg: list[float] | None = None
    sw_ident: str | None = None
    sw_ver: str | None = None
    sw_sys: str | None = None

    def alive(self, now: float) -> bool:
        """Tell whether the worker said it is online and its heartbeat is not overdue at `now`.

        Heard of later than now is as overdue as earlier: the clock of taskmon's own machine has been put back.
        """
        return self.online and abs(now - self.seen) < 2 * self.freq

    def status(self, now: float) -> Literal["online", "stale", "offline"]:
        """Tell in a word how the worker is at `now`: online, stale when its heartbeat is overdue, or offline.

        Offline is one that said goodbye, and one of which nothing has been heard for OFFLINE_AFTER_BEATS heartbeats.
        """
        if not self.online or abs(now - self.seen) >= OFFLINE_AFTER_BEATS * self.freq:
            return "offline"
        return "online" if self.alive(now) else "stale"


#: The states that Celery ranks, the last first; a custom state ranks as `_CUSTOM_RANK`.
_RANKS: Final = {state: rank for rank, state in enumerate(states.PRECEDENCE)}
_CUSTOM_RANK: Final[int] = states.NONE_PRECEDENCE

#: Event type to the task state it stands for, the state's rank, and the field that keeps its time.
TASK_EVENTS: Final[dict[str, tuple[str, int, str]]] = {
    f"task-{field}": (state, _RANKS[state], field)
    for field, state in {
        "sent": states.PENDING,
        "received": states.RECEIVED,
        "started": states.STARTED,
        "succeeded": states.SUCCESS,
        "failed": states.FAILURE,
        "retried": states.RETRY,
        "revoked": states.REVOKED,
        "rejected": states.REJECTED,
    }.items()
}

READY_STATES: Final = states.READY_STATES

#: Shorter arguments are likely to come again ("()", "{}", "None").
INTERN_MAX_LENGTH: Final = 16


#: The events that say when a run is due and until when; a later run without such a time has none.
_ANNOUNCING: Final = frozenset({"task-sent", "task-received"})

#: Fields of a task that an event has under another name.
_NAME_IN_EVENT: Final = {"worker": "hostname", "client": "hostname", "state": "type"}


def merge(task: Task, event: Event) -> None:
    """Merge a task event into its task.

    An event that comes late does not take the state back: a late `task-received` adds only what it knows best, any
    other late event all of its fields but the state. What comes before or after a retry is always taken. All this as
    in Celery, except for these: what an event does not know stays as it is; a retry of a finished task is late too,
    whatever its time is, as workers tell of a retry only after they have published it; nothing late takes a task away
    from the worker that finished it; a task that its worker rejects is not under way any more; a run whose message is
    back in its queue does not fail; and no task is its own parent, although a retry says so.

    Runs for every event: hence one long function, mostly without a call. To set a field costs ten times as much as to
    look at it, and most fields come again as they are, so that only what differs is set. Of texts that many tasks
    have, names and queues and short arguments, one copy is kept.
    """
    kind = TASK_EVENTS.get(event.type)
    current, former = task.state, task.worker
    timestamp = event.timestamp
    if kind is None:  # "task-progress" stands for "PROGRESS", a custom state
        state = intern(event.type[5:].upper())
        rank = _RANKS.get(state, _CUSTOM_RANK)
    else:
        state, rank, field = kind
        setattr(task, field, timestamp)
    hostname = event.hostname
    if hostname is not None:
        if event.type == "task-sent":
            if hostname != task.client:
                task.client = intern(hostname)
        elif hostname != former and (current not in READY_STATES or former is None or rank <= _RANKS[current]):
            task.worker = intern(hostname)
    if (text := event.name) is not None and text != task.name:
        task.name = intern(text)
    if (text := event.args) is not None and text != task.args:
        task.args = text if len(text) > INTERN_MAX_LENGTH else intern(text)
    if (text := event.kwargs) is not None and text != task.kwargs:
        task.kwargs = text if len(text) > INTERN_MAX_LENGTH else intern(text)
    if (text := event.root_id) is not None and text != task.root_id:
        task.root_id = text if text != task.uuid else task.uuid
    if (text := event.parent_id) is not None and text != task.uuid:
        task.parent_id = text
    if (number := event.retries) is not None and number is not task.retries:
        if task.retries is not None and number > task.retries and event.type in _ANNOUNCING:
            task.eta = task.expires = None
        task.retries = number
    if event.eta is not None:
        task.eta = event.eta
    if event.expires is not None:
        task.expires = event.expires
    if task.omitted is not None or type(event) is not Event:
        task.omitted = _merge_omitted(task, event)
    if rank <= _RANKS.get(current, _CUSTOM_RANK) or current == states.RETRY:
        if state is not current:
            task.state = state
    elif state == states.RETRY:
        if current in READY_STATES:
            return
        task.state = state
    elif state == states.RECEIVED:
        return
    elif kind is not None and state == states.REJECTED:
        _reject(task, event, former)
    task.timestamp = timestamp
    if event.clock is not None:
        task.clock = event.clock
    if (text := event.queue) is not None and text != task.queue:
        task.queue = intern(text)
    if (text := event.exchange) is not None and text != task.exchange:
        task.exchange = intern(text)
    if (text := event.routing_key) is not None and text != task.routing_key:
        task.routing_key = intern(text)
    if event.result is not None:
        task.result = event.result
    if event.runtime is not None:
        task.runtime = event.runtime
    if event.exception is not None:
        task.exception = event.exception
    if event.traceback is not None:
        task.traceback = event.traceback
    if event.requeue and event.type == "task-rejected" and task.state == states.REJECTED:  # back in its queue
        task.state = states.PENDING
    if task.rejected is not None and event.type == "task-failed":
        _fail(task, event, current, former)


def _reject(task: Task, event: Event, former: str | None) -> None:
    """Set the state of a task that was under way and whose worker rejects it; `former` is the worker until now.

    It is late where another worker has the task since, or where the task has finished. Only a time limit is reported
    as a failure before the task goes back to its queue.
    """
    if former is not None and event.hostname is not None and event.hostname != former:
        task.worker = former
    elif task.state not in READY_STATES or (task.state == states.FAILURE and event.requeue):
        task.state = states.REJECTED


def _fail(task: Task, event: Event, former_state: str, former: str | None) -> None:
    """Leave a task its state where the run that failed is one whose message its worker has put back before.

    Celery reports a time limit so: the message goes back, which is told, and then the failure. The task waits
    again, or another worker has it since.
    """
    waits = former_state == states.PENDING and event.hostname == former
    elsewhere = former_state in (states.RECEIVED, states.STARTED) and event.hostname != former is not None
    if waits or elsewhere:
        task.state, task.worker = former_state, former


def _merge_omitted(task: Task, event: Event) -> str | None:
    """Return the names of what could not be read of the task so far, as far as no event has said it since.

    A time that could not be read stays among them: taskmon's own time stands in its place.
    """
    names = set(task.omitted.split()) if task.omitted else set()
    said = {name for name in names if getattr(event, _NAME_IN_EVENT.get(name, name), None) is not None}
    names -= said - {"timestamp"}
    if isinstance(event, PartialEvent):
        names.update(event.omitted)
        if "hostname" in names:
            names.add("client" if event.type == "task-sent" else "worker")
        if "requeue" in names and event.type == "task-rejected":
            names.add("state")
    return " ".join(sorted(names.intersection(Task.__struct_fields__))) or None


def merge_worker(worker: Worker, event: Event) -> None:
    """Merge a worker event into its worker."""
    worker.online = event.type != "worker-offline"
    worker.timestamp = event.timestamp
    if event.freq is not None:
        worker.freq = event.freq
    if event.pid is not None:
        worker.pid = event.pid
    if event.clock is not None:
        worker.clock = event.clock
    if event.active is not None:
        worker.active = event.active
    if event.processed is not None:
        worker.processed = event.processed
    if event.loadavg is not None:
        worker.loadavg = event.loadavg
    if event.sw_ident is not None:
        worker.sw_ident = event.sw_ident
    if event.sw_ver is not None:
        worker.sw_ver = event.sw_ver
    if event.sw_sys is not None:
        worker.sw_sys = event.sw_sys
