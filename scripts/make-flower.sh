#!/bin/sh
# Makes the virtual environment given as the first argument, with Flower from PyPI in it, for the benchmarks and for
# the tests that compare taskmon with it. Does nothing when it is there. Ends with 1 when it cannot be had.
set -eu

venv=$1
python=${PYTHON:-python3}
stamp=$venv/.installed
# Flower with what it takes to run on Redis; hiredis because taskmon has it too.
packages="flower==2.2.* redis[hiredis] packaging"

[ "$(cat "$stamp" 2>/dev/null)" != "$packages" ] || exit 0
echo "Making $venv with Flower in it"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || { rm -rf "$venv" && "$python" -m venv "$venv"; } || exit 1
# shellcheck disable=SC2086  # one word a package
"$venv/bin/python" -m pip install --quiet --retries 1 --timeout 20 $packages || exit 1
echo "$packages" >"$stamp"
