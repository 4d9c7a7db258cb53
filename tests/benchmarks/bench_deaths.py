"""kill -9 a hundred times over sixty jobs: what is lost, doubled or left behind. Zero is the promise, for each of them.

Half a dozen machines and spot reclaims, a full disk, a hostile writer and a clock that jumps come on top; see
`tests/end_to_end/deaths`. `KILLS=40 JOBS=30 SEEDS="1 2" make bench BENCH=deaths` runs others. One storm takes
six to fifteen minutes, by what else the computer does. A promise that is broken is told on standard error.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator

from tests.benchmarks.figure import Figure
from tests.end_to_end.deaths.aftermath import CHECKS
from tests.end_to_end.deaths.whole import storm


def measure() -> Iterator[Figure]:
    """One storm for each of SEEDS."""
    kills, jobs = int(os.environ.get("KILLS", "100")), int(os.environ.get("JOBS", "60"))
    for seed in map(int, os.environ.get("SEEDS", "1 2").split()):
        done, broken = storm(seed=seed, kills=kills, jobs=jobs)
        for sentence in broken:
            sys.stderr.write(f"seed {seed}: {sentence}\n")
        name = f"seed {seed}, {jobs} jobs"
        yield Figure(figure=f"{name}: kill -9 of the daemon", value=done.kills, unit="kills")
        yield Figure(
            figure=f"{name}: of these before it was ready",
            value=done.kills_before_ready,
            unit="kills",
        )
        others = len(done.players) + len(done.reclaims)
        yield Figure(figure=f"{name}: machines killed or reclaimed", value=others, unit="machines")
        yield Figure(
            figure=f"{name}: daemons that ended by themselves",
            value=len(done.own_deaths),
            unit="daemons",
        )
        yield Figure(figure=f"{name}: time", value=done.seconds, unit="s")
        found = Counter(sentence.partition(":")[0] for sentence in broken)
        for check in CHECKS:
            what = check.__name__.replace("_", " ")
            yield Figure(
                figure=f"{name}: broken promises about {what}",
                value=found[check.__name__],
                unit="promises",
            )
