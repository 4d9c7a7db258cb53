"""What an attempt's end means for its job. Law: only what ran counts against `retry.max_attempts`; no machine is paid
for to find out what the last one has found out for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.ending import ending_text
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.phase import Outcome, Phase, Reason
from dstackd.errors import InvariantError
from dstackd.spec.model import RetryCause


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the job goes after an attempt: back to the queue, or to its end."""

    phase: Phase
    reason: Reason
    message: str


_CAUSE = {
    Outcome.INTERRUPTED: RetryCause.INTERRUPTION,
    Outcome.LOST: RetryCause.INTERRUPTION,
    Outcome.EXITED: RetryCause.ERROR,
}

_REASON = {
    Outcome.INTERRUPTED: Reason.INTERRUPTED,
    Outcome.LOST: Reason.MACHINE_LOST,
    Outcome.EXITED: Reason.EXITED,
}


def conclude(job: Job, attempt: Attempt, *, limits: Limits, now_ms: int) -> Verdict:
    """The verdict once the attempt's machine is gone."""
    match attempt.outcome:
        case Outcome.EXITED if attempt.exit_code == 0:
            return Verdict(Phase.SUCCEEDED, Reason.EXITED, "exit code 0")
        case Outcome.INTERRUPTED | Outcome.LOST if attempt.started_at_ms is None:
            return _boot_again_or_fail(job, attempt, limits=limits)
        case Outcome.EXITED | Outcome.INTERRUPTED | Outcome.LOST:
            return _retry_or_fail(job, attempt, attempt.outcome, now_ms=now_ms)
        case None:
            message = f"job {job.id} leaves terminating without an outcome"
            raise InvariantError(message)
        case Outcome.BOOT_TIMEOUT | Outcome.BOOT_FAILED | Outcome.NO_CAPACITY:
            return _boot_again_or_fail(job, attempt, limits=limits)
        case Outcome.TIMED_OUT:
            message = f"stopped after max_duration of {job.spec.max_duration_s} s"
            return Verdict(Phase.FAILED, Reason.TIMED_OUT, message)
        case Outcome.CANCELLED:
            return Verdict(Phase.CANCELLED, Reason.CANCEL_REQUESTED, "stopped on request")


def _retry_or_fail(job: Job, attempt: Attempt, outcome: Outcome, *, now_ms: int) -> Verdict:
    what = _what_happened(attempt, outcome)
    if job.cancel_requested:
        return Verdict(Phase.CANCELLED, Reason.CANCEL_REQUESTED, f"cancelled; {what}")
    retry = job.spec.retry
    if _CAUSE[outcome] not in retry.on or (
        outcome is Outcome.EXITED and retry.exit_codes and attempt.exit_code not in retry.exit_codes
    ):
        return Verdict(Phase.FAILED, _REASON[outcome], what)
    if job.ran_attempts >= retry.max_attempts:
        message = f"{what}; {job.ran_attempts} of {retry.max_attempts} attempts have run"
        return Verdict(Phase.FAILED, Reason.RETRIES_EXHAUSTED, message)
    if retry.within_s is not None and now_ms > job.submitted_at_ms + retry.within_s * 1000:
        message = f"{what}; retry.within of {retry.within_s} s is over"
        return Verdict(Phase.FAILED, Reason.RETRIES_EXHAUSTED, message)
    return Verdict(Phase.QUEUED, Reason.RETRY, f"{what}; another attempt follows")


def _what_happened(attempt: Attempt, outcome: Outcome) -> str:
    if outcome is Outcome.EXITED:
        return ending_text(attempt)
    if attempt.failed_stage:
        return f"attempt {outcome} ({attempt.failed_stage}: {attempt.failed_message})"
    return f"attempt {outcome}"


def _boot_again_or_fail(job: Job, attempt: Attempt, *, limits: Limits) -> Verdict:
    what = (
        f"{attempt.failed_stage}: {attempt.failed_message}"
        if attempt.failed_stage
        else f"no command had started ({attempt.outcome})"
    )
    if job.cancel_requested:
        return Verdict(Phase.CANCELLED, Reason.CANCEL_REQUESTED, f"cancelled; {what}")
    if attempt.failed_final:
        message = f"{what}; another machine would not change that"
        return Verdict(Phase.FAILED, Reason.MACHINE_FAILED, message)
    if (
        attempt.reused
    ):  # an idle machine that goes is nobody's failure; the next one is the job's own
        return Verdict(Phase.QUEUED, Reason.RETRY, f"{what}; a machine of its own follows")
    if job.boot_failures + 1 >= limits.boot_failures_max:
        message = f"{what}; {limits.boot_failures_max} machines in a row did not start the commands"
        return Verdict(Phase.FAILED, Reason.RETRIES_EXHAUSTED, message)
    return Verdict(Phase.QUEUED, Reason.RETRY, f"{what}; another machine follows")
