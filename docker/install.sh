#!/bin/sh
# The build steps of docker/Dockerfile and docker/benchmark.def, run as root inside the image, on Debian or Ubuntu:
#
#     sh docker/install.sh system      git, Python and an empty environment in /opt/venv; the folders /data and /runs
#     sh docker/install.sh packages    the lock file's packages, into it (EXTRAS=test: and the test tools)
#
# Not for the host: sh script/setup.sh creates its environment.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)

# install PACKAGE...: from the base image's own repositories, in its versions.
install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

case ${1:-} in
-h | --help) exec sh "$root/script/help.sh" "$0" ;;
system)
    apt-get update
    # git provides the commit for the run record. Ubuntu 22.04's default Python is too old, but it also packages a newer one.
    install ca-certificates git python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || install python3.11 python3.11-venv
    rm -rf /var/lib/apt/lists/*
    "$(command -v python3.11 || command -v python3)" -m venv /opt/venv
    # World-writable like /tmp: the image may be run as any user.
    mkdir -p /data /runs
    chmod 1777 /data /runs
    ;;
packages)
    # Every package is a wheel: nothing is compiled, so no build tools are installed, and one stage is enough.
    /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: --no-input \
        --disable-pip-version-check --root-user-action ignore --progress-bar off \
        -r "$root/requirements${EXTRAS:+-$EXTRAS}.lock"
    ;;
*)
    echo "error: unknown step '${1:-}' - use system or packages" >&2
    exit 2
    ;;
esac
