"""The simulated region behind a server's plans: real catalogue, real blocks. Law: what `POST /v1/plan` shows comes from the product."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.catalogue import Catalogue
from dstackd.core.instance import Market
from dstackd.core.plan_view import PlanView
from dstackd.errors import BlockScope, CapacityShortage
from dstackd.market import MarketBlocks
from dstackd.simulated.clock import SimulatedClock
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.simulated.places import REGION
from dstackd.spec.model import JobSpec
from tests.builders import a_request


@dataclass
class Region:
    """`plan` is what the composition root gives the web server."""

    clock: SimulatedClock
    cloud: SimulatedCloud
    catalogue: Catalogue
    blocks: MarketBlocks

    async def plan(self, spec: JobSpec) -> PlanView:
        """See `HttpContext.plan`."""
        now_ms = self.clock.now_ms()
        return await self.catalogue.view(
            spec, closed=lambda offering: self.blocks.closed(offering, now_ms=now_ms)
        )

    def refuse(self, market: Market, scope: BlockScope) -> None:
        """EC2 has just refused an m5.large in the first zone."""
        error = CapacityShortage(
            "InsufficientInstanceCapacity", "sold out", advice="wait", scope=scope, block_s=180
        )
        self.blocks.add(a_request(market=market), error, now_ms=self.clock.now_ms())


def a_region() -> Region:
    """A region where nothing is blocked."""
    clock = SimulatedClock()
    cloud = SimulatedCloud(clock, seed=0, owner="owner")
    catalogue = Catalogue(cloud.compute, region=REGION, clock=clock)
    return Region(clock, cloud, catalogue, MarketBlocks())
