"""A runner for commands that keeps the two outputs apart, whatever the version of click."""

import inspect

from click.testing import CliRunner


def make_runner() -> CliRunner:
    """Make it; click 8.1 mixes the outputs unless told not to, and 8.2 no longer knows the argument."""
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**apart)
