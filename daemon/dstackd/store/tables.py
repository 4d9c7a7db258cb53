"""The tables as SQLModel sees them. Law: migrations/sql is the authority; a test compares the two.

CHECKs, triggers and partial indices live in the migrations only. No object of these classes leaves the package.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ColumnElement, Table, bindparam, true
from sqlmodel import Field, SQLModel


class JobRow(SQLModel, table=True):
    """The queue; public to submitters. `run_at` is text or a moment, as the database has it: read `run_at_ms`.

    `held`: queued, and not yet to be launched: its time has not come, or other jobs have to end first.
    """

    __tablename__ = "job"

    seq: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    spec: str
    project: str
    priority: int
    unique_key: str | None
    run_at: str | None
    cancel_requested: int
    submitted_at_ms: int = Field(sa_type=BigInteger)
    phase: str
    reason: str | None
    message: str
    phase_since_ms: int = Field(sa_type=BigInteger)
    finished_at_ms: int | None = Field(sa_type=BigInteger)
    exit_code: int | None
    name: str
    attempt: int
    ran_attempts: int
    boot_failures: int
    cost_usd: float
    version: int
    next_visit_at_ms: int = Field(sa_type=BigInteger)
    held: int
    run_at_ms: int | None = Field(sa_type=BigInteger)
    backend: str | None
    inputs_digest: str
    array_parent: str | None
    array_index: int | None


class DependencyRow(SQLModel, table=True):
    """A job waits for another one: for its success, or for its end, whatever that is."""

    __tablename__ = "job_dependency"

    job_id: str = Field(primary_key=True)
    on_job_id: str = Field(primary_key=True)
    condition: str


class ScheduleRow(SQLModel, table=True):
    """Jobs by the clock; public to other applications. `next_run_at_ms` None: nobody has looked at it since it was written."""

    __tablename__ = "schedule"

    name: str = Field(primary_key=True)
    cron: str
    timezone: str
    spec: str
    project: str
    priority: int
    overlap: str
    catch_up: str
    enabled: int
    created_at_ms: int = Field(sa_type=BigInteger)
    next_run_at_ms: int | None = Field(sa_type=BigInteger)
    last_run_at_ms: int | None = Field(sa_type=BigInteger)
    last_job_id: str | None
    message: str
    version: int


class BackendRow(SQLModel, table=True):
    """One (account, region, bucket); `owner` marks this installation's machines."""

    __tablename__ = "backend"

    name: str = Field(primary_key=True)
    type: str
    region: str
    bucket: str
    subnet: str | None
    endpoint_url: str | None
    owner: str
    created_at_ms: int = Field(sa_type=BigInteger)
    lease_holder: str | None
    lease_asked: int = Field(sa_type=BigInteger)
    lease_answered: int = Field(sa_type=BigInteger)
    fence: int = Field(sa_type=BigInteger)


class LaunchRow(SQLModel, table=True):
    """Write-ahead intent of one RunInstances call, or of giving a job to an idle machine (`reuses`)."""

    __tablename__ = "launch"

    id: str = Field(primary_key=True)
    backend: str
    client_token: str
    request: str
    document: str
    offering: str
    price_usd_h: float
    count: int
    state: str
    error_code: str | None
    message: str
    created_at_ms: int = Field(sa_type=BigInteger)
    answered_at_ms: int | None = Field(sa_type=BigInteger)
    reuses: str | None
    reuse_number: int | None


class MachineRow(SQLModel, table=True):
    """Our row for one EC2 instance, as last seen."""

    __tablename__ = "machine"

    instance_id: str = Field(primary_key=True)
    backend: str
    launch_id: str
    launch_index: int
    instance_type: str
    zone: str
    market: str
    price_usd_h: float
    spot_request_id: str
    private_ip: str
    state: str
    state_reason: str
    launched_at_ms: int = Field(sa_type=BigInteger)
    gone_at_ms: int | None = Field(sa_type=BigInteger)
    idle_number: int
    idle_since_ms: int | None = Field(sa_type=BigInteger)
    idle_until_ms: int | None = Field(sa_type=BigInteger)
    idle_job_id: str | None
    idle_attempt: int | None
    leaving_since_ms: int | None = Field(sa_type=BigInteger)
    stuck_at_ms: int | None = Field(sa_type=BigInteger)


class AttemptRow(SQLModel, table=True):
    """One try of a job on one machine, and what the machine reported."""

    __tablename__ = "attempt"

    job_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    backend: str
    launch_id: str
    launch_index: int
    instance_id: str | None
    instance_type: str
    zone: str
    market: str
    price_usd_h: float
    launched_at_ms: int | None = Field(sa_type=BigInteger)
    outcome: str | None
    exit_code: int | None
    exit_cause: str
    exit_signal: str
    booted_at_ms: int | None = Field(sa_type=BigInteger)
    started_at_ms: int | None = Field(sa_type=BigInteger)
    notice_at_ms: int | None = Field(sa_type=BigInteger)
    rebalance_at_ms: int | None = Field(sa_type=BigInteger)
    exited_at_ms: int | None = Field(sa_type=BigInteger)
    sealed_at_ms: int | None = Field(sa_type=BigInteger)
    seal_verdict: str
    seal_message: str
    artifact_files: int | None
    artifact_bytes: int | None = Field(sa_type=BigInteger)
    done_at_ms: int | None = Field(sa_type=BigInteger)
    failed_stage: str
    failed_message: str
    failed_final: int
    stop_requested_at_ms: int | None = Field(sa_type=BigInteger)
    terminate_requested_at_ms: int | None = Field(sa_type=BigInteger)
    log_lines_sent: int | None = Field(sa_type=BigInteger)
    log_bytes_sent: int | None = Field(sa_type=BigInteger)
    log_lines_seen: int = Field(sa_type=BigInteger)
    log_lines_over_quota: int | None = Field(sa_type=BigInteger)
    log_lines_lost: int | None = Field(sa_type=BigInteger)
    log_verdict: str
    released_at_ms: int | None = Field(sa_type=BigInteger)
    ended_at_ms: int | None = Field(sa_type=BigInteger)
    reused: int
    idle_ms: int = Field(sa_type=BigInteger)
    cost_usd: float
    vcpus: int
    reserved_usd: float


class EventRow(SQLModel, table=True):
    """Append-only history."""

    __tablename__ = "event"

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    at_ms: int = Field(sa_type=BigInteger)
    job_id: str | None
    attempt: int | None
    kind: str
    phase_from: str | None
    phase_to: str | None
    reason: str | None
    message: str
    detail: str


_TABLES = SQLModel.metadata.tables
JOB: Table = _TABLES["job"]
DEPENDENCY: Table = _TABLES["job_dependency"]
SCHEDULE: Table = _TABLES["schedule"]
BACKEND: Table = _TABLES["backend"]
LAUNCH: Table = _TABLES["launch"]
MACHINE: Table = _TABLES["machine"]
ATTEMPT: Table = _TABLES["attempt"]
EVENT: Table = _TABLES["event"]

THE_TIME = bindparam("the_time", type_=BigInteger)
"""Milliseconds, in statements that are made once and executed for ever: making one takes longer than its execution."""


def of_backend(column: Column[str], backend: str | None) -> ColumnElement[bool]:
    """The rows of a backend; None: of every one."""
    return true() if backend is None else column == backend
