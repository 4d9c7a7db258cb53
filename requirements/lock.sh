#!/bin/sh
# Write requirements/*.txt anew from pyproject.toml: `make lock`, or `make lock ARGS=--upgrade`.
#
# Each file names every package with its version and the hashes of its files, for all platforms,
# and no address: where packages come from is the business of the machine that installs them.
# dev.txt is solved first and the others are held to it, so one version of a package is in use
# everywhere and .venv can grow from local.txt to dev.txt without replacing anything.
set -eu
cd "$(dirname "$0")/.."

if ! command -v uv >/dev/null 2>&1; then
    echo "make lock needs uv (pip install uv); installing from the locked files does not." >&2
    exit 1
fi

lock() { # lock NAME SOURCE-OR-OPTION...
    output=requirements/$1.txt
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
        --output-file "$output" "$@" >&2
    echo "$output: $(grep -c == "$output") packages" >&2
}

lock dev "$@" pyproject.toml --all-extras --group build --group dev
lock local "$@" pyproject.toml --constraint requirements/dev.txt --extra local --group build
lock runtime "$@" pyproject.toml --constraint requirements/dev.txt
lock build "$@" --group pyproject.toml:build --constraint requirements/dev.txt
lock image "$@" --group pyproject.toml:image
lock bench "$@" requirements/bench.in
