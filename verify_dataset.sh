#!/bin/sh
# Checksums a dataset and compares it with its reference:
#
#     sh verify_dataset.sh [DIR] [OPTION...]
#
# DIR is the dataset's folder (default: the one in DATA_DIR that run_and_time.sh would use); the options are those of
# `python -m results verify-dataset --help`. Only the record of the verification is written.
# Exit status: 0 passed, 1 failed (missing, extra and changed files are listed), 2 could not be checked.
set -eu

root=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" results verify-dataset ;; esac
PY=$(sh "$root/script/setup.sh")
# The packages are found from any working directory, and nothing in that directory can shadow them.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m results verify-dataset "$@"
