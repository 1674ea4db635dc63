"""AppFacts: what matters here of a Celery app."""

from msgspec import Struct


class AppFacts(Struct, frozen=True):
    """Whether a result backend is configured, whether taskmon can read it, and what it stores.

    `of_url` is whether the app was made from a broker's URL alone, and knows nothing of the workers' settings.
    """

    has_backend: bool
    readable: bool
    result_extended: bool
    of_url: bool = False
