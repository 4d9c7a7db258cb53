"""What happens next to a job with a machine: one test for each promise, phase by phase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstackd.core.action import RequestStop, Terminate
from dstackd.core.decide import STAY, Decision, decide
from dstackd.core.instance import UNKNOWN, Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.phase import HAS_MACHINE, Outcome, Phase, Reason
from dstackd.errors import InvariantError
from dstackd.spec.model import JobSpec, RetryCause, RetryPolicy
from tests.builders import NOW_MS, a_job, an_attempt

LIMITS = Limits()
RUNNING = Observation(Seen.RUNNING)
GONE = Observation(Seen.GONE)
RECLAIMED = Observation(Seen.GONE, "Server.SpotInstanceTermination")
TERMINATE = (Terminate("i-1"),)


def ago(seconds: float) -> int:
    """A time before now."""
    return NOW_MS - int(seconds * 1000)


def next_step(job: Job, attempt: Attempt, seen: Observation = RUNNING) -> Decision:
    """The decision with the default limits."""
    return decide(job, attempt, seen, limits=LIMITS, now_ms=NOW_MS)


BOOTING = a_job(phase=Phase.BOOTING, ran_attempts=0)
RUNS = a_job(phase=Phase.RUNNING)
SEALS = a_job(phase=Phase.SEALING)
ENDS = a_job(phase=Phase.TERMINATING)
STARTED = an_attempt(started_at_ms=ago(20), heartbeat_at_ms=ago(5))
EXITED = an_attempt(
    started_at_ms=ago(20),
    exited_at_ms=ago(5),
    exit_code=0,
    exit_cause="exit",
    heartbeat_at_ms=ago(5),
)


@pytest.mark.parametrize("phase", sorted(set(Phase) - HAS_MACHINE))
def test_a_phase_without_a_machine_is_a_bug_of_ours(phase: Phase) -> None:
    """Nobody asks about a job that has no machine."""
    with pytest.raises(InvariantError, match=phase):
        next_step(a_job(phase=phase), an_attempt())


def test_a_started_job_runs() -> None:
    """The runner's word moves a booting job on, whatever EC2 shows or does not show yet."""
    for seen in (UNKNOWN, Observation(Seen.PENDING), RUNNING):
        assert next_step(BOOTING, an_attempt(started_at_ms=ago(1)), seen).phase is Phase.RUNNING


def test_a_failure_after_the_start_is_no_failed_boot() -> None:
    """When start and failure are heard of together the attempt has run all the same: it counts, and is lost."""
    attempt = an_attempt(started_at_ms=ago(20), failed_stage="internal", failed_message="boom")
    assert next_step(BOOTING, attempt).phase is Phase.RUNNING
    assert next_step(RUNS, attempt).outcome is Outcome.LOST


def test_a_job_that_was_over_at_once_goes_straight_to_sealing() -> None:
    """Booting is left for sealing when the exit is the first thing that is heard."""
    decision = next_step(BOOTING, EXITED, GONE)
    assert (decision.phase, decision.reason) == (Phase.SEALING, Reason.EXITED)


def test_a_machine_that_cannot_run_the_job_is_given_back() -> None:
    """The stage and the message that the runner gave are what people read."""
    attempt = an_attempt(failed_stage="inputs", failed_message="no such object")
    decision = next_step(BOOTING, attempt)
    assert (decision.phase, decision.outcome) == (Phase.TERMINATING, Outcome.BOOT_FAILED)
    assert decision.message == "inputs: no such object"
    assert decision.actions == TERMINATE


@pytest.mark.parametrize(("waited_s", "phase"), [(599, None), (600, Phase.TERMINATING)])
def test_booting_is_bounded(waited_s: float, phase: Phase | None) -> None:
    """A machine that has not started the commands in time is given back, not earlier."""
    decision = next_step(BOOTING, an_attempt(launched_at_ms=ago(waited_s)), UNKNOWN)
    assert decision.phase is phase
    assert decision.outcome is (Outcome.BOOT_TIMEOUT if phase else None)


def test_a_cancel_ends_the_boot() -> None:
    """Nothing runs yet, so nothing has to be stopped first."""
    job = a_job(phase=Phase.BOOTING, cancel_requested=True)
    decision = next_step(job, an_attempt())
    assert (decision.outcome, decision.actions) == (Outcome.CANCELLED, TERMINATE)


@pytest.mark.parametrize("job", [BOOTING, RUNS])
@pytest.mark.parametrize("seen", [Seen.GONE, Seen.ABSENT, Seen.STOPPED])
def test_a_machine_that_goes_without_a_word_is_lost(job: Job, seen: Seen) -> None:
    """Gone, absent or stopped: the attempt is over, and the reason says what EC2 says."""
    decision = next_step(job, an_attempt(), Observation(seen, "Server.InternalError"))
    assert (decision.phase, decision.outcome) == (Phase.TERMINATING, Outcome.LOST)
    assert "Server.InternalError" in decision.message


@pytest.mark.parametrize("job", [BOOTING, RUNS])
def test_a_machine_that_is_leaving_may_still_say_its_last_word(job: Job) -> None:
    """While EC2 shows it shutting down, its runner may be sealing: nothing is judged yet."""
    decision = next_step(job, an_attempt(), Observation(Seen.LEAVING, "Server.InternalError"))
    assert (decision.phase, decision.actions) == (None, ())


@pytest.mark.parametrize("job", [BOOTING, RUNS])
@pytest.mark.parametrize(
    ("attempt", "seen"),
    [
        (an_attempt(), RECLAIMED),
        (an_attempt(notice_at_ms=ago(100)), GONE),
        (an_attempt(notice_at_ms=ago(150)), RUNNING),
    ],
)
def test_a_reclaimed_machine_is_an_interruption(
    job: Job, attempt: Attempt, seen: Observation
) -> None:
    """EC2's reason, a notice followed by the end, or a notice followed by silence all say that EC2 took it back."""
    decision = next_step(job, attempt, seen)
    assert (decision.phase, decision.outcome) == (Phase.TERMINATING, Outcome.INTERRUPTED)


def test_a_notice_leaves_the_runner_its_time() -> None:
    """Between the notice and the end the machine saves what it can."""
    attempt = an_attempt(started_at_ms=ago(50), notice_at_ms=ago(100), heartbeat_at_ms=ago(1))
    assert next_step(RUNS, attempt) == STAY


@pytest.mark.parametrize("seen", Seen)
def test_an_exit_that_was_reported_is_an_exit(seen: Seen) -> None:
    """What the machine reported counts before what EC2 shows."""
    decision = next_step(RUNS, EXITED, Observation(seen))
    assert (decision.phase, decision.outcome, decision.actions) == (Phase.SEALING, None, ())


def test_a_healthy_machine_is_left_alone() -> None:
    """No news is no reason to do anything."""
    for seen in (UNKNOWN, RUNNING, Observation(Seen.PENDING)):
        assert next_step(RUNS, STARTED, seen) == STAY


def test_silence_ends_a_machine() -> None:
    """A machine without a heartbeat for too long is lost, also when EC2 shows it running."""
    attempt = an_attempt(started_at_ms=ago(900), heartbeat_at_ms=ago(300))
    decision = next_step(RUNS, attempt)
    assert (decision.outcome, decision.reason) == (Outcome.LOST, Reason.MACHINE_LOST)
    assert decision.actions == TERMINATE


def test_silence_that_nobody_listened_to_proves_nothing() -> None:
    """As long as the heartbeats were not read, no machine is lost for want of one."""
    assert next_step(RUNS, an_attempt(started_at_ms=ago(9000), heartbeat_at_ms=None)) == STAY


def test_a_machine_that_has_just_started_has_time_for_its_first_heartbeat() -> None:
    """No heartbeat at all counts from the start of the commands."""
    assert next_step(RUNS, an_attempt(started_at_ms=ago(299), heartbeat_at_ms=0)) == STAY


def test_max_duration_is_kept_for_a_machine_that_does_not() -> None:
    """Duration, grace and a margin: then the machine goes, and the job has timed out."""
    spec = JobSpec(commands=("true",), max_duration_s=1000, stop_grace_s=30)
    for over_s, outcome in ((1329, None), (1330, Outcome.TIMED_OUT)):
        attempt = an_attempt(started_at_ms=ago(over_s), heartbeat_at_ms=ago(1))
        assert next_step(a_job(spec=spec), attempt).outcome is outcome


def test_a_cancel_asks_the_runner_first() -> None:
    """The job gets its signal, its grace and its artifacts; the machine stays for that."""
    job = a_job(cancel_requested=True)
    decision = next_step(job, STARTED)
    assert decision == Decision(actions=(RequestStop("i-1", Reason.CANCEL_REQUESTED),))
    asked = an_attempt(
        started_at_ms=ago(200), heartbeat_at_ms=ago(1), stop_requested_at_ms=ago(149)
    )
    assert next_step(job, asked) == STAY


def test_a_runner_that_does_not_stop_loses_its_machine() -> None:
    """Grace and margin are a bound."""
    asked = an_attempt(
        started_at_ms=ago(200), heartbeat_at_ms=ago(1), stop_requested_at_ms=ago(150)
    )
    decision = next_step(a_job(cancel_requested=True), asked)
    assert (decision.outcome, decision.actions) == (Outcome.CANCELLED, TERMINATE)


def test_a_runner_that_fails_while_the_job_runs_has_lost_it() -> None:
    """Not a boot failure: the commands ran."""
    attempt = an_attempt(started_at_ms=ago(10), failed_stage="internal", failed_message="boom")
    assert next_step(RUNS, attempt).outcome is Outcome.LOST


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [
        ("exit", Outcome.EXITED),
        ("stopped", Outcome.CANCELLED),
        ("timed_out", Outcome.TIMED_OUT),
        ("interrupted", Outcome.INTERRUPTED),
        ("silence", Outcome.LOST),
        ("oom", Outcome.EXITED),
        ("a cause of a newer runner", Outcome.EXITED),
    ],
)
def test_the_cause_of_the_exit_is_the_outcome(cause: str, outcome: Outcome) -> None:
    """Whichever way sealing ends, the outcome is how the commands ended."""
    done = an_attempt(exited_at_ms=ago(5), exit_code=1, exit_cause=cause, done_at_ms=ago(1))
    left = an_attempt(exited_at_ms=ago(5), exit_code=1, exit_cause=cause)
    assert next_step(SEALS, done).outcome is outcome
    assert next_step(SEALS, left, GONE).outcome is outcome


def test_sealing_waits_for_the_last_word() -> None:
    """Artifacts and lines are still on their way; EC2's silence does not end that."""
    for seen in (UNKNOWN, RUNNING):
        assert next_step(SEALS, EXITED, seen) == STAY


def test_sealing_is_bounded() -> None:
    """A runner that never finishes is given up after the bound."""
    job = a_job(phase=Phase.SEALING, phase_since_ms=ago(3600))
    decision = next_step(job, EXITED)
    assert (decision.phase, decision.reason) == (Phase.TERMINATING, Reason.SEAL_TIMEOUT)


def test_a_machine_that_falls_silent_while_it_seals_is_given_up() -> None:
    """A long upload has its heartbeats; a machine without any is not paid for until the bound of the sealing."""
    job = a_job(phase=Phase.SEALING, phase_since_ms=ago(1000))
    quiet = replace(EXITED, heartbeat_at_ms=ago(299))
    assert next_step(job, quiet) == STAY
    silent = replace(EXITED, heartbeat_at_ms=ago(300))
    decision = next_step(job, silent)
    assert (decision.phase, decision.outcome) == (Phase.TERMINATING, Outcome.EXITED)
    assert decision.reason is Reason.MACHINE_LOST
    just_now = replace(silent, heartbeat_at_ms=0)
    assert next_step(a_job(phase=Phase.SEALING, phase_since_ms=ago(299)), just_now) == STAY


def test_commands_that_never_began_have_no_lines_to_wait_for() -> None:
    """The machine said so: the next one is launched as soon as this one is gone."""
    job = a_job(phase=Phase.TERMINATING, phase_since_ms=ago(1), ran_attempts=0)
    failed = an_attempt(outcome=Outcome.BOOT_FAILED, failed_stage="inputs", failed_message="gone")
    assert next_step(job, failed, GONE).phase is Phase.QUEUED


def test_a_machine_is_asked_to_go_until_it_goes() -> None:
    """Once at first, again when it shows no sign of going, never while it goes."""
    assert next_step(ENDS, an_attempt(outcome=Outcome.EXITED)).actions == TERMINATE
    for asked_s, seen, actions in (
        (29, RUNNING, ()),
        (30, RUNNING, TERMINATE),
        (30, UNKNOWN, TERMINATE),
        (300, Observation(Seen.LEAVING), ()),
    ):
        attempt = an_attempt(outcome=Outcome.EXITED, terminate_requested_at_ms=ago(asked_s))
        assert next_step(ENDS, attempt, seen) == Decision(actions=actions)


def test_an_end_is_written_only_when_the_machine_is_over() -> None:
    """All lines are there and the machine has been asked to go: still not the end."""
    attempt = an_attempt(
        outcome=Outcome.EXITED,
        exit_code=0,
        terminate_requested_at_ms=ago(1),
        log_lines_sent=0,
    )
    for seen in Seen:
        over = seen in {Seen.GONE, Seen.ABSENT}
        phase = next_step(ENDS, attempt, Observation(seen)).phase
        assert phase is (Phase.SUCCEEDED if over else None)


@pytest.mark.parametrize(
    ("sent", "seen_lines", "waited_s", "ends"),
    [
        (3, 3, 0, True),
        (3, 2, 29, False),
        (3, 2, 30, True),
        (None, 0, 29, False),
        (None, 0, 30, True),
    ],
)
def test_late_lines_are_waited_for_within_a_bound(
    sent: int | None, seen_lines: int, waited_s: float, ends: bool
) -> None:
    """The job ends with its last line, or after the bound without it."""
    job = a_job(phase=Phase.TERMINATING, phase_since_ms=ago(waited_s))
    attempt = an_attempt(
        outcome=Outcome.EXITED, exit_code=7, log_lines_sent=sent, log_lines_seen=seen_lines
    )
    decision = next_step(job, attempt, GONE)
    assert decision.phase is (Phase.FAILED if ends else None)
    assert decision.exit_code == (7 if ends else None)


def test_an_attempt_that_is_retried_leaves_no_exit_code() -> None:
    """The job's exit code is that of its last attempt."""
    attempt = an_attempt(outcome=Outcome.INTERRUPTED, exit_code=143, log_lines_sent=0)
    decision = next_step(ENDS, attempt, GONE)
    assert (decision.phase, decision.exit_code) == (Phase.QUEUED, None)


def after_last_word(exit_cause: str, exit_code: int) -> Decision:
    """What follows from the last word of a job that is tried again whatever happens."""
    spec = JobSpec(commands=("true",), retry=RetryPolicy(frozenset(RetryCause), 5))
    done = replace(EXITED, done_at_ms=ago(1), exit_cause=exit_cause, exit_code=exit_code)
    return next_step(a_job(phase=Phase.SEALING, spec=spec), done)


@pytest.mark.parametrize(
    ("cause", "exit_code", "outcome"),
    [
        ("interrupted", 143, Outcome.INTERRUPTED),
        ("silence", 143, Outcome.LOST),
        ("exit", 7, Outcome.EXITED),
    ],
)
def test_the_next_attempt_does_not_wait_for_the_old_machine(
    cause: str, exit_code: int, outcome: Outcome
) -> None:
    """After a machine's last word nothing runs there: the job is queued at once, the machine is asked to go."""
    decision = after_last_word(cause, exit_code)
    assert (decision.phase, decision.outcome) == (Phase.QUEUED, outcome)
    assert decision.reason is Reason.RETRY
    assert decision.actions == TERMINATE
    assert decision.exit_code is None


@pytest.mark.parametrize(("cause", "exit_code"), [("exit", 0), ("stopped", 143), ("timed_out", 1)])
def test_a_last_word_that_nothing_follows_is_waited_out(cause: str, exit_code: int) -> None:
    """The job's end needs the machine's."""
    assert after_last_word(cause, exit_code).phase is Phase.TERMINATING


def test_a_job_ends_after_all_its_machines() -> None:
    """The last attempt's machine is gone, an earlier one's not yet: not the end; another attempt may begin."""
    gone = an_attempt(outcome=Outcome.EXITED, exit_code=0, log_lines_sent=0)
    waits = a_job(phase=Phase.TERMINATING, leaving=1)
    assert next_step(waits, gone, GONE) == STAY
    taken = an_attempt(outcome=Outcome.INTERRUPTED, log_lines_sent=0)
    assert next_step(waits, taken, GONE).phase is Phase.QUEUED
