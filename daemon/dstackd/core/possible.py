"""What could never be admitted, however little else is running. Law: a function of the job, the offering and what is allowed.

A planner takes such offerings out before it looks for one that is open: a dearer machine than the budget
allows must not stand in the way of a cheaper one that is out of capacity for a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dstackd.core.bounds import Bounds
from dstackd.core.budget import (
    allowed,
    exceeds,
    text_of_never,
    text_of_over_budget,
    worst_case_s,
    worst_case_usd,
)
from dstackd.core.job import Job
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.core.scheduling import Candidate
from dstackd.core.waiting import Wait

NEVER_RETRY_S = 300.0
"""As things are the job cannot start at all; a spot price may fall."""


def possible_offerings(
    job: Job, offerings: Sequence[Offering], *, spent_usd: float, bounds: Bounds, limits: Limits
) -> tuple[tuple[Offering, ...], Wait | None]:
    """Those that the job could be admitted with, in their order; and where there were some and none is left, why.

    `spent_usd`: what the job's earlier attempts have cost.
    """
    vcpus_max = min((vcpus for _, vcpus in bounds.vcpus_of(job.project)), default=math.inf)
    worst_max_usd = min((day.usd for day in bounds.budgets_of(job.project)), default=math.inf)
    if job.spec.budget is not None:
        worst_max_usd = min(worst_max_usd, job.spec.budget - spent_usd)
    if math.isinf(vcpus_max) and math.isinf(worst_max_usd):
        return tuple(offerings), None
    price_max_usd_h = math.inf
    if not math.isinf(worst_max_usd):
        longest_s = worst_case_s(job.spec, limits=limits)
        price_max_usd_h = -1.0 if longest_s is None else allowed(worst_max_usd) * 3600 / longest_s
    possible = tuple(
        offering
        for offering in offerings
        if offering.price_usd_h <= price_max_usd_h and offering.vcpus <= vcpus_max
    )
    if possible or not offerings:
        return possible, None
    cheapest = min(offerings, key=lambda offering: offering.price_usd_h)
    return (), impossible(Candidate(job, cheapest, spent_usd), bounds=bounds, limits=limits)


def impossible(candidate: Candidate, *, bounds: Bounds, limits: Limits) -> Wait | None:
    """Why the candidate could not have its offering even if nothing else were running; None: it could.

    A job that cannot keep its own budget fails: its spec is fixed. What the operator has set may be raised,
    so a job that only that keeps back waits.
    """
    job, offering = candidate.job, candidate.offering
    worst_usd = worst_case_usd(job.spec, price_usd_h=offering.price_usd_h, limits=limits)
    own_budget_usd = job.spec.budget
    if own_budget_usd is not None and (
        worst_usd is None or exceeds(worst_usd, own_budget_usd - candidate.spent_usd)
    ):
        message = text_of_over_budget(
            budget_usd=own_budget_usd,
            spent_usd=candidate.spent_usd,
            worst_usd=worst_usd,
            machine=f"{offering.instance_type} ({offering.market})",
        )
        return Wait(Phase.FAILED, Reason.BUDGET_EXHAUSTED, message)
    for name, vcpus in bounds.vcpus_of(job.project):
        if offering.vcpus > vcpus:
            message = (
                f"{offering.instance_type} has {offering.vcpus} vCPUs and {name} is {vcpus}; "
                "ask for fewer cpu, or have the bound raised"
            )
            return Wait(None, Reason.LIMIT_REACHED, message, retry_s=NEVER_RETRY_S)
    for day in bounds.budgets_of(job.project):
        if worst_usd is None or exceeds(worst_usd, day.usd):
            message = text_of_never(day.name, budget_usd=day.usd, worst_usd=worst_usd)
            return Wait(None, Reason.BUDGET_EXHAUSTED, message, retry_s=NEVER_RETRY_S)
    return None
