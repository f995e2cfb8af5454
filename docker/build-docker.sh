#!/bin/sh
# Builds the benchmark's image. Arguments are passed to the engine's build command.
#
#     sh docker/build-docker.sh
#     BASE_IMAGE=docker.io/library/debian:12 sh docker/build-docker.sh      without NVIDIA's CUDA base image
#     EXTRAS=test sh docker/build-docker.sh                                 with the test tools
#     sh docker/build-docker.sh --dry-run                                   print the command and do nothing
#
# Variables: IMAGE (deepspeech2-benchmark), BASE_IMAGE and EXTRAS (see Dockerfile), ENGINE (docker, podman or buildah;
# default: the first one found).
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac

dry_run=''
if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
fi
if [ -z "${ENGINE:-}" ]; then
    for ENGINE in docker podman buildah none; do
        if command -v "$ENGINE" >/dev/null; then break; fi
    done
    if [ "$ENGINE" = none ]; then
        echo "error: no container engine found - install one (\`sh docker/install_cuda_docker.sh\`), or set ENGINE" >&2
        exit 2
    fi
fi

# The command is collected in "$@", which keeps each argument's quoting.
set -- "$@" --file "$root/docker/Dockerfile" --tag "${IMAGE:-deepspeech2-benchmark}" "$root"
if revision=$(git -C "$root" rev-parse HEAD 2>/dev/null); then set -- --build-arg "REVISION=$revision" "$@"; fi
if [ -n "${BASE_IMAGE:-}" ]; then set -- --build-arg "BASE_IMAGE=$BASE_IMAGE" "$@"; fi
if [ -n "${EXTRAS:-}" ]; then set -- --build-arg "EXTRAS=$EXTRAS" "$@"; fi
set -- "$ENGINE" build "$@"

echo "+ $*" >&2
[ -n "$dry_run" ] || exec "$@"
