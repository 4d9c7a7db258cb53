"""A hundred worlds, each hostile in another way, and all five promises in each of them.

`make simulate SEEDS=10000` goes on where these end. A seed that breaks a promise goes into `kept_seeds.txt`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dstackd.core.phase import TERMINAL, Outcome
from tests.simulation.faults import FAULTS
from tests.simulation.jobs import JOBS
from tests.simulation.pool import Pool, kept_seeds
from tests.simulation.seed import DEATHS_MIN, Report, chosen_faults

ROOT = Path(__file__).parents[2]
SEEDS = 100

pytestmark = pytest.mark.timeout(300)

DEATHS = tuple(
    f"dies {moment}"
    for moment in (
        *("before RunInstances", "behind RunInstances", "before DescribeInstances"),
        *("behind DescribeInstances", "before TerminateInstances", "behind TerminateInstances"),
        *("before PutObject", "behind PutObject", "before DeleteObjects", "behind DeleteObjects"),
        *("before ListObjectsV2", "behind ListObjectsV2", "before FilterLogEvents"),
        *("behind FilterLogEvents", "before log lines", "behind log lines"),
        *("inside a transaction", "behind a commit"),
    )
)
NEVER_SET = {Outcome.NO_CAPACITY}
"""An attempt that gets no machine leaves no row."""


@pytest.fixture(scope="module")
def reports(pool: Pool) -> list[Report]:
    """Of the kept seeds and the first hundred."""
    return list(pool.run(list(dict.fromkeys([*kept_seeds(), *range(SEEDS)]))))


def test_no_seed_breaks_a_promise(reports: list[Report]) -> None:
    """Nothing is lost and nothing leaks, whatever befalls the daemon: to see how, `make simulate SEED=n TRACE=1`."""
    broken = {report.seed: report.violations for report in reports if report.violations}
    assert broken == {}


def test_each_seed_is_a_long_life(reports: list[Report]) -> None:
    """At least twenty jobs, and a daemon that dies three times."""
    assert min(report.jobs for report in reports) >= JOBS
    assert min(report.deaths for report in reports) >= DEATHS_MIN


def test_every_fault_strikes(reports: list[Report]) -> None:
    """A fault that finds nothing to strike proves nothing."""
    met = sum((report.struck for report in reports), Counter[str]())
    ends = [
        *(f"phase {phase}" for phase in TERMINAL),
        *(f"outcome {outcome}" for outcome in set(Outcome) - NEVER_SET),
    ]
    wanted = [*FAULTS, *DEATHS, *ends, "partial fill", "reused", "CapacityShortage"]
    assert [each for each in wanted if not met[each]] == []


def test_a_fault_can_be_switched_off(pool: Pool) -> None:
    """It does not strike any more, and the others are as they were chosen."""
    for fault in ("reclaimed", "cancels"):
        seed = next(seed for seed in range(SEEDS) if fault in chosen_faults(seed, ()))
        (report,) = pool.run([seed], without=(fault,))
        assert report.violations == ()
        assert (fault in report.faults, report.struck[fault]) == (False, 0)
        assert {*report.faults, fault} == set(chosen_faults(seed, ()))


@pytest.mark.parametrize("seed", [3, 7])
def test_a_seed_is_the_same_to_the_last_event(seed: int, reports: list[Report]) -> None:
    """Another process, another order of hashes, no seeds before it: byte for byte the same trace."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--trace"]
    traces = []
    for hash_seed in ("1", "2"):
        places = os.pathsep.join([str(ROOT), str(ROOT / "daemon")])
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": places}
        done = subprocess.run(
            [*command, "--workers", "1"], cwd=ROOT, env=env, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        traces.append(done.stdout.splitlines()[1:-1])
    assert traces[0] == traces[1]
    (report,) = [report for report in reports if report.seed == seed]
    assert hashlib.sha256(b"\n".join(traces[0])).hexdigest().startswith(report.digest)
