"""Values for tests: each has defaults that make sense together, and keywords for what the test is about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TypedDict, Unpack

from dstackd.core.instance import Instance, InstanceState, Market
from dstackd.core.job import Attempt, Job
from dstackd.core.launching import Image, LaunchRequest
from dstackd.core.phase import Outcome, Phase, Reason
from dstackd.simulated.clock import START_MS
from dstackd.simulated.faults import SCRIPT_VARIABLE, Script
from dstackd.spec.model import JobSpec

NOW_MS = START_MS + 10_000_000
SPEC = JobSpec(commands=("true",))


class JobFields(TypedDict, total=False):
    """Fields of `Job`."""

    id: str
    seq: int
    spec: JobSpec
    phase: Phase
    reason: Reason | None
    message: str
    version: int
    priority: int
    project: str
    attempt: int
    ran_attempts: int
    boot_failures: int
    cancel_requested: bool
    submitted_at_ms: int
    phase_since_ms: int
    array_index: int | None
    inputs_digest: tuple[str, ...]
    leaving: int
    leaving_usd: float


def a_job(**changes: Unpack[JobFields]) -> Job:
    """A job whose first attempt has just begun to run."""
    return replace(_JOB, **changes)


_JOB = Job(
    id="job-1",
    seq=1,
    spec=SPEC,
    phase=Phase.RUNNING,
    reason=None,
    version=3,
    priority=0,
    project="main",
    attempt=1,
    ran_attempts=1,
    boot_failures=0,
    cancel_requested=False,
    submitted_at_ms=NOW_MS - 120_000,
    phase_since_ms=NOW_MS - 10_000,
)


class AttemptFields(TypedDict, total=False):
    """Fields of `Attempt`."""

    job_id: str
    number: int
    launch_id: str
    launch_index: int
    instance_id: str
    market: Market
    price_usd_h: float
    launched_at_ms: int
    outcome: Outcome | None
    exit_code: int | None
    booted_at_ms: int | None
    started_at_ms: int | None
    notice_at_ms: int | None
    exited_at_ms: int | None
    exit_cause: str
    exit_signal: str
    sealed_at_ms: int | None
    seal_verdict: str
    done_at_ms: int | None
    failed_stage: str
    failed_message: str
    failed_final: bool
    heartbeat_at_ms: int | None
    stop_requested_at_ms: int | None
    terminate_requested_at_ms: int | None
    reused: bool
    released_at_ms: int | None
    log_lines_sent: int | None
    log_lines_seen: int


def an_attempt(**changes: Unpack[AttemptFields]) -> Attempt:
    """An attempt whose machine was launched a minute ago and has said nothing yet."""
    return replace(_ATTEMPT, **changes)


_ATTEMPT = Attempt(
    job_id="job-1",
    number=1,
    launch_id="launch-1",
    launch_index=0,
    instance_id="i-1",
    market=Market.SPOT,
    price_usd_h=0.1,
    launched_at_ms=NOW_MS - 60_000,
)


class InstanceFields(TypedDict, total=False):
    """Fields of `Instance`."""

    instance_id: str
    state: InstanceState
    launch_id: str
    launched_at_ms: int
    state_reason: str


def an_instance(**changes: Unpack[InstanceFields]) -> Instance:
    """A spot machine that has been running for ten minutes."""
    return replace(_INSTANCE, **changes)


_INSTANCE = Instance(
    instance_id="i-1",
    state=InstanceState.RUNNING,
    launch_id="launch-1",
    launch_index=0,
    instance_type="m5.large",
    zone="us-east-1a",
    market=Market.SPOT,
    launched_at_ms=NOW_MS - 600_000,
)


class RequestFields(TypedDict, total=False):
    """Fields of `LaunchRequest`."""

    launch_id: str
    client_token: str
    instance_type: str
    count: int
    market: Market
    tags: tuple[tuple[str, str], ...]


def a_request(**changes: Unpack[RequestFields]) -> LaunchRequest:
    """A launch of one m5.large on the spot market."""
    return replace(_REQUEST, **changes)


_REQUEST = LaunchRequest(
    launch_id="launch-1",
    client_token="token-1",
    instance_type="m5.large",
    subnet_id="subnet-a",
    zone="us-east-1a",
    market=Market.SPOT,
    count=1,
    image=Image("ami-x86_64", "/dev/xvda"),
    disk_gib=100,
    user_data="#!/bin/sh\n",
    tags=(),
    instance_profile="profile",
    security_group_ids=("sg-1",),
)


def spec_json(script: Script | Sequence[Script] = (), **fields: object) -> str:
    """A spec as a submitter writes it, with a script for the simulated machine, or one for each attempt."""
    scripts = [script] if isinstance(script, Script) else list(script)
    env = {SCRIPT_VARIABLE: json.dumps([asdict(each) for each in scripts])} if scripts else {}
    return json.dumps({"commands": ["true"], "env": env, **fields})
