"""What a queued job waits for, in words. Law: no job waits without a reason, a time to look again, and what would help."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.job import Job
from dstackd.core.phase import Phase, Reason
from dstackd.core.shortage import utc_text
from dstackd.spec.model import JobSpec, RetryCause, SpotPolicy


@dataclass(frozen=True, slots=True)
class Wait:
    """`phase` None: the job stays queued and is looked at again in `retry_s` (None: when an event wakes it)."""

    phase: Phase | None
    reason: Reason
    message: str
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no offering is open now, and when the first one is again."""

    reason: Reason
    message: str
    until_ms: int


def decide_queued(job: Job, *, now_ms: int) -> Wait | None:
    """What keeps a queued job from being launched, before any offering is looked at; None: nothing does."""
    if job.cancel_requested:
        return Wait(Phase.CANCELLED, Reason.CANCEL_REQUESTED, "cancelled while waiting")
    if job.spec_problem:
        return Wait(
            Phase.FAILED, Reason.BAD_SPEC, f"accepted, but not readable now: {job.spec_problem}"
        )
    if job.lacks_inputs > 0:
        message = f"uploading {job.lacks_inputs} input(s) to the bucket"
        return Wait(None, Reason.STAGING_INPUTS, message)
    within_s = job.spec.retry.within_s
    if (
        within_s is not None
        and job.reason is Reason.NO_CAPACITY
        and now_ms > job.wanted_since_ms + within_s * 1000
    ):
        message = f"retry.within of {within_s} s is over; last: {job.message}"
        return Wait(Phase.FAILED, Reason.RETRIES_EXHAUSTED, message)
    return None


def decide_without_capacity(job: Job, refusal: Refusal, *, now_ms: int) -> Wait:
    """Every offering that fits is blocked: wait for the first to open, or give up if the spec says so."""
    retry_s = max((refusal.until_ms - now_ms) / 1000, 1.0)
    if refusal.reason is not Reason.NO_CAPACITY:
        return Wait(None, refusal.reason, refusal.message, retry_s=retry_s)
    retry = job.spec.retry
    if RetryCause.NO_CAPACITY not in retry.on:
        message = f"{refusal.message}; retry.on does not include no-capacity"
        return Wait(Phase.FAILED, Reason.NO_CAPACITY, message)
    message = f"{refusal.message}; what would help: {what_would_help(job.spec)}"
    if retry.within_s is not None:
        ends_ms = job.wanted_since_ms + retry.within_s * 1000
        message += f"; given up at {utc_text(ends_ms)} (retry.within)"
        retry_s = min(retry_s, max((ends_ms + 1 - now_ms) / 1000, 1.0))
    return Wait(None, refusal.reason, message, retry_s=retry_s)


def while_leaving(job: Job, wait: Wait) -> Wait:
    """A job does not end before all its machines have, nor for want of money that a machine may not need: it waits
    until the machine is gone, which wakes it.
    """
    if wait.phase is None or not job.leaving:
        return wait
    message = f"{wait.message}; first the machine of the attempt before has to be gone"
    return Wait(None, wait.reason, message)


def what_would_help(spec: JobSpec) -> str:
    """What in the spec keeps more offerings out."""
    ways = []
    if spec.spot_policy is not SpotPolicy.AUTO:
        ways.append("spot_policy auto")
    if spec.max_price is not None:
        ways.append("a higher max_price")
    ways.append("more instance_types" if spec.instance_types else "wider resources")
    return ", ".join(ways)
