#!/bin/sh
# Downloads LibriSpeech, checks it against its published hashes and prepares it:
#
#     sh script/download_dataset.sh SET [OPTION...]
#
# SET is all, training, clean, clean_small, clean_dev, other or clean_test; the options are those of
# `python -m datasets download --help` (--data-dir DIR, --from-dir DIR, --base-url URL, ...).
# After an interruption, the same command resumes.
# Exit status: 0 prepared, 2 it could not be done (one line on stderr is the reason and the remedy).
set -eu

root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" datasets download ;; esac

case ${1:-} in
all | training | clean | clean_small | clean_dev | other | clean_test) ;;
*)
    echo "usage: sh script/download_dataset.sh all|training|clean|clean_small|clean_dev|other|clean_test [OPTION...]" >&2
    exit 2
    ;;
esac

PY=$(sh "$root/script/setup.sh")
# The packages are importable from any working directory, and nothing in it can shadow them.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "$PY" -m datasets download "$@"
