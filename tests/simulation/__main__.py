"""`make simulate`: many seeds, one dense line each; the exit code is 0 when no promise was broken.

python -m tests.simulation --seeds 1000             seeds 0 to 999, as many at a time as there are processors
python -m tests.simulation --seed 4711 --trace      one seed, with everything that happened
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.faults import FAULTS
from tests.simulation.seed import Report, run_seed
from tests.simulation.stage import Stage

KEPT = Path(__file__).with_name("kept_seeds.txt")
"""Seeds that once broke a promise: they are run first, and always."""
_stage: list[Stage] = []


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    asked = _parser().parse_args(arguments)
    seeds = [asked.seed] if asked.seed is not None else _seeds(asked.first, asked.seeds)
    began = time.monotonic()
    broken = 0
    for report in _run(seeds, without=tuple(asked.without), workers=asked.workers):
        print(_line(report), flush=True)
        if asked.trace:
            print("\n".join(report.trace))
        if report.violations:
            broken += 1
            print(*(f"    {violation}" for violation in report.violations), sep="\n")
            print(f"    again: make simulate SEED={report.seed}", flush=True)
    took_s = time.monotonic() - began
    print(f"{len(seeds)} seeds, {broken} with a broken promise, {took_s:.0f} s")
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many, beside the kept ones")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    parser.add_argument("--without", action="append", default=[], choices=sorted(FAULTS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser


def kept_seeds() -> list[int]:
    """In the order of the file; `#` begins a comment."""
    lines = KEPT.read_text(encoding="utf-8").splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def _seeds(first: int, count: int) -> list[int]:
    return list(dict.fromkeys([*kept_seeds(), *range(first, first + count)]))


def _run(seeds: Sequence[int], *, without: tuple[str, ...], workers: int) -> Iterator[Report]:
    if len(seeds) == 1 or workers == 1:
        with Stage() as stage:
            for seed in seeds:
                yield run_seed(seed, stage=stage, without=without)
        return
    with ProcessPoolExecutor(workers, initializer=_prepare) as pool:
        yield from pool.map(_run_one, seeds, [without] * len(seeds), chunksize=1)


def _prepare() -> None:
    _stage.append(Stage())
    _stage[0].__enter__()


def _run_one(seed: int, without: tuple[str, ...]) -> Report:
    return run_seed(seed, stage=_stage[0], without=without)


def _line(report: Report) -> str:
    verdict = "BROKEN" if report.violations else "ok"
    return (
        f"seed {report.seed:>6} {verdict:6} {report.digest} jobs {report.jobs} machines {report.machines} "
        f"crashes {report.deaths} calls {report.calls} {report.virtual_s / 60:.0f} min {' '.join(report.faults)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
