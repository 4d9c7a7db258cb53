"""EC2 takes a machine back: the next attempt is on its way before the old machine is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.end_to_end.hostility import attempt_of, wait_for_attempt
from tests.end_to_end.installation import Installation, wait_until

WORKS_ONCE_TAKEN = (
    "[ $DSTACKD_ATTEMPT = 1 ] || { echo again; exit 0; }",
    "trap 'sleep 2; echo half > checkpoint; exit 1' TERM",
    "echo up",
    "sleep 300 & wait",
)


@contextmanager
def held(site: Installation, instance_id: str) -> Iterator[None]:
    """The machine does not end meanwhile, whatever it and the cloud have been told: its player stands still."""
    pid = site.cloud.control.machine(instance_id)["pid"]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(120)
def test_the_next_attempt_does_not_wait_for_the_old_machine(site: Installation) -> None:
    """The old machine has said its last word and is still there: the new one is launched, and runs."""
    job_id = site.insert(
        {
            "commands": list(WORKS_ONCE_TAKEN),
            "artifacts": ["checkpoint"],
            "spot_policy": "spot",
            "retry": {"on": ["interruption"], "max_attempts": 2},
        }
    )
    site.wait_for(job_id, "running")
    wait_until(lambda: "up" in site.run("logs", job_id), what=lambda: "the first line")
    old = str(attempt_of(site, job_id)["instance_id"])
    site.cloud.control.reclaim(old, notice_s=60.0)
    wait_for_attempt(site, job_id, 1, "notice_at_ms")
    with held(site, old):
        wait_for_attempt(site, job_id, 2, "started_at_ms")
        assert site.cloud.control.machine(old)["state"] in {"running", "shutting-down"}
        assert site.job(job_id)["attempt"] == 2
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("succeeded", 0)
    assert attempt_of(site, job_id)["outcome"] == "interrupted"
    assert attempt_of(site, job_id)["seal_verdict"] == "partial"
    assert old not in site.live_machines()
    moves = site.sql(
        "SELECT phase_from, phase_to FROM event WHERE job_id = ? AND attempt = 1 AND phase_to = 'queued'",
        job_id,
    )
    assert moves == [("sealing", "queued")]
    ((cost, ended),) = site.sql(
        "SELECT sum(cost_usd), count(ended_at_ms) FROM attempt WHERE job_id = ?", job_id
    )
    assert ended == 2
    assert site.sql("SELECT cost_usd FROM job WHERE id = ?", job_id)[0][0] == pytest.approx(cost)


@pytest.mark.timeout(120)
def test_a_recommendation_is_told_and_the_job_goes_on(site: Installation) -> None:
    """It is in the history and in `describe`, on the attempt whose machine it is about."""
    go = site.folder / "recommended"
    job_id = site.insert(
        {"commands": [f"while [ ! -e {go} ]; do sleep 0.1; done"], "spot_policy": "spot"}
    )
    site.wait_for(job_id, "running")
    site.cloud.control.rebalance(str(attempt_of(site, job_id)["instance_id"]))
    wait_for_attempt(site, job_id, 1, "rebalance_at_ms")
    go.touch()

    assert site.wait_for(job_id)["phase"] == "succeeded"
    assert "expected to take the machine back" in site.run("describe", job_id)
    events = site.sql("SELECT kind FROM event WHERE job_id = ?", job_id)
    assert ("machine_rebalance",) in events
