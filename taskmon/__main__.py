"""Runs taskmon: `python -m taskmon`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="taskmon")
