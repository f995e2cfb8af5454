#!/bin/sh
# Creates the project's Python environment in .venv, once, and prints the path of its interpreter:
#
#     PY=$(sh script/setup.sh)          what the benchmark needs
#     PY=$(sh script/setup.sh test)     the same and the test tools
#
# stdout carries the path and nothing else; progress goes to stderr. An up-to-date environment is left unchanged.
# PYTHON=/path/to/python: use that interpreter as it is and install nothing. It is refused if it lacks a package or its
# PyTorch is incompatible; a PyTorch other than the pinned one causes a warning.
# WHEELS=FOLDER: install the packages from the wheels in that folder only, without a network. PIP_INDEX_URL and pip's
# other settings choose another package index. docs/setup.md: platforms, containers, how to fill such a folder.
# Exit status: 0 the path was printed, 2 it could not be done (the last line on stderr is the reason and the remedy).
set -eu

root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd -P)
case ${1:-} in -h | --help) exec sh "$root/script/help.sh" "$0" ;; esac
extras=${1:-}
made=$root/.venv/setup
venv_python=$root/.venv/bin/python

fail() {
    echo "error: $1 - $2" >&2
    exit 2
}

case $extras in
'' | test) ;;
*) fail "unknown argument '$extras'" "call it as \`sh script/setup.sh\` or \`sh script/setup.sh test\`" ;;
esac

# Whether the environment is finished, was made in this checkout by the same Python version, and matches the lock files.
# script/set_up.py writes these files; checking them here lets every command start in milliseconds.
is_up_to_date() {
    [ ! -e "$made/unfinished" ] || return 1
    { IFS= read -r home && IFS= read -r tag; } 2>/dev/null <"$made/home" || return 1
    [ "$home" = "$root" ] || return 1
    [ "$tag" = "$("$venv_python" -I -S -c 'import sys; print(sys.implementation.cache_tag)' 2>/dev/null)" ] || return 1
    cmp -s "$root/requirements.lock" "$made/requirements.lock" || return 1
    [ -z "$extras" ] || cmp -s "$root/requirements-test.lock" "$made/requirements-test.lock"
}

# Prints the absolute path of the command $1, or fails.
absolute() {
    found=$(command -v -- "$1") || return 1
    case $found in
    /*) echo "$found" ;;
    */*) echo "$(pwd)/$found" ;;
    *) return 1 ;;
    esac
}

# Exit status 0: $1 is a Python that the pinned packages support; 3: it is not; 4: it lacks venv or ensurepip; 5: its C
# library is not glibc or too old. Prints its version. (PyTorch's wheels need glibc 2.28; its dependency NetworkX refuses
# 3.14.1.)
try_python() {
    "$1" -I -c '
import os, sys
version = "%d.%d" % sys.version_info[:2]
def end(text, status):
    print(text)
    sys.exit(status)
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    end(version, 3)
if sys.version_info[:3] == (3, 14, 1):
    end("3.14.1, which NetworkX refuses", 3)
if sys.implementation.name != "cpython":
    end("%s of Python %s" % (sys.implementation.name, version), 3)
if sys.maxsize < 2**32:
    end("a 32-bit " + version, 3)
if "t" in sys.abiflags:
    end("a free-threaded " + version, 3)
try:
    library = os.confstr("CS_GNU_LIBC_VERSION")
except (OSError, ValueError):
    library = None
if not library:
    end("not glibc", 5)
if tuple(map(int, library.split()[1].split(".")[:2])) < (2, 28):
    end(library, 5)
try:
    import ensurepip, venv
except ImportError:
    end(version, 4)
' 2>/dev/null
}

# Prints the system's name if it is not one that the packages support.
unsupported_system() {
    system=$(uname -sm 2>/dev/null) || return 0
    case $system in
    'Linux x86_64' | 'Linux aarch64') ;;
    *) echo "$system" ;;
    esac
}
supported='Linux on x86_64 or aarch64'
container="use a container (\`sh docker/build-docker.sh\`), on Windows also WSL2: docs/setup.md"

if [ -n "${PYTHON:-}" ]; then
    python=$(absolute "$PYTHON") || fail "PYTHON=$PYTHON is not a program" \
        "name a Python 3.11 or newer, or unset PYTHON to use an environment in .venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail \
        "PYTHON=$PYTHON is not a Python 3.11 or newer" "name one that is, or unset PYTHON"
    unsupported=$(unsupported_system)
    [ -z "$unsupported" ] || echo "set-up: warning: this is $unsupported, and the benchmark supports $supported" >&2
    cd "$root"
    env -u PYTHONSAFEPATH "$python" -m script.set_up --check ${extras:+"$extras"} || exit 2
    echo "$python"
    exit 0
fi

if is_up_to_date; then
    echo "$venv_python"
    exit 0
fi

unsupported=$(unsupported_system)
[ -z "$unsupported" ] || fail "this is $unsupported, and the packages support $supported" \
    "$container, or set PYTHON to one that has every package"

# A relative WHEELS is relative to the user's working directory.
case ${WHEELS:-} in
'' | /* | '~'*) ;;
*)
    WHEELS=$(pwd)/$WHEELS
    export WHEELS
    ;;
esac

seen=''
without_venv=''
for name in python3 python3.13 python3.12 python3.11 python3.14; do
    command -v "$name" >/dev/null || continue
    status=0
    version=$(try_python "$name") || status=$?
    case $status in
    0)
        name=$(absolute "$name")
        cd "$root"
        exec env -u PYTHONPATH -u PYTHONHOME -u PYTHONSAFEPATH "$name" -m script.set_up ${extras:+"$extras"}
        ;;
    3) seen="$seen $name is $version," ;;
    4) without_venv=$version ;;
    5) fail "$name uses an unsupported C library ($version): the packages need glibc 2.28 or newer" "$container" ;;
    esac
done
[ -z "$without_venv" ] || fail "Python $without_venv is installed but its venv module is not" \
    "install it (Debian, Ubuntu: \`apt-get install python3-venv\`) and start again"
fail "no Python 3.11 to 3.14 found (${seen:+"${seen# } "}looked for python3 and python3.11 to python3.14)" \
    "install one (Debian, Ubuntu: \`apt-get install python3 python3-venv\`), or set PYTHON to one that has every package"
