#!/bin/sh
# Sets up the environment with the test tools and runs the tests. Arguments are passed to pytest:
#
#     sh run_tests.sh                            all but the long tests
#     sh run_tests.sh -m long                    the long tests
#     sh run_tests.sh tests/benchmark/test_error_rates.py -k wer
#     sh run_tests.sh -n 0 --pdb                 in one process, for the debugger
#     WHEELS=wheels sh run_tests.sh              without a network: docs/setup.md
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
PY=$(sh "$root/script/setup.sh" test)
# Only the set-up above needs it; tests that set something up use their own folders.
unset WHEELS
cd "$root"
# File names are UTF-8 here, whatever the user's locale.
LC_ALL=C.UTF-8
export LC_ALL
# Two files at a time. Not for the long tests, which need the whole machine, nor for named files: starting the worker
# processes takes longer than most files do.
case " $*" in
*' long'* | *' tests/'*) exec "$PY" -m pytest "$@" ;;
*) exec "$PY" -m pytest -n 2 --dist loadfile "$@" ;;
esac
