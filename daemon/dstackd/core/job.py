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
    next_visit_at_ms: int = 0
    spec_problem: str = ""
    """Why this version cannot read the accepted spec; `spec` is then a stand-in that runs nothing."""
    message: str = ""
    """The last reason in words; what a queued job waits for."""
    inputs_digest: tuple[str, ...] = ()
    """sha256 of each packed local input, in the spec's order; empty until staged."""
    interruptions: int = 0
    """How many attempts EC2 took the machine from; read for queued jobs only, as is the next."""
    reclaimed: str = ""
    """What EC2 took from the last attempt (`core.avoidance.pool`), empty when that ended otherwise."""


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
    sealed_at_ms: int | None = None
    seal_verdict: str = ""
    done_at_ms: int | None = None
    failed_stage: str = ""
    failed_message: str = ""
    heartbeat_at_ms: int | None = None
    stop_requested_at_ms: int | None = None
    terminate_requested_at_ms: int | None = None
    log_lines_sent: int | None = None
    log_lines_seen: int = 0
