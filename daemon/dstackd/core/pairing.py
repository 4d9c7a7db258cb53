"""Which jobs get the idle machines that there are. Law: pure; no machine is promised twice, and first come is first served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dstackd.core.bounds import Bounds
from dstackd.core.job import Job
from dstackd.core.limits import Limits
from dstackd.core.possible import impossible
from dstackd.core.reuse import IdleMachine, best, fits
from dstackd.core.scheduling import Candidate


def pair(
    jobs: Iterable[Job],
    machines: Iterable[IdleMachine],
    *,
    bounds: Bounds,
    limits: Limits,
    now_ms: int,
) -> tuple[list[Candidate], list[Job]]:
    """(jobs with the idle machines that they get, jobs that need one of their own), each in the order given."""
    left = {machine.instance_id: machine for machine in machines}
    found: list[Candidate] = []
    rest: list[Job] = []
    for job in jobs:
        fitting = [
            machine
            for machine in left.values()
            if fits(job, machine, now_ms=now_ms)
            and impossible(candidate_for(job, machine), bounds=bounds, limits=limits) is None
        ]
        machine = best(fitting)
        if machine is None:
            rest.append(job)
            continue
        del left[machine.instance_id]
        found.append(candidate_for(job, machine))
    return found, rest


def candidate_for(job: Job, machine: IdleMachine) -> Candidate:
    """The job with the machine that it would get."""
    return Candidate(job, machine.offering, job.spent_usd, machine)


def due(jobs: Sequence[Job], *, now_ms: int) -> list[Job]:
    """Those whose time to be looked at has come."""
    return [job for job in jobs if job.next_visit_at_ms <= now_ms]
