"""The Celery app that is watched: loaded or made, configured, and refused where its configuration can never work."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .usage import BadUsage

if TYPE_CHECKING:
    from celery import Celery

    from .settings import Settings

log = logging.getLogger(__name__)


def load_app(settings: "Settings") -> "Celery":
    """Return the app that --app names, or an empty one, ready to be watched; raises BadUsage and InvalidSetting."""
    from celery import Celery
    from celery.app.utils import find_app

    explicit = _export(settings)
    if settings.app is None:
        app = Celery("taskmon", broker=settings.broker, backend=settings.result_backend)
        return _prepare(app, settings, None, explicit)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        app = find_app(settings.app)
    # Importing somebody's module can raise anything.
    except (Exception, SystemExit) as exc:
        log.debug("Loading %s failed", settings.app, exc_info=True)
        raise BadUsage(f"--app {settings.app} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not isinstance(app, Celery):
        raise BadUsage(f"--app {settings.app} names no Celery app, but something of type {type(app).__name__}")
    return _prepare(app, settings, f"--app {settings.app}", explicit)


def adopt_app(app: "Celery", settings: "Settings", name: str) -> "Celery":
    """Return an app that Celery has loaded, ready to be watched; raises as `load_app` does."""
    return _prepare(app, settings, name, _export(settings))


def _prepare(app: "Celery", settings: "Settings", name: str | None, explicit_backend: bool) -> "Celery":
    """Load the tasks of an app, and put Celery's settings into it; `name` is None for one of our own."""
    from .celery_settings import apply_celery_settings

    if name is not None:
        _load_tasks(app, name)
    apply_celery_settings(app, settings)
    _check(app, settings, name, explicit_backend)
    return app


def _check(app: "Celery", settings: "Settings", name: str | None, explicit_backend: bool) -> None:
    """Refuse what would fail for ever, and only be seen in the log or in the answers."""
    from .cluster.requirements import find_backend_fault, find_broker_fault, find_setting_fault, has_broker

    if not has_broker(app):
        lacking = "There is no broker to watch" + (f": the configuration of {name} names none" if name else "")
        raise BadUsage(f"{lacking}; give its URL with --broker or TASKMON_BROKER, or an app that has one with --app")
    fault = find_broker_fault(app)
    if fault:
        raise BadUsage(f"The broker{f' of {name}' if name and not settings.broker else ''} cannot be used: {fault}")
    fault = find_setting_fault(app)
    if fault:
        raise BadUsage(f"The configuration of Celery cannot be used: {fault}")
    fault = find_backend_fault(app)
    if fault and explicit_backend:
        raise BadUsage(f"--result-backend cannot be used: {fault}")
    if fault:
        log.warning("Results cannot be read: %s", fault)


def _load_tasks(app: "Celery", name: str) -> None:
    """Import the modules that hold an app's tasks, as a worker would: only then it knows their names."""
    try:
        app.loader.import_default_modules()
        app.finalize()
    # Importing somebody's modules can raise anything.
    except (Exception, SystemExit) as exc:
        log.debug("Loading the tasks of %s failed", name, exc_info=True)
        raise BadUsage(f"The tasks of {name} cannot be loaded: {type(exc).__name__}: {exc}") from exc


def _export(settings: "Settings") -> bool:
    """Give Celery the URLs as `celery --broker` does: its variables go before any configuration of an app.

    Return whether the result backend is not only what Celery's own variable says.
    """
    explicit = settings.result_backend not in (None, os.environ.get("CELERY_RESULT_BACKEND"))
    for variable, url in (
        ("CELERY_BROKER_URL", settings.broker),
        ("CELERY_RESULT_BACKEND", settings.result_backend),
    ):
        if url:
            os.environ[variable] = url
    return explicit
