"""The demo, `taskmon demo`: everything one needs to see taskmon at work, and no server to install."""

from taskmon.demo.run import run_demo

__all__ = ["run_demo"]
