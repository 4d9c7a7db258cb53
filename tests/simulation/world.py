"""One account, one database, one daemon after the other. Law: it starts what the seed says, looks on, and decides nothing."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from dstackd.intent import LaunchTerms
from dstackd.log_files import LogFiles
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.simulated.places import REGION
from dstackd.store.engine import Database
from dstackd.supervisor import Supervised, run_loops
from dstackd.vitals import Vitals
from dstackd.wake import Wake
from tests.controllers.installation import BACKEND, Daemon, Ports
from tests.simulation.hazards import Crash, Hazards, Latency
from tests.simulation.virtual_time import LoopClock

SPACING_S = {"machines": 4.0, "inbox": 5.0, "logs": 5.0}
"""As the composition root spaces them, but wider: each pass costs real time."""
PACES_S = {"intake": 30.0, "planning": 20.0, "launches": 20.0, "interruptions": 20.0}
"""When nobody rings; likewise."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class World:
    """What a seed plays in."""

    seed: int
    clock: LoopClock
    database: Database
    plain: sqlite3.Connection
    directory: Path
    owner: str
    crashes: int
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    deaths: int = 0
    up_s: float = 0.0
    """For how long a daemon has lived, in all."""
    down_s: float = 0.0
    """For how long none has, in all."""

    def __post_init__(self) -> None:
        self.dice = random.Random(f"world-{self.seed}")
        self.cloud = SimulatedCloud(self.clock, seed=self.seed, owner=self.owner)
        self.files = LogFiles(self.directory / f"logs-{self.seed}")
        self.inputs_root = self.directory
        self.latency = Latency()
        self.daemon_up = False
        self.hazards: Hazards | None = None
        self.by_hand: set[str] = set()
        """Instances that an operator has terminated."""
        self.hidden: set[str] = set()
        """Instances of ours whose tags an operator has taken away."""
        self.excused: set[str] = set()
        """Jobs with which an operator has done what nobody can mend."""
        self.strikes: dict[str, float] = {}
        """Fault -> the share of calls that it strikes now."""

    def tell(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.clock.monotonic_s():10.3f} {text}")

    def blame(self, text: str) -> None:
        """A promise is broken: noted, and the run ends."""
        if text not in self.violations:
            self.violations.append(text)
            self.tell(f"VIOLATION {text}")

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """As any application would; retried while the daemon's transaction is open is not needed: it never waits in one."""
        return [dict(row) for row in self.plain.execute(statement, values)]

    async def daemons(self) -> None:
        """One daemon after the other, for ever; `crashes` of them die at a moment that the seed chooses."""
        dice = random.Random(f"deaths-{self.seed}")
        while True:
            dies_at = dice.randint(1, 500) if self.deaths < self.crashes else 0
            await self._one_daemon(dies_at, dice)
            self.deaths += 1
            away_s = dice.choice((0.0, 1.0, 5.0, 30.0, dice.uniform(0, 900)))
            self.down_s += away_s
            await anyio.sleep(away_s)

    async def _one_daemon(self, dies_at: int, dice: random.Random) -> None:
        hazards = Hazards(
            dice=dice, tell=self.tell, strike=self._strike, dies_at=dies_at, latency=self.latency
        )
        ports = Ports(
            self.database,
            self.cloud.compute,
            self.cloud.bucket,
            self.cloud.logs,
            self.files,
            self.clock,
        )
        daemon = Daemon(hazards.around(ports), terms=self._terms(), inputs_root=self.inputs_root)
        for loop in daemon.loops:
            loop.interval_s = PACES_S.get(loop.name, loop.interval_s)  # type: ignore[misc]
        daemon.inbox._busy_s = daemon.logs._busy_s = 5.0
        self.hazards = hazards
        self.tell("a daemon starts")
        with self._counting_up(), _until_death():
            await run_loops(_supervised(daemon), vitals=Vitals(), clock=self.clock)

    @contextmanager
    def _counting_up(self) -> Iterator[None]:
        began_s = self.clock.monotonic_s()
        self.daemon_up = True
        try:
            yield
        finally:
            self.daemon_up = False
            self.up_s += self.clock.monotonic_s() - began_s

    def _strike(self, operation: str) -> None:
        """Let what the weather holds befall the next call of this operation."""
        faults = self.cloud.faults
        for name, share in self.strikes.items():
            kind, _, only = name.partition(":")
            if only in ("", operation) and self.dice.random() < share:
                getattr(faults, kind)[operation] += 1
                return

    def _terms(self) -> LaunchTerms:
        return LaunchTerms(
            backend=BACKEND,
            bucket=self.cloud.bucket_name,
            region=REGION,
            owner=self.owner,
            runner_sha256="0" * 64,
            user_data="#!/bin/sh\n",
            instance_profile="profile",
            security_group_ids=("sg-1",),
            heartbeat_s=60.0,
            watch_s=5.0,
            log_flush_s=1.0,
        )


def _supervised(daemon: Daemon) -> list[Supervised]:
    return [
        Supervised(
            loop,
            getattr(daemon.wakes, loop.name, None) or Wake(),
            spacing_s=SPACING_S.get(loop.name, 0.0),
        )
        for loop in daemon.loops
    ]


@contextmanager
def _until_death() -> Iterator[None]:
    try:
        yield
    except BaseExceptionGroup as group:
        _, other = group.split(Crash)
        if other is not None:
            raise other from None
    except Crash:
        pass
