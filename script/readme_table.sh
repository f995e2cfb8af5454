#!/bin/sh
# Puts the table of the runs in results/published/ between the README's markers, where it must never be written by hand.
#
#     sh script/readme_table.sh
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
PY=$(sh "$root/script/setup.sh")
cd "$root"
table=$("$PY" -m results compare results/published --format markdown)
new=$(mktemp "$root/.README.XXXXXX")
trap 'rm -f "$new"' EXIT
{
    sed -n '1,/<!-- published:/p' README.md
    printf '\n%s\n\n' "$table"
    sed -n '/<!-- \/published -->/,$p' README.md
} >"$new"
chmod 644 "$new"
mv "$new" README.md
