#!/bin/sh
# Trains without timing, and keeps a checkpoint of every epoch:
#
#     sh script/train.sh new | tee log      from scratch
#     sh script/train.sh 7                  resume from the checkpoint of epoch 7
#
# VARIANT (default librispeech), SEED, DEVICE, DATA_DIR and RESULTS_DIR as for run_and_time.sh; EPOCHS=20 trains to
# epoch 20, regardless of the variant's target and last epoch.
# Exit status: 0 target reached, 1 not reached, 2 it could not be done.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" reference_model.untimed ;; esac
if [ $# -lt 1 ]; then
    echo "usage: sh script/train.sh new|EPOCH [OPTION...]" >&2
    exit 2
fi
PY=$(sh "$root/script/setup.sh")
# The packages are importable from any working directory, and nothing in it can shadow them.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m reference_model.untimed "$@"
