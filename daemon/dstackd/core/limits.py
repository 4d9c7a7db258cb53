"""The bounds that decisions obey. Law: every wait in this program ends at one of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in seconds unless the name says otherwise; the defaults suit real EC2."""

    boot_timeout_s: float = 600.0
    """From RunInstances' answer to the runner's first word."""
    prepare_timeout_s: float = 1800.0
    """From the runner's first word to the job's first command: inputs are restored, an image is pulled."""
    take_timeout_s: float = 120.0
    """From the moment when an idle machine was given a job until it says that it knows it."""
    heartbeat_timeout_s: float = 300.0
    """Silence of a running machine after which it counts as lost."""
    notice_grace_s: float = 150.0
    """From a spot notice to giving up on the runner's last word; EC2 gives 120 s."""
    seal_timeout_s: float = 3600.0
    """From the exit of the commands to the runner's last word."""
    stop_margin_s: float = 120.0
    """On top of the spec's stop_grace, until a machine that was asked to stop is terminated."""
    duration_margin_s: float = 300.0
    """On top of max_duration, which the machine itself enforces."""
    logs_wait_s: float = 30.0
    """After the machine is gone, for late log events."""
    terminate_repeat_s: float = 30.0
    """Between two TerminateInstances for a machine that does not go."""
    boot_failures_max: int = 3
    """Machines in a row that may fail to start the commands."""
    machine_lifetime_s: float = 604_800.0
    """After which a machine ends itself, whatever runs; `core.lifetime` says what most of them get."""


def past(now_ms: int, since_ms: int, bound_s: float) -> bool:
    """Whether a bound that runs since `since_ms` is over."""
    return now_ms >= since_ms + bound_s * 1000
