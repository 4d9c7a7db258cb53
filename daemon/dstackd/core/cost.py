"""What a machine costs. Law: an estimate from the price at launch; EC2 bills Linux by the second, 60 s at least."""

from __future__ import annotations

BILLED_MIN_S = 60.0
"""EC2 On-Demand pricing page: per second, with a minimum of 60 seconds."""


def machine_cost_usd(price_usd_h: float, *, from_ms: int, until_ms: int) -> float:
    """USD for a machine that existed from `from_ms` until `until_ms`."""
    return price_usd_h * max((until_ms - from_ms) / 1000, BILLED_MIN_S) / 3600


def share_usd(price_usd_h: float, *, launched_ms: int, from_ms: int, until_ms: int) -> float:
    """USD for a later part of the life of a machine that was launched at `launched_ms`.

    The first part, from the launch on, is `machine_cost_usd` with its minimum; with it all parts add up to the whole.
    """
    whole_usd = machine_cost_usd(price_usd_h, from_ms=launched_ms, until_ms=max(until_ms, from_ms))
    return whole_usd - machine_cost_usd(price_usd_h, from_ms=launched_ms, until_ms=from_ms)
