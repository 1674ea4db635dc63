#!/bin/sh
# Makes the virtual environment given as the first argument and installs into it what the lock file given as the second
# names, with pip among it, and the project, editable. PYTHON names another interpreter than python3.
set -eu

venv=$1
lock=$2
python=${PYTHON:-python3}

fail() {
    echo "$1" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "taskmon needs Python 3.11 or newer, and $python is not; name another: make PYTHON=python3.12 ..."

# One that is half made, or whose interpreter is gone, is made anew.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=python3-venv
        if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
            fail "$python cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install $package"
        fi
        echo "Installing $package"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq -o DPkg::Lock::Timeout=120 update
        apt-get -qq -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$package" >/dev/null </dev/null
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python cannot make virtual environments, not even with $package installed."
    fi
    echo "Making $venv"
    "$python" -m venv "$venv"
fi

echo "Installing $lock into $venv"
scripts/install-locked.sh "$venv" "$lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --no-index --no-deps --no-build-isolation --editable .
