"""After an interruption: what a job does not ask for again first. Law: an order, never a refusal; the last resort is better than none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dstackd.core.instance import Market
from dstackd.core.job import Job
from dstackd.core.offering import Offering
from dstackd.spec.model import SpotPolicy

ESCALATE_AFTER = 2
"""Interruptions after which an `auto` job asks for on-demand first: a third one would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Avoidance:
    """Equal for jobs that may share a launch."""

    reclaimed: str = ""
    """The pool (see `pool`) that EC2 took back last; it comes last of all."""
    on_demand_first: bool = False


NO_AVOIDANCE = Avoidance()


def pool(instance_type: str, zone: str, market: str) -> str:
    """Machines that EC2 reclaims together: its spot capacity is pooled by type and zone (EC2 User Guide, Spot concepts)."""
    return f"{instance_type}/{zone}/{market}"


def avoided(job: Job) -> Avoidance:
    """What the job's interruptions so far say about its next attempt."""
    escalates = job.spec.spot_policy is SpotPolicy.AUTO and job.interruptions >= ESCALATE_AFTER
    return Avoidance(job.reclaimed, escalates)


def preferring(offerings: Sequence[Offering], avoidance: Avoidance) -> tuple[Offering, ...]:
    """The same offerings with what is to be avoided behind the others."""
    if avoidance == NO_AVOIDANCE:
        return tuple(offerings)

    def distance(offering: Offering) -> tuple[bool, bool]:
        taken = pool(offering.instance_type, offering.zone, offering.market) == avoidance.reclaimed
        return taken, avoidance.on_demand_first and offering.market is Market.SPOT

    return tuple(sorted(offerings, key=distance))
