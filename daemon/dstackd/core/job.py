"""A job and its current attempt as the decisions see them. Law: frozen values, validated at the store's boundary."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.instance import Market
from dstackd.core.phase import Outcome, Phase, Reason
from dstackd.spec.model import JobSpec


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the queue, accepted: its spec is parsed."""

    id: str
    seq: int
    spec: JobSpec
    phase: Phase
    reason: Reason | None
    version: int
    priority: int
    project: str
    attempt: int
    """Number of the current attempt; 0 before the first."""
    ran_attempts: int
    """How many attempts started their commands; only these count against retry.max_attempts."""
    boot_failures: int
    """How many machines in a row never started the commands."""
    cancel_requested: bool
    submitted_at_ms: int
    phase_since_ms: int
    array_index: int | None = None
    cost_usd: float = 0.0
    """Of the attempts that are over."""
    leaving: int = 0
    """Earlier attempts whose machines were not seen gone yet (`core.leaving`)."""
    leaving_usd: float = 0.0
    """What these, and idle machines that wait on the job's account, can still come to cost; read for queued jobs only."""
    next_visit_at_ms: int = 0
    spec_problem: str = ""
    """Why this version cannot read the accepted spec; `spec` is then a stand-in that runs nothing."""
    message: str = ""
    """The last reason in words; what a queued job waits for."""
    run_at_ms: int | None = None
    """Not to be launched before."""
    held: bool = False
    """Queued, but not the planner's yet (`core.holding`)."""
    inputs_digest: tuple[str, ...] = ()
    """sha256 of each packed local input, in the spec's order; empty until staged."""
    interruptions: int = 0
    """How many attempts EC2 took the machine from; read for queued jobs only, as is the next."""
    needs_own_machine: bool = False
    """The last attempt was given to an idle machine and never started there; read for queued jobs only."""
    reclaimed: str = ""
    """What EC2 took from the last attempt (`core.avoidance.pool`), empty when that ended otherwise."""

    @property
    def wanted_since_ms(self) -> int:
        """Since when it might run: from its submission on, or from its time."""
        return max(self.submitted_at_ms, self.run_at_ms or 0)

    @property
    def lacks_inputs(self) -> int:
        """How many inputs of the control host are not in the bucket yet; those from S3 are the machine's business."""
        return sum(not each.is_s3 for each in self.spec.inputs) - len(self.inputs_digest)

    @property
    def spent_usd(self) -> float:
        """What the job's earlier attempts have cost, at the worst."""
        return self.cost_usd + self.leaving_usd


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try on one machine, with what the machine has reported so far (times are the bucket's clock)."""

    job_id: str
    number: int
    launch_id: str
    launch_index: int
    instance_id: str
    market: Market
    price_usd_h: float
    launched_at_ms: int
    outcome: Outcome | None = None
    exit_code: int | None = None
    booted_at_ms: int | None = None
    started_at_ms: int | None = None
    notice_at_ms: int | None = None
    exited_at_ms: int | None = None
    exit_cause: str = ""
    exit_signal: str = ""
    sealed_at_ms: int | None = None
    seal_verdict: str = ""
    done_at_ms: int | None = None
    failed_stage: str = ""
    failed_message: str = ""
    failed_final: bool = False
    """No other machine could have started the commands either."""
    heartbeat_at_ms: int | None = None
    stop_requested_at_ms: int | None = None
    terminate_requested_at_ms: int | None = None
    reused: bool = False
    """Its machine has run other jobs before; `launched_at_ms` is when this one got it."""
    released_at_ms: int | None = None
    """When its machine was done with it and waited for another job; it may run that one now."""
    log_lines_sent: int | None = None
    log_lines_seen: int = 0
