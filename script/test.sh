#!/bin/sh
# The inference benchmark: error rates, latency and throughput of a trained network.
#
#     sh script/test.sh EPOCH DATASET HOLD_IDX HOLD_SEC N_TRIALS [OPTION...]
#     sh script/test.sh 20 libri -1 1 -1
#
# EPOCH     a checkpoint's epoch (the newest one of VARIANT), or a file: .pt, .safetensors, .onnx
# DATASET   libri (test-clean), mini, synthetic, a dataset's folder, or a manifest
# HOLD_IDX  from 0: run that one utterance repeatedly; -1: all utterances
# HOLD_SEC  divide the reported times by this many seconds; 1: unchanged
# N_TRIALS  at most this many batches; -1: all
# The options are those of `python -m reference_model.infer --help` (--engine onnx, --scenario offline, ...).
# Exit status: 0 done, 2 it could not be done.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" reference_model.infer ;; esac
if [ $# -lt 5 ]; then
    echo "usage: sh script/test.sh EPOCH DATASET HOLD_IDX HOLD_SEC N_TRIALS [OPTION...], as in: test.sh 20 libri -1 1 -1" >&2
    exit 2
fi
epoch=$1 dataset=$2 index=$3 seconds=$4 trials=$5
shift 5
PY=$(sh "$root/script/setup.sh")
# The packages are importable from any working directory, and nothing in it can shadow them.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m reference_model.infer "--checkpoint=$epoch" "--data=$dataset" "--hold-index=$index" \
    "--hold-seconds=$seconds" "--trials=$trials" "$@"
