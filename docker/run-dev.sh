#!/bin/sh
# Runs a command (default: a shell) in the benchmark's image, with this checkout (read-only), the corpora and the runs
# mounted, as the calling user, with all GPUs if there are any.
#
#     sh docker/run-dev.sh
#     sh docker/run-dev.sh sh run_and_time.sh | tee log
#     VARIANT=librispeech NPROC=8 sh docker/run-dev.sh sh run_and_time.sh
#     DATA_DIR=/big/disk sh docker/run-dev.sh sh script/download_dataset.sh all
#     sh docker/run-dev.sh --dry-run                                        print the command and do nothing
#
# Variables: IMAGE (deepspeech2-benchmark), ENGINE (docker or podman), DATA_DIR and RESULTS_DIR (data/ and runs/ in the
# checkout), GPUS (auto, all or none), SHM_SIZE (8g), and the settings of a run: VARIANT, SEED, RUNS, DEVICE, NPROC,
# NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, DROP_CACHES, OMP_NUM_THREADS, PYTORCH_ALLOC_CONF,
# PYTORCH_CUDA_ALLOC_CONF, SUBMISSION_*. With NNODES > 1 the host's network is used.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac

fail() {
    echo "error: $1 - $2" >&2
    exit 2
}

# Prints the absolute path of the folder $1. Creates it if it is missing: the engine would create it as root.
folder() {
    [ -n "$dry_run" ] || mkdir -p -- "$1" || fail "$1 cannot be made" "choose another folder"
    case $1 in
    /*) echo "$1" ;;
    *) echo "$(pwd)/$1" ;;
    esac
}

dry_run=''
if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
fi
if [ -z "${ENGINE:-}" ]; then
    for ENGINE in docker podman none; do
        if command -v "$ENGINE" >/dev/null; then break; fi
    done
    [ "$ENGINE" != none ] || fail 'no container engine found' "install one (\`sh docker/install_cuda_docker.sh\`), or set ENGINE"
fi
if [ $# -eq 0 ]; then set -- bash; fi
data=$(folder "${DATA_DIR:-$root/data}")
runs=$(folder "${RESULTS_DIR:-$root/runs}")

# The command is built from its end: each `set --` prepends options.
set -- "${IMAGE:-deepspeech2-benchmark}" "$@"
for name in VARIANT SEED RUNS DEVICE NPROC NNODES NODE_RANK MASTER_ADDR MASTER_PORT DROP_CACHES \
    OMP_NUM_THREADS PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF \
    SUBMISSION_ORG SUBMISSION_PLATFORM SUBMISSION_STATUS SUBMISSION_DIVISION; do
    # Given by name only, a variable keeps its value, whatever characters it contains.
    if printenv "$name" >/dev/null; then set -- --env "$name" "$@"; fi
done
if [ "${NNODES:-1}" != 1 ]; then set -- --network host "$@"; fi

gpus=${GPUS:-auto}
if [ "$gpus" = auto ]; then
    gpus=none
    if nvidia-smi -L >/dev/null 2>&1; then gpus=all; fi
fi
case $gpus in
none) ;;
all)
    if [ "${ENGINE##*/}" = podman ]; then
        set -- --device nvidia.com/gpu=all "$@"
    else
        set -- --gpus all "$@"
    fi
    ;;
*) fail "GPUS=$gpus is unknown" "choose auto, all or none" ;;
esac

# NCCL and loader processes pass data through /dev/shm, whose default is 64 MB, and NCCL pins memory.
set -- --shm-size "${SHM_SIZE:-8g}" --ulimit memlock=-1 --ulimit stack=67108864 "$@"
set -- --volume "$root:/workspace/deepspeech2:ro" --volume "$data:/data" --volume "$runs:/runs" "$@"
if [ "${ENGINE##*/}" = podman ]; then
    set -- --userns keep-id "$@"
else
    set -- --user "$(id -u):$(id -g)" "$@"
fi
if [ -t 0 ] && [ -t 1 ]; then set -- --tty "$@"; fi
set -- "$ENGINE" run --rm --init --interactive "$@"

if [ -n "$dry_run" ]; then
    echo "+ $*" >&2
    exit 0
fi
exec "$@"
