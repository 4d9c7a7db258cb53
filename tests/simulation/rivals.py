"""Two daemons for one backend, on hosts of their own. Law: each has its lease, its files and its hazards; a host may stall at any
await, also between the permit of a call and its arrival, and wakes without knowing that it has slept.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
from typing_extensions import override

from dstackd.errors import CloudUnavailable
from dstackd.log_files import LogFiles
from dstackd.ownership import is_lost, own
from dstackd.store.lease import Tenure
from dstackd.vitals import Vitals
from tests.controllers.fuse import EFFECTS
from tests.controllers.installation import BACKEND
from tests.simulation.hazards import Hazards, HostileDatabase
from tests.simulation.world import World

T = TypeVar("T")

HOSTS = ("here", "there")
SIGNED_S = 300.0
"""AWS refuses a request whose signature is older (EC2; S3 allows three times as much)."""
FLIGHT_S = 0.2


class Host:
    """What runs on it stands still together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = anyio.Event()
        self.runs.set()
        self.owner_of: Tenure | None = None
        self._stalls_in = 0
        self._stalled = anyio.Event()

    @property
    def stalls(self) -> bool:
        return not self.runs.is_set()

    @property
    def owns(self) -> bool:
        """As far as it knows."""
        return self.owner_of is not None and self.owner_of._lease is not None

    async def stall(self, seconds: float, *, awaits: int) -> None:
        """Everything on it, in the middle of whatever it does: at the next await but that many that it makes as an owner."""
        self._stalls_in, self._stalled = awaits, anyio.Event()
        await self._stalled.wait()
        await anyio.sleep(seconds)
        self.runs.set()

    def tick(self) -> None:
        """One await of an owner."""
        if self._stalls_in and self.owns:
            self._stalls_in -= 1
            if not self._stalls_in:
                self.runs = anyio.Event()
                self._stalled.set()


class StallingHazards(Hazards):
    """Those of a daemon on a host that may stall."""

    def __init__(
        self,
        host: Host,
        tenure: Tenure,
        *,
        dice: random.Random,
        surroundings: RivalWorld,
        dies_at: int,
    ) -> None:
        super().__init__(dice=dice, surroundings=surroundings, dies_at=dies_at)
        self._host = host
        self._tenure = tenure
        self._world = surroundings
        self._clock_s = anyio.current_time

    @override
    def moment(self, effect: str) -> None:
        """What was committed just now was committed by the owner."""
        lease = self._tenure._lease
        if effect == "behind a commit" and lease is not None:
            (row,) = self._world.sql("SELECT fence FROM backend")
            if row["fence"] != lease.fence:
                self._world.blame(
                    f"{lease.holder} commits under fence {lease.fence}, and the backend is at {row['fence']}"
                )
        super().moment(effect)

    @override
    async def pause(self, most_s: float) -> None:
        await super().pause(most_s)
        self._host.tick()
        await self._host.runs.wait()
        await super().pause(0.0)

    @override
    async def call(
        self, operation: str, work: Callable[[], Awaitable[T]], *, most_s: float, shown: str = ""
    ) -> T:
        async def sent() -> T:
            if operation in EFFECTS:
                self._tenure.permit()
                began_s = self._clock_s()
                await self.pause(FLIGHT_S)
                if self._clock_s() - began_s > SIGNED_S:
                    raise CloudUnavailable("RequestExpired", "the signature is too old")
            return await work()

        return await super().call(operation, sent, most_s=most_s, shown=shown)


class RivalWorld(World):
    """As any world, with two hosts that start daemons."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.hosts = {name: Host(name) for name in HOSTS}
        self.places = {name: LogFiles(self.scene.directory / f"logs-{name}") for name in HOSTS}
        self.owner_host = HOSTS[0]
        self.takeovers = 0

    @override
    async def daemons(self) -> None:
        """On each host one after the other."""
        async with anyio.create_task_group() as group:
            group.start_soon(super().daemons)
            group.start_soon(self._the_other_host)
            group.start_soon(self._count_what_nobody_serves)

    @override
    def all_files(self) -> dict[str, LogFiles]:
        return self.places

    @override
    def owner_files(self) -> LogFiles:
        return self.places[self.owner_host]

    async def _count_what_nobody_serves(self) -> None:
        while True:
            await anyio.sleep(1.0)
            self.down_s += not self.daemon_up

    async def _the_other_host(self) -> None:
        dice = random.Random(f"other-deaths-{self.seed}")
        await anyio.sleep(dice.uniform(0, 60))
        while True:
            dies_at = dice.randint(1, 2000) if dice.random() < 0.5 else 0
            await self._one_daemon_on(self.hosts["there"], dies_at, dice)
            await anyio.sleep(dice.uniform(0, 100))

    @override
    async def _one_daemon(self, dies_at: int, dice: random.Random) -> None:
        await self._one_daemon_on(self.hosts["here"], dies_at, dice)

    async def _one_daemon_on(self, host: Host, dies_at: int, dice: random.Random) -> None:
        """Until it dies; when it has lost the backend, it begins anew."""
        self.tell(f"a daemon starts {host.name}")
        holder = f"{host.name}/{self.clock.new_id()}"
        lost = True
        while lost:
            lost = await self._one_tenure(host, holder, dies_at, dice)
            host.owner_of = None
            dies_at = dice.randint(1, 500) if dies_at else 0

    async def _one_tenure(self, host: Host, holder: str, dies_at: int, dice: random.Random) -> bool:
        """Whether it ends because the backend is another's."""
        tenure = Tenure(BACKEND, clock=self.clock)
        hazards = StallingHazards(host, tenure, dice=dice, surroundings=self, dies_at=dies_at)
        host.owner_of = tenure
        if host.name == HOSTS[0]:
            self.hazards = hazards
        lost = False

        async def taken() -> None:
            self.takeovers += 1
            self.owner_host = host.name
            self.befalls("takeover", f"{host.name} owns the backend")

        async def run() -> None:
            nonlocal lost
            try:
                await own(
                    HostileDatabase(self.scene.database, hazards),
                    tenure=tenure,
                    holder=holder,
                    loops=partial(
                        self.loops_of,
                        hazards,
                        self.scene.database.owned(tenure),
                        self.places[host.name],
                    ),
                    vitals=Vitals(),
                    clock=self.clock,
                    on_taken=taken,
                )
            except BaseException as error:
                if not is_lost(error):
                    raise
                lost = True

        with self._being_up():
            await self.lives(run)
        return lost

    @property  # type: ignore[explicit-override]  # it is there, and mypy looks at the setter
    @override
    def daemon_up(self) -> bool:
        """Whether one serves: an owner that does not stall."""
        return any(host.owns and not host.stalls for host in self.hosts.values())

    @daemon_up.setter
    @override
    def daemon_up(self, _: bool) -> None:
        """As the hosts are."""


async def two_daemons(world: World, dice: random.Random) -> None:
    """Two daemons for one backend; hosts stall for longer than a lease, and wake."""
    assert isinstance(world, RivalWorld)
    for _ in range(12):
        await anyio.sleep(dice.uniform(1, 40))
        hosts = list(world.hosts.values())
        host = dice.choice([each for each in hosts if each.owns] or hosts)
        seconds = dice.choice((3.0, 12.0, 25.0, dice.uniform(5, 120)))
        await host.stall(seconds, awaits=dice.randint(1, 100))
        world.befalls("two_daemons", f"{host.name} has stalled for {seconds:.0f} s")
