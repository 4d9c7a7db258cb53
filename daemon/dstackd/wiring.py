"""Which loop gets which parts. Law: constructors only; the composition root's second half."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.admission import Admission
from dstackd.aws.backend import AwsBackend
from dstackd.catalogue import Catalogue
from dstackd.config import Settings
from dstackd.controllers.archiving import Archiving
from dstackd.controllers.holding import Holding
from dstackd.controllers.inbox import Inbox
from dstackd.controllers.inputs import Inputs
from dstackd.controllers.intake import Intake
from dstackd.controllers.interruptions import Interruptions
from dstackd.controllers.launches import Launches
from dstackd.controllers.logs import Logs
from dstackd.controllers.machines import MachinePace, Machines
from dstackd.controllers.planning import Planning, PlanningBounds
from dstackd.controllers.reaper import Reaper
from dstackd.controllers.retention import Retention
from dstackd.controllers.reusing import Reusing
from dstackd.controllers.schedules import Schedules
from dstackd.core.instance import Snapshot
from dstackd.log_files import LogFiles
from dstackd.market import MarketBlocks
from dstackd.ports import Clock
from dstackd.store.engine import Database
from dstackd.store.lease import Tenure
from dstackd.supervisor import Supervised
from dstackd.terms import EnsureIdentity, LaunchPreparation
from dstackd.vitals import Vitals
from dstackd.wake import Heartbeats, Wake, Wakes


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loops share."""

    settings: Settings
    clock: Clock
    database: Database
    """As an application has it: for what any daemon may do, whoever owns the backend."""
    owned: Database
    """The same for the loops: their writes fail once another daemon owns the backend."""
    tenure: Tenure
    holder: str
    """This process, in the lease."""
    backend: AwsBackend
    owner: str
    files: LogFiles
    wakes: Wakes
    heartbeats: Heartbeats
    vitals: Vitals
    catalogue: Catalogue
    blocks: MarketBlocks
    reaper: Reaper


def build_loops(parts: Parts) -> list[Supervised]:
    """Every loop with its bell."""
    inbox = _inbox(parts)
    wakes, loops = parts.wakes, parts.settings.loops
    return [
        Supervised(_intake(parts), wakes.intake),
        Supervised(_holding(parts), wakes.holding),
        Supervised(_schedules(parts), wakes.schedules),
        Supervised(_inputs(parts), wakes.inputs),
        Supervised(_planning(parts), wakes.planning),
        Supervised(_launches(parts), wakes.launches),
        Supervised(_reusing(parts), wakes.reusing),
        Supervised(
            _machines(parts, inbox), wakes.machines, spacing_s=min(2.0, loops.machines_s / 2)
        ),
        Supervised(inbox, wakes.inbox, spacing_s=loops.inbox_s),
        Supervised(_interruptions(parts), Wake()),
        Supervised(_logs(parts), wakes.logs, spacing_s=loops.logs_s),
        Supervised(_retention(parts), Wake()),
        Supervised(_archiving(parts), Wake()),
    ]


def _intake(parts: Parts) -> Intake:
    return Intake(
        parts.owned,
        admit=Admission(parts.settings.inputs.allowed_roots),
        clock=parts.clock,
        wakes=parts.wakes,
        interval_s=parts.settings.loops.intake_fallback_s,
    )


def _holding(parts: Parts) -> Holding:
    return Holding(
        parts.owned,
        clock=parts.clock,
        wakes=parts.wakes,
        interval_s=parts.settings.loops.intake_fallback_s,
    )


def _schedules(parts: Parts) -> Schedules:
    return Schedules(
        parts.owned,
        admit=Admission(parts.settings.inputs.allowed_roots),
        clock=parts.clock,
        wakes=parts.wakes,
        interval_s=parts.settings.loops.intake_fallback_s,
    )


def _inputs(parts: Parts) -> Inputs:
    return Inputs(
        parts.owned,
        bucket=parts.backend.bucket,
        allowed_roots=parts.settings.inputs.allowed_roots,
        spool=parts.settings.state.directory / "inputs",
        clock=parts.clock,
        wakes=parts.wakes,
    )


def _planning(parts: Parts) -> Planning:
    settings, chosen = parts.settings, parts.settings.backend
    preparation = LaunchPreparation(
        backend=chosen.name,
        bucket_name=chosen.bucket,
        region=chosen.region,
        owner=parts.owner,
        bucket=parts.backend.bucket,
        ensure_identity=_identity_of(parts),
        heartbeat_s=settings.runner.heartbeat_s,
        watch_s=settings.runner.watch_s,
        log_flush_s=settings.runner.log_flush_s,
        silence_timeout_s=settings.runner.silence_timeout_s,
        log_quota_bytes=settings.logs.quota_bytes,
        artifact_days=settings.retention.artifact_days,
        limits=settings.limits.for_decisions(),
    )
    return Planning(
        parts.owned,
        compute=parts.backend.compute,
        blocks=parts.blocks,
        catalogue=parts.catalogue,
        prepare=preparation.terms,
        bounds=PlanningBounds(
            batch_max=settings.limits.batch_max, look_ahead=settings.limits.queue_look_ahead
        ),
        allowed=settings.bounds,
        limits=settings.limits.for_decisions(),
        clock=parts.clock,
        wakes=parts.wakes,
    )


def _launches(parts: Parts) -> Launches:
    return Launches(
        parts.owned,
        compute=parts.backend.compute,
        bucket=parts.backend.bucket,
        blocks=parts.blocks,
        concurrent_max=parts.settings.limits.launches_concurrent_max,
        clock=parts.clock,
        wakes=parts.wakes,
    )


def _reusing(parts: Parts) -> Reusing:
    return Reusing(
        parts.owned,
        bucket=parts.backend.bucket,
        concurrent_max=parts.settings.limits.launches_concurrent_max,
        clock=parts.clock,
        wakes=parts.wakes,
    )


def _identity_of(parts: Parts) -> EnsureIdentity:
    chosen = parts.settings.backend

    async def ensure() -> tuple[str, tuple[str, ...]]:
        identity = await parts.backend.identity.ensure()
        return (
            chosen.instance_profile or identity.instance_profile,
            chosen.security_group_ids or (identity.security_group_id,),
        )

    return ensure


def _machines(parts: Parts, inbox: Inbox) -> Machines:
    loops = parts.settings.loops

    async def note_first_pass(_: Snapshot) -> None:
        parts.vitals.first_pass_done = True

    return Machines(
        parts.owned,
        compute=parts.backend.compute,
        bucket=parts.backend.bucket,
        drain_inbox=inbox.drain,
        snapshot_readers=(note_first_pass, parts.reaper.reap),
        heartbeats=parts.heartbeats,
        limits=parts.settings.limits.for_decisions(),
        pace=MachinePace(
            busy_s=loops.machines_s, idle_s=loops.idle_sweep_s, heartbeats_s=loops.heartbeats_s
        ),
        clock=parts.clock,
        wakes=parts.wakes,
    )


def _inbox(parts: Parts) -> Inbox:
    loops = parts.settings.loops
    return Inbox(
        parts.owned,
        bucket=parts.backend.bucket,
        heartbeats=parts.heartbeats,
        clock=parts.clock,
        wakes=parts.wakes,
        interval_s=loops.inbox_s,
        heartbeats_s=loops.heartbeats_s,
        idle_s=loops.idle_sweep_s,
    )


def _interruptions(parts: Parts) -> Interruptions:
    return Interruptions(
        parts.owned,
        compute=parts.backend.compute,
        clock=parts.clock,
        wakes=parts.wakes,
        interval_s=parts.settings.loops.interruptions_s,
    )


def _logs(parts: Parts) -> Logs:
    loops = parts.settings.loops
    return Logs(
        parts.owned,
        source=parts.backend.logs,
        files=parts.files,
        clock=parts.clock,
        wakes=parts.wakes,
        interval_s=loops.logs_s,
        idle_s=loops.idle_sweep_s,
        quota_bytes=parts.settings.logs.quota_bytes,
    )


def _archiving(parts: Parts) -> Archiving:
    return Archiving(
        parts.owned,
        bucket=parts.backend.bucket,
        clock=parts.clock,
        interval_s=parts.settings.loops.retention_s,
        keep_days=parts.settings.retention.keep_days,
    )


def _retention(parts: Parts) -> Retention:
    return Retention(
        parts.owned,
        bucket=parts.backend.bucket,
        files=parts.files,
        clock=parts.clock,
        vitals=parts.vitals,
        interval_s=parts.settings.loops.retention_s,
        job_logs_days=parts.settings.retention.job_logs_days,
    )
