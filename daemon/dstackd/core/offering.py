"""Which machines could run a job, cheapest first. Law: an offering is (instance type, subnet, market), nothing vaguer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple

from dstackd.core.instance import Market
from dstackd.spec.model import GpuRequest, JobSpec, Range, SpotPolicy

SPOT_ESTIMATE = 0.4
"""Share of the on-demand price that stands in for a spot price not known yet; spot prices run 10-60 % of on-demand."""
SPREAD = 1.1
"""Spot offerings that cost at most this times the cheapest are as good as it: launches are spread over them."""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """What DescribeInstanceTypes says, as far as a plan needs it."""

    name: str
    cpu: int
    memory_mib: int
    architectures: tuple[str, ...]
    markets: tuple[str, ...] = ("on-demand", "spot")
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_mib: int = 0
    """Memory of one GPU."""
    bare_metal: bool = False
    current_generation: bool = True


@dataclass(frozen=True, slots=True)
class Subnet:
    """One place to launch into."""

    id: str
    vpc_id: str
    zone: str
    free_addresses: int = 0


class Price(NamedTuple):
    """USD an hour, and whether somebody only guesses it."""

    usd_h: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Prices:
    """USD an hour. On-demand by type; spot by (type, zone), where known."""

    on_demand: Mapping[str, float]
    spot: Mapping[tuple[str, str], float]
    on_demand_estimated: bool = False
    """The on-demand prices are another region's times a factor."""

    def of(self, instance_type: str, zone: str, market: Market) -> Price | None:
        """The price, an estimate for spot where none is known, None where nothing is."""
        on_demand = self.on_demand.get(instance_type)
        if market is Market.SPOT:
            known = self.spot.get((instance_type, zone))
            if known is not None:
                return Price(known)
            return None if on_demand is None else Price(on_demand * SPOT_ESTIMATE, estimated=True)
        return None if on_demand is None else Price(on_demand, estimated=self.on_demand_estimated)


@dataclass(frozen=True, slots=True)
class Offering:
    """One thing that can be asked of EC2."""

    instance_type: str
    subnet_id: str
    zone: str
    market: Market
    architecture: str
    price_usd_h: float
    gpu: bool = False
    estimated: bool = False
    """Nobody has said the price: see `Price`."""
    vcpus: int = 0
    memory_mib: int = 0
    gpu_name: str = ""
    gpu_count: int = 0
    subnet_full: bool = False
    """Its subnet had no free address when it was last looked at."""

    @property
    def key(self) -> str:
        """Stable name for blocks, tokens and messages."""
        return f"{self.instance_type}/{self.subnet_id or self.zone}/{self.market}"


def quota_class(instance_type: str) -> str:
    """The vCPU quota that the type draws on, per market: `standard`, `g`, `p`, `x`, `inf`, ...

    The standard one is shared by A, C, D, H, I, M, R, T and Z, another by G and VT
    (EC2 user guide, "Amazon EC2 instance type quotas").
    """
    family = _FAMILY_LETTERS.match(instance_type)
    letters = family.group() if family else ""
    if letters in {"dl", "hpc", "inf", "mac", "trn"}:
        return letters
    if letters.startswith("g") or letters == "vt":
        return "g"
    return "standard" if letters[:1] in set("acdhimrtz") else letters[:1]


_FAMILY_LETTERS = re.compile("[a-z]+")


def plan_offerings(
    spec: JobSpec,
    *,
    types: Iterable[InstanceType],
    subnets: Iterable[Subnet],
    prices: Prices,
    rotation: int = 0,
) -> tuple[Offering, ...]:
    """Every offering that fits the spec: by market in the order of spot_policy, then by price, then by name.

    Within a market full subnets come last. Spot offerings that cost about the same as the cheapest alternate in zone
    and type; `rotation` says which of them is the first (see `rotated`).
    A type without a known price is left out: nobody could say what it costs.
    """
    places = tuple(subnets)
    fitting = [kind for kind in types if fits(kind, spec)]
    by_market: list[Offering] = []
    for market in _MARKETS[spec.spot_policy]:
        found = [
            offering
            for kind in fitting
            if market in kind.markets
            for offering in _offers(kind, spec, market, places=places, prices=prices)
        ]
        found.sort(key=attrgetter("subnet_full", "price_usd_h", "instance_type", "zone"))
        by_market += _spread(found)
    return rotated(by_market, rotation)


def rotated(offerings: Sequence[Offering], rotation: int) -> tuple[Offering, ...]:
    """The order of `plan_offerings(..., rotation=0)` with another of the near-cheapest spot offerings first.

    Successive rotations begin with each of them in turn, so that successive launches do not all land in one pool,
    which would be reclaimed, or run dry, at once. The others stay where they are.
    """
    near = _near_count(offerings)
    shift = rotation % near if near else 0
    return (*offerings[shift:near], *offerings[:shift], *offerings[near:])


def _near_count(offerings: Sequence[Offering]) -> int:
    """How many at the beginning are spot offerings at about the price of the first."""
    most_usd_h = offerings[0].price_usd_h * SPREAD if offerings else 0.0
    near = takewhile(
        lambda o: o.market is Market.SPOT and not o.subnet_full and o.price_usd_h <= most_usd_h,
        offerings,
    )
    return sum(1 for _ in near)


def _spread(ordered: Sequence[Offering]) -> list[Offering]:
    """One market's offerings, cheapest first, the near-cheapest of them so that neighbours differ in type and in zone.

    The cheapest stays the first. In each round every type has a turn, each in another zone.
    """
    near = ordered[: _near_count(ordered)]
    zones = list(dict.fromkeys(offering.zone for offering in near))
    by_type: dict[str, list[Offering]] = {}
    for offering in near:
        by_type.setdefault(offering.instance_type, []).append(offering)
    turns: list[tuple[int, int, Offering]] = []
    for position, own in enumerate(by_type.values()):
        own.sort(key=lambda o: zones.index(o.zone))
        start = position % len(own)
        turns += [(turn, position, o) for turn, o in enumerate(own[start:] + own[:start])]
    turns.sort(key=lambda turn: turn[:2])
    return [offering for _, _, offering in turns] + list(ordered[len(near) :])


_MARKETS = {
    SpotPolicy.SPOT: (Market.SPOT,),
    SpotPolicy.ON_DEMAND: (Market.ON_DEMAND,),
    SpotPolicy.AUTO: (Market.SPOT, Market.ON_DEMAND),
}


def _offers(
    kind: InstanceType, spec: JobSpec, market: Market, *, places: tuple[Subnet, ...], prices: Prices
) -> Iterable[Offering]:
    architecture = spec.resources.arch or _default_architecture(kind)
    for place in places:
        price = prices.of(kind.name, place.zone, market)
        if price is None or (spec.max_price is not None and price.usd_h > spec.max_price):
            continue
        yield Offering(
            instance_type=kind.name,
            subnet_id=place.id,
            zone=place.zone,
            market=market,
            architecture=architecture,
            price_usd_h=price.usd_h,
            estimated=price.estimated,
            gpu=kind.gpu_count > 0,
            vcpus=kind.cpu,
            memory_mib=kind.memory_mib,
            gpu_name=kind.gpu_name,
            gpu_count=kind.gpu_count,
            subnet_full=place.free_addresses == 0,
        )


def _default_architecture(kind: InstanceType) -> str:
    return "x86_64" if "x86_64" in kind.architectures else kind.architectures[0]


def fits(kind: InstanceType, spec: JobSpec) -> bool:
    """Whether one machine of this type satisfies the spec's resources and instance_types."""
    resources = spec.resources
    if spec.instance_types:
        if not any(fnmatchcase(kind.name, glob) for glob in spec.instance_types):
            return False
    elif kind.bare_metal or not kind.current_generation:
        return False  # only on explicit request: slow to boot, or poor value
    # A job that names neither arch nor types gets what most commands are built for.
    wanted_arch = resources.arch or (None if spec.instance_types else "x86_64")
    architecture_fits = wanted_arch is None or wanted_arch in kind.architectures
    return (
        architecture_fits
        and kind.cpu in resources.cpu
        and kind.memory_mib in resources.memory_mib
        and _gpu_fits(kind, resources.gpu, by_name=bool(spec.instance_types))
    )


def _gpu_fits(kind: InstanceType, wanted: GpuRequest | None, *, by_name: bool) -> bool:
    if wanted is None:
        return kind.gpu_count == 0 or by_name  # nobody pays for a GPU by accident
    names = {name.upper() for name in wanted.names}
    return (
        kind.gpu_count > 0
        and kind.gpu_count in wanted.count
        and (not names or kind.gpu_name.upper() in names)
        and _gpu_memory_fits(kind.gpu_memory_mib, wanted.memory_mib)
    )


def _gpu_memory_fits(memory_mib: int, wanted: Range[int]) -> bool:
    """EC2 reports some GPUs in powers of two (V100: 16,384 MiB) and some as the maker prints them (A10G, 24 GB: 22,888 MiB)."""
    # One more: 24e9 bytes are 22,888.2 MiB, and EC2 drops the fraction.
    as_printed_mib = (memory_mib + 1) * 1024**3 // 10**9
    return memory_mib in wanted or as_printed_mib in wanted
