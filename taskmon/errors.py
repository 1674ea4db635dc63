"""Every error that taskmon raises on purpose; no HTTP words, `http/base.py` maps them to statuses.

TaskmonError
├── InvalidSetting        an option has a value that breaks its rule
│   └── HistoryRefused    the database of --history is none that taskmon may use
├── InvalidArgument       an argument of a question breaks its rule
│   └── InvalidSearch     a search does not follow the grammar
├── InvalidEvent          a message or an event that is refused
├── UnknownTask           no task of that id is held
│   └── ForeignTask       the history holds it, for another cluster
├── UnknownWorker         no worker of that hostname is known
├── UnknownTaskName       the Celery app has no task of that name
├── CommandRefused               a worker, or what is known of a task, does not allow a command
│   └── UnreadableArguments  what is recorded of a task's arguments cannot be published again
├── WorkerTimeout              a worker did not answer in time
├── AuthenticationFailed      no credentials, or wrong ones
│   ├── NoCredentials         none came
│   ├── MalformedCredentials  what came cannot be read, or can be read in two ways
│   └── AssertionRefused      what a proxy asserts is forged, out of date or meant for another
├── LoginFailed           a login with a provider did not come to its end
├── PermissionDenied             known, but not allowed to do this
│   └── CrossSite             a browser sends a change from another site
├── TooManyRequests       asked again too soon
└── Unavailable           something taskmon needs does not answer
"""


def shown(value: str, longest: int = 80) -> str:
    """Quote a value for a message: control characters escaped, cut to a length."""
    cut = value if len(value) <= longest else value[:longest] + "…"
    return ascii(cut) if not cut.isprintable() else f"'{cut}'"


class TaskmonError(Exception):
    """The root of the tree."""


class InvalidSetting(TaskmonError):
    """An option breaks its rule; `value` is None where it must not be shown."""

    def __init__(self, option: str, rule: str, value: str | None = None) -> None:
        self.option = option
        self.rule = rule
        self.value = value
        name = "--" + option.replace("_", "-")
        super().__init__(f"{name} {rule}" + (f", not {shown(value)}" if value is not None else ""))


class HistoryRefused(InvalidSetting):
    """The database of --history cannot be used, now or later."""

    def __init__(self, reason: str) -> None:
        super().__init__("history", f"cannot be used: {reason}")
        self.reason = reason


class InvalidArgument(TaskmonError):
    """An argument of a request breaks its rule."""

    def __init__(self, argument: str, rule: str, value: str | None = None) -> None:
        self.argument = argument
        self.rule = rule
        self.value = value
        super().__init__(f"{argument} {rule}" + (f", not {shown(value)}" if value is not None else ""))


class InvalidSearch(InvalidArgument):
    """A search breaks the grammar at `position`, counted from 0 in characters."""

    def __init__(self, rule: str, position: int) -> None:
        super().__init__("search", f"{rule}, at character {position}")
        self.position = position


class InvalidEvent(TaskmonError):
    """A message or an event is refused; `reason` is a short word, the label of a metric."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class UnknownTask(TaskmonError):
    """No task of this id is held; `reason` says why, as far as it is known."""

    def __init__(self, task_id: str, reason: str) -> None:
        self.task_id = task_id
        self.reason = reason
        super().__init__(f"Unknown task {shown(task_id)}")


class ForeignTask(UnknownTask):
    """The history holds a task of this id that belongs to another cluster, `cluster`."""

    def __init__(self, task_id: str, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(task_id, f"another cluster's: the history holds a task of this id from {cluster}")


class UnknownWorker(TaskmonError):
    """No worker of this hostname is known."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname
        super().__init__(f"Unknown worker {shown(hostname)}")


class UnknownTaskName(TaskmonError):
    """The Celery app has no task of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"Unknown task name {shown(name)}")


class CommandRefused(TaskmonError):
    """A command cannot be carried out, and trying again would not help."""


class UnreadableArguments(CommandRefused):
    """The recorded arguments of a task cannot be published again; `general` is for those who may not see them."""

    general = (
        "The arguments of the task cannot be published again; what they are is not shown to this role (--show-args)"
    )


class WorkerTimeout(TaskmonError):
    """No answer came within the time there was; `details` go into the body of the answer."""

    def __init__(self, message: str, **details: str) -> None:
        self.details = details
        super().__init__(message)


class AuthenticationFailed(TaskmonError):
    """No credentials came, or they are wrong."""


class NoCredentials(AuthenticationFailed):
    """No credentials came."""


class MalformedCredentials(AuthenticationFailed):
    """The credentials cannot be read, or can be read in two ways."""


class AssertionRefused(AuthenticationFailed):
    """A proxy's assertion is forged, out of date, or meant for another."""


class LoginFailed(TaskmonError):
    """A login with a provider did not come to its end, because of what the browser or the provider brought."""


class PermissionDenied(TaskmonError):
    """The user is known and may not do this."""


class CrossSite(PermissionDenied):
    """A browser sends a change from a page of another site."""


class TooManyRequests(TaskmonError):
    """The same was asked too often; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(TaskmonError):
    """`what` (the broker, a pool) does not answer; try again after `retry_after` seconds."""

    def __init__(self, what: str, reason: str, retry_after: int = 1) -> None:
        self.what = what
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(f"{what} is unavailable: {reason}")
