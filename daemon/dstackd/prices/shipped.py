"""The table that ships with the program. Law: us-east-1's figures with their date; other regions are estimates by a factor."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from dstackd.prices.table import PriceTable

HOME_REGION = "us-east-1"
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
def shipped_table(region: str) -> PriceTable:
    """The region's prices, as far as the program knows by itself."""
    text = files("dstackd.prices").joinpath("on_demand.json").read_text(encoding="utf-8")
    held = json.loads(text)
    factor = REGION_FACTORS.get(region, OTHER_REGION_FACTOR)
    usd_h = {
        f"{family}.{size}": price * factor
        for family, sizes in held["families"].items()
        for size, price in sizes.items()
    }
    is_home = region == HOME_REGION
    source = "shipped with dstackd" + ("" if is_home else f": {HOME_REGION} times {factor}")
    return PriceTable(region, usd_h, held["as_of"], source, estimated=not is_home)


def on_demand_prices(region: str) -> dict[str, float]:
    """Instance type -> USD an hour in `region`, of the table that ships with the program."""
    return dict(shipped_table(region).usd_h)
