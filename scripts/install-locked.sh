#!/bin/sh
# Installs into the virtual environment given as the first argument just what the lock file given as the second names.
# A connection that breaks off is tried again.
set -u

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

for pause in 2 5 0; do
    "$1/bin/python" -m pip install --quiet --require-hashes --no-deps --requirement "$2" && exit 0
    sleep "$pause"
done
exit 1
