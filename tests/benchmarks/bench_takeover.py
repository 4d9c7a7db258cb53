"""How long a backend is without a daemon when its owner dies or stalls, and what happens twice: two real daemons, short jobs all the while.

`TAKEOVERS=50 ENGINES="sqlite postgresql" make bench BENCH=takeover` runs others; every third owner is stopped (SIGSTOP) and goes on
once the other one serves, the rest are killed (SIGKILL). Some ten minutes an engine for fifty.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.benchmarks.figure import Figure
from tests.end_to_end import stores
from tests.end_to_end.installation import Installation, wait_until
from tests.end_to_end.pair import (
    a_pair,
    counted_job,
    doubled,
    is_standby,
    start_standby,
    stop,
    strike,
    takeover_s,
)

BAR_S = 15.0
JOBS_A_TAKEOVER = 2
END_S = 300.0


def measure() -> Iterator[Figure]:
    """For each engine."""
    for engine in os.environ.get("ENGINES", "sqlite postgresql").split():
        stores.IS_POSTGRES = engine == "postgresql"
        with ExitStack() as stack:
            stack.callback(stores.close)
            yield from _takeovers(engine, int(os.environ.get("TAKEOVERS", "50")))


def _takeovers(engine: str, count: int) -> Iterator[Figure]:
    chance = random.Random(f"takeovers-{engine}")
    took_s: dict[str, list[float]] = {"kill -9": [], "stall": []}
    jobs: list[str] = []
    with a_pair() as (one, other):
        one.start_daemon()
        start_standby(other)
        owner, follower = one, other
        for number in range(count):
            jobs += [one.insert(counted_job(one)) for _ in range(JOBS_A_TAKEOVER)]
            time.sleep(chance.uniform(0, 3))
            how = "stall" if number % 3 == 2 else "kill -9"
            took_s[how].append(_takeover(owner, follower, stalls=how == "stall"))
            owner, follower = follower, owner
        ends = {job_id: one.wait_for(job_id)["phase"] for job_id in jobs}
        wait_until(lambda: one.live_machines() == [], what=lambda: "no machine", within_s=END_S)
        twice = doubled(one, len(jobs))
    for how, seconds in took_s.items():
        if seconds:
            name = f"{engine}, {how}, {len(seconds)} takeovers"
            yield Figure(figure=f"{name}: worst", value=max(seconds), unit="s", baseline=BAR_S)
            yield Figure(
                figure=f"{name}: median", value=statistics.median(seconds), unit="s", baseline=BAR_S
            )
    failed = sum(phase != "succeeded" for phase in ends.values())
    name = f"{engine}, {len(jobs)} jobs over {count} takeovers"
    yield Figure(figure=f"{name}: that did not succeed", value=failed, unit="jobs")
    yield Figure(
        figure=f"{name}: that ran twice, and machines too many", value=twice, unit="duplicates"
    )


def _takeover(owner: Installation, follower: Installation, *, stalls: bool) -> float:
    """Seconds; afterwards the old owner stands by."""
    if stalls:
        stop(owner)
    began_s = time.monotonic()
    if not stalls:
        strike(owner, signal.SIGKILL)
    seconds = takeover_s(began_s, follower)
    if stalls:
        strike(owner, signal.SIGCONT)
        wait_until(lambda: is_standby(owner), what=lambda: f"a standby; {owner.log()[-2000:]}")
    else:
        start_standby(owner)
    return seconds
