"""What `/metrics` says: counts over all events, and gauges read from State, the broker and the queues at a scrape."""

from .exposition import CONTENT_TYPE, Metrics
from .labels import clean_label
from .readings import AccessCounts, HistoryNumbers
from .table import CELERY_EXPORTER, METRICS, Metric

__all__ = [
    "CELERY_EXPORTER",
    "CONTENT_TYPE",
    "METRICS",
    "AccessCounts",
    "HistoryNumbers",
    "Metric",
    "Metrics",
    "clean_label",
]
