"""The table of routes: the whole of the HTTP API on one screen, and the pages."""

from typing import Final

from .api.control import (
    TaskRateLimit,
    TaskTimeout,
    WorkerAddConsumer,
    WorkerCancelConsumer,
    WorkerPoolAutoscale,
    WorkerPoolGrow,
    WorkerPoolRestart,
    WorkerPoolShrink,
    WorkerShutdown,
)
from .api.diagnosis import Diagnostics as DiagnosticsHandler
from .api.diagnosis import TaskTree
from .api.flower_pages import DashboardPage, TasksDataTable, WorkerPage, WorkersPage
from .api.monitor import HealthCheck, Metrics, Ready
from .api.openapi import OpenApi
from .api.publishing import TaskAbort, TaskApply, TaskAsyncApply, TaskResult, TaskRetry, TaskSend
from .api.revoking import TaskRevoke, TasksRevoke
from .api.sessions import SessionRevoke
from .api.tasks import TaskInfo, Tasks, TaskTypes
from .api.whoami import WhoAmI
from .api.workers import QueueLengths, WorkerInfo, Workers
from .http.application import Application
from .http.base import ApiHandler
from .http.services import Services
from .web.home import Home
from .web.login import LoginCallback, LoginPage, Logout

API: Final[list[tuple[str, type[ApiHandler]]]] = [
    (r"/api/task/info/(.+?)", TaskInfo),
    (r"/api/tasks", Tasks),
    (r"/api/task/types", TaskTypes),
    (r"/api/task/tree/(.+?)", TaskTree),
    (r"/api/task/apply/(.+?)", TaskApply),
    (r"/api/task/async-apply/(.+?)", TaskAsyncApply),
    (r"/api/task/send-task/(.+?)", TaskSend),
    (r"/api/task/result/(.+?)", TaskResult),
    (r"/api/task/abort/(.+?)", TaskAbort),
    (r"/api/task/retry/(.+?)", TaskRetry),
    (r"/api/task/revoke/(.+?)", TaskRevoke),
    (r"/api/tasks/revoke", TasksRevoke),
    (r"/api/task/timeout/(.+?)", TaskTimeout),
    (r"/api/task/rate-limit/(.+?)", TaskRateLimit),
    (r"/api/workers", Workers),
    (r"/api/workers/(.+?)", WorkerInfo),
    (r"/api/worker/shutdown/(.+?)", WorkerShutdown),
    (r"/api/worker/pool/restart/(.+?)", WorkerPoolRestart),
    (r"/api/worker/pool/grow/(.+?)", WorkerPoolGrow),
    (r"/api/worker/pool/shrink/(.+?)", WorkerPoolShrink),
    (r"/api/worker/pool/autoscale/(.+?)", WorkerPoolAutoscale),
    (r"/api/worker/queue/add-consumer/(.+?)", WorkerAddConsumer),
    (r"/api/worker/queue/cancel-consumer/(.+?)", WorkerCancelConsumer),
    (r"/api/queues/length", QueueLengths),
    (r"/api/diagnostics", DiagnosticsHandler),
    (r"/api/openapi\.json", OpenApi),
    (r"/api/whoami", WhoAmI),
    (r"/api/session/revoke", SessionRevoke),
    (r"/metrics", Metrics),
    (r"/healthcheck", HealthCheck),
    (r"/readyz", Ready),
]

#: Flower's pages as programs read them; not in the OpenAPI document.
FLOWER_PAGES: Final[list[tuple[str, type[ApiHandler]]]] = [
    (r"/workers", WorkersPage),
    (r"/dashboard", DashboardPage),
    (r"/worker/(.+?)", WorkerPage),
    (r"/tasks/datatable", TasksDataTable),
]

#: For people; not in the OpenAPI document.
PAGES: Final[list[tuple[str, type[ApiHandler]]]] = [
    (r"/", Home),
    (r"/login", LoginPage),
    (r"/login/callback", LoginCallback),
    (r"/logout", Logout),
]

ROUTES: Final = [*API, *FLOWER_PAGES, *PAGES]

#: Served without `url_prefix` too: a probe knows nothing of it.
PROBES: Final = {"/healthcheck", "/readyz"}


def make_application(services: Services) -> Application:
    """Return the Tornado application of one listener."""
    return Application(services, ROUTES, PROBES)
