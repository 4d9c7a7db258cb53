"""Why a job is where it is, and what comes next. Law: every sentence follows from a function that decides; nothing is guessed, and
what cannot be known is said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from dstackd.core.action import Terminate
from dstackd.core.advice import advice
from dstackd.core.deadlines import Act, next_act
from dstackd.core.dependency import Need, where_needed
from dstackd.core.instance import UNKNOWN, Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.phase import TERMINAL, Phase, Reason
from dstackd.core.queue_view import QueueView
from dstackd.core.retry import conclude
from dstackd.core.waiting import decide_queued
from dstackd.spec.model import RetryCause


@dataclass(frozen=True, slots=True)
class Asking:
    """An intent whose answer is not saved: what EC2 was asked for, or the idle machine that gets the job."""

    what: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that is known of a job."""

    job: Job
    limits: Limits
    now_ms: int
    attempt: Attempt | None = None
    """The current one, once it has a machine."""
    seen: Observation = UNKNOWN
    """Its machine in the last sweep."""
    queue: QueueView | None = None
    """Of a queued job; None: the planner could not be asked (`queue_problem`)."""
    queue_problem: str = ""
    asking: Asking | None = None
    elements: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Of an array: phase -> how many of its jobs."""
    reason_since_ms: int | None = None
    """Since when the reason is what it is."""
    needs: tuple[Need, ...] = ()
    """Of a held job: what it needs of others."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the job waits for, in words."""

    text: str
    since_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens next. `at_ms` None: nobody knows when. `bound` and `value_s`: by which bound, if nothing else comes first."""

    text: str
    at_ms: int | None = None
    bound: str = ""
    value_s: float | None = None
    phase: Phase | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job is where it is."""

    phase: Phase
    since_ms: int
    reason: Reason | None
    message: str
    waits_for: tuple[Waiting, ...]
    next_steps: tuple[Step, ...]
    retries: tuple[str, ...]
    advice: tuple[str, ...]
    queue: QueueView | None = None


def explain(situation: Situation) -> Explanation:
    """The explanation. Total: every phase has a next step, and a terminal one has none."""
    job = situation.job
    waits, steps = _parts(situation)
    return Explanation(
        phase=job.phase,
        since_ms=job.phase_since_ms,
        reason=job.reason,
        message=job.message,
        waits_for=tuple(waits),
        next_steps=tuple(steps),
        retries=() if situation.elements else tuple(_retries(job, situation.limits)),
        advice=advice(job, situation.attempt),
        queue=situation.queue,
    )


def _parts(situation: Situation) -> tuple[Iterator[Waiting], Iterator[Step]]:
    job = situation.job
    if job.phase in TERMINAL:
        return iter(()), iter(())
    if situation.elements:
        return _array_waits(situation), _array_steps(situation)
    match job.phase:
        case Phase.SUBMITTED:
            return _submitted_waits(situation), _submitted_steps()
        case Phase.QUEUED if job.held:
            return _held_waits(situation), _held_steps(situation)
        case Phase.QUEUED:
            return _queued_waits(situation), _queued_steps(situation)
        case Phase.LAUNCHING:
            return _launching_waits(situation), _launching_steps(situation)
        case _:
            return _machine_waits(situation), _machine_steps(situation)


def _submitted_waits(situation: Situation) -> Iterator[Waiting]:
    yield Waiting("the daemon to read and judge its spec", situation.job.submitted_at_ms)


def _submitted_steps() -> Iterator[Step]:
    yield Step("it is queued, or rejected with the field that is wrong: at intake's next pass")


def _array_waits(situation: Situation) -> Iterator[Waiting]:
    done = sum(n for phase, n in situation.elements.items() if Phase(phase) in TERMINAL)
    total = sum(situation.elements.values())
    rest = ", ".join(
        f"{n} {phase}" for phase, n in situation.elements.items() if Phase(phase) not in TERMINAL
    )
    text = f"its jobs: {done} of {total} have ended" + (f", {rest}" if rest else "")
    yield Waiting(text, situation.job.phase_since_ms)


def _array_steps(situation: Situation) -> Iterator[Step]:
    if situation.job.cancel_requested:
        yield Step("each of its jobs is cancelled; it ends when the last of them has")
    else:
        yield Step("it ends when the last of its jobs has, as their worst end")


def _held_waits(situation: Situation) -> Iterator[Waiting]:
    job = situation.job
    since_ms = situation.reason_since_ms or job.phase_since_ms
    yield Waiting(job.message, since_ms, job.reason or Reason.SCHEDULED)
    for text in where_needed(situation.needs):
        yield Waiting(text, reason=Reason.DEPENDENCY)


def _held_steps(situation: Situation) -> Iterator[Step]:
    job = situation.job
    if job.cancel_requested:
        yield Step("cancelled, within seconds", None, "", None, Phase.CANCELLED)
    elif job.run_at_ms is not None and job.run_at_ms > situation.now_ms:
        yield Step("the planner gets it at its time", job.run_at_ms, "run_at")
    elif situation.needs:
        yield Step(
            "let go with the end of the last of them; cancelled with the first end that does not do"
        )
    else:
        yield Step("what it waits for wakes it")


def _queued_waits(situation: Situation) -> Iterator[Waiting]:
    job, queue = situation.job, situation.queue
    now = decide_queued(job, now_ms=situation.now_ms)
    if job.reason is not None and job.reason is not Reason.ACCEPTED:
        since_ms = situation.reason_since_ms or job.phase_since_ms
        yield Waiting(job.message or job.reason.replace("_", " "), since_ms, job.reason)
    if now is not None:
        if (now.reason, now.message) != (job.reason, job.message):
            yield Waiting(now.message, reason=now.reason)
    elif queue is None:
        yield Waiting(situation.queue_problem or "the planner's next pass")
    elif queue.waits is None:
        yield Waiting("nothing any more, as things are: the planner's next pass launches it")
    elif (queue.waits.reason, queue.waits.message) != (job.reason, job.message):
        yield Waiting(f"now: {queue.waits.message}", reason=queue.waits.reason)


def _queued_steps(situation: Situation) -> Iterator[Step]:
    job = situation.job
    now = decide_queued(job, now_ms=situation.now_ms)
    if now is not None and now.phase is not None:
        last = " once the machine of its earlier attempt is gone" if job.leaving else ""
        yield Step(f"{now.phase}{last}: {now.message}", None, "", None, now.phase, now.reason)
        return
    far = job.next_visit_at_ms > situation.now_ms + 365 * 86_400_000
    if far:
        yield Step("what it waits for wakes it")
    elif job.next_visit_at_ms <= situation.now_ms:
        yield Step("the planner looks at it in its next pass, within seconds")
    else:
        yield Step("the planner looks at it again", job.next_visit_at_ms)
    within_s = job.spec.retry.within_s
    ends = given_up(job)
    if ends is not None and within_s is not None:
        text = "given up, if it has found no capacity by then"
        yield Step(text, ends, "retry.within", within_s, Phase.FAILED, Reason.RETRIES_EXHAUSTED)


def given_up(job: Job) -> int | None:
    """When `decide_queued` ends a job that waits for capacity; None: it is not held to that."""
    within_s = job.spec.retry.within_s
    if within_s is None or job.reason is not Reason.NO_CAPACITY:
        return None
    return math.floor(job.wanted_since_ms + within_s * 1000) + 1


def _launching_waits(situation: Situation) -> Iterator[Waiting]:
    asking = situation.asking
    what = asking.what if asking is not None else "EC2's answer"
    yield Waiting(what, asking.since_ms if asking is not None else situation.job.phase_since_ms)


def _launching_steps(situation: Situation) -> Iterator[Step]:
    yield Step(
        "booting with EC2's answer, or back to the queue with its refusal; without an answer the same call is repeated "
        "with the same token, which never launches twice"
    )
    if situation.job.cancel_requested:
        yield Step("cancelled once the answer is known")


_REPORTS = {
    Phase.BOOTING: "its commands have started",
    Phase.RUNNING: "its commands have ended",
    Phase.SEALING: "its artifacts are sealed and its log is sent",
}


def _machine_waits(situation: Situation) -> Iterator[Waiting]:
    job, attempt = situation.job, situation.attempt
    if attempt is None:
        yield Waiting("its attempt's row, which is missing", job.phase_since_ms)
        return
    machine = attempt.instance_id
    if job.phase is Phase.TERMINATING:
        if not situation.seen.over:
            state = _seen_text(situation.seen)
            yield Waiting(f"EC2 to show {machine} terminated ({state})", job.phase_since_ms)
        else:
            yield Waiting("late log lines", job.phase_since_ms)
    elif job.phase is Phase.SEALING and attempt.done_at_ms is not None:
        yield Waiting("late log lines", attempt.released_at_ms or attempt.done_at_ms)
    else:
        report = _REPORTS[job.phase]
        yield Waiting(
            f"{machine} to report that {report} ({_seen_text(situation.seen)})", job.phase_since_ms
        )
    if job.cancel_requested and job.phase is not Phase.TERMINATING:
        yield Waiting("the job to stop: it was cancelled", attempt.stop_requested_at_ms)
    if attempt.notice_at_ms is not None:
        yield Waiting("EC2 to take the machine back: it has given notice", attempt.notice_at_ms)
    if job.leaving:
        yield Waiting(f"the machine of an earlier attempt to go ({job.leaving} still there)")


def _seen_text(seen: Observation) -> str:
    if seen.seen is Seen.UNKNOWN:
        return "EC2 was not asked lately, or does not show it yet"
    return f"EC2 shows it {seen.seen}"


def _machine_steps(situation: Situation) -> Iterator[Step]:
    job, attempt = situation.job, situation.attempt
    if attempt is None:
        yield Step("the reaper terminates its machine, if there is one")
        return
    act = _act(situation, attempt)
    if act is not None:
        yield _step_of(job, act)
    yield from _afterwards(situation, act)
    if act is None or act.deadline is not None:
        yield Step(_without_bound(job, bounded=act is not None))
        yield from _at_the_latest(situation, attempt, act)


def _act(situation: Situation, attempt: Attempt) -> Act | None:
    limits, now_ms = situation.limits, situation.now_ms
    return next_act(situation.job, attempt, situation.seen, limits=limits, now_ms=now_ms)


def _at_the_latest(situation: Situation, attempt: Attempt, act: Act | None) -> Iterator[Step]:
    """The bounds of a machine that gives signs of life, which put off the bound on its silence."""
    job = situation.job
    started_ms, duration_s = attempt.started_at_ms, job.spec.max_duration_s
    if job.phase is Phase.RUNNING and started_ms is not None and duration_s is not None:
        ends_ms = started_ms + duration_s * 1000
        if ends_ms > situation.now_ms:
            text = "at the latest the machine itself stops the commands"
            yield Step(text, ends_ms, "max_duration", duration_s)
    alive = _act(situation, replace(attempt, heartbeat_at_ms=None))
    if alive is not None and alive.deadline is not None and alive != act:
        yield _step_of(job, alive)


def _step_of(job: Job, act: Act) -> Step:
    decision, deadline = act.decision, act.deadline
    if decision.phase is None:
        again = "the machine is asked to terminate"
        stops = not any(isinstance(each, Terminate) for each in decision.actions)
        text = "the job is asked to stop" if stops else again
    else:
        text = f"{decision.phase}: {decision.message}"
    if deadline is None:
        return Step(f"at the next look, {text}", None, "", None, decision.phase, decision.reason)
    given = f"if {_UNTIL.get(deadline.bound, _BEFORE[job.phase])} before, {text}"
    return Step(given, act.at_ms, deadline.bound, deadline.value_s, decision.phase, decision.reason)


_BEFORE = {
    Phase.BOOTING: "no command starts",
    Phase.RUNNING: "the commands have not ended",
    Phase.SEALING: "no last word comes",
    Phase.TERMINATING: "EC2 does not show it gone",
}
_UNTIL = {
    "limits.heartbeat_timeout_s": "nothing is heard of the machine",
    "limits.logs_wait_s": "not every line is there",
}
"""By the bound, where that says more than the phase."""


def _without_bound(job: Job, *, bounded: bool) -> str:
    match job.phase:
        case Phase.BOOTING:
            text = "running, when the machine says that the commands have started"
        case Phase.RUNNING:
            text = "sealing, when the commands end"
        case Phase.SEALING:
            text = "terminating, with the machine's last word"
        case _:
            text = "the end of the attempt, when EC2 shows the machine gone and its log is there"
    return text if bounded else f"{text}; no bound runs"


def _afterwards(situation: Situation, act: Act | None) -> Iterator[Step]:
    """What the attempt's end means for the job, where its outcome is known or follows from a bound."""
    job, attempt = situation.job, situation.attempt
    if attempt is None:
        return
    outcome = attempt.outcome or (act.decision.outcome if act is not None else None)
    if outcome is None:
        return
    ended = replace(attempt, outcome=outcome)
    at_ms = situation.now_ms if act is None else act.at_ms
    verdict = conclude(job, ended, limits=situation.limits, now_ms=at_ms)
    known = attempt.outcome is not None
    then = "once that is done, " if known else "and after that "
    yield Step(
        f"{then}{verdict.phase}: {verdict.message}",
        phase=verdict.phase,
        reason=verdict.reason,
    )


def _retries(job: Job, limits: Limits) -> Iterator[str]:
    """The arithmetic of another attempt."""
    if job.phase in TERMINAL | {Phase.SUBMITTED}:
        return
    retry = job.spec.retry
    left = max(retry.max_attempts - job.ran_attempts, 0)
    yield (
        f"{job.ran_attempts} of {retry.max_attempts} attempts have run (retry.max_attempts), "
        f"{left} may follow"
    )
    on = [str(cause) for cause in RetryCause if cause in retry.on]
    codes = f" with exit code {', '.join(map(str, retry.exit_codes))}" if retry.exit_codes else ""
    told = " or ".join(on).replace("error", f"error{codes}")
    yield (
        f"another follows after {told} (retry.on)" if on else "retry.on is empty: no other follows"
    )
    if job.boot_failures:
        yield (
            f"{job.boot_failures} of {limits.boot_failures_max} machines in a row did not start its commands "
            "(limits.boot_failures_max)"
        )
