"""What the fake AWS does, and what its machines do. Law: values only; a benchmark sets them over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

REGION = "eu-central-1"
ZONES = tuple(f"{REGION}{letter}" for letter in "abc")
BUCKET = "bench-launch"
ACCOUNT = "123456789012"


@dataclass(slots=True)
class Plan:
    """Seconds unless the name says otherwise."""

    run_instances_s: float = 1.5
    describe_s: float = 0.2
    other_s: float = 0.08
    """IAM, STS, logs and the rest of EC2."""
    s3_s: float = 0.02
    throttled: bool = True
    """False: the account's limits have been raised out of sight."""
    no_spot: bool = False
    no_capacity: bool = False
    boot_s: float = 20.0
    """From the launch to the runner's first word."""
    boot_spread_s: float = 10.0
    """Machines of one launch boot over this much time."""
    run_s: float = 60.0
    """From the first command to its exit."""
    seal_s: float = 1.0
    """From the exit to the machine's last word."""
    shutdown_s: float = 5.0
    """How long an instance is `shutting-down`."""
    hold: str = ""
    """Calls to keep waiting, such as `ec2:RunInstances`, until they are let go."""
    hold_key: str = ""
    """Of held S3 calls, only those whose key begins so."""
    hold_answer: bool = False
    """Do what was asked for first, and keep only the answer back."""
