"""The bounds that decisions obey. Law: every wait in this program ends at one of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in seconds unless the name says otherwise; the defaults suit real EC2."""

    boot_timeout_s: float = 600.0
    """From RunInstances' answer to the runner's first command."""
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
