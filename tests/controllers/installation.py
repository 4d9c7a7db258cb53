"""A whole installation in one process: real controllers and a real SQLite file on a simulated cloud. Law: it only moves the
clock and calls `step`; what a pass does is the product's.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from dstackd.admission import Admission
from dstackd.catalogue import Catalogue
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
from dstackd.core.bounds import Bounds
from dstackd.core.limits import Limits
from dstackd.core.log_line import StoredLine
from dstackd.errors import OperatingError
from dstackd.intent import LaunchTerms
from dstackd.log_files import LogFiles
from dstackd.market import MarketBlocks
from dstackd.ports import Bucket, Clock, Compute, LogSource
from dstackd.simulated.clock import SimulatedClock
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.simulated.places import REGION
from dstackd.store.backends import ensure_backend
from dstackd.store.engine import Database, open_database
from dstackd.supervisor import Loop
from dstackd.vitals import Vitals
from dstackd.wake import Heartbeats, Wakes
from tests.controllers.inline_engine import open_inline_database

BACKEND = "main"
ROUND_S = 10.0


@dataclass(frozen=True, slots=True)
class Ports:
    """What a daemon stands on."""

    database: Database
    compute: Compute
    bucket: Bucket
    logs: LogSource
    files: LogFiles
    clock: Clock
    log_quota_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Paces:
    """Seconds between two passes while machines live."""

    reports_s: float = 1.0
    """Of the inbox, and of the logs."""
    machines_s: float = 10.0


DEFAULT_PACES = Paces()
DEFAULT_LIMITS = Limits()
NO_BOUNDS = Bounds()


class Common(TypedDict):
    """What nearly every controller takes."""

    clock: Clock
    wakes: Wakes


class Daemon:
    """One daemon's controllers, as the composition root wires them; making another one is a restart."""

    def __init__(
        self,
        ports: Ports,
        *,
        terms: LaunchTerms,
        inputs_root: Path,
        limits: Limits = DEFAULT_LIMITS,
        paces: Paces = DEFAULT_PACES,
        allowed: Bounds = NO_BOUNDS,
    ) -> None:
        self._allowed = allowed
        self._limits = limits
        self._paces = paces
        self.wakes = Wakes()
        self.heartbeats = Heartbeats()
        self.vitals = Vitals()
        common: Common = {"clock": ports.clock, "wakes": self.wakes}
        self._before_the_machine(ports, common, terms=terms, inputs_root=inputs_root)
        self._with_the_machine(ports, common)

    def _before_the_machine(
        self, ports: Ports, common: Common, *, terms: LaunchTerms, inputs_root: Path
    ) -> None:
        admit = Admission((inputs_root,))
        self.intake = Intake(ports.database, admit=admit, interval_s=5.0, **common)
        self.schedules = Schedules(ports.database, admit=admit, interval_s=5.0, **common)
        self.holding = Holding(ports.database, interval_s=5.0, **common)
        self.inputs = Inputs(
            ports.database,
            bucket=ports.bucket,
            allowed_roots=(inputs_root,),
            spool=inputs_root.parent / "spool",
            **common,
        )

        async def prepare() -> LaunchTerms:
            return terms

        blocks = MarketBlocks()
        self.planning = Planning(
            ports.database,
            compute=ports.compute,
            catalogue=Catalogue(ports.compute, region=REGION, clock=ports.clock),
            blocks=blocks,
            prepare=prepare,
            bounds=PlanningBounds(quiet_s=0),
            allowed=self._allowed,
            limits=self._limits,
            **common,
        )
        self.launches = Launches(
            ports.database,
            compute=ports.compute,
            bucket=ports.bucket,
            blocks=blocks,
            concurrent_max=5,
            **common,
        )

        self.reusing = Reusing(ports.database, bucket=ports.bucket, concurrent_max=5, **common)

    def _with_the_machine(self, ports: Ports, common: Common) -> None:
        self.inbox = Inbox(
            ports.database,
            bucket=ports.bucket,
            heartbeats=self.heartbeats,
            interval_s=self._paces.reports_s,
            heartbeats_s=30.0,
            idle_s=60.0,
            **common,
        )
        self.reaper = Reaper(
            ports.database,
            compute=ports.compute,
            backend=BACKEND,
            clock=ports.clock,
            vitals=self.vitals,
        )
        self.machines = Machines(
            ports.database,
            compute=ports.compute,
            bucket=ports.bucket,
            drain_inbox=self.inbox.drain,
            snapshot_readers=(self.reaper.reap,),
            heartbeats=self.heartbeats,
            limits=self._limits,
            pace=MachinePace(busy_s=self._paces.machines_s, idle_s=60.0, heartbeats_s=30.0),
            **common,
        )
        self.interruptions = Interruptions(
            ports.database, compute=ports.compute, interval_s=10.0, **common
        )
        self.logs = Logs(
            ports.database,
            source=ports.logs,
            files=ports.files,
            quota_bytes=ports.log_quota_bytes,
            interval_s=self._paces.reports_s,
            idle_s=60.0,
            **common,
        )
        self.retention = Retention(
            ports.database,
            bucket=ports.bucket,
            files=ports.files,
            clock=ports.clock,
            vitals=self.vitals,
            interval_s=60.0,
            job_logs_days=30,
        )

    @property
    def loops(self) -> tuple[Loop, ...]:
        """In the order in which a job meets them."""
        return (
            *(self.schedules, self.intake, self.holding, self.inputs, self.planning, self.launches),
            *(self.reusing, self.inbox),
            *(self.interruptions, self.machines, self.logs, self.retention),
        )

    async def one_round(self, *, order: int = 0) -> list[OperatingError]:
        """A pass of every loop, in an order that the number stands for (0: that in which a job meets them); what the
        supervisor would note and go on after is returned.
        """
        errors = []
        loops = list(self.loops)
        if order:
            random.Random(order).shuffle(loops)
        for loop in loops:
            try:
                await loop.step()
            except OperatingError as error:
                errors.append(error)
        return errors


class Installation:
    """Clock, cloud, database and log files, with the daemon that runs on them now."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        clock: SimulatedClock,
        plain: sqlite3.Connection,
    ) -> None:
        self.database = database
        self._plain = plain
        self.directory = directory
        self.wrap: Callable[[Ports], Ports] = lambda ports: ports
        self.limits = DEFAULT_LIMITS
        """Of the daemons that start from now on."""
        self._begin(clock, seed=0)

    def _begin(self, clock: SimulatedClock, *, seed: int) -> None:
        owner = str(self.sql("SELECT owner FROM backend")[0]["owner"])
        self.clock = clock
        self.cloud = SimulatedCloud(clock, seed=seed, owner=owner)
        self.files = LogFiles(self.directory / f"logs-{seed}")
        self.inputs_root = self.directory / "inputs"
        self.terms = LaunchTerms(
            backend=BACKEND,
            bucket=self.cloud.bucket_name,
            region=REGION,
            owner=owner,
            runner_sha256="0" * 64,
            user_data="#!/bin/sh\n",
            instance_profile="profile",
            security_group_ids=("sg-1",),
            heartbeat_s=60.0,
            watch_s=5.0,
            log_flush_s=1.0,
        )
        self.daemon = self._new_daemon()

    def start_over(self, *, seed: int, wrap: Callable[[Ports], Ports]) -> None:
        """Another world, another clock, no rows: as a fresh installation, but on connections that are warm."""
        for table in ("event", "attempt", "machine", "launch", "job"):
            self.sql(f"DELETE FROM {table}")
        self.wrap = wrap
        self._begin(SimulatedClock(seed=seed), seed=seed)

    def _new_daemon(self) -> Daemon:
        ports = Ports(
            self.database,
            self.cloud.compute,
            self.cloud.bucket,
            self.cloud.logs,
            self.files,
            self.clock,
        )
        return Daemon(
            self.wrap(ports), terms=self.terms, inputs_root=self.inputs_root, limits=self.limits
        )

    def restart(self) -> None:
        """The daemon dies where it stands; another one begins with what was written down."""
        self.daemon = self._new_daemon()

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Plain SQL on a connection of its own, as any application would; returns rows as mappings."""
        return [dict(row) for row in self._plain.execute(statement, values)]

    def insert(self, spec: str, *, job_id: str = "job-1") -> str:
        """A submitter's INSERT, in the simulated present; returns the id."""
        now_ms = self.clock.now_ms()
        self.sql(
            "INSERT INTO job (id, spec, submitted_at_ms) VALUES (?, ?, ?)", job_id, spec, now_ms
        )
        return job_id

    def cancel(self, job_id: str = "job-1") -> None:
        """A submitter's cancel."""
        self.sql("UPDATE job SET cancel_requested = 1 WHERE id = ?", job_id)

    def job(self, job_id: str = "job-1") -> dict[str, Any]:
        """The job's row."""
        return self.sql("SELECT * FROM job WHERE id = ?", job_id)[0]

    def attempts(self, job_id: str = "job-1") -> list[dict[str, Any]]:
        """The job's attempts, in order."""
        return self.sql("SELECT * FROM attempt WHERE job_id = ? ORDER BY number", job_id)

    def phases(self, job_id: str = "job-1") -> list[str]:
        """Where the job has been."""
        rows = self.sql(
            "SELECT phase_to FROM event WHERE job_id = ? AND phase_to IS NOT NULL ORDER BY id",
            job_id,
        )
        return [row["phase_to"] for row in rows]

    def lines(self, job_id: str = "job-1", attempt: int = 1) -> list[StoredLine]:
        """What the log file holds."""
        return self.files.read(job_id, attempt)[0]

    async def rounds(self, count: int, *, every_s: float = ROUND_S, order: int = 0) -> None:
        """That many passes of every loop, with time between them."""
        for _ in range(count):
            await self.daemon.one_round(order=order)
            self.clock.advance(every_s)

    async def until(
        self, condition: Callable[[], bool], *, rounds_max: int = 120, every_s: float = ROUND_S
    ) -> None:
        """Passes until the condition holds; fails with the jobs' rows when it never does."""
        for _ in range(rounds_max):
            await self.daemon.one_round()
            if condition():
                return
            self.clock.advance(every_s)
        shown = self.sql("SELECT id, phase, reason, message, next_visit_at_ms FROM job")
        raise AssertionError(f"not after {rounds_max} rounds: {shown}")

    async def until_over(self, *job_ids: str, rounds_max: int = 120) -> None:
        """Passes until all these jobs (none given: job-1) are in a terminal phase."""
        wanted: Sequence[str] = job_ids or ("job-1",)
        await self.until(
            lambda: all(self.job(job_id)["finished_at_ms"] is not None for job_id in wanted),
            rounds_max=rounds_max,
        )

    async def until_phase(self, phase: str, job_id: str = "job-1") -> None:
        """Passes until the job is there."""
        await self.until(lambda: self.job(job_id)["phase"] == phase, every_s=2.0)


@asynccontextmanager
async def an_installation(
    directory: Path, *, template: Path, inline: bool = False
) -> AsyncIterator[Installation]:
    """A fresh installation below `directory`; `template` is a migrated, empty database file. `inline`: on connections
    without threads, which is faster, and in one order always.
    """
    path = directory / "queue.db"
    shutil.copyfile(template, path)
    clock = SimulatedClock()
    async with AsyncExitStack() as stack:
        if inline:
            database = stack.enter_context(open_inline_database(path, clock=clock))
        else:
            url = f"sqlite:///{path}"
            database = await stack.enter_async_context(open_database(url, clock=clock))
            await _without_fsync(database)
        await database.write(
            lambda connection: ensure_backend(
                connection,
                name=BACKEND,
                region=REGION,
                bucket="simulated-bucket",
                subnet=None,
                endpoint_url=None,
                now_ms=clock.now_ms(),
            )
        )
        plain = sqlite3.connect(path, timeout=10, isolation_level=None)
        stack.callback(plain.close)
        plain.execute("PRAGMA synchronous = OFF")
        plain.row_factory = sqlite3.Row
        yield Installation(database, directory, clock=clock, plain=plain)


async def _without_fsync(database: Database) -> None:
    """No test here pulls a plug, and the disk would be most of their time."""
    async with database._writer.connect() as connection:
        raw: Any = await connection.get_raw_connection()
        await raw.driver_connection.execute("PRAGMA synchronous = OFF")
