#!/bin/sh
# Makes the project's Python environment in .venv, once, and prints the path of its interpreter:
#
#     PY=$(sh script/setup.sh)          what the benchmark needs
#     PY=$(sh script/setup.sh test)     that and the tools of the tests
#
# stdout carries the path and nothing else; what is going on goes to stderr. Nothing is done when all is right.
# PYTHON=/path/to/python: that interpreter is used as it is, and nothing is installed. One that lacks a package or whose
# PyTorch cannot work is refused; of another PyTorch than the pinned one a warning is given.
# WHEELS=FOLDER: the packages are installed from the wheels in that folder alone, without a network. PIP_INDEX_URL and
# pip's other settings choose another package index. docs/setup.md: platforms, containers, how to fill such a folder.
# Exit status: 0 the path was printed, 2 it could not be done (one line on stderr says why, and the remedy).
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

# Whether the environment is finished, was made here by the same kind of Python, and holds what the locks say.
# script/set_up.py writes these files; this is the quick half of its work, so that a door opens in milliseconds.
is_right() {
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

# Exit status 0: $1 is a Python that our pins support; 3: another one; 4: it lacks venv or ensurepip; 5: its C library is
# another one or too old. Prints what it is. (PyTorch's wheels need glibc 2.28; NetworkX, which it needs, refuses 3.14.1.)
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
    end("another than glibc", 5)
if tuple(map(int, library.split()[1].split(".")[:2])) < (2, 28):
    end(library, 5)
try:
    import ensurepip, venv
except ImportError:
    end(version, 4)
' 2>/dev/null
}

# Prints what this system is, unless the packages are made for it.
other_system() {
    system=$(uname -sm 2>/dev/null) || return 0
    case $system in
    'Linux x86_64' | 'Linux aarch64') ;;
    *) echo "$system" ;;
    esac
}
made_for='Linux on x86_64 or aarch64'
container="use a container (\`sh docker/build-docker.sh\`), on Windows also WSL2: docs/setup.md"

if [ -n "${PYTHON:-}" ]; then
    python=$(absolute "$PYTHON") || fail "PYTHON=$PYTHON is not a program" \
        "name a Python 3.11 or newer, or unset PYTHON and the environment is made in .venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail \
        "PYTHON=$PYTHON is not a Python 3.11 or newer" "name one that is, or unset PYTHON"
    other=$(other_system)
    [ -z "$other" ] || echo "set-up: warning: this is $other, and the benchmark is made for $made_for" >&2
    cd "$root"
    env -u PYTHONSAFEPATH "$python" -m script.set_up --check ${extras:+"$extras"} || exit 2
    echo "$python"
    exit 0
fi

if is_right; then
    echo "$venv_python"
    exit 0
fi

other=$(other_system)
[ -z "$other" ] || fail "this is $other, and the packages are made for $made_for" "$container, or set PYTHON to one that has everything"

# A folder of wheels is named from where the user is.
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
    5) fail "$name uses a C library ($version) for which the packages are not made: they need glibc 2.28 or newer" "$container" ;;
    esac
done
[ -z "$without_venv" ] || fail "Python $without_venv is here but its venv module is not" \
    "install it (Debian, Ubuntu: \`apt-get install python3-venv\`) and start again"
fail "no Python 3.11 to 3.14 found (${seen:+"${seen# } "}looked for python3 and python3.11 to python3.14)" \
    "install one (Debian, Ubuntu: \`apt-get install python3 python3-venv\`), or set PYTHON to one that has everything"
