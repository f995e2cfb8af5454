#!/bin/sh
# Installs Docker and NVIDIA's container toolkit from their vendors' package repositories, on Ubuntu or Debian.
# Prints what it will do and asks for confirmation.
#
#     sudo sh docker/install_cuda_docker.sh
#     sh docker/install_cuda_docker.sh --dry-run     print every command and do nothing
#     sudo sh docker/install_cuda_docker.sh --yes    do not ask
#
# The GPU driver is not installed: it must be present already (`nvidia-smi` shows it).
set -eu

# Fingerprints of the keys that sign the packages: a repository signed by any other key is refused.
docker_key=9DC858229FC7DD38854AE2D88D81803C0EBFCD88
nvidia_key=C95B321B61E88C1809C4F759DDCAE044F796ECB0

fail() {
    echo "error: $1 - $2" >&2
    exit 2
}

dry_run=''
yes=''
for argument in "$@"; do
    case $argument in
    --dry-run) dry_run=1 ;;
    --yes) yes=1 ;;
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) fail "unknown argument $argument" 'use --dry-run, --yes or nothing' ;;
    esac
done

run() {
    echo "+ $*"
    [ -n "$dry_run" ] || "$@"
}

# write FILE LINE: write one line to a file.
write() {
    echo "+ write to $1: $2"
    [ -n "$dry_run" ] || printf '%s\n' "$2" >"$1"
}

# fetch_key ADDRESS FINGERPRINT FILE: download a key to FILE if its fingerprint matches.
fetch_key() {
    run curl --fail --silent --show-error --location --output "$3.new" "$1"
    echo "+ check that its fingerprint is $2"
    if [ -z "$dry_run" ]; then
        found=$(gpg --batch --show-keys --with-colons "$3.new" | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1/p' | head -n 1)
        if [ "$found" != "$2" ]; then
            rm -f "$3.new"
            fail "the key from $1 has the fingerprint ${found:-(none)}, not $2" 'check whether the vendor has announced a new key'
        fi
    fi
    run chmod 0644 "$3.new"
    run mv "$3.new" "$3"
}

[ -r "${OS_RELEASE:=/etc/os-release}" ] || fail "$OS_RELEASE does not exist" 'this needs Ubuntu or Debian'
# shellcheck source=/dev/null
. "$OS_RELEASE"
case ${ID:-} in
ubuntu | debian) ;;
*) fail "this is ${PRETTY_NAME:-an unknown system}, not Ubuntu or Debian" 'follow docs.docker.com/engine/install and the toolkit'"'"'s guide at docs.nvidia.com' ;;
esac
[ -n "${VERSION_CODENAME:-}" ] || fail "$OS_RELEASE has no release name" 'use a released Ubuntu or Debian'
architecture=$(dpkg --print-architecture)

cat <<PLAN
On this ${PRETTY_NAME:-$ID} ($architecture), this script will
  1. remove the distribution's own Docker packages, if installed (images and volumes stay);
  2. add Docker's package repository and install Docker from it;
  3. add NVIDIA's package repository and install its container toolkit from it;
  4. configure Docker for the toolkit and restart it, which stops running containers.
It adds two files to /etc/apt/keyrings and two to /etc/apt/sources.list.d, and changes /etc/docker/daemon.json.

PLAN
if [ -z "$dry_run" ]; then
    [ "$(id -u)" = 0 ] || fail 'this needs root permissions' 'start it with sudo, or see what it would do with --dry-run'
    if [ -z "$yes" ]; then
        printf 'Continue? [y/N] '
        read -r answer || answer=''
        case $answer in
        y | Y | yes) ;;
        *) fail 'nothing was done' 'answer y to continue' ;;
        esac
    fi
fi

export DEBIAN_FRONTEND=noninteractive
run apt-get update
run apt-get install -y --no-install-recommends ca-certificates curl gnupg
for package in docker.io docker-compose docker-compose-v2 docker-doc podman-docker containerd runc; do
    # A dry run lists all of them; a real run removes those that are installed.
    if [ -n "$dry_run" ] || dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
        run apt-get remove -y "$package"
    fi
done

run install -d -m 0755 /etc/apt/keyrings
fetch_key "https://download.docker.com/linux/$ID/gpg" "$docker_key" /etc/apt/keyrings/docker.asc
write /etc/apt/sources.list.d/docker.list \
    "deb [arch=$architecture signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/linux/$ID $VERSION_CODENAME stable"
fetch_key https://nvidia.github.io/libnvidia-container/gpgkey "$nvidia_key" /etc/apt/keyrings/nvidia-container-toolkit.asc
write /etc/apt/sources.list.d/nvidia-container-toolkit.list \
    "deb [signed-by=/etc/apt/keyrings/nvidia-container-toolkit.asc] https://nvidia.github.io/libnvidia-container/stable/deb/\$(ARCH) /"

run apt-get update
run apt-get install -y docker-ce docker-ce-cli containerd.io docker-buildx-plugin nvidia-container-toolkit
run nvidia-ctk runtime configure --runtime=docker
run systemctl restart docker

cat <<'NEXT'

Next: `sudo docker run --rm --gpus all ubuntu nvidia-smi` shows the GPUs in a container.
To use Docker without sudo, add yourself to its group (which is equivalent to root access):
    sudo usermod -aG docker "$USER"    then log in again
Then: cd docker && sh build-docker.sh && sh run-dev.sh
NEXT
