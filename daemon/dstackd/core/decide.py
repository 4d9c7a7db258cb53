"""What happens next to a job that has a machine. Law: a function of (job, attempt, seen, limits, now), nothing else.

Order inside each phase is priority: what the machine itself reported comes first, then what EC2 shows, then what
people want, then our own bounds. Nothing destructive follows from Unknown alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dstackd.core.action import Action, RequestStop, Terminate
from dstackd.core.ending import ending_text
from dstackd.core.instance import Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.leaving import has_its_log, is_to_be_asked
from dstackd.core.limits import Limits, past
from dstackd.core.phase import Outcome, Phase, Reason
from dstackd.core.retry import conclude
from dstackd.errors import InvariantError


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step of one job.

    `phase` None: stay; the next snapshot or the next report brings the next look. `outcome` is written on the
    attempt, `exit_code` on the job. `actions` are carried out after the rest is committed.
    """

    phase: Phase | None = None
    reason: Reason | None = None
    message: str = ""
    outcome: Outcome | None = None
    exit_code: int | None = None
    actions: tuple[Action, ...] = ()


STAY = Decision()

_HAS_EXIT_CODE = frozenset({Outcome.EXITED, Outcome.TIMED_OUT, Outcome.CANCELLED})
"""An attempt that was interrupted or lost has no exit code, whatever its machine still said."""

_OUTCOME_OF_CAUSE = {
    "exit": Outcome.EXITED,
    "oom": Outcome.EXITED,
    "stopped": Outcome.CANCELLED,
    "timed_out": Outcome.TIMED_OUT,
    "interrupted": Outcome.INTERRUPTED,
    "silence": Outcome.LOST,
}


def decide(
    job: Job, attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Decision:
    """The next step of a job in a phase with a machine (`HAS_MACHINE`)."""
    match job.phase:
        case Phase.BOOTING:
            return _booting(job, attempt, seen, limits=limits, now_ms=now_ms)
        case Phase.RUNNING:
            return _running(job, attempt, seen, limits=limits, now_ms=now_ms)
        case Phase.SEALING:
            return _sealing(job, attempt, seen, limits=limits, now_ms=now_ms)
        case Phase.TERMINATING:
            return _terminating(job, attempt, seen, limits=limits, now_ms=now_ms)
        case _:
            message = f"job {job.id} has no machine in phase {job.phase}"
            raise InvariantError(message)


def _booting(
    job: Job, attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Decision:
    if attempt.exited_at_ms is not None:
        return _to_sealing(attempt)
    if attempt.started_at_ms is not None:  # also when the machine has failed since: what ran counts
        return Decision(Phase.RUNNING, Reason.STARTED, f"commands started on {attempt.instance_id}")
    if attempt.failed_stage:
        return _end(
            attempt,
            Outcome.BOOT_FAILED,
            Reason.MACHINE_FAILED,
            f"{attempt.failed_stage}: {attempt.failed_message}",
        )
    ended = _ended_by_machine(attempt, seen, limits=limits, now_ms=now_ms)
    if ended is not None:
        return ended
    if job.cancel_requested:
        return _end(attempt, Outcome.CANCELLED, Reason.CANCEL_REQUESTED, "cancelled while booting")
    late = _not_up(attempt, limits=limits, now_ms=now_ms)
    return STAY if late is None else _end(attempt, Outcome.BOOT_TIMEOUT, Reason.BOOT_TIMEOUT, late)


def _not_up(attempt: Attempt, *, limits: Limits, now_ms: int) -> str | None:
    """Which bound of a machine whose commands have not begun is over, in words; None: none is."""
    launched_ms, booted_ms = attempt.launched_at_ms, attempt.booted_at_ms
    if booted_ms is not None:
        if past(now_ms, booted_ms, limits.prepare_timeout_s):
            prepared_s = limits.prepare_timeout_s
            return f"inputs or image were not ready {prepared_s:.0f} s after the machine came up"
        if _is_silent(attempt, booted_ms, limits=limits, now_ms=now_ms):
            return f"no heartbeat for {limits.heartbeat_timeout_s:.0f} s"
        return None
    if attempt.reused:
        if past(now_ms, launched_ms, limits.take_timeout_s):
            return f"the idle machine did not take the job within {limits.take_timeout_s:.0f} s"
        return None
    if past(now_ms, launched_ms, limits.boot_timeout_s):
        return f"the machine had not come up {limits.boot_timeout_s:.0f} s after the launch"
    return None


def _running(
    job: Job, attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Decision:
    if attempt.exited_at_ms is not None:
        return _to_sealing(attempt)
    if attempt.failed_stage:
        message = f"{attempt.failed_stage}: {attempt.failed_message}"
        return _end(attempt, Outcome.LOST, Reason.MACHINE_FAILED, message)
    ended = _ended_by_machine(attempt, seen, limits=limits, now_ms=now_ms)
    if ended is not None:
        return ended
    overdue = _overdue(job, attempt, limits=limits, now_ms=now_ms)
    if overdue is not None:
        return overdue
    return _stopping(job, attempt, limits=limits, now_ms=now_ms) if job.cancel_requested else STAY


def _overdue(job: Job, attempt: Attempt, *, limits: Limits, now_ms: int) -> Decision | None:
    """Our bounds on a running machine, for when the machine does not keep them itself."""
    started_at_ms = attempt.started_at_ms or attempt.launched_at_ms
    duration_s = job.spec.max_duration_s
    if duration_s is not None and past(
        now_ms, started_at_ms, duration_s + job.spec.stop_grace_s + limits.duration_margin_s
    ):
        message = f"still running {limits.duration_margin_s:.0f} s after max_duration"
        return _end(attempt, Outcome.TIMED_OUT, Reason.TIMED_OUT, message)
    if _is_silent(attempt, started_at_ms, limits=limits, now_ms=now_ms):
        message = f"no heartbeat for {limits.heartbeat_timeout_s:.0f} s"
        return _end(attempt, Outcome.LOST, Reason.MACHINE_LOST, message)
    return None


def _is_silent(attempt: Attempt, since_ms: int, *, limits: Limits, now_ms: int) -> bool:
    """Whether the machine gives no sign of life; when nobody has looked, that proves nothing."""
    if attempt.heartbeat_at_ms is None:
        return False
    return past(now_ms, max(attempt.heartbeat_at_ms, since_ms), limits.heartbeat_timeout_s)


def _stopping(job: Job, attempt: Attempt, *, limits: Limits, now_ms: int) -> Decision:
    """A cancel: the runner gets the spec's grace and a margin, then the machine goes."""
    if attempt.stop_requested_at_ms is None:
        return Decision(actions=(RequestStop(attempt.instance_id, Reason.CANCEL_REQUESTED),))
    bound_s = job.spec.stop_grace_s + limits.stop_margin_s
    if past(now_ms, attempt.stop_requested_at_ms, bound_s):
        message = f"the machine did not stop the job within {bound_s:.0f} s"
        return _end(attempt, Outcome.CANCELLED, Reason.CANCEL_REQUESTED, message)
    return STAY


def _sealing(
    job: Job, attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Decision:
    outcome = _OUTCOME_OF_CAUSE.get(attempt.exit_cause, Outcome.EXITED)
    if attempt.done_at_ms is not None:
        return _after_last_word(job, attempt, outcome, limits=limits, now_ms=now_ms)
    if seen.over or seen.seen in {Seen.LEAVING, Seen.STOPPED}:
        message = (
            "the machine went away before its last word; artifacts or log lines may be missing"
        )
        return _end(attempt, outcome, Reason.MACHINE_LOST, message)
    if _is_silent(attempt, job.phase_since_ms, limits=limits, now_ms=now_ms):
        message = f"no last word, and no heartbeat for {limits.heartbeat_timeout_s:.0f} s"
        return _end(attempt, outcome, Reason.MACHINE_LOST, message)
    if past(now_ms, job.phase_since_ms, limits.seal_timeout_s):
        message = f"no last word {limits.seal_timeout_s:.0f} s after the exit"
        return _end(attempt, outcome, Reason.SEAL_TIMEOUT, message)
    return STAY


def _after_last_word(
    job: Job, attempt: Attempt, outcome: Outcome, *, limits: Limits, now_ms: int
) -> Decision:
    """Nothing of the attempt runs any more, so another one does not wait until EC2 shows the machine gone."""
    if attempt.released_at_ms is not None:
        return _after_release(job, attempt, outcome, limits=limits, now_ms=now_ms)
    verdict = conclude(job, replace(attempt, outcome=outcome), limits=limits, now_ms=now_ms)
    if verdict.phase is Phase.QUEUED:
        ended = _end(attempt, outcome, verdict.reason, verdict.message)
        return replace(ended, phase=Phase.QUEUED)
    message = f"artifacts: {attempt.seal_verdict or 'none declared'}"
    return _end(attempt, outcome, Reason.SEALED, message)


def _after_release(
    job: Job, attempt: Attempt, outcome: Outcome, *, limits: Limits, now_ms: int
) -> Decision:
    """The machine waits for another job, or runs it already: what becomes of it is not this job's affair any more."""
    since_ms = attempt.released_at_ms or now_ms
    judged = replace(attempt, outcome=outcome)
    over = _over(job, judged, since_ms=since_ms, limits=limits, now_ms=now_ms)
    return STAY if over is STAY else replace(over, outcome=outcome)


def _terminating(
    job: Job, attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Decision:
    if attempt.released_at_ms is None and not seen.over:
        asks = is_to_be_asked(attempt, seen, limits=limits, now_ms=now_ms)
        return Decision(actions=(Terminate(attempt.instance_id),)) if asks else STAY
    return _over(job, attempt, since_ms=job.phase_since_ms, limits=limits, now_ms=now_ms)


def _over(job: Job, attempt: Attempt, *, since_ms: int, limits: Limits, now_ms: int) -> Decision:
    """The attempt has no machine any more: what follows, once its log is there; that is waited for from `since_ms` on."""
    if not has_its_log(attempt, since_ms=since_ms, limits=limits, now_ms=now_ms):
        return STAY
    verdict = conclude(job, attempt, limits=limits, now_ms=now_ms)
    if verdict.phase is Phase.QUEUED:
        return Decision(verdict.phase, verdict.reason, verdict.message)
    if job.leaving:  # the end of a job is the end of all its machines
        return STAY
    exit_code = attempt.exit_code if attempt.outcome in _HAS_EXIT_CODE else None
    return Decision(verdict.phase, verdict.reason, verdict.message, exit_code=exit_code)


def _ended_by_machine(
    attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Decision | None:
    """The machine is gone, stopped, or was given notice and has fallen silent.

    One that is still leaving may be sealing: its last word counts, and it is waited for until EC2 shows it gone.
    """
    if seen.over or seen.seen is Seen.STOPPED:
        if seen.reclaimed or attempt.notice_at_ms is not None:
            message = f"EC2 took {attempt.instance_id} back"
            return _end(attempt, Outcome.INTERRUPTED, Reason.INTERRUPTED, message)
        why = seen.state_reason or f"EC2 shows it {seen.seen}"
        message = f"{attempt.instance_id} is gone without a last word: {why}"
        return _end(attempt, Outcome.LOST, Reason.MACHINE_LOST, message)
    if attempt.notice_at_ms is not None and past(
        now_ms, attempt.notice_at_ms, limits.notice_grace_s
    ):
        message = f"spot notice, then silence for {limits.notice_grace_s:.0f} s"
        return _end(attempt, Outcome.INTERRUPTED, Reason.INTERRUPTED, message)
    return None


def _to_sealing(attempt: Attempt) -> Decision:
    return Decision(Phase.SEALING, Reason.EXITED, ending_text(attempt))


def _end(attempt: Attempt, outcome: Outcome, reason: Reason, message: str) -> Decision:
    return Decision(
        Phase.TERMINATING,
        reason,
        message,
        outcome=outcome,
        actions=(Terminate(attempt.instance_id),),
    )
