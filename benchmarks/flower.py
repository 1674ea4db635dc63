"""Flower, from PyPI, in a virtual environment of its own that is made when it is missing."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_VENV = _ROOT / ".venv-flower"


def prepare_flower(venv: Path) -> Path | None:
    """Give the interpreter that has Flower; None, with a word about why, when it cannot be had."""
    script = _ROOT / "scripts" / "make-flower.sh"
    try:
        subprocess.run([str(script), str(venv)], env={**os.environ, "PYTHON": sys.executable}, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"Without Flower: {exc}", flush=True)
        return None
    return venv / "bin" / "python"
