"""One whole storm, from the first job to the last judgement."""

from __future__ import annotations

import os

from tests.end_to_end.deaths import aftermath
from tests.end_to_end.deaths.jobs import storm_jobs
from tests.end_to_end.deaths.site import deadly_site
from tests.end_to_end.deaths.storm import Done, Storm


def storm(*, seed: int, kills: int, jobs: int) -> tuple[Done, list[str]]:
    """What was done, and the promises that did not hold."""
    with deadly_site() as site:
        asked = storm_jobs(seed, count=jobs, folder=site.folder)
        done = Storm(site, asked, seed=seed, kills=kills, has_small_disk=os.getuid() == 0).run()
        return done, aftermath.broken_promises(
            aftermath.read(site, asked, disturbed=done.disturbed)
        )
