#!/bin/sh
# Writes the lock files in requirements/ from pyproject.toml, for every Python and platform that taskmon runs on.
# What is locked stays as it is where pyproject.toml allows it; with --upgrade the newest of everything is taken.
# usage: scripts/lock.sh UV [--upgrade]
set -eu

uv=$1
shift

cd "$(dirname "$0")/.."

# The address of a package index has no place in a lock file: whatever index is set up must serve files of these hashes.
lock() { # name, more arguments
    name=$1
    shift
    echo "Locking requirements/$name.txt"
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-annotate --custom-compile-command "make lock" --output-file "requirements/$name.txt" "$@"
}

# dev.txt first: it has all of run.txt, which takes the same versions.
lock dev pyproject.toml --all-extras --group build --group dev "$@"
lock run pyproject.toml --all-extras --group build --constraints requirements/dev.txt "$@"
lock flower --group flower "$@"
