"""taskmon with the time limits of `patience.py`: for the live tests that are not about these."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import patience as patience

from taskmon.cli import main

main(prog_name="taskmon")
