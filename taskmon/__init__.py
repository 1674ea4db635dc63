"""taskmon watches a Celery cluster and answers questions about its tasks over HTTP."""

__version__ = "0.1.0"
