"""Which waiting job an idle machine takes. Law: pure; a machine fits only a job for which it would have been launched.

Both have asked for it: the job whose machine waits, and the job that takes it. Who has not gets a machine of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dstackd.core.avoidance import avoided, pool
from dstackd.core.instance import Market
from dstackd.core.job import Job
from dstackd.core.offering import Offering
from dstackd.spec.model import JobSpec, Permissions

SEAL_S = 300.0
"""What a job needs of its machine's lifetime beside its own duration and grace: inputs, artifacts, logs."""
NEARLY_ALL = 0.9
"""Of its machine's lifetime: what has to be left for a job without a bound of its own."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """After which a machine ends itself, whatever runs."""

    began_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class IdleMachine:
    """A machine that waits for another job."""

    instance_id: str
    backend: str
    number: int
    """Of the decision about it: see `protocol.reuse_key`."""
    shape: tuple[object, ...]
    """Of the job that it ran last, and so of the one that it was launched for."""
    instance_type: str
    zone: str
    market: Market
    price_usd_h: float
    vcpus: int
    until_ms: int
    lifetime: Lifetime | None = None
    """None: nobody has told it to end itself."""

    @property
    def offering(self) -> Offering:
        """What a job gets with it, for whoever judges money and room."""
        return Offering(
            instance_type=self.instance_type,
            subnet_id="",
            zone=self.zone,
            market=self.market,
            architecture="",
            price_usd_h=self.price_usd_h,
            vcpus=self.vcpus,
        )


def shape_of_machine(spec: JobSpec, project: str) -> tuple[object, ...]:
    """Equal where a machine that was launched for one job would do for the other."""
    return (
        spec.resources,
        spec.instance_types,
        spec.spot_policy,
        spec.max_price,
        spec.image is not None,
        project,
    )


def fits(job: Job, machine: IdleMachine, *, now_ms: int) -> bool:
    """Whether the job may run on the machine now. Its budget is not judged here."""
    return not why_unfit(job, machine, now_ms=now_ms)


def why_unfit(job: Job, machine: IdleMachine, *, now_ms: int) -> str:
    """The first thing that keeps the job from the machine; empty: it fits."""
    spec, avoidance = job.spec, avoided(job)
    if spec.reuse_s is None:
        return "the job does not ask for one (`reuse` in its spec)"
    if spec.permissions is not Permissions.JOB:
        return f"the job has permissions: {spec.permissions}"
    if job.needs_own_machine:
        return "the last idle machine did not start the job, so it gets one of its own"
    if machine.shape != shape_of_machine(spec, job.project):
        return "it was launched for another project or other resources"
    if now_ms >= machine.until_ms:
        return "its time is over"
    if spec.max_price is not None and machine.price_usd_h > spec.max_price:
        return f"it costs more than max_price {spec.max_price}"
    if avoidance.on_demand_first and machine.market is Market.SPOT:
        return "it is a spot machine, and EC2 has taken those from the job"
    if pool(machine.instance_type, machine.zone, machine.market) == avoidance.reclaimed:
        return "EC2 has just taken such a machine from the job"
    long_enough = _lives_long_enough(spec, machine, now_ms=now_ms)
    return "" if long_enough else "it ends itself before the job would have to be done"


def _lives_long_enough(spec: JobSpec, machine: IdleMachine, *, now_ms: int) -> bool:
    lifetime = machine.lifetime
    if lifetime is None:
        return True
    left_s = (lifetime.ends_ms - now_ms) / 1000
    if (
        spec.max_duration_s is None
    ):  # a new machine would not give it all the time in the world either
        return left_s >= NEARLY_ALL * (lifetime.ends_ms - lifetime.began_ms) / 1000
    return left_s >= spec.max_duration_s + spec.stop_grace_s + SEAL_S


def best(fitting: Sequence[IdleMachine]) -> IdleMachine | None:
    """The cheapest; among equals the one whose time is over first."""
    return min(
        fitting, key=lambda each: (each.price_usd_h, each.until_ms, each.instance_id), default=None
    )
