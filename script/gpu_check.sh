#!/bin/sh
# Every measurement on a GPU, in one run of at most 660 s, or in two parts of at most 330 s each:
#
#     sh script/gpu_check.sh
#     sh script/gpu_check.sh --part first                                    the model only; then `--part second`
#     PYTHON=python3 OUT=FOLDER sh script/gpu_check.sh                       an interpreter with PyTorch installed
#     PYTHON=python3 WHEELS=wheels sh script/gpu_check.sh                    and the other packages from a folder of wheels
#     sh script/gpu_check.sh --device cpu --tiny                             a rehearsal without a GPU
#
# Prints a table and writes gpu_bench.md, gpu_bench.json, kernels.txt and the timed runs to $OUT (default: runs/gpu,
# runs/gpu-first or runs/gpu-second). Files of an earlier bench are overwritten. `python -m benches publish` combines the
# parts and the cards.
# How to make the folder of wheels: docs/performance.md. Arguments are passed to `python -m benches gpu`.
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
