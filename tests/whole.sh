#!/usr/bin/env bash
# All tests, four at a time, with coverage; with the Python to run them as the argument. Whole daemons, databases and
# storms of clients share the machine then, so the few that fail are tried once more with the machine to themselves, and
# both are printed. What fails alone as well fails the run. What does not waits too short a time: mend it, too.
set -uo pipefail
python=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$python" -m pytest --numprocesses=4 --dist=worksteal --cov --cov-report=term | tee "$log"
code=${PIPESTATUS[0]}
# 1: tests have failed, or too little is covered. Whatever else went wrong has no second try; nor has a worker's crash.
((code == 1)) || exit "$code"
! grep -q "replacing crashed worker\|maximum crashed workers" "$log" || exit 1
"$python" -m coverage report --format=total >/dev/null || exit 1
echo "Once more, alone: what failed beside others."
"$python" -m pytest --last-failed --last-failed-no-failures=none --maxfail=5
