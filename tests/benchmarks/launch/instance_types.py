"""The instance types that the fake EC2 sells. Law: names and order of prices as EC2's, sizes by the rule of their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from dstackd.prices import on_demand_prices
from tests.benchmarks.launch.plan import REGION, ZONES

_GIB_A_VCPU = {"c": 2, "m": 4, "r": 8, "t": 4}
_NAME = re.compile(r"([cmrt])(\d)([a-z]*)\.(medium|large|(\d*)xlarge)")
_SPOT_SHARE = 0.35
_ZONE_SPREAD = 0.06


@dataclass(frozen=True, slots=True)
class Kind:
    """One instance type."""

    name: str
    cpu: int
    memory_mib: int
    architecture: str
    price_usd_h: float


@cache
def kinds() -> dict[str, Kind]:
    """By name, in the order of the names: about 300 general ones, without GPUs and bare metal."""
    return {kind.name: kind for kind in sorted(_kinds(), key=lambda kind: kind.name)}


def _kinds() -> Iterator[Kind]:
    for name, price in on_demand_prices(REGION).items():
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        family, _, traits, size, factor = found.groups()
        cpu = {"medium": 1, "large": 2}.get(size) or 4 * int(factor or 1)
        architecture = "arm64" if "g" in traits else "x86_64"
        yield Kind(name, cpu, cpu * _GIB_A_VCPU[family] * 1024, architecture, price)


def spot_price(kind: Kind, zone: str) -> float:
    """USD an hour: a third of on-demand or so, and never equal in two zones."""
    digest = hashlib.sha256(f"{kind.name}/{zone}".encode()).digest()
    spread = 1 + _ZONE_SPREAD * (digest[0] / 255 + ZONES.index(zone))
    return round(kind.price_usd_h * _SPOT_SHARE * spread, 6)
