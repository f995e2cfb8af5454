#!/bin/sh
# The main script: sets up the environment, times one run and prints its log. stdout carries the log and nothing else.
#
#     time sh run_and_time.sh | tee log
#     VARIANT=librispeech SEED=1 sh run_and_time.sh
#     sh run_and_time.sh --help          options and environment variables
#
# Exit status: 0 target reached, 1 not reached, 2 error.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
# --help needs no environment: any Python that is recent enough can print it.
case ${1:-} in
-h | --help)
    for python in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            exec env "PYTHONPATH=$root" PYTHONSAFEPATH=1 "$python" -m benchmark run --help
        fi
    done
    ;;
esac
PY=$(sh "$root/script/setup.sh")
# Our packages are found from any working directory, and nothing in it can shadow them.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m benchmark run "$@"
