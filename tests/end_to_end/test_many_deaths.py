"""The daemon dies often, and much else goes wrong meanwhile: afterwards every promise holds."""

from __future__ import annotations

import os
import random

import pytest

from tests.end_to_end.deaths.whole import storm

KILLS = int(os.environ.get("STORM_KILLS", "14"))
JOBS = int(os.environ.get("STORM_JOBS", "14"))
SEED = int(os.environ.get("STORM_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


@pytest.mark.timeout(max(300, KILLS * 20))
def test_many_deaths() -> None:
    """No job, line or artifact is lost, nothing runs twice, no machine is left or was terminated without a need.

    STORM_KILLS, STORM_JOBS and STORM_SEED in the environment make a longer storm, or nearly the same one again: the seed gives the
    order of things, and how far everybody has come by then is the machine's affair.
    """
    done, broken = storm(seed=SEED, kills=KILLS, jobs=JOBS)

    assert broken == [], f"seed {SEED}: {done}"
    assert done.kills >= KILLS
    assert done.own_deaths == []
