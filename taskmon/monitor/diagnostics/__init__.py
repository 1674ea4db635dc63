"""Diagnostics: what makes the answers of taskmon incomplete, and the setting that changes it."""

from .app_facts import AppFacts
from .diagnostics import Diagnostics
from .findings import Finding

__all__ = ["AppFacts", "Diagnostics", "Finding"]
