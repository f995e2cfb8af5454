#!/bin/sh
# Everything that is to be measured on a GPU, in one go of at most 660 s, or in two parts of at most 330 s each:
#
#     sh script/gpu_check.sh
#     sh script/gpu_check.sh --part first                                    the model alone; then `--part second`
#     PYTHON=python3 OUT=FOLDER sh script/gpu_check.sh                       an interpreter that has PyTorch already
#     PYTHON=python3 WHEELS=wheels sh script/gpu_check.sh                    and the other packages as wheels in a folder
#     sh script/gpu_check.sh --device cpu --tiny                             a rehearsal without a GPU
#
# Prints a table and writes gpu_bench.md, gpu_bench.json, kernels.txt and the timed runs to $OUT, or else to runs/gpu
# (runs/gpu-first, runs/gpu-second). What is there of another bench is overwritten. `python -m benches publish` puts
# the parts and the cards together.
# How to make the folder of wheels: docs/performance.md. Arguments go to `python -m benches gpu`.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" benches gpu ;; esac
if [ -n "${WHEELS:-}" ]; then
    added=$(mktemp -d)
    trap 'rm -rf "$added"' EXIT
    "${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$added" "$WHEELS"/*.whl >&2
    PYTHONPATH=$added${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
PY=$(sh "$root/script/setup.sh")
cd "$root"
"$PY" -m benches gpu "$@"
