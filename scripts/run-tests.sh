#!/usr/bin/env bash
# Run all tests in eight runs side by side, as the live ones mostly wait, and put their coverage together.
# usage: scripts/run-tests.sh VENV
set -euo pipefail

bin=$1/bin
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTEST_ADDOPTS

# Live tests by what they wait for; each run of them starts brokers of its own. `watching` has those not named here.
commanding=(tests/live/test_commands.py)
applying=(tests/live/test_applying.py tests/live/test_receiving.py)
comparing=(tests/live/test_flower.py tests/live/test_fuzzing.py tests/live/test_brokers.py)
trouble=(tests/live/test_robustness.py tests/live/test_missed_ends.py tests/live/test_durable_queue.py)
named=("${commanding[@]}" "${applying[@]}" "${comparing[@]}" "${trouble[@]}")

api=(tests/api tests/metrics)
computing=(tests/finding tests/test_merging_oracle.py tests/test_query.py tests/test_reconciled.py tests/test_search.py tests/test_state.py)
unnamed=(--ignore=tests/live "${api[@]/#/--ignore=}" "${computing[@]/#/--ignore=}")

runs=(computing unit api watching commanding applying comparing trouble)

run() { # name, arguments of pytest
    local name=$1 start=$SECONDS
    shift
    if COVERAGE_FILE="$folder/.coverage.$name" "$bin/python" -m pytest -p no:cacheprovider --cov --cov-report= "$@" \
        >"$folder/$name.log" 2>&1; then
        echo ok >"$folder/$name.ok"
    fi
    echo "$((SECONDS - start)) s" >"$folder/$name.time"
}

# What only computes gives way: the others have brokers and workers that wait for answers in time.
(renice -n 10 "$BASHPID" >/dev/null && run computing "${computing[@]}") &
run unit "${unnamed[@]}" &
run api "${api[@]}" &
run watching tests/live "${named[@]/#/--ignore=}" &
run commanding "${commanding[@]}" &
run applying "${applying[@]}" &
run comparing "${comparing[@]}" &
run trouble "${trouble[@]}" &
wait

for name in "${runs[@]}"; do
    echo "== $name: $(cat "$folder/$name.time")"
    cat "$folder/$name.log"
done
"$bin/coverage" combine -q --data-file="$folder/.coverage" "$folder"/.coverage.*
"$bin/coverage" report --data-file="$folder/.coverage" --fail-under=95

passed=0
for name in "${runs[@]}"; do
    if [ ! -e "$folder/$name.ok" ]; then
        echo "The $name tests failed: see above." >&2
        exit 1
    fi
    passed=$((passed + $(tail -1 "$folder/$name.log" | grep -oE '[0-9]+ passed' | grep -oE '[0-9]+')))
done
echo "$passed passed, 0 failed"
