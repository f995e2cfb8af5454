#!/bin/sh
# Makes requirements.lock and requirements-test.lock anew from pyproject.toml. For maintainers; needs uv, of the tests'
# environment or on PATH.
#
#     sh script/lock.sh
#
# Pins that still fit are kept; `sh script/lock.sh --upgrade` takes the newest of everything.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
PATH=$root/.venv/bin:$PATH
command -v uv >/dev/null || {
    echo "error: uv is not there - start \`sh script/setup.sh test\`, which installs it, and start this again" >&2
    exit 2
}
cd "$root"

# Every platform and every Python from 3.11 on in one file, a hash for each wheel, and no address of an index.
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header "$@" pyproject.toml
}

# The tests' lock first: it holds everything, and what the benchmark needs is then the same in both.
compile --extra test --output-file requirements-test.lock "$@"
compile --constraint requirements-test.lock --output-file requirements.lock "$@"
