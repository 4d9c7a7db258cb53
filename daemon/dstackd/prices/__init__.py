"""On-demand prices that ship with the program. Law: figures with a date; other regions are estimates by a factor.

Linux, shared tenancy, us-east-1. The policy has no pricing:GetProducts, so the daemon cannot ask for them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

REGION_FACTORS = {
    "us-east-1": 1.0,
    "us-east-2": 1.0,
    "us-west-2": 1.0,
    "us-west-1": 1.17,
    "ca-central-1": 1.11,
    "eu-west-1": 1.11,
    "eu-west-2": 1.16,
    "eu-west-3": 1.17,
    "eu-central-1": 1.19,
    "eu-north-1": 1.06,
    "ap-south-1": 1.05,
    "ap-southeast-1": 1.25,
    "ap-southeast-2": 1.25,
    "ap-northeast-1": 1.29,
    "ap-northeast-2": 1.23,
    "sa-east-1": 1.59,
}
"""Estimates: the price of m5.large there over us-east-1's."""
OTHER_REGION_FACTOR = 1.2


@cache
def on_demand_prices(region: str) -> dict[str, float]:
    """Instance type -> USD an hour in `region`."""
    table = json.loads(files(__package__).joinpath("on_demand.json").read_text(encoding="utf-8"))
    factor = REGION_FACTORS.get(region, OTHER_REGION_FACTOR)
    return {
        f"{family}.{size}": price * factor
        for family, sizes in table["families"].items()
        for size, price in sizes.items()
    }
