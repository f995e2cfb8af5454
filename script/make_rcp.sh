#!/bin/sh
# Creates the reference convergence points of a variant: RUNS runs (default 20), each with its own seed, then
# compliance/rcp/VARIANT.json from their logs. After an interruption, the same command resumes.
#
#     sh script/make_rcp.sh
#     VARIANT=synthetic DEVICE=cuda sh script/make_rcp.sh
#
# Exit status: 0 written, 1 too many runs missed the target, 2 it could not be done.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in
'') ;;
-h | --help) exec sh "$root/script/help.sh" "$0" ;;
*)
    echo "error: unknown argument '$1' - \`sh script/make_rcp.sh\` has none: set VARIANT, RUNS or DEVICE" >&2
    exit 2
    ;;
esac
VARIANT=${VARIANT:-mini}
RUNS=${RUNS:-20}
RESULTS_DIR=${RESULTS_DIR:-$root/runs}/rcp
export VARIANT RUNS RESULTS_DIR
sh "$root/run_and_time.sh" >&2
# The newest series is the one that just ended: the names contain the start time.
series=
for folder in "$RESULTS_DIR/series/$VARIANT-"*/; do series=$folder; done
PY=$(sh "$root/script/setup.sh")
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m compliance.make_rcp "$series" --out "$root/compliance/rcp/$VARIANT.json"
