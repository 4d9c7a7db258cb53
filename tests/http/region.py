"""The simulated region behind a server's plans: real catalogue, real blocks. Law: what `POST /v1/plan` shows comes from the product."""

from __future__ import annotations

from dataclasses import dataclass, field

from dstackd.catalogue import Catalogue
from dstackd.controllers.reaper import Reaper
from dstackd.core.bounds import Bounds
from dstackd.core.instance import Market
from dstackd.core.plan_view import PlanView
from dstackd.errors import BlockScope, CapacityShortage
from dstackd.http.context import Insight
from dstackd.market import MarketBlocks
from dstackd.simulated.clock import SimulatedClock
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.simulated.places import REGION
from dstackd.spec.model import JobSpec
from dstackd.store.engine import Database
from dstackd.vitals import Vitals
from tests.builders import a_request
from tests.http.world import Backend

NO_BOUNDS = Bounds()


@dataclass
class Region:
    """`plan` is what the composition root gives the web server."""

    clock: SimulatedClock
    cloud: SimulatedCloud
    catalogue: Catalogue
    blocks: MarketBlocks
    bounds: Bounds = field(default_factory=Bounds)
    heartbeats: dict[str, int] = field(default_factory=dict)

    async def plan(self, spec: JobSpec) -> PlanView:
        """See `HttpContext.plan`."""
        now_ms = self.clock.now_ms()
        return await self.catalogue.view(
            spec, closed=lambda offering: self.blocks.closed(offering, now_ms=now_ms)
        )

    def backend(self, database: Database, vitals: Vitals) -> Backend:
        """The reaper and what explanations look at; see `world.running`."""
        reaper = Reaper(
            database,
            compute=self.cloud.compute,
            backend="main",
            clock=self.clock,
            vitals=vitals,
        )
        insight = Insight(
            self.catalogue,
            self.blocks,
            self.bounds,
            snapshot=lambda: reaper.last_snapshot,
            heartbeat_ms=self.heartbeats.get,
        )
        return Backend(reaper, insight)

    def refuse(self, market: Market, scope: BlockScope) -> None:
        """EC2 has just refused an m5.large in the first zone."""
        error = CapacityShortage(
            "InsufficientInstanceCapacity", "sold out", advice="wait", scope=scope, block_s=180
        )
        self.blocks.add(a_request(market=market), error, now_ms=self.clock.now_ms())


def a_region(bounds: Bounds = NO_BOUNDS) -> Region:
    """A region where nothing is blocked, for an operator who allows so much."""
    clock = SimulatedClock()
    cloud = SimulatedCloud(clock, seed=0, owner="owner")
    catalogue = Catalogue(cloud.compute, region=REGION, clock=clock)
    return Region(clock, cloud, catalogue, MarketBlocks(), bounds)
