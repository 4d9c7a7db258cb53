"""The daemon dies often, and much else goes wrong meanwhile: afterwards every promise holds."""

from __future__ import annotations

import os
import random

import pytest

from tests.end_to_end.deaths import aftermath
from tests.end_to_end.deaths.jobs import storm_jobs
from tests.end_to_end.deaths.site import deadly_site
from tests.end_to_end.deaths.storm import Done, Storm

KILLS = int(os.environ.get("STORM_KILLS", "25"))
JOBS = int(os.environ.get("STORM_JOBS", "22"))
SEED = int(os.environ.get("STORM_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


def storm(*, seed: int, kills: int, jobs: int) -> tuple[Done, list[str]]:
    """One storm: what was done, and the promises that did not hold."""
    with deadly_site() as site:
        asked = storm_jobs(seed, count=jobs, folder=site.folder)
        done = Storm(site, asked, seed=seed, kills=kills, has_small_disk=os.getuid() == 0).run()
        return done, aftermath.broken_promises(
            aftermath.read(site, asked, disturbed=done.disturbed)
        )


@pytest.mark.timeout(max(300, KILLS * 10))
def test_many_deaths() -> None:
    """No job, line or artifact is lost, nothing runs twice, no machine is left or was terminated without a need.

    STORM_KILLS, STORM_JOBS and STORM_SEED in the environment make a longer storm, or the same one again.
    """
    done, broken = storm(seed=SEED, kills=KILLS, jobs=JOBS)

    assert broken == [], f"seed {SEED}: {done}"
    assert done.kills >= KILLS
    assert done.own_deaths == []
