"""The shapes of what goes out over HTTP: structs whose fields are the wire names. `serializers.py` fills them. Pure.

The OpenAPI document describes answers by these structs. A field that is UNSET does not go out.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Time = Annotated[float, Meta(description="Seconds since 1970, in UTC.")]
Hostname = Annotated[str, Meta(description="The hostname of a worker.")]
TaskId = Annotated[str, Meta(description="The id of a task.")]

#: What a worker answers to an inspect, in the form that Celery gives it.
Inspected = Annotated[Raw, Meta(description="The answer to Celery's inspect; empty when there is none.")]


class TaskObject(Struct, frozen=True, gc=False, rename={"task_id": "task-id"}):
    """What is known of a task; null is not known."""

    task_id: TaskId
    uuid: TaskId
    name: str | None
    state: str
    received: Time | None
    sent: Time | None
    started: Time | None
    rejected: Time | None
    succeeded: Time | None
    failed: Time | None
    retried: Time | None
    revoked: Time | None
    args: Annotated[str | None, Meta(description="A repr, as Celery's events give it.")]
    kwargs: Annotated[str | None, Meta(description="A repr, as Celery's events give it.")]
    eta: str | None
    expires: str | None
    retries: int | None
    worker: Hostname | None
    result: Annotated[str | None, Meta(description="A repr, as Celery's events give it.")]
    exception: str | None
    timestamp: Annotated[Time | None, Meta(description="When the last event happened.")]
    runtime: Annotated[float | None, Meta(description="Seconds that a successful run took.")]
    traceback: str | None
    exchange: str | None
    routing_key: str | None
    queue: str | None
    clock: int | None
    client: str | None
    root: TaskId | None
    root_id: TaskId | None
    parent: TaskId | None
    parent_id: TaskId | None
    children: list[str]
    incomplete: Annotated[list[str], Meta(description="The fields that are known to be missing, or cut.")]
    source: Annotated[
        Literal["events", "result backend"], Meta(description="Where it is known from how the task ended.")
    ]
    orphaned: Annotated[bool, Meta(description="Whether nobody has it, though it has not ended.")]
    retried_as: Annotated[TaskId | None, Meta(description="The task that it was last published again as.")]
    retry_of: Annotated[TaskId | None, Meta(description="The task that was published again as this one.")]
    reported_times: Annotated[
        dict[str, Time] | UnsetType,
        Meta(description="The events' own times where they were dated too far ahead."),
    ] = UNSET


class TaskNames(Struct, frozen=True, rename={"task_types": "task-types"}):
    """The names of the tasks held, sorted; where there are too many, `other` counts those left out."""

    task_types: list[str]
    other: int | UnsetType = UNSET


class TreeTask(Struct, frozen=True, gc=False, rename={"task_id": "task-id"}):
    """A task in a tree; one that is not held has no state."""

    task_id: TaskId
    name: str | None
    state: str | None
    worker: Hostname | None
    sent: Time | None
    received: Time | None
    started: Time | None
    rejected: Time | None
    succeeded: Time | None
    failed: Time | None
    retried: Time | None
    revoked: Time | None
    timestamp: Time | None
    runtime: float | None
    parent: TaskId | None
    children: list[str]


class TreeObject(Struct, frozen=True, rename={"task_id": "task-id"}):
    """The tasks that belong together, by id."""

    task_id: TaskId
    root: TaskId
    truncated: Annotated[bool, Meta(description="Whether there are more than fit into a tree.")]
    tasks: dict[str, TreeTask]


class Published(Struct, frozen=True, rename={"task_id": "task-id"}):
    """A task that was published; without a result backend there is no state."""

    task_id: TaskId
    state: str | UnsetType = UNSET


class ResultObject(Struct, frozen=True, rename={"task_id": "task-id"}):
    """The state of a task and, once it is ready, its result."""

    task_id: TaskId
    state: str
    result: Annotated[Any, Meta(description="The result; the repr of one that is no JSON.")] | UnsetType = UNSET
    traceback: Annotated[str | None, Meta(description="Of a task that failed.")] | UnsetType = UNSET
    reason: Annotated[str, Meta(description="Why the result is missing.")] | UnsetType = UNSET


class Message(Struct, frozen=True):
    """What came of a request that changed something."""

    message: str


class Revoked(Struct, frozen=True):
    """The tasks that a request to revoke many has found."""

    matched: list[str]
    revoked: Annotated[int, Meta(description="How many of them were revoked.")]
    dry_run: bool
    more: Annotated[bool, Meta(description="Whether more tasks match than are revoked at once.")]


class Heartbeat(Struct, frozen=True, gc=False):
    """What the last heartbeat of a worker said."""

    timestamp: Annotated[Time | None, Meta(description="By the worker's clock.")]
    freq: Annotated[float, Meta(description="Seconds between two heartbeats.")]
    pid: int | None
    clock: int | None
    active: int | None
    processed: int | None
    loadavg: list[float] | None
    sw_ident: str | None
    sw_ver: str | None
    sw_sys: str | None


class WorkerObject(Struct, frozen=True, gc=False, kw_only=True):
    """What a worker answered to inspects, as far as it has, and what its heartbeats say."""

    stats: Inspected
    active_queues: Inspected
    registered: Inspected
    conf: Inspected
    scheduled: Inspected
    active: Inspected
    reserved: Inspected
    revoked: Inspected
    timestamp: Annotated[Time | None, Meta(description="When the oldest of these answers came.")]
    status: Literal["online", "stale", "offline"]
    last_seen: Annotated[Time, Meta(description="When taskmon last heard of it, by its own clock.")]
    age: Annotated[float | None, Meta(description="How many seconds old the answers are.")]
    heartbeat: Heartbeat


class QueueLength(Struct, frozen=True):
    """One queue."""

    name: str
    messages: Annotated[
        int | None, Meta(description="Ready and, as far as known, unacknowledged ones. Null: unknown.")
    ]
    messages_ready: Annotated[int | None, Meta(description="Messages that wait for a worker.")]
    messages_unacknowledged: Annotated[
        int | None, Meta(description="Messages that workers hold and have not acknowledged. Null is not known.")
    ]
    consumers: Annotated[
        int | None,
        Meta(description="Who consumes from it, as RabbitMQ or else the workers say. Null while some have not said."),
    ]
    reason: Annotated[str, Meta(description="Why `messages` is not known.")] | UnsetType = UNSET


class QueueList(Struct, frozen=True):
    """The known queues, by name."""

    active_queues: list[QueueLength]


class Finding(Struct, frozen=True):
    """One thing that makes answers incomplete; what it does not say does not go out."""

    code: str
    message: str
    setting: Annotated[str | None, Meta(description="What mends it.")]
    count: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    workers: tuple[str, ...] | UnsetType = UNSET
    tasks: tuple[str, ...] | UnsetType = UNSET
    seconds: Annotated[dict[str, float], Meta(description="How far clocks of workers are ahead.")] | UnsetType = UNSET
    causes: (
        Annotated[tuple[str, ...], Meta(description="What it may come from, each with how to tell.")] | UnsetType
    ) = UNSET


class Findings(Struct, frozen=True):
    """What makes answers incomplete, the worst first."""

    findings: list[Finding]


class WhoIsIt(Struct, frozen=True):
    """Who asks; from `issuer` on, what a login said of them."""

    name: str
    role: Annotated[str, Meta(description="viewer, operator or admin; limited: what the scopes of the token allow.")]
    authenticated_by: Annotated[
        str, Meta(description="How they are known: basic, token, session, proxy or anonymous.")
    ]
    issuer: str | UnsetType = UNSET
    subject: Annotated[str, Meta(description="Who it is, for the issuer.")] | UnsetType = UNSET
    email: Annotated[str | None, Meta(description="Verified by the issuer, or said by the proxy.")] | UnsetType = (
        UNSET
    )
    groups: Annotated[tuple[str, ...], Meta(description="Those that rules for roles name.")] | UnsetType = UNSET
    session_ends: Annotated[float, Meta(description="Seconds since 1970, in UTC.")] | UnsetType = UNSET
    scopes: Annotated[tuple[str, ...], Meta(description="What a token with scopes may do.")] | UnsetType = UNSET


class Readiness(Struct, frozen=True):
    """Events come in; how the history goes, where there is one."""

    status: Literal["ready"]
    history: Literal["ok", "behind", "unavailable"] | UnsetType = UNSET
    reason: Annotated[str, Meta(description="How far the history is behind, for people.")] | UnsetType = UNSET


class Error(Struct, frozen=True, rename={"task_id": "task-id"}):
    """Why a request was refused or failed."""

    status: int
    message: str
    reason: Annotated[str, Meta(description="Why a task is not known.")] | UnsetType = UNSET
    task_id: Annotated[str, Meta(description="Of a task that was published all the same.")] | UnsetType = UNSET
    state: Annotated[str, Meta(description="Of that task.")] | UnsetType = UNSET


class ErrorAnswer(Struct, frozen=True):
    """The body of every answer that is an error."""

    error: Error
