#!/bin/sh
# Sets up the environment with the test tools and runs the tests. Arguments go to pytest:
#
#     sh run_tests.sh                            all but the long ones
#     sh run_tests.sh -m long                    the long ones
#     sh run_tests.sh tests/benchmark/test_score.py -k wer
#     sh run_tests.sh -n 0 --pdb                 one test at a time, with what pytest then can do
#     WHEELS=wheels sh run_tests.sh              without a network: docs/setup.md
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
PY=$(sh "$root/script/setup.sh" test)
# It has served its purpose; tests that set something up have folders of their own.
unset WHEELS
cd "$root"
# Files' names are UTF-8 here, whatever the user's locale says.
LC_ALL=C.UTF-8
export LC_ALL
# Two files at a time, but the long tests want the machine to themselves.
case " $*" in
*' long'*) exec "$PY" -m pytest "$@" ;;
*) exec "$PY" -m pytest -n 2 --dist loadfile "$@" ;;
esac
