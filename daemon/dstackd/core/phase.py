"""Where a job is, and where it may go next. Law: the table TRANSITIONS is the only statement of legal moves.

The store refuses a move that is not in the table; the diagram in the README is drawn from it by a test.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a job is. Each comment says who moves the job out."""

    SUBMITTED = "submitted"
    """As inserted by a submitter. Out: intake accepts or rejects it."""
    QUEUED = "queued"
    """Accepted; waits with a reason. Out: launches commits an intent; a cancel ends it; to RUNNING only an array whose needs
    are met, by holding."""
    LAUNCHING = "launching"
    """An intent is committed, RunInstances may have been called. Out: launches saves EC2's answer."""
    BOOTING = "booting"
    """An instance id is known. Out: machines, when the runner reports, or the machine is gone or silent."""
    RUNNING = "running"
    """The commands run; for an array, its elements do. Out: machines (intake, for an array)."""
    SEALING = "sealing"
    """The commands ended; artifacts and logs travel. Out: machines, on the runner's last word or a bound; to QUEUED only
    on the last word, when another attempt follows while the machine goes, and to a terminal phase only when the machine
    does not go but waits for another job."""
    TERMINATING = "terminating"
    """The machine is asked to go. Out: machines, when EC2 shows it gone."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.REJECTED})

HAS_MACHINE = frozenset({Phase.BOOTING, Phase.RUNNING, Phase.SEALING, Phase.TERMINATING})
"""Phases in which a machine of ours may exist under a known instance id."""

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.SUBMITTED: frozenset({Phase.QUEUED, Phase.RUNNING, Phase.REJECTED, Phase.CANCELLED}),
    Phase.QUEUED: frozenset({Phase.LAUNCHING, Phase.RUNNING, Phase.CANCELLED, Phase.FAILED}),
    Phase.LAUNCHING: frozenset({Phase.BOOTING, Phase.QUEUED, Phase.FAILED, Phase.CANCELLED}),
    Phase.BOOTING: frozenset({Phase.RUNNING, Phase.SEALING, Phase.TERMINATING}),
    Phase.RUNNING: frozenset(
        {Phase.SEALING, Phase.TERMINATING, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}
    ),
    Phase.SEALING: frozenset(
        {Phase.TERMINATING, Phase.QUEUED, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}
    ),
    Phase.TERMINATING: frozenset({Phase.QUEUED, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}),
    Phase.SUCCEEDED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.REJECTED: frozenset(),
}


class Outcome(StrEnum):
    """How one attempt ended."""

    EXITED = "exited"
    INTERRUPTED = "interrupted"
    NO_CAPACITY = "no_capacity"
    BOOT_TIMEOUT = "boot_timeout"
    BOOT_FAILED = "boot_failed"
    """The machine reported that it could not start the commands."""
    TIMED_OUT = "timed_out"
    LOST = "lost"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Machine-readable cause of a job's last phase change, or of its waiting."""

    ACCEPTED = "accepted"
    SCHEDULED = "scheduled"
    DEPENDENCY = "dependency"
    DEPENDENCY_FAILED = "dependency_failed"
    BAD_SPEC = "bad_spec"
    ARRAY_EXPANDED = "array_expanded"
    ARRAY_FINISHED = "array_finished"
    STAGING_INPUTS = "staging_inputs"
    INPUT_UNREADABLE = "input_unreadable"
    WAITING_FOR_LAUNCH = "waiting_for_launch"
    NO_OFFERING = "no_offering"
    NO_CAPACITY = "no_capacity"
    LIMIT_REACHED = "limit_reached"
    BUDGET_EXHAUSTED = "budget_exhausted"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    CLOUD_UNAVAILABLE = "cloud_unavailable"
    INVALID_LAUNCH = "invalid_launch"
    INTENT_COMMITTED = "intent_committed"
    LAUNCHED = "launched"
    STARTED = "started"
    EXITED = "exited"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    BOOT_TIMEOUT = "boot_timeout"
    MACHINE_FAILED = "machine_failed"
    MACHINE_LOST = "machine_lost"
    TIMED_OUT = "timed_out"
    SEALED = "sealed"
    SEAL_TIMEOUT = "seal_timeout"
    RETRY = "retry"
    RETRIES_EXHAUSTED = "retries_exhausted"
    CANCEL_REQUESTED = "cancel_requested"
    INTERNAL_ERROR = "internal_error"
