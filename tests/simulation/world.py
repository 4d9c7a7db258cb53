"""One account, one database, one daemon after the other. Law: it starts what the seed says, looks on, and decides nothing."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from dstackd import protocol
from dstackd.core.bounds import Bounds
from dstackd.core.instance import InstanceState
from dstackd.core.limits import Limits
from dstackd.errors import CloudUnavailable
from dstackd.intent import LaunchTerms
from dstackd.log_files import LogFiles
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.simulated.machine import SimulatedMachine
from dstackd.simulated.places import REGION
from dstackd.store.engine import Database
from dstackd.supervisor import Supervised, run_loops
from dstackd.vitals import Vitals
from dstackd.wake import Wake
from tests.controllers.fuse import Crash
from tests.controllers.installation import BACKEND, Daemon, Paces, Ports
from tests.intercepted import CONDITIONAL_PUT
from tests.simulation.hazards import Hazards, Latency
from tests.simulation.stage import Scene
from tests.simulation.virtual_time import LoopClock

LIMITS = Limits(boot_timeout_s=240.0, seal_timeout_s=300.0, stop_margin_s=60.0)
"""Shorter than those for real EC2, where they are minutes: waiting proves nothing, and costs the seeds' time. Bounds that
compare our clock with others' are as they are: clocks are off here, too.
"""
PACES = Paces(reports_s=8.0, machines_s=12.0)
SPACING_S = {"machines": 5.0, "inbox": 5.0, "logs": 5.0}
"""As the composition root spaces them, but wider: each pass costs real time."""
INTERVALS_S = {
    "intake": 30.0,
    "holding": 30.0,
    "schedules": 30.0,
    "inputs": 30.0,
    "planning": 20.0,
    "launches": 20.0,
    "reusing": 20.0,
    "interruptions": 20.0,
}
"""When nobody rings; likewise."""
RARE_MOMENTS = ("RunInstances", "behind log lines", "TerminateInstances")
"""Every other death is at one of these: among all moments they would hardly be met."""
AWAY_MAX_S = 400.0
"""For how long nobody starts another daemon."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A share of calls that go wrong, in the name of a fault. `kind`: a counter of the cloud's faults, or `conflict`."""

    fault: str
    kind: str
    share: float
    operation: str = ""
    """Only calls of this one; empty: of all."""


@dataclass
class World:
    """What a seed plays in."""

    seed: int
    clock: LoopClock
    scene: Scene
    crashes: int
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    deaths: int = 0
    down_s: float = 0.0
    """For how long none has, in all."""

    def __post_init__(self) -> None:
        self.dice = random.Random(f"world-{self.seed}")
        self.owner = self.scene.owner
        self.plain = self.scene.plain
        self.cloud = SimulatedCloud(self.clock, seed=self.seed, owner=self.owner)
        self._bucket_tag = (protocol.TAG_BUCKET, self.cloud.bucket_name)
        self._owner_tag = (protocol.TAG_OWNER, self.owner)
        self._found: dict[tuple[str, tuple[object, ...]], list[dict[str, Any]]] = {}
        """What was read since the database last changed."""
        self._changes: tuple[int, int] = (0, 0)
        self.files = LogFiles(self.scene.directory / "logs")
        self.inputs_root = self.scene.directory / "inputs"
        self.latency = Latency()
        self.bounds = Bounds(max_machines=self.dice.choice((0, 0, 3, 8)))
        """What the operator allows."""
        self.daemon_up = False
        self.hazards: Hazards | None = None
        self.by_hand: set[str] = set()
        """Instances that an operator has terminated."""
        self.hidden: set[str] = set()
        """Instances of ours whose tags an operator has taken away."""
        self.excused: set[str] = set()
        """Jobs with which an operator has done what nobody can mend."""
        self.never_wanted: set[str] = set()
        """Jobs that were cancelled while they waited."""
        self.hung: set[str] = set()
        """Instances that have fallen silent."""
        self.strikes: list[Strike] = []
        """What may befall a call now."""
        self.at_calls: list[Callable[[str], None]] = []
        """What happens while a call is made, given its operation."""
        self.struck: Counter[str] = Counter()
        """How often each fault has struck, by its name; and what else is to be met with in a world."""

    def all_files(self) -> dict[str, LogFiles]:
        """By host."""
        return {"here": self.files}

    def owner_files(self) -> LogFiles:
        """Those of the host whose daemon was the last to own the backend."""
        return self.files

    def tell(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.clock.monotonic_s():10.3f} {text}")

    def befalls(self, fault: str, what: str) -> None:
        """A fault strikes."""
        self.struck[fault] += 1
        self.tell(f"{fault}: {what}")

    def is_ours(self, machine: SimulatedMachine) -> bool:
        """Whether it carries both of this installation's tags."""
        tags = machine.request.tags
        return self._bucket_tag in tags and self._owner_tag in tags

    def one_that_runs(self, dice: random.Random, *, market: str = "") -> SimulatedMachine | None:
        """A machine of ours."""
        running = [
            machine
            for machine in self.cloud.machines
            if machine.state is InstanceState.RUNNING
            and machine.request.market in (market or machine.request.market)
            and self.is_ours(machine)
        ]
        return dice.choice(running) if running else None

    def machine(self, instance_id: str) -> SimulatedMachine:
        """By its id."""
        return next(each for each in self.cloud.machines if each.instance_id == instance_id)

    async def next_machine(self) -> SimulatedMachine:
        """The next one that is launched in the account, within a second."""
        known = len(self.cloud.machines)
        await self.until(lambda: len(self.cloud.machines) > known)
        return self.cloud.machines[known]

    async def until(self, happened: Callable[[], bool]) -> None:
        """For what gives no sign: look every second."""
        while not happened():  # noqa: ASYNC110 - the cloud is the product's, and knows no events
            await anyio.sleep(1.0)

    def blame(self, text: str) -> None:
        """A promise is broken: noted, and the run ends."""
        if text not in self.violations:
            self.violations.append(text)
            self.tell(f"VIOLATION {text}")

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """As any application would; retried while the daemon's transaction is open is not needed: it never waits in one."""
        return [dict(row) for row in self.plain.execute(statement, values)]

    def look_up(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """As `sql`, for what only reads: asked again before anything is committed, it is not executed again. Not to be changed."""
        (version,) = self.plain.execute("PRAGMA data_version").fetchone()
        changes = (version, self.plain.total_changes)
        if changes != self._changes:
            self._changes, self._found = changes, {}
        asked = (statement, values)
        if asked not in self._found:
            self._found[asked] = self.sql(statement, *values)
        return self._found[asked]

    async def daemons(self) -> None:
        """One daemon after the other, for ever; `crashes` of them die at a moment that the seed chooses."""
        dice = random.Random(f"deaths-{self.seed}")
        while True:
            dies_at = dice.randint(1, 500) if self.deaths < self.crashes else 0
            await self._one_daemon(dies_at, dice)
            self.deaths += 1
            away_s = dice.choice((0.0, 1.0, 5.0, 30.0, dice.uniform(0, AWAY_MAX_S)))
            self.down_s += away_s
            await anyio.sleep(away_s)

    async def _one_daemon(self, dies_at: int, dice: random.Random) -> None:
        of = dice.choice(RARE_MOMENTS) if dies_at and self.deaths % 2 else ""
        dies_at = dies_at % 10 + 1 if of else dies_at
        self.hazards = Hazards(dice=dice, surroundings=self, dies_at=dies_at, of=of)
        loops = self.loops_of(self.hazards, self.scene.database, self.files)
        self.tell("a daemon starts")
        with self._being_up():
            await self.lives(partial(run_loops, loops, vitals=Vitals(), clock=self.clock))

    def loops_of(self, hazards: Hazards, database: Database, files: LogFiles) -> list[Supervised]:
        """Those of a daemon that begins now."""
        ports = Ports(
            database,
            self.cloud.compute,
            self.cloud.bucket,
            self.cloud.logs,
            files,
            self.clock,
        )
        daemon = Daemon(
            hazards.around(ports),
            terms=self._terms(),
            inputs_root=self.inputs_root,
            limits=LIMITS,
            paces=PACES,
            allowed=self.bounds,
        )
        for loop in daemon.loops:
            loop.interval_s = INTERVALS_S.get(loop.name, loop.interval_s)  # type: ignore[misc]
        return _supervised(daemon)

    async def lives(self, run: Callable[[], Awaitable[None]]) -> None:
        """Until it dies. Whatever else ends it is a finding."""
        try:
            with _until_death():
                await run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            first = _first(error)
            where = traceback.extract_tb(first.__traceback__)[-1]
            place = f"{Path(where.filename).name}, line {where.lineno}"
            self.blame(f"the daemon breaks in {place}: {type(first).__name__}: {first}")

    @contextmanager
    def _being_up(self) -> Iterator[None]:
        self.daemon_up = True
        try:
            yield
        finally:
            self.daemon_up = False

    def strike(self, operation: str) -> None:
        """Let what the weather holds befall the next call of this operation. Raises what no counter stands for."""
        for happen in self.at_calls:
            happen(operation)
        is_conditional = operation == CONDITIONAL_PUT
        called = "PutObject" if is_conditional else operation
        for strike in self.strikes:
            if strike.operation not in {"", called}:
                continue
            if (strike.kind != "conflict" or is_conditional) and self.dice.random() < strike.share:
                self.struck[strike.fault] += 1
                if strike.kind == "conflict":
                    raise CloudUnavailable("ConditionalRequestConflict", "a conflict")
                getattr(self.cloud.faults, strike.kind)[called] += 1
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


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
