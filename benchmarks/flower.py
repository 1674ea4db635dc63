"""Flower, from PyPI, in a virtual environment of its own that is made when it is missing."""

import subprocess
import sys
from pathlib import Path

DEFAULT_VENV = Path(__file__).resolve().parent.parent / ".venv-flower"

#: Flower with what it takes to run on Redis; `hiredis` because taskmon has it too.
_PACKAGES = ("flower", "redis[hiredis]", "packaging")


def prepare_flower(venv: Path) -> Path | None:
    """Give the interpreter that has Flower; None, with a word about why, when it cannot be had."""
    python = venv / "bin" / "python"
    try:
        if not python.exists():
            print(f"Making {venv.name} with Flower in it", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        if subprocess.run([str(python), "-c", "import flower"], capture_output=True).returncode:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *_PACKAGES], check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"Without Flower: {exc}", flush=True)
        return None
    return python
