"""The demo, `taskmon demo`: everything one needs to see taskmon at work, and no server to install."""

from .run import run_demo

__all__ = ["run_demo"]
