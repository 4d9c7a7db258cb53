"""How old a line is when `dstackd logs -f` prints it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.benchmarks.logs.site import a_site

LINES = 600
_JOB = (
    "python3 -uc 'import random, time\n"
    f"for _ in range({LINES}): time.sleep(random.random() / 10); print(time.time())'"
)


def latencies_s() -> list[float]:
    """Of each line of a job that writes one every 50 ms on average, sorted."""
    with a_site() as site:
        job_id = site.insert({"commands": [_JOB]})
        site.wait_for(job_id, "running")
        environment = {**os.environ, "DSTACKD_CONFIG": str(site.config), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "dstackd", "logs", "-f", job_id]
        ages_s: list[float] = []
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as follower:
            attached_s = time.time()
            for line in follower.stdout or ():
                written_s = float(line)
                # What was there before it was asked for is no measure.
                if written_s > attached_s + 1.0:
                    ages_s.append(time.time() - written_s)
        if site.wait_for(job_id)["phase"] != "succeeded":
            raise RuntimeError("the job did not succeed")
    return sorted(ages_s)
