#!/bin/sh
# Makes the virtual environment given as the first argument, with Flower from PyPI in it, for the benchmarks and for
# the tests that compare taskmon with it. Does nothing when it is there. Ends with 1 when it cannot be had.
set -eu

venv=$1
python=${PYTHON:-python3}
scripts=$(dirname "$0")
lock=$scripts/../requirements/flower.txt
installed=$venv/.installed.txt

! cmp -s "$lock" "$installed" || exit 0
echo "Making $venv with Flower in it"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || { rm -rf "$venv" && "$python" -m venv "$venv"; } || exit 1
"$scripts/install-locked.sh" "$venv" "$lock" || exit 1
cp "$lock" "$installed"
