#!/bin/sh
# Runs the tests that need no broker with the newest or the lowest versions that pyproject.toml allows.
# usage: scripts/test-resolved.sh VENV highest|lowest-direct NEW_VENV [arguments of pytest]
set -eu

uv=$1/bin/uv
python=$1/bin/python
resolution=$2
venv=$3
shift 3

"$uv" venv --quiet --clear --python "$python" "$venv"
"$uv" pip install --quiet --python "$venv" --resolution "$resolution" --no-build \
    --requirements pyproject.toml --all-extras --group build --group dev
"$uv" pip install --quiet --python "$venv" --no-deps --no-build-isolation --editable .
"$uv" pip list --python "$venv"
PYTEST_ADDOPTS= "$venv/bin/python" -m pytest -p no:cacheprovider -q --ignore=tests/live "$@"
