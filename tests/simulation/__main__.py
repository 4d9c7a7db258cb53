"""`make simulate`: many seeds, one dense line each; the exit code is 0 when no promise was broken.

python -m tests.simulation --seeds 1000             seeds 0 to 999, as many at a time as there are processors
python -m tests.simulation --seed 4711 --trace      one seed, with everything that happened
python -m tests.simulation --teeth                  the planted bugs, each until a seed catches it
python -m tests.simulation --crashes                a death behind every effect of every path of a job's life
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.controllers.crash_points import PATHS
from tests.simulation.faults import FAULTS
from tests.simulation.planted import PLANTED
from tests.simulation.pool import Pool, kept_seeds
from tests.simulation.seed import Report
from tests.simulation.teeth import SEEDS_MAX, Bite, search_order, table_line


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    asked = _parser().parse_args(arguments)
    with Pool(asked.workers) as pool:
        if asked.teeth:
            return _teeth(pool, asked.bug or list(PLANTED))
        if asked.crashes:
            return _crashes(pool, asked.path or list(PATHS))
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
    parser.add_argument("--bug", action="append", choices=sorted(PLANTED), help="with --teeth")
    parser.add_argument("--crashes", action="store_true", help="die behind every effect")
    parser.add_argument("--path", action="append", choices=sorted(PATHS), help="with --crashes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser


def _seeds(first: int, count: int) -> list[int]:
    return list(dict.fromkeys([*kept_seeds(), *range(first, first + count)]))


def _simulate(pool: Pool, seeds: Sequence[int], *, without: tuple[str, ...], trace: bool) -> int:
    began_s = time.monotonic()
    total = Total()
    for report in pool.run(seeds, without=without):
        total.add(report)
        print(line(report), flush=True)
        if trace:
            print("\n".join(report.trace))
        if report.violations:
            print(*(f"    {violation}" for violation in report.violations), sep="\n")
            print(f"    again: make simulate SEED={report.seed} TRACE=1", flush=True)
    print(total.line(took_s=time.monotonic() - began_s))
    return 1 if total.broken else 0


@dataclass(slots=True)
class Total:
    """What all seeds came to."""

    seeds: int = 0
    broken: int = 0
    violations: int = 0
    jobs: int = 0
    deaths: int = 0
    machines: int = 0
    calls: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        """Take in one more."""
        self.seeds += 1
        self.broken += bool(report.violations)
        self.violations += len(report.violations)
        self.jobs += report.jobs
        self.deaths += report.deaths
        self.machines += report.machines
        self.calls += report.calls
        self.virtual_s += report.virtual_s
        self.cpu_s += report.cpu_s
        self.struck += report.struck

    def line(self, *, took_s: float) -> str:
        """In words; `took_s`: by the wall clock."""
        struck = {name: self.struck[name] for name in FAULTS if self.struck[name]}
        return (
            f"{self.seeds} seeds, {self.broken} with a broken promise, {self.violations} violations, {self.jobs} jobs, "
            f"{self.deaths} deaths, {self.machines} machines, {self.calls} calls, {self.virtual_s / 3600:.0f} virtual hours, "
            f"{len(struck)} faults that struck {sum(struck.values())} times, {took_s:.0f} s, {self.cpu_s:.0f} s of processors"
        )


def _teeth(pool: Pool, bugs: Sequence[str]) -> int:
    found: list[Bite] = []
    for bite in pool.bite([(bug, search_order(bug)) for bug in bugs]):
        found.append(bite)
        shown = "SURVIVES" if bite.seed is None else f"seed {bite.seed:>3}: {bite.violation}"
        print(f"{bite.bug:32} {bite.tried:>3} tried, {shown}", flush=True)
    print("\nFor CAUGHT_BY in tests/simulation/caught_by.py:\n")
    print(*(table_line(bite) for bite in found if bite.seed is not None), sep="\n")
    survivors = sum(bite.seed is None for bite in found)
    print(f"\n{len(found)} planted bugs, {survivors} not caught within {SEEDS_MAX} seeds")
    return 1 if survivors else 0


def _crashes(pool: Pool, paths: Sequence[str]) -> int:
    began_s = time.monotonic()
    points = broken = 0
    for each in pool.die(paths):
        points += each.points
        broken += len(each.broken)
        passed = each.points - len(each.broken)
        print(f"{each.name:28} points {each.points:>3} passed {passed:>3} {each.seconds:5.1f} s")
        print(*(f"    {sentence}" for sentence in each.broken), sep="\n", end="", flush=True)
    took_s = time.monotonic() - began_s
    print(f"{len(paths)} paths, {points} points, {broken} with a broken promise, {took_s:.0f} s")
    return 1 if broken else 0


def line(report: Report) -> str:
    """All about a seed that fits into a line."""
    verdict = "BROKEN" if report.violations else "ok"
    return (
        f"seed {report.seed:>6} {verdict:6} {report.digest} jobs {report.jobs} machines {report.machines} "
        f"crashes {report.deaths} calls {report.calls} {report.virtual_s / 60:.0f} min {' '.join(report.faults)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
