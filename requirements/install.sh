#!/bin/sh
# Make .venv hold a set of packages: install.sh local | dev
#
# local: what `make demo` and `make dev` need. dev: that and what tests and checks need.
# Law: only files whose hash a requirements file names are installed, and only wheels, so no code
# runs at install time but our own build. Done already: says nothing and returns in milliseconds.
# Everything it says goes to standard error, because `make bench` owns standard output.
set -eu
cd "$(dirname "$0")/.."

packages=${1:?usage: install.sh local|dev}
venv=.venv
lock=.venv.lock
began=$(date +%s)

say() { echo "dstackd: $*" >&2; }

# A stamp holds what the installation was made from: the packages, our own metadata (not the tools'
# settings, which change nothing that is installed) and the folder, since a venv cannot be moved.
key() { { cat "requirements/$1.txt"; sed '/^\[tool\.ruff\]/q' pyproject.toml; pwd; } | cksum; }
holds() { [ -x $venv/bin/dstackd ] && [ "$(cat "$venv/made-from-$1" 2>/dev/null)" = "$(key "$1")" ]; }
ready() { holds dev || { [ "$packages" = local ] && holds local; }; }

# Two makes at once: the second waits, then finds the work done. A lock whose owner is not alive at
# two looks in a row is left over from one that was killed.
enter() {
    looks=0
    until mkdir $lock 2>/dev/null; do
        if kill -0 "$(cat $lock/pid 2>/dev/null || echo none)" 2>/dev/null; then
            [ $looks -gt 0 ] || say "waiting for another set-up of this folder"
        elif [ $looks -gt 0 ]; then
            rm -rf $lock
            looks=0
            continue
        fi
        looks=$((looks + 1))
        sleep 1
    done
    trap 'rm -rf $lock' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo $$ >$lock/pid
}

find_python() {
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
            return
        fi
    done
    say "needs Python 3.11 or newer; found $({ python3 --version; } 2>/dev/null || echo none)."
    say "Install one, or name one that is not on PATH: make setup PYTHON=/path/to/python3.12"
    exit 1
}

has_uv() { command -v uv >/dev/null 2>&1; }

make_venv() {
    if $venv/bin/python -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
        if has_uv || $venv/bin/python -m pip --version >/dev/null 2>&1; then
            return
        fi
    fi
    find_python
    if has_uv; then
        say "making $venv with $("$python" --version) ($python)"
        uv venv --quiet --clear --python "$python" $venv >&2
    elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "making $venv with $("$python" --version) ($python)"
        "$python" -m venv --clear $venv >&2
    else
        say "$python has no venv module with pip. On Debian or Ubuntu: sudo apt install python3-venv"
        exit 1
    fi
}

fill_venv() {
    count=$(grep -c == "requirements/$packages.txt")
    # No download of an interpreter, no check for a newer pip, no question that nobody answers.
    if has_uv; then
        # The certificates of this system, as pip uses them. Older versions of uv know the second name.
        export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true
        say "installing up to $count packages with uv; the first time this takes some seconds"
        uv pip install --quiet --python $venv/bin/python --require-hashes --only-binary :all: \
            -r "requirements/$packages.txt" >&2
        uv pip install --quiet --python $venv/bin/python --no-deps --no-build-isolation -e . >&2
    else
        export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
        say "installing up to $count packages with pip; the first time this takes about a minute"
        $venv/bin/python -m pip install --quiet --require-hashes --only-binary :all: \
            -r "requirements/$packages.txt" >&2
        $venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e . >&2
    fi
}

if ready; then exit 0; fi
enter
if ready; then exit 0; fi
make_venv
fill_venv
key "$packages" >"$venv/made-from-$packages"
say "$venv is ready after $(($(date +%s) - began)) s"
