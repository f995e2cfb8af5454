#!/bin/sh
# Makes the reference convergence points of a variant: RUNS runs (20 unless said), each with a seed of its own, then
# compliance/rcp/VARIANT.json from their logs. Interrupted, it goes on where it was.
#
#     sh script/make_rcp.sh
#     VARIANT=synthetic DEVICE=cuda sh script/make_rcp.sh
#
# Exit status: 0 written, 1 too many runs missed the target, 2 could not be done.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
VARIANT=${VARIANT:-mini}
RUNS=${RUNS:-20}
RESULTS_DIR=${RESULTS_DIR:-$root/runs}/rcp
export VARIANT RUNS RESULTS_DIR
sh "$root/run_and_time.sh" >&2
# The newest series is the one that just ended: their names carry the time they began.
series=
for folder in "$RESULTS_DIR/series/$VARIANT-"*/; do series=$folder; done
PY=$(sh "$root/script/setup.sh")
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m compliance.make_rcp "$series" --out "$root/compliance/rcp/$VARIANT.json"
