"""What an attempt's end means for its job."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict, Unpack

import pytest

from dstackd.core.limits import Limits
from dstackd.core.phase import Outcome, Phase, Reason
from dstackd.core.retry import Verdict, conclude
from dstackd.errors import InvariantError
from dstackd.spec.model import JobSpec, RetryCause, RetryPolicy
from tests.builders import NOW_MS, JobFields, a_job, an_attempt

INTERRUPTION, ERROR = RetryCause.INTERRUPTION, RetryCause.ERROR


def verdict(
    outcome: Outcome | None,
    *,
    retry: RetryPolicy | None = None,
    exit_code: int | None = None,
    **job: Unpack[JobFields],
) -> Verdict:
    """The verdict on a job that ran once, by default with the default policy."""
    spec = JobSpec(commands=("true",), retry=retry or RetryPolicy())
    return conclude(
        replace(a_job(**job), spec=spec),
        an_attempt(outcome=outcome, exit_code=exit_code, started_at_ms=NOW_MS - 1000),
        limits=Limits(),
        now_ms=NOW_MS,
    )


class PolicyFields(TypedDict, total=False):
    """Fields of `RetryPolicy`."""

    max_attempts: int
    within_s: int | None
    exit_codes: tuple[int, ...] | None


def retries(*causes: RetryCause, **fields: Unpack[PolicyFields]) -> RetryPolicy:
    """A policy for these causes."""
    return RetryPolicy(on=frozenset(causes), **fields)


@pytest.mark.parametrize(
    ("outcome", "exit_code", "retry", "phase", "reason"),
    [
        (Outcome.EXITED, 0, retries(ERROR), Phase.SUCCEEDED, Reason.EXITED),
        (Outcome.EXITED, 1, None, Phase.FAILED, Reason.EXITED),
        (Outcome.EXITED, 1, retries(ERROR), Phase.QUEUED, Reason.RETRY),
        (Outcome.EXITED, 1, retries(ERROR, exit_codes=(1, 2)), Phase.QUEUED, Reason.RETRY),
        (Outcome.EXITED, 3, retries(ERROR, exit_codes=(1, 2)), Phase.FAILED, Reason.EXITED),
        (Outcome.EXITED, 1, retries(ERROR, max_attempts=1), Phase.FAILED, Reason.RETRIES_EXHAUSTED),
        (Outcome.EXITED, 1, retries(ERROR, within_s=60), Phase.FAILED, Reason.RETRIES_EXHAUSTED),
        (Outcome.EXITED, 1, retries(ERROR, within_s=600), Phase.QUEUED, Reason.RETRY),
        (Outcome.INTERRUPTED, None, None, Phase.QUEUED, Reason.RETRY),
        (Outcome.INTERRUPTED, 143, retries(ERROR), Phase.FAILED, Reason.INTERRUPTED),
        (Outcome.LOST, None, None, Phase.QUEUED, Reason.RETRY),
        (Outcome.LOST, None, retries(), Phase.FAILED, Reason.MACHINE_LOST),
        (Outcome.BOOT_TIMEOUT, None, None, Phase.QUEUED, Reason.RETRY),
        (Outcome.BOOT_FAILED, None, retries(), Phase.QUEUED, Reason.RETRY),
        (Outcome.TIMED_OUT, 143, retries(ERROR, INTERRUPTION), Phase.FAILED, Reason.TIMED_OUT),
        (Outcome.CANCELLED, 143, None, Phase.CANCELLED, Reason.CANCEL_REQUESTED),
    ],
)
def test_the_table(
    outcome: Outcome, exit_code: int | None, retry: RetryPolicy | None, phase: Phase, reason: Reason
) -> None:
    """Outcome, exit code and policy decide; the message says why."""
    result = verdict(outcome, exit_code=exit_code, retry=retry)
    assert (result.phase, result.reason) == (phase, reason)
    assert result.message


def test_machines_that_do_not_boot_are_bounded_by_themselves() -> None:
    """They do not count as attempts, so the third in a row ends the job."""
    assert verdict(Outcome.BOOT_TIMEOUT, boot_failures=1, ran_attempts=99).phase is Phase.QUEUED
    result = verdict(Outcome.BOOT_TIMEOUT, boot_failures=2, ran_attempts=0)
    assert (result.phase, result.reason) == (Phase.FAILED, Reason.RETRIES_EXHAUSTED)


@pytest.mark.parametrize("reused", [False, True])
def test_what_no_machine_can_mend_costs_one(reused: bool) -> None:
    """The first machine's word is enough, on an idle machine too; a cancel stays a cancel."""
    attempt = an_attempt(
        outcome=Outcome.BOOT_FAILED,
        failed_stage="image",
        failed_message="cannot pull x: manifest unknown",
        failed_final=True,
        reused=reused,
    )
    result = conclude(a_job(boot_failures=0), attempt, limits=Limits(), now_ms=NOW_MS)
    assert (result.phase, result.reason) == (Phase.FAILED, Reason.MACHINE_FAILED)
    assert result.message.startswith("image: cannot pull x: manifest unknown; another machine")
    cancelled = conclude(a_job(cancel_requested=True), attempt, limits=Limits(), now_ms=NOW_MS)
    assert cancelled.phase is Phase.CANCELLED


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.LOST, Outcome.BOOT_FAILED])
def test_what_was_cancelled_is_not_tried_again(outcome: Outcome) -> None:
    """A cancel beats every retry."""
    assert verdict(outcome, cancel_requested=True).phase is Phase.CANCELLED


def test_an_attempt_without_an_outcome_is_a_bug_of_ours() -> None:
    """Nothing leaves terminating without saying how the attempt ended."""
    with pytest.raises(InvariantError):
        verdict(None)


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.INTERRUPTED])
def test_machines_that_never_start_the_commands_are_bounded(outcome: Outcome) -> None:
    """However a machine goes before the first command, after boot_failures_max in a row no other is paid for."""
    attempt = an_attempt(outcome=outcome)
    limits = Limits()
    phases = [
        conclude(a_job(boot_failures=failures), attempt, limits=limits, now_ms=NOW_MS).phase
        for failures in range(limits.boot_failures_max + 1)
    ]
    assert phases == [Phase.QUEUED, Phase.QUEUED, Phase.FAILED, Phase.FAILED]
