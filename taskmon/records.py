"""Event, Task and Worker, and how an event merges into a task or a worker.

Pure: no clock, no thread, no broker. The rules of merging are those of `celery.events.state`, which the tests hold
this module against. Structs are made with `gc=False`: a million of them would otherwise be walked by every full
garbage collection, so none of them may ever refer to another.
"""

from sys import intern
from typing import Annotated, Final, Literal

from celery import states
from msgspec import UNSET, Meta, Struct, UnsetType

Identifier = Annotated[str, Meta(min_length=1, max_length=1024)]
Time = Annotated[float, Meta(ge=0, le=1e11)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Integer = Annotated[int, Meta(ge=-(2**62), le=2**62)]

Text = str | None | UnsetType
OptionalNumber = Number | None | UnsetType
OptionalInteger = Integer | None | UnsetType


class Event(Struct, gc=False):
    """One event as a worker or a client sent it: `UNSET` is a field that did not come, None a JSON null.

    Fields that are not listed are dropped while decoding. Times are epoch seconds, `runtime` and `freq` seconds. The
    fields stand in the order in which Celery sends them, in which they are decoded a sixth quicker.
    """

    type: Identifier
    hostname: Identifier | None = None
    pid: OptionalInteger = UNSET
    clock: OptionalInteger = UNSET
    uuid: Identifier | None = None
    root_id: Text = UNSET
    parent_id: Text = UNSET
    name: Text = UNSET
    args: Text = UNSET
    kwargs: Text = UNSET
    retries: OptionalInteger = UNSET
    eta: Text = UNSET
    expires: Text = UNSET
    queue: Text = UNSET
    exchange: Text = UNSET
    routing_key: Text = UNSET
    result: Text = UNSET
    runtime: OptionalNumber = UNSET
    timestamp: Time | None = None
    exception: Text = UNSET
    traceback: Text = UNSET
    freq: OptionalNumber = UNSET
    active: OptionalInteger = UNSET
    processed: OptionalInteger = UNSET
    loadavg: list[Number] | UnsetType | None = UNSET
    sw_ident: Text = UNSET
    sw_ver: Text = UNSET
    sw_sys: Text = UNSET


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


#: After so many missing heartbeats a worker counts as offline, killed or cut off.
LOST: Final = 30


class Worker(Struct, gc=False):
    """What a worker's own events say of it.

    `seen` is when taskmon last heard of it, `busy` when of one of its tasks, by its own clock.
    """

    hostname: str
    seen: float = 0.0
    busy: float = 0.0
    online: bool = True
    timestamp: float | None = None
    freq: float = 2.0
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

        Offline is one that said goodbye, and one of which nothing has been heard for LOST heartbeats.
        """
        if not self.online or abs(now - self.seen) >= LOST * self.freq:
            return "offline"
        return "online" if self.alive(now) else "stale"


#: The states that Celery ranks, the last first; a custom state ranks as `_CUSTOM_RANK`.
_RANKS: Final = {state: rank for rank, state in enumerate(states.PRECEDENCE)}
_CUSTOM_RANK: Final[int] = states.NONE_PRECEDENCE

#: Event type to the task state it stands for, the state's rank, and the field that keeps its time.
KINDS: Final[dict[str, tuple[str, int, str]]] = {
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
_SHORT: Final = 16


def merge(task: Task, event: Event) -> None:
    """Merge a task event into its task.

    An event that comes late does not take the state back: a late `task-received` adds only what it knows best, any
    other late event all of its fields but the state. What comes before or after a retry is always taken. All this as
    in Celery, but for two things: a retry of a finished task is late too, whatever its time is, as workers tell of a
    retry only after they have published it; and nothing late takes a task away from the worker that finished it.

    Runs for every event: hence one long function, mostly without a call. To set a field costs ten times as much as to
    look at it, and most fields come again as they are, so that only what differs is set. Of texts that many tasks
    have, names and queues and short arguments, one copy is kept.
    """
    kind = KINDS.get(event.type)
    current = task.state
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
        elif hostname != task.worker and (
            current not in READY_STATES or task.worker is None or rank <= _RANKS[current]
        ):
            task.worker = intern(hostname)
    if (text := event.name) is not UNSET and text != task.name:
        task.name = text if text is None else intern(text)
    if (text := event.args) is not UNSET and text != task.args:
        task.args = text if text is None or len(text) > _SHORT else intern(text)
    if (text := event.kwargs) is not UNSET and text != task.kwargs:
        task.kwargs = text if text is None or len(text) > _SHORT else intern(text)
    if (text := event.root_id) is not UNSET and text != task.root_id:
        task.root_id = text if text != task.uuid else task.uuid
    if (text := event.parent_id) is not UNSET and text is not task.parent_id:
        task.parent_id = text
    if (number := event.retries) is not UNSET and number is not task.retries:
        task.retries = number
    if (text := event.eta) is not UNSET and text is not task.eta:
        task.eta = text
    if (text := event.expires) is not UNSET and text is not task.expires:
        task.expires = text
    if rank <= _RANKS.get(current, _CUSTOM_RANK) or current == states.RETRY:
        if state is not current:
            task.state = state
    elif state == states.RETRY:
        if current in READY_STATES:
            return
        task.state = state
    elif state == states.RECEIVED:
        return
    task.timestamp = timestamp
    if event.clock is not UNSET:
        task.clock = event.clock
    if (text := event.queue) is not UNSET and text != task.queue:
        task.queue = text if text is None else intern(text)
    if (text := event.exchange) is not UNSET and text != task.exchange:
        task.exchange = text if text is None else intern(text)
    if (text := event.routing_key) is not UNSET and text != task.routing_key:
        task.routing_key = text if text is None else intern(text)
    if event.result is not UNSET:
        task.result = event.result
    if event.runtime is not UNSET:
        task.runtime = event.runtime
    if event.exception is not UNSET:
        task.exception = event.exception
    if event.traceback is not UNSET:
        task.traceback = event.traceback


def merge_worker(worker: Worker, event: Event) -> None:
    """Merge a worker event into its worker."""
    worker.online = event.type != "worker-offline"
    worker.timestamp = event.timestamp
    if event.freq is not UNSET and event.freq:
        worker.freq = event.freq
    if event.pid is not UNSET:
        worker.pid = event.pid
    if event.clock is not UNSET:
        worker.clock = event.clock
    if event.active is not UNSET:
        worker.active = event.active
    if event.processed is not UNSET:
        worker.processed = event.processed
    if event.loadavg is not UNSET:
        worker.loadavg = event.loadavg
    if event.sw_ident is not UNSET:
        worker.sw_ident = event.sw_ident
    if event.sw_ver is not UNSET:
        worker.sw_ver = event.sw_ver
    if event.sw_sys is not UNSET:
        worker.sw_sys = event.sw_sys
