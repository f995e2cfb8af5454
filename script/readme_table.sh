#!/bin/sh
# Writes the generated parts of the README between its markers: the table of the runs in results/published/, and which
# GPUs were measured. `python -m benches publish` runs it.
#
#     sh script/readme_table.sh
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
PY=$(sh "$root/script/setup.sh")
cd "$root"
# Without one of its markers, part of the README would be lost.
for mark in 'published: ' '/published ' 'gpus: ' '/gpus '; do
    grep -q "^<!-- $mark" README.md || {
        echo "error: README.md: the marker <!-- $mark... --> is missing - restore it" >&2
        exit 2
    }
done
table=$("$PY" -m results compare results/published --format markdown)
# The command above has already reported problems with runs.
on_gpus=$("$PY" -m results compare results/published --format json 2>/dev/null |
    "$PY" -c 'import json, sys; print(sum(row["runs"] for row in json.load(sys.stdin)["rows"] if row["accelerators"]))')
benches=''
for bench in results/published/*/gpu_bench.md; do
    [ -e "$bench" ] || continue
    card=$(sed -n '1s/^# //p' "$bench")
    benches="$benches${benches:+, }[$card]($bench)"
done
if [ -n "$benches" ]; then
    gpus="What each GPU reaches, section by section: $benches."
elif [ "$on_gpus" -eq 0 ]; then
    gpus='No GPU has been measured yet.'
else
    gpus="Runs on GPUs: $on_gpus."
fi
new=$(mktemp "$root/.README.XXXXXX")
trap 'rm -f "$new"' EXIT
{
    sed -n '1,/^<!-- published: /p' README.md
    printf '\n%s\n\n' "$table"
    sed -n '/^<!-- \/published /,/^<!-- gpus: /p' README.md
    printf '\n%s\n\n' "$gpus"
    sed -n '/^<!-- \/gpus /,$p' README.md
} >"$new"
cmp -s "$new" README.md && exit 0
chmod 644 "$new"
mv "$new" README.md
