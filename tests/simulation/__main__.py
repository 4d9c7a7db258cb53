"""`make simulate`: many seeds, one dense line each; the exit code is 0 when no promise was broken.

python -m tests.simulation --seeds 1000             seeds 0 to 999, as many at a time as there are processors
python -m tests.simulation --seed 4711 --trace      one seed, with everything that happened
python -m tests.simulation --teeth                  the planted bugs, each until a seed catches it
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tests.simulation.faults import FAULTS
from tests.simulation.planted import PLANTED
from tests.simulation.pool import Pool, kept_seeds
from tests.simulation.seed import Report
from tests.simulation.teeth import SEEDS_MAX


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    asked = _parser().parse_args(arguments)
    with Pool(asked.workers) as pool:
        if asked.teeth:
            return _teeth(pool)
        seeds = [asked.seed] if asked.seed is not None else _seeds(asked.first, asked.seeds)
        return _simulate(pool, seeds, without=tuple(asked.without), trace=asked.trace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many, beside the kept ones")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    parser.add_argument("--without", action="append", default=[], choices=sorted(FAULTS))
    parser.add_argument("--teeth", action="store_true", help="search for what catches each bug")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser


def _seeds(first: int, count: int) -> list[int]:
    return list(dict.fromkeys([*kept_seeds(), *range(first, first + count)]))


def _simulate(pool: Pool, seeds: Sequence[int], *, without: tuple[str, ...], trace: bool) -> int:
    began_s = time.monotonic()
    broken = 0
    for report in pool.run(seeds, without=without):
        print(line(report), flush=True)
        if trace:
            print("\n".join(report.trace))
        if report.violations:
            broken += 1
            print(*(f"    {violation}" for violation in report.violations), sep="\n")
            print(f"    again: make simulate SEED={report.seed} TRACE=1", flush=True)
    took_s = time.monotonic() - began_s
    print(f"{len(seeds)} seeds, {broken} with a broken promise, {took_s:.0f} s")
    return 1 if broken else 0


def _teeth(pool: Pool) -> int:
    survivors = 0
    for bite in pool.bite([(bug, range(SEEDS_MAX)) for bug in PLANTED]):
        survivors += bite.seed is None
        shown = "SURVIVES" if bite.seed is None else f"seed {bite.seed:>3}: {bite.violation}"
        print(f"{bite.bug:32} {shown}", flush=True)
    print(f"{len(PLANTED)} planted bugs, {survivors} not caught within {SEEDS_MAX} seeds")
    return 1 if survivors else 0


def line(report: Report) -> str:
    """All about a seed that fits into a line."""
    verdict = "BROKEN" if report.violations else "ok"
    return (
        f"seed {report.seed:>6} {verdict:6} {report.digest} jobs {report.jobs} machines {report.machines} "
        f"crashes {report.deaths} calls {report.calls} {report.virtual_s / 60:.0f} min {' '.join(report.faults)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
