"""The table of routes, made from the handlers: each says its own path."""

import re
from types import ModuleType
from typing import Final

from .api import (
    control,
    diagnosis,
    flower_pages,
    monitor,
    openapi,
    publishing,
    revoking,
    sessions,
    tasks,
    whoami,
    workers,
)
from .http.application import Application
from .http.base import ApiHandler
from .http.services import Services
from .web import home, login

Routes = list[tuple[str, type[ApiHandler]]]


def find_routes(*modules: ModuleType) -> Routes:
    """Return the handlers with a `path` that these modules define, each with its pattern."""
    return [
        (_write_pattern(handler.path), handler)
        for module in modules
        for handler in vars(module).values()
        if isinstance(handler, type) and issubclass(handler, ApiHandler)
        if handler.__module__ == module.__name__ and "path" in vars(handler)
    ]


def _write_pattern(path: str) -> str:
    return re.sub(r"{\w+}", "(.+?)", path.replace(".", r"\."))


API: Final = find_routes(tasks, diagnosis, publishing, revoking, control, workers, openapi, whoami, sessions, monitor)

#: Flower's pages as programs read them; not in the OpenAPI document.
FLOWER_PAGES: Final = find_routes(flower_pages)

#: For people; not in the OpenAPI document.
PAGES: Final = find_routes(home, login)

ROUTES: Final = [*API, *FLOWER_PAGES, *PAGES]

#: Served without `url_prefix` too: a probe knows nothing of it.
PROBES: Final = {path for path, handler in ROUTES if handler.probe}


def make_application(services: Services) -> Application:
    """Return the Tornado application of one listener."""
    return Application(services, ROUTES, PROBES)
