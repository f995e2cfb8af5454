#!/bin/sh
# Prints a script's help: its leading comment, and the options of the command that it runs if the environment exists
# (asking for help installs nothing).
#
#     sh script/help.sh SCRIPT [MODULE [COMMAND]]
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$1"
shift
[ $# -gt 0 ] || exit 0
echo
PY=${PYTHON:-$root/.venv/bin/python}
if ! (cd "$root" && "$PY" -m script.set_up --check) >/dev/null 2>&1; then
    echo "The options are listed once the environment exists: the first run creates it, or \`sh script/setup.sh\`."
    exit 0
fi
exec env "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 "$PY" -m "$@" --help
