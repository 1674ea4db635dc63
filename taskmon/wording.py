"""Numbers, durations and times as people read them; machines get numbers. Pure.

humanize is imported where it is used: it would make every start of a command slower.
"""

from datetime import datetime, timedelta


def say_tasks(number: int) -> str:
    """Return a number of tasks, such as `12,345 tasks`."""
    import humanize

    return f"{humanize.intcomma(number)} {'task' if number == 1 else 'tasks'}"


def say_duration(seconds: float) -> str:
    """Return how long something took, such as `0.4 seconds`, or `2 minutes and 3 seconds`."""
    import humanize

    if seconds < 60:
        return f"{max(0.0, seconds):.1f} seconds"
    return humanize.precisedelta(timedelta(seconds=round(seconds)), format="%d")


def say_roughly(seconds: float) -> str:
    """Return how long something has lasted, in one unit, such as `3 minutes`."""
    import humanize

    return humanize.naturaldelta(timedelta(seconds=max(1.0, seconds)))


def say_when(moment: datetime, now: datetime) -> str:
    """Return a time as seen from another, such as `3 days ago` or `4 years from now`."""
    import humanize

    return humanize.naturaltime(moment, when=now)
