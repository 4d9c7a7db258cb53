"""When a job with a machine moves on by itself, and by which bound. Law: the bounds are those of `core.decide`, and what follows
from one is asked of `decide`, at that moment and with nothing else changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dstackd.core.decide import STAY, Decision, decide
from dstackd.core.instance import Observation
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.phase import Phase


@dataclass(frozen=True, slots=True)
class Deadline:
    """A bound that runs. `bound` is its key in the configuration or the spec; `value_s` is what it adds up to."""

    at_ms: int
    bound: str
    value_s: float


@dataclass(frozen=True, slots=True)
class Act:
    """What the daemon does at `at_ms` if nothing is reported before. `deadline` None: it is due now, by what is known."""

    at_ms: int
    decision: Decision
    deadline: Deadline | None = None


def next_act(
    job: Job, attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int
) -> Act | None:
    """The first moment from now on at which `decide` does not stay; None: only a report or EC2 moves the job on."""
    decision = decide(job, attempt, seen, limits=limits, now_ms=now_ms)
    if decision != STAY:
        return Act(now_ms, decision)
    running = [each for each in deadlines(job, attempt, limits=limits) if each.at_ms > now_ms]
    for each in sorted(running, key=lambda deadline: deadline.at_ms):
        decision = decide(job, attempt, seen, limits=limits, now_ms=each.at_ms)
        if decision != STAY:
            return Act(each.at_ms, decision, each)
    return None


def deadlines(job: Job, attempt: Attempt, *, limits: Limits) -> Iterator[Deadline]:
    """Every bound that `decide` holds the job to in its phase, over or not."""
    match job.phase:
        case Phase.BOOTING:
            yield from _booting(attempt, limits)
        case Phase.RUNNING:
            yield from _running(job, attempt, limits)
        case Phase.SEALING:
            yield from _sealing(job, attempt, limits)
        case Phase.TERMINATING:
            yield _from(job.phase_since_ms, "limits.logs_wait_s", limits.logs_wait_s)
            if attempt.terminate_requested_at_ms is not None:
                repeat_s = limits.terminate_repeat_s
                asked_ms = attempt.terminate_requested_at_ms
                yield _from(asked_ms, "limits.terminate_repeat_s", repeat_s)
        case _:
            return


def _booting(attempt: Attempt, limits: Limits) -> Iterator[Deadline]:
    yield from _notice(attempt, limits)
    since_ms = attempt.launched_at_ms
    if attempt.booted_at_ms is not None:
        yield from _heartbeat(attempt, attempt.booted_at_ms, limits)
        yield _from(attempt.booted_at_ms, "limits.prepare_timeout_s", limits.prepare_timeout_s)
    elif attempt.reused:
        yield _from(since_ms, "limits.take_timeout_s", limits.take_timeout_s)
    else:
        yield _from(since_ms, "limits.boot_timeout_s", limits.boot_timeout_s)


def _running(job: Job, attempt: Attempt, limits: Limits) -> Iterator[Deadline]:
    yield from _notice(attempt, limits)
    spec = job.spec
    started_ms = attempt.started_at_ms or attempt.launched_at_ms
    if spec.max_duration_s is not None:
        longest_s = spec.max_duration_s + spec.stop_grace_s + limits.duration_margin_s
        yield _from(started_ms, "max_duration", longest_s)
    yield from _heartbeat(attempt, started_ms, limits)
    if job.cancel_requested and attempt.stop_requested_at_ms is not None:
        grace_s = spec.stop_grace_s + limits.stop_margin_s
        yield _from(attempt.stop_requested_at_ms, "stop_grace", grace_s)


def _sealing(job: Job, attempt: Attempt, limits: Limits) -> Iterator[Deadline]:
    if attempt.done_at_ms is not None:
        if attempt.released_at_ms is not None:
            yield _from(attempt.released_at_ms, "limits.logs_wait_s", limits.logs_wait_s)
        return
    yield from _heartbeat(attempt, job.phase_since_ms, limits)
    yield _from(job.phase_since_ms, "limits.seal_timeout_s", limits.seal_timeout_s)


def _notice(attempt: Attempt, limits: Limits) -> Iterator[Deadline]:
    if attempt.notice_at_ms is not None:
        yield _from(attempt.notice_at_ms, "limits.notice_grace_s", limits.notice_grace_s)


def _heartbeat(attempt: Attempt, since_ms: int, limits: Limits) -> Iterator[Deadline]:
    if attempt.heartbeat_at_ms is not None:
        last_ms = max(attempt.heartbeat_at_ms, since_ms)
        yield _from(last_ms, "limits.heartbeat_timeout_s", limits.heartbeat_timeout_s)


def _from(since_ms: int, bound: str, value_s: float) -> Deadline:
    return Deadline(math.ceil(since_ms + value_s * 1000), bound, value_s)
