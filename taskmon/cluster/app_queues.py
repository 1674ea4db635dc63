"""The queues that a Celery app's configuration names. Nothing of the app is called but its settings."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from celery import Celery

_CELERY_DEFAULT: Final = "celery"


def is_empty_app(celery_app: Celery) -> bool:
    """Whether an app has no task of its own, as the one that is made for a broker's URL alone."""
    return all(name.startswith("celery.") for name in celery_app.tasks)


def list_app_queues(celery_app: Celery) -> list[str]:
    """Return the names of the queues in `task_queues`, routes, tasks and the schedule, and the default queue, sorted.

    The default queue of an app that is made for a URL says nothing of the cluster, so it is left out.
    """
    conf = celery_app.conf
    named = {_name(queue) for queue in _queues(celery_app)}
    if conf.task_default_queue != _CELERY_DEFAULT or not is_empty_app(celery_app):
        named.add(conf.task_default_queue)
    named.update(_in_routes(conf.task_routes))
    named.update(_name(getattr(task, "queue", None)) for task in celery_app.tasks.values())
    schedule = conf.beat_schedule
    for entry in schedule.values() if isinstance(schedule, Mapping) else ():
        options = entry.get("options") if isinstance(entry, Mapping) else None
        named.add(_name(options.get("queue")) if isinstance(options, Mapping) else None)
    return sorted(name for name in named if name)


def list_app_exchanges(celery_app: Celery) -> list[str]:
    """Return the names of the exchanges in `task_queues`, and of the default one."""
    conf = celery_app.conf
    exchanges = (getattr(queue, "exchange", None) for queue in _queues(celery_app))
    named = {_name(exchange) for exchange in exchanges} | {conf.task_default_exchange, conf.task_default_queue}
    return sorted(name for name in named if name)


def _queues(celery_app: Celery) -> Iterable[Any]:
    """Return the `task_queues` of an app, which may be a list of queues, or a mapping of names to options."""
    queues = celery_app.conf.task_queues or ()
    return list(queues) if not isinstance(queues, Mapping) else [*queues, *queues.values()]


def _in_routes(routes: Any) -> Iterator[str | None]:
    """Yield the names of queues in `task_routes`: a mapping, or a sequence of mappings, pairs and functions."""
    if isinstance(routes, Mapping):
        for route in routes.values():
            yield _name(route.get("queue") if isinstance(route, Mapping) else route)
    elif isinstance(routes, list | tuple):
        for route in routes:
            if isinstance(route, tuple) and len(route) == 2:
                yield from _in_routes({route[0]: route[1]})
            elif isinstance(route, Mapping | list | tuple):
                yield from _in_routes(route)


def _name(queue: Any) -> str | None:
    """Return the name of what may be a queue, an exchange, or the name of one."""
    name = getattr(queue, "name", queue)
    return name if isinstance(name, str) and name else None
