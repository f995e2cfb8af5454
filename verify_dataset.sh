#!/bin/sh
# Checksums a data set and says whether it is what it should be:
#
#     sh verify_dataset.sh [DIR] [OPTION...]
#
# DIR is the data set's folder (default: the one in DATA_DIR that run_and_time.sh would use); the options are those of
# `python -m results verify-dataset --help`. Nothing is written beside the stamp of the verification.
# Exit status: 0 passed, 1 failed (what is missing, extra or changed is named), 2 it could not be done.
set -eu

root=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" results verify-dataset ;; esac
PY=$(sh "$root/script/setup.sh")
# The packages are found from any working directory, and nothing that lies in it can pass for one of them.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m results verify-dataset "$@"
