"""The options of Flower, and those of `celery worker` that are given to it, as seen from taskmon's."""

from typing import Final

from .options import OPTIONS

#: Options of Flower and of Tornado that say nothing here, and whether they take a value that is no boolean.
FLOWER_ONLY: Final = {
    "auto_refresh": False,
    "inspect": False,
    "log_file_max_size": True,
    "log_file_num_backups": True,
    "log_rotate_interval": True,
    "log_rotate_mode": True,
    "log_rotate_when": True,
    "log_to_stderr": False,
    "natural_time": False,
    "state_save_interval": True,
    "tasks_columns": True,
    "xheaders": False,
}

#: Options of `celery` and `celery worker` that are found behind the name of Flower's command, which ignores them.
CELERY_ONLY: Final = {
    **dict.fromkeys(("autoreload", "beat", "color", "detach", "discard", "events", "no_color", "purge"), False),
    **dict.fromkeys(("quiet", "skip_checks", "task_events"), False),
    **dict.fromkeys(("without_gossip", "without_heartbeat", "without_mingle"), False),
    **dict.fromkeys(("autoscale", "concurrency", "gid", "hostname", "loader", "max_tasks_per_child"), True),
    **dict.fromkeys(("optimization", "pidfile", "pool", "prefetch_multiplier", "queues", "schedule"), True),
    **dict.fromkeys(("scheduler", "soft_time_limit", "statedb", "time_limit", "uid", "umask"), True),
}

#: The short forms of these, with the same meaning.
CELERY_SHORT: Final = {
    **dict.fromkeys("BCDEq", False),
    **dict.fromkeys("cnOPQsS", True),
}

#: What does the work of an option that taskmon does not have.
INSTEAD: Final = {
    "log_file_max_size": "logrotate",
    "log_file_num_backups": "logrotate",
    "log_rotate_interval": "logrotate",
    "log_rotate_mode": "logrotate",
    "log_rotate_when": "logrotate",
    "xheaders": "--trusted-proxies",
}

#: Other names of taskmon's options, on a command line: those of Flower, Tornado and `celery`.
ALIASES: Final = {
    **{option.flower: option.name for option in OPTIONS if option.flower and option.flower != option.name},
    "loglevel": "log_level",
    "logfile": "log_file",
}


def say_not_needed(names: list[str]) -> str:
    """Return the one warning about options that have no meaning here, each as it was written."""
    shown = []
    for name in dict.fromkeys(names):
        instead = INSTEAD.get(name.lstrip("-").replace("-", "_").removeprefix("FLOWER_").lower().split(" ")[0])
        shown.append(f"{name} (use {instead})" if instead else name)
    if len(shown) == 1:
        return f"{shown[0]} is not needed here"
    return f"{', '.join(shown[:-1])} and {shown[-1]} are not needed here"
