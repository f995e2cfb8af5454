#!/bin/sh
# Regenerates requirements.lock and requirements-test.lock from pyproject.toml. For maintainers; needs uv, from the test
# environment or on PATH.
#
#     sh script/lock.sh
#
# Keeps pins that still fit; `sh script/lock.sh --upgrade` takes the newest version of everything.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
PATH=$root/.venv/bin:$PATH
command -v uv >/dev/null || {
    echo "error: uv is not installed - run \`sh script/setup.sh test\`, which installs it, and start this again" >&2
    exit 2
}
cd "$root"

# One file for every platform and every Python from 3.11, with a hash for each wheel and no index address.
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header "$@" pyproject.toml
}

# The test lock first: it contains everything, and constrains the benchmark's packages to the same versions.
compile --extra test --output-file requirements-test.lock "$@"
compile --constraint requirements-test.lock --output-file requirements.lock "$@"
