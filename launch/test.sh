#!/usr/bin/env bash
# Makes .venv if there is none, then runs every check that this machine can, cheapest first. Works from any directory.
#
#   bash launch/test.sh                    ruff, mypy, then all tests
#   bash launch/test.sh ARGUMENTS          pytest alone, with these arguments: bash launch/test.sh tests/unit -k pooling
#
# Paths are relative to the project root. The exit code is that of the first check that failed; the last line is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set /s/^# \{0,1\}//p' launch/test.sh; exit 0; fi

bash launch/setup.sh --dev
python=.venv/bin/python
# one thread per rank: FBGEMM's CPU backward is many times slower when threads outnumber free cores
export OMP_NUM_THREADS=1

check() {
    echo "test: $*"
    "$python" -m "$@"
}

if (($# == 0)); then
    check ruff check .
    check ruff format --check .
    check mypy
    # tests of a file share what its fixtures trained, so a file goes to one worker; those with the longest tests come
    # first. With more workers than cores a tenth of the time is gained, and tests come near their limits of seconds
    cores=$(env -u OMP_NUM_THREADS nproc)  # with it, nproc counts threads
    set -- --numprocesses $((cores < 6 ? cores : 6)) --dist loadfile --no-loadscope-reorder
    echo "test: pytest $*"
fi
exec "$python" -m pytest "$@"
