"""`python -m tests.benchmarks NAME`: runs bench_NAME.py and prints its figures, one JSON line each.

A benchmark is a module `bench_<name>.py` in this folder, whose docstring says what it measures, with
`def measure() -> Iterator[Figure]`. Law: standard output carries figures and nothing else; whatever a
benchmark or a library prints goes to standard error.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stdout
from pathlib import Path

NAMES = sorted(
    path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")
)
USAGE = 64


def main(arguments: list[str]) -> int:
    """Run the named benchmark, or list them all; 64 (EX_USAGE) for a name that there is not."""
    if len(arguments) != 1 or arguments[0] not in NAMES:
        if arguments:
            print(f"no benchmark is called {' '.join(arguments)!r}", file=sys.stderr)
        print("usage: make bench BENCH=name, with a name of:", *NAMES, sep="\n  ", file=sys.stderr)
        return USAGE if arguments else 0
    figures = sys.stdout
    with redirect_stdout(sys.stderr):
        benchmark = importlib.import_module(f"tests.benchmarks.bench_{arguments[0]}")
        for figure in benchmark.measure():
            print(figure.as_json(), file=figures, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
