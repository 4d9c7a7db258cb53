"""What can be launched and for how much, remembered for a while. Law: one request a lifetime and kind, however many jobs ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from dstackd.core.avoidance import NO_AVOIDANCE, Avoidance, preferring
from dstackd.core.launching import Block
from dstackd.core.offering import InstanceType, Offering, Prices, Subnet, fits, plan_offerings
from dstackd.core.plan_view import PlanView, plan_view
from dstackd.errors import CloudError
from dstackd.ports import Clock, Compute
from dstackd.prices import CurrentPrices
from dstackd.spec.model import JobSpec

PLACES_LIFETIME_S = 3600.0
"""Instance types and subnets: they change by the month, or by the operator's hand."""
SPOT_LIFETIME_S = 900.0
SPOT_TYPES_MAX = 40
"""Types whose spot price is asked for at once: the cheapest that fit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Offerings for a spec, best first. When there are none, `why_none` says what would help."""

    offerings: tuple[Offering, ...]
    why_none: str = ""


class Catalogue:
    """Types, subnets and prices of one backend's region."""

    def __init__(
        self, compute: Compute, *, region: str, clock: Clock, prices_dir: Path | None = None
    ) -> None:
        self._compute = compute
        self._clock = clock
        self._on_demand = CurrentPrices(region, prices_dir)
        self._region = region
        self._types: tuple[InstanceType, ...] = ()
        self._subnets: tuple[Subnet, ...] = ()
        self._read_at_s: float | None = None
        self._spot: dict[tuple[str, str], float] = {}
        self._spot_read_at_s: dict[str, float] = {}
        self._reading = anyio.Lock()

    async def plan(
        self, spec: JobSpec, *, rotation: int = 0, avoidance: Avoidance = NO_AVOIDANCE
    ) -> Plan:
        """Every offering that fits. Raises CloudError when the region cannot be asked and nothing is remembered."""
        async with self._reading:
            await self._refresh()
            fitting = [kind for kind in self._types if fits(kind, spec)]
            table = self._on_demand.table()
            await self._refresh_spot(_cheapest(fitting, table.usd_h))
        prices = Prices(table.usd_h, self._spot, on_demand_estimated=table.estimated)
        offerings = plan_offerings(
            spec, types=fitting, subnets=self._subnets, prices=prices, rotation=rotation
        )
        why_none = "" if offerings else self._why_none(spec, fitting)
        return Plan(preferring(offerings, avoidance), why_none)

    async def learn(self, specs: Iterable[JobSpec] = ()) -> None:
        """Ask at once for what the plans of all these specs need, instead of spec by spec. Raises as `plan` does."""
        async with self._reading:
            await self._refresh()
            on_demand = self._on_demand.table().usd_h
            wanted: dict[str, InstanceType] = {}
            for spec in specs:
                fitting = [kind for kind in self._types if fits(kind, spec)]
                wanted |= {kind.name: kind for kind in _cheapest(fitting, on_demand)}
            await self._refresh_spot(list(wanted.values()))

    async def view(self, spec: JobSpec, *, closed: Callable[[Offering], Block | None]) -> PlanView:
        """What a job with this spec would be launched on, for a person to look at. Raises as `plan` does."""
        plan = await self.plan(spec)
        return plan_view(plan.offerings, closed=closed, why_none=plan.why_none)

    def vcpus(self) -> Mapping[str, int]:
        """Type -> vCPUs of one machine, for the types that are known so far."""
        return {kind.name: kind.cpu for kind in self._types}

    async def _refresh(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._read_at_s is not None and now_s - self._read_at_s < PLACES_LIFETIME_S:
            return
        self._types = await self._compute.instance_types()
        self._subnets = await self._compute.subnets()
        self._read_at_s = now_s

    async def _refresh_spot(self, types: Iterable[InstanceType]) -> None:
        """Spot prices are a hint for the order: without an answer the estimate stays."""
        now_s = self._clock.monotonic_s()
        stale = [
            kind.name
            for kind in types
            if now_s - self._spot_read_at_s.get(kind.name, -SPOT_LIFETIME_S) >= SPOT_LIFETIME_S
        ]
        if not stale:
            return
        self._spot_read_at_s |= dict.fromkeys(stale, now_s)
        try:
            self._spot |= await self._compute.spot_prices(stale)
        except CloudError:
            return

    def _why_none(self, spec: JobSpec, fitting: list[InstanceType]) -> str:
        if not fitting:
            return (
                f"no instance type in {self._region} has what `resources` and `instance_types` ask for; "
                "widen the ranges, or name a type"
            )
        if not self._subnets:
            return "there is no subnet to launch into; set `subnet` of the backend, or create a default VPC"
        if spec.max_price is not None:
            return f"nothing that fits costs at most {spec.max_price} USD an hour; raise max_price"
        return "no price is known for the types that fit; read AWS's list: dstackd prices refresh"


def _cheapest(
    fitting: Iterable[InstanceType], on_demand: Mapping[str, float]
) -> list[InstanceType]:
    """The types whose spot price is worth asking for."""
    known = (kind for kind in fitting if kind.name in on_demand)
    return sorted(known, key=lambda kind: on_demand[kind.name])[:SPOT_TYPES_MAX]
