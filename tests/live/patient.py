"""taskmon with the time limits of `patience.py`: for the live tests that are not about these."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import patience

from taskmon.cli import main

if "--history" in sys.argv:
    patience.be_patient_with_the_history()
main(prog_name="taskmon")
