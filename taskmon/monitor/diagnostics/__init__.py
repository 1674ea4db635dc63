"""Diagnostics: what makes the answers of taskmon incomplete, and the setting that changes it."""

from .diagnostics import Diagnostics
from .findings import Finding
from .views import AppFacts

__all__ = ["AppFacts", "Diagnostics", "Finding"]
