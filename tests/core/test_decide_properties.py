"""What holds for every job, attempt, observation and time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.action import RequestStop, Terminate
from dstackd.core.decide import Decision, decide
from dstackd.core.instance import Market, Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.phase import HAS_MACHINE, TERMINAL, TRANSITIONS, Outcome, Phase, Reason
from dstackd.spec.model import JobSpec, RetryCause, RetryPolicy
from tests.builders import NOW_MS, a_job

LIMITS = Limits()

moments = st.integers(NOW_MS - 8_000_000, NOW_MS + 1000)
maybe = st.none() | moments
texts = st.sampled_from(["", "exit", "stopped", "timed_out", "interrupted", "silence", "nonsense"])
counts = st.integers(0, 6)
policies = st.builds(
    RetryPolicy,
    on=st.frozensets(st.sampled_from(RetryCause)),
    max_attempts=st.integers(1, 5),
    within_s=st.none() | st.integers(0, 10_000),
    exit_codes=st.none() | st.tuples(st.integers(0, 3)),
)
specs = st.builds(
    JobSpec,
    commands=st.just(("true",)),
    retry=policies,
    max_duration_s=st.none() | st.integers(1, 5000),
    stop_grace_s=st.integers(0, 600),
)
jobs = st.builds(
    Job,
    id=st.just("job-1"),
    seq=st.just(1),
    spec=specs,
    phase=st.sampled_from(sorted(HAS_MACHINE)),
    reason=st.none() | st.sampled_from(Reason),
    version=counts,
    priority=counts,
    project=st.just("main"),
    attempt=st.integers(1, 6),
    ran_attempts=counts,
    boot_failures=counts,
    cancel_requested=st.booleans(),
    submitted_at_ms=moments,
    phase_since_ms=moments,
    leaving=st.integers(0, 2),
)
attempts = st.builds(
    Attempt,
    job_id=st.just("job-1"),
    number=st.integers(1, 6),
    launch_id=st.just("launch-1"),
    launch_index=st.integers(0, 99),
    instance_id=st.just("i-1"),
    market=st.sampled_from(Market),
    price_usd_h=st.floats(0, 50),
    launched_at_ms=moments,
    outcome=st.sampled_from(Outcome),
    exit_code=st.none() | st.integers(0, 255),
    exit_cause=texts,
    exit_signal=texts,
    booted_at_ms=maybe,
    started_at_ms=maybe,
    notice_at_ms=maybe,
    exited_at_ms=maybe,
    sealed_at_ms=maybe,
    seal_verdict=st.sampled_from(["", "complete", "partial"]),
    done_at_ms=maybe,
    failed_stage=st.sampled_from(["", "document"]),
    failed_message=st.just("why"),
    heartbeat_at_ms=maybe,
    stop_requested_at_ms=maybe,
    terminate_requested_at_ms=maybe,
    log_lines_sent=st.none() | st.integers(0, 3),
    log_lines_seen=st.integers(0, 3),
)
observations = st.builds(
    Observation, st.sampled_from(Seen), st.sampled_from(["", "Server.SpotInstanceTermination"])
)


def next_step(job: Job, attempt: Attempt, seen: Observation) -> Decision:
    """The decision with the default limits."""
    return decide(job, attempt, seen, limits=LIMITS, now_ms=NOW_MS)


def past(since_ms: int | None, bound_s: float) -> bool:
    """Whether a bound of ours is over."""
    return since_ms is not None and since_ms + bound_s * 1000 <= NOW_MS


@given(jobs, attempts, observations)
def test_every_combination_has_a_legal_next_step(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """`decide` never raises, and moves only along the table; a move says why."""
    decision = next_step(job, attempt, seen)
    if decision.phase is not None:
        assert decision.phase in TRANSITIONS[job.phase]
        assert decision.reason is not None
        assert decision.message != ""


@given(jobs, attempts, observations)
def test_an_end_needs_a_machine_that_is_over(job: Job, attempt: Attempt, seen: Observation) -> None:
    """Terminal phases come from terminating only, with every machine of the job seen gone or absent."""
    decision = next_step(job, attempt, seen)
    if decision.phase in TERMINAL:
        assert job.phase is Phase.TERMINATING
        assert seen.over
        assert job.leaving == 0


@given(jobs, attempts, observations)
def test_another_attempt_needs_a_machine_that_runs_nothing(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """At most one attempt of a job runs: the one before is over in EC2's eyes, or by its machine's own last word."""
    decision = next_step(job, attempt, seen)
    if decision.phase is not Phase.QUEUED:
        return
    if job.phase is Phase.SEALING:
        assert attempt.done_at_ms is not None
        assert decision.actions == (Terminate("i-1"),)
    else:
        assert job.phase is Phase.TERMINATING
        assert seen.over


@given(jobs, attempts, observations)
def test_a_last_word_means_the_same_sooner_and_later(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """Whether another attempt follows does not depend on when the machine is seen gone."""
    sealing = replace(job, phase=Phase.SEALING, leaving=0)
    at_once = next_step(sealing, replace(attempt, done_at_ms=NOW_MS, outcome=None), seen)
    assert at_once.outcome is not None
    later = replace(attempt, outcome=at_once.outcome, log_lines_sent=0)
    ends = replace(job, phase=Phase.TERMINATING, leaving=0)
    then = next_step(ends, later, Observation(Seen.GONE))
    assert (at_once.phase is Phase.QUEUED) == (then.phase is Phase.QUEUED)


@given(jobs, attempts)
def test_nothing_destructive_follows_from_unknown(job: Job, attempt: Attempt) -> None:
    """Without a look at EC2, a machine goes only by its own word, by a cancel, or by a bound of ours."""
    decision = next_step(job, attempt, Observation(Seen.UNKNOWN))
    if not any(isinstance(action, Terminate) for action in decision.actions):
        return
    duration_s = job.spec.max_duration_s
    begun_ms = attempt.started_at_ms or attempt.launched_at_ms
    assert (
        job.phase is Phase.TERMINATING
        or attempt.failed_stage
        or attempt.done_at_ms is not None
        or job.cancel_requested
        or past(attempt.notice_at_ms, LIMITS.notice_grace_s)
        or (job.phase is Phase.BOOTING and past(attempt.launched_at_ms, LIMITS.boot_timeout_s))
        or (job.phase is Phase.SEALING and past(job.phase_since_ms, LIMITS.seal_timeout_s))
        or (duration_s is not None and past(begun_ms, duration_s))
        or past(attempt.heartbeat_at_ms, LIMITS.heartbeat_timeout_s)
    )


@given(jobs, attempts, observations)
def test_a_healthy_job_keeps_its_machine(job: Job, attempt: Attempt, seen: Observation) -> None:
    """A running job that nobody cancels, whose machine EC2 shows and which gave a sign of life, is left alone."""
    healthy = (
        job.phase is Phase.RUNNING
        and not job.cancel_requested
        and seen.seen in {Seen.UNKNOWN, Seen.PENDING, Seen.RUNNING}
        and attempt.notice_at_ms is None
        and not attempt.failed_stage
        and not past(attempt.heartbeat_at_ms, LIMITS.heartbeat_timeout_s)
        and job.spec.max_duration_s is None
    )
    if healthy:
        assert next_step(job, attempt, seen).actions == ()


@given(jobs, attempts, observations)
def test_attempts_are_bounded(job: Job, attempt: Attempt, seen: Observation) -> None:
    """What ran as often as allowed is not queued again, nor what never boots, nor what somebody cancelled."""
    decision = next_step(job, attempt, seen)
    if decision.phase is not Phase.QUEUED:
        return
    assert not job.cancel_requested
    outcome = decision.outcome or attempt.outcome
    never_ran = attempt.started_at_ms is None and outcome is not Outcome.EXITED
    if never_ran or outcome in {Outcome.BOOT_FAILED, Outcome.BOOT_TIMEOUT, Outcome.NO_CAPACITY}:
        assert job.boot_failures + 1 < LIMITS.boot_failures_max
    else:
        assert job.ran_attempts < job.spec.retry.max_attempts


@given(jobs, attempts, observations)
def test_an_interruption_is_retried_exactly_when_the_spec_allows(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """Whoever allows retries after interruptions gets one; nobody else does."""
    decision = next_step(job, attempt, seen)
    if attempt.outcome is not Outcome.INTERRUPTED or job.phase is not Phase.TERMINATING:
        return
    if decision.phase is None:
        return
    retry = job.spec.retry
    allowed = (
        RetryCause.INTERRUPTION in retry.on
        and job.ran_attempts < retry.max_attempts
        and not job.cancel_requested
        and (retry.within_s is None or job.submitted_at_ms + retry.within_s * 1000 >= NOW_MS)
    )
    assert (decision.phase is Phase.QUEUED) == allowed


@given(jobs, attempts, observations)
def test_every_end_of_an_attempt_has_an_outcome(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """A job leaves its attempt with an outcome, and with its machine asked to go."""
    decision = next_step(job, attempt, seen)
    leaves = decision.phase is Phase.TERMINATING or (
        decision.phase is Phase.QUEUED and job.phase is Phase.SEALING
    )
    assert leaves == (decision.outcome is not None)
    if leaves:
        assert decision.actions == (Terminate("i-1"),)


@given(jobs, attempts, observations)
def test_a_stop_is_asked_for_once_and_only_on_a_cancel(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """The control object is written for a running job that was cancelled, and not again."""
    for action in next_step(job, attempt, seen).actions:
        if isinstance(action, RequestStop):
            assert job.phase is Phase.RUNNING
            assert job.cancel_requested
            assert attempt.stop_requested_at_ms is None


@given(jobs, attempts, observations)
def test_time_alone_ends_every_wait(job: Job, attempt: Attempt, seen: Observation) -> None:
    """Long enough after everything, no job with a started, silent machine stays where it is without doing anything."""
    later_ms = NOW_MS + 40_000_000
    decision = decide(job, attempt, seen, limits=LIMITS, now_ms=later_ms)
    silent = attempt.heartbeat_at_ms is not None
    leaving = job.phase is Phase.TERMINATING and seen.seen is Seen.LEAVING
    if silent and not leaving and not job.leaving and not a_pending_stop(job, attempt):
        assert decision.phase is not None or decision.actions


def a_pending_stop(job: Job, attempt: Attempt) -> bool:
    """A stop that was asked for in the future of this look: clocks do that."""
    return job.cancel_requested and (attempt.stop_requested_at_ms or 0) > NOW_MS


def test_the_properties_see_every_phase() -> None:
    """The phases with machines are the four that `decide` knows."""
    assert {a_job(phase=phase).phase for phase in HAS_MACHINE} == {
        *(Phase.BOOTING, Phase.RUNNING, Phase.SEALING, Phase.TERMINATING)
    }
