#!/bin/sh
# The steps of which docker/Dockerfile and docker/benchmark.def build an image, as root inside it, on Debian or Ubuntu:
#
#     sh docker/install.sh system      git, Python and an empty environment in /opt/venv; the folders /data and /runs
#     sh docker/install.sh packages    what the lock file names, into it (EXTRAS=test: and the tools of the tests)
#
# Not for the machine itself: sh script/setup.sh makes its environment.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)

# install PACKAGE...: from the base's own repositories; the versions are the base's business.
install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

case ${1:-} in
-h | --help) exec sh "$root/script/help.sh" "$0" ;;
system)
    apt-get update
    # git tells the record which commit is run. Ubuntu 22.04's own Python is too old, but it has a newer one beside it.
    install ca-certificates git python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || install python3.11 python3.11-venv
    rm -rf /var/lib/apt/lists/*
    "$(command -v python3.11 || command -v python3)" -m venv /opt/venv
    # Open like /tmp: whoever runs the image may be any user.
    mkdir -p /data /runs
    chmod 1777 /data /runs
    ;;
packages)
    # Every package is a wheel: nothing is compiled, so no build tools are ever installed, and one stage is enough.
    /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: --no-input \
        --disable-pip-version-check --root-user-action ignore --progress-bar off \
        -r "$root/requirements${EXTRAS:+-$EXTRAS}.lock"
    ;;
*)
    echo "error: unknown step '${1:-}' - call it with system or packages" >&2
    exit 2
    ;;
esac
