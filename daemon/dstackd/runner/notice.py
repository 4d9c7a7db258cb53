"""What EC2 says about the machine's future. Law: text of the metadata service in, seconds out; no I/O.

Sources: AWS, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations".
"""

from __future__ import annotations

from dataclasses import dataclass

from dstackd import protocol
from dstackd.runner.credentials import parse_utc

SPOT_PATH = "meta-data/spot/instance-action"
REBALANCE_PATH = "meta-data/events/recommendations/rebalance"
NOTICE_S = 120.0
"""From the notice to the end, at the longest."""


@dataclass(frozen=True)
class Notice:
    """EC2 takes the machine in `left_s` seconds; `action` is terminate, stop or hibernate, which is all
    the same to the job: this machine ends.
    """

    action: str
    at: str
    left_s: float


def read_notice(text: str, *, now: float) -> Notice:
    """The notice in the answer at SPOT_PATH; `now` is this machine's clock, s since the epoch.
    Raises ValueError, KeyError, TypeError.

    A machine that reads a notice whose time is over has a wrong clock, or it will not live to see the
    difference: half of the time is assumed, so that the job is not killed for a clock.
    """
    value = protocol.load_json(text)
    action, at = str(value["action"]), str(value["time"])
    left_s = parse_utc(at) - now
    return Notice(action, at, min(left_s, NOTICE_S) if left_s > 0 else NOTICE_S / 2)


def read_rebalance(text: str) -> str:
    """The time of the recommendation at REBALANCE_PATH, ISO 8601. Raises as `read_notice`."""
    return str(protocol.load_json(text)["noticeTime"])
