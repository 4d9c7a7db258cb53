"""Two daemons for one backend: one works, the other takes over in seconds, and nothing happens twice when the first one wakes up."""

from __future__ import annotations

import signal
import time

import pytest

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

TAKEOVER_S = 15.0
HANDOVER_S = 5.0
"""What is given back need not be waited for."""


def insert(site: Installation, count: int) -> list[str]:
    """Jobs that come one after the other, so that the strike hits some in each phase."""
    return [site.insert(counted_job(site)) for _ in range(count)]


@pytest.mark.timeout(180)
def test_a_standby_takes_over_from_the_dead_the_stalled_and_the_stopped() -> None:
    """After kill -9 and after SIGSTOP the other daemon serves within 15 s, after SIGTERM at once; who wakes stands by; each job runs
    once, on one machine.
    """
    with a_pair() as (one, other):
        one.start_daemon()
        start_standby(other)
        jobs = insert(one, 4)
        one.wait_for(jobs[0], "booting", "running", "succeeded")
        struck_s = time.monotonic()
        strike(one, signal.SIGKILL)
        jobs += insert(one, 2)
        assert takeover_s(struck_s, other) <= TAKEOVER_S

        start_standby(one)
        jobs += insert(one, 2)
        one.wait_for(jobs[-1], "launching", "booting", "running", "succeeded")
        stop(other)
        struck_s = time.monotonic()
        jobs += insert(one, 2)
        assert takeover_s(struck_s, one) <= TAKEOVER_S
        strike(other, signal.SIGCONT)
        wait_until(lambda: is_standby(other), what=lambda: f"a standby; {other.log()[-2000:]}")

        ends = [one.wait_for(job_id)["phase"] for job_id in jobs]
        assert ends == ["succeeded"] * len(jobs)
        wait_until(lambda: one.live_machines() == [], what=lambda: "no machine")
        assert doubled(one, len(jobs)) == 0
        assert "lease_lost" in other.log()

        struck_s = time.monotonic()
        assert one.end_daemon(signal.SIGTERM) == 0
        assert takeover_s(struck_s, other) <= HANDOVER_S
